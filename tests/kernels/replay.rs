//! Steps that are recorded and repeated: what was launched one by one, bit for bit, and what a body must not do.

use repairity::device::Device;
use repairity::error::Result;

use crate::*;

/// Kernels, a product, a copy and a clear, on buffers that stay and on ones of the step's own. Each step goes on from the last.
struct Step<A: Act> {
    x: Buf<A>,
    w: Buf<A>,
    sum: Buf<A>,
    wide: Buf<f32>,
}

const ROWS: usize = 3;
const WIDTH: usize = 8;

impl<A: Act> Step<A> {
    fn new(d: &Cuda<A>) -> Step<A> {
        let n = ROWS * WIDTH;
        let scaled: Vec<f64> = normal::<A>(WIDTH * WIDTH, 2).into_iter().map(|x| A::of(0.3 * x).f64()).collect();
        Step { x: upload(d, &normal::<A>(n, 1)), w: upload(d, &scaled), sum: d.zeros(n).unwrap(), wide: d.zeros(n).unwrap() }
    }

    fn run(&mut self, d: &Cuda<A>) -> Result<()> {
        let n = ROWS * WIDTH;
        let mut product: Buf<A> = d.empty(n)?;
        d.lora_linear_fwd(&mut product, &mut d.empty(0)?, &self.x, &self.w, None, &[], None, (ROWS, WIDTH, WIDTH))?;
        let mut cleared: Buf<A> = d.zeros(n)?;
        d.add(&mut cleared, &product)?;
        drop(product);
        // Where the product was.
        let mut half: Buf<A> = d.empty(n)?;
        d.copy(&mut half, 0, &cleared, 0, n)?;
        d.add(&mut self.sum, &half)?;
        d.copy(&mut self.x, 0, &half, 0, n)?;
        d.cast(&mut self.wide, &self.sum)
    }

    fn bits(&self, d: &Cuda<A>) -> Vec<f64> {
        [host::<_, A>(d, &self.x), host::<_, A>(d, &self.sum), host::<_, f32>(d, &self.wide)].concat()
    }
}

fn repeated_as_launched<A: OnGpu>(place: Place) {
    on::<A>(place, |d| {
        let before = d.memory().0;
        let (mut plain, mut replayed, mut graphs) = (Step::new(d), Step::new(d), Default::default());
        let (mut called, mut others) = (0, Vec::new());
        for step in 0..6 {
            plain.run(d).unwrap();
            let mut body = || {
                called += 1;
                replayed.run(d)
            };
            d.replay(&mut graphs, 7, &mut body).unwrap();
            assert_eq!(replayed.bits(d), plain.bits(d), "step {step}");
            // What is allocated between steps does not lie where the recorded ones write.
            let numbers = normal::<A>(40 + step, step as u64);
            others.push((upload::<_, A>(d, &numbers), numbers));
            assert!(others.iter().all(|(buf, numbers)| host::<_, A>(d, buf) == *numbers));
        }
        assert_eq!(called, if d.replays() { 2 } else { 6 });
        // Another step shares the memory of the first: one that needs no more of it takes none.
        let (mut small, held) = (d.zeros::<A>(4).unwrap(), d.memory().0);
        for _ in 0..3 {
            d.replay(&mut graphs, 8, &mut || d.clear(&mut small)).unwrap();
        }
        assert_eq!(d.memory().0, held);
        drop((plain, replayed, others, small, graphs));
        assert_eq!(d.memory().0, before);
    });
}

/// Errors say what was done inside of a recorded body; plain launches go on after them.
fn what_a_body_must_not_do<A: OnGpu>(place: Place) {
    on::<A>(place, |d| {
        if !d.replays() {
            return;
        }
        let mut x: Buf<A> = upload(d, &normal::<A>(8, 1));
        let second = |body: &mut dyn FnMut() -> Result<()>| {
            let mut graphs = Default::default();
            d.replay(&mut graphs, 1, body).unwrap();
            d.replay(&mut graphs, 1, body).unwrap_err().to_string()
        };
        let uploads = second(&mut || d.upload(&[1u32]).map(drop));
        assert!(uploads.starts_with("an upload: not inside of what is recorded"), "{uploads}");
        let write = second(&mut || d.write(&mut x, &[A::of(0.0); 8]));
        assert!(write.starts_with("an upload: not inside of what is recorded"), "{write}");
        let download = second(&mut || d.download(&x).map(drop));
        assert!(download.starts_with("a download: not inside of what is recorded"), "{download}");
        let mut kept = None;
        let keeps = second(&mut || {
            kept = Some(d.zeros::<A>(8)?);
            Ok(())
        });
        assert!(keeps.starts_with("what is recorded: 1 buffers that it made are kept"), "{keeps}");
        let mut size = 8;
        let grows = second(&mut || {
            size *= 2;
            d.zeros::<A>(1000 * size).map(drop)
        });
        assert!(grows.starts_with("what is recorded: "), "{grows}");
        let (ones, mut sum): (Buf<A>, Buf<A>) = (upload(d, &[1.0; 8]), upload(d, &[2.0; 8]));
        d.add(&mut sum, &ones).unwrap();
        assert_eq!(host::<_, A>(d, &sum), [3.0; 8]);
    });
}

kernels!(repeated_as_launched, what_a_body_must_not_do);

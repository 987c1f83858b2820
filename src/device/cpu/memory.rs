//! Buffers, their bytes counted, and moving data between them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::{Cpu, Float, parallel};
use crate::device::{Elem, NO_SLOT, Real, check, extent};
use crate::error::{Error, Result};

/// Bytes that live buffers hold, and the most they ever held.
#[derive(Debug, Default)]
pub(super) struct Counter {
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Counter {
    pub(super) fn read(&self) -> (usize, usize) {
        (self.live.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }
}

/// Memory of a [`Cpu`]: a slice whose bytes the device counts while it lives.
#[derive(Debug)]
pub struct Buf<T> {
    data: Vec<T>,
    counter: Arc<Counter>,
}

impl<T> Buf<T> {
    pub(super) fn new(data: Vec<T>, counter: &Arc<Counter>) -> Buf<T> {
        let bytes = size_of_val(&data[..]);
        let live = counter.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        counter.peak.fetch_max(live, Ordering::Relaxed);
        Buf { data, counter: Arc::clone(counter) }
    }
}

impl<T> Drop for Buf<T> {
    fn drop(&mut self) {
        self.counter.live.fetch_sub(size_of_val(&self.data[..]), Ordering::Relaxed);
    }
}

impl<T> Deref for Buf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data
    }
}

impl<T> DerefMut for Buf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}

pub(super) fn copy<F: Float, T: Elem>(dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize) -> Result<()> {
    check::copy::<Cpu<F>, T>(dst, dst_at, src, src_at, len)?;
    dst[dst_at..dst_at + len].copy_from_slice(&src[src_at..src_at + len]);
    Ok(())
}

pub(super) fn cast<F: Float, S: Real, T: Real>(dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
    extent::<Cpu<F>, T>("cast: dst", dst, src.len())?;
    let convert = |(dst, src): (&mut [T], &[S])| dst.iter_mut().zip(src).for_each(|(d, s)| *d = T::of(s.f64()));
    dst.par_chunks_mut(parallel::GRAIN).zip(src.par_chunks(parallel::GRAIN)).for_each(convert);
    Ok(())
}

pub(super) fn gather_rows<F: Float, T: Elem>(out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
    check::gather_rows::<Cpu<F>, T>(out, rows, c)?;
    check_ids("gather_rows: rows", rows, inp.len() / c.max(1), "rows")?;
    parallel::rows(out, c, |first, out| {
        for (out, &row) in out.chunks_exact_mut(c.max(1)).zip(&rows[first..]) {
            out.copy_from_slice(&inp[row as usize * c..][..c]);
        }
    });
    Ok(())
}

pub(super) fn scatter_rows<F: Float, T: Elem>(out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
    check::scatter_rows::<Cpu<F>, T>(inp, rows, c)?;
    check_ids("scatter_rows: rows", rows, out.len() / c.max(1), "rows")?;
    out.fill(T::default());
    for (inp, &row) in inp.chunks_exact(c.max(1)).zip(&rows[..]) {
        out[row as usize * c..][..c].copy_from_slice(inp);
    }
    Ok(())
}

pub(super) fn add<F: Float>(out: &mut Buf<F>, inp: &Buf<F>) -> Result<()> {
    extent::<Cpu<F>, F>("add: out", out, inp.len())?;
    parallel::rows(out, 1, |first, out| out.iter_mut().zip(&inp[first..]).for_each(|(o, &x)| *o += x));
    Ok(())
}

/// Fails at the first id that is not below `count`; `of` names what is counted.
pub(super) fn check_ids(what: &str, ids: &[u32], count: usize, of: &str) -> Result<()> {
    check_where(what, ids, count, of, |_| true)
}

/// Fails at the first slot that is neither one of `count` nor [`NO_SLOT`].
pub(super) fn check_slots(what: &str, slots: &[u32], count: usize) -> Result<()> {
    check_where(what, slots, count, "slots", |i| slots[i] != NO_SLOT)
}

/// The same as [`check_ids`] for those that `counts` says yes to.
pub(super) fn check_where(what: &str, ids: &[u32], count: usize, of: &str, counts: impl Fn(usize) -> bool) -> Result<()> {
    match (0..ids.len()).find(|&i| ids[i] as usize >= count && counts(i)) {
        None => Ok(()),
        Some(i) => Err(Error::input(format!("{what}[{i}]"), format!("{} where there are {count} {of}", ids[i]))),
    }
}

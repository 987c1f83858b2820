//! The reliability diagram: how often a model is right, over how sure it is.

use super::canvas::Canvas;
use super::ticks::Ticks;
use super::{Axis, Chart};

/// Answers about which a model is about as sure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    /// How many.
    pub count: usize,
    /// How sure it is of them on average, from 0.5 to 1.
    pub confidence: f64,
    /// The share of which it is right.
    pub accuracy: f64,
}

/// Bins as circles whose area is their count, on the line that a calibrated model has; none without an answer.
pub fn reliability(name: &str, title: &str, x: Axis<'_>, y: Axis<'_>, bins: &[Bin]) -> Option<Chart> {
    let most = bins.iter().map(|bin| bin.count).max().filter(|most| *most > 0)? as f64;
    let across = Ticks::new(0.5, 1.0, 5, false, true);
    let up = Ticks::new(0.0, 1.0, 5, false, true);
    let mut canvas = Canvas::new(title);
    let field = canvas.field(170.0, (&x, &across), (&y, &up));
    canvas.line("ideal", [field.x(0.5), field.y(0.5), field.x(1.0), field.y(1.0)]);
    let filled: Vec<&Bin> = bins.iter().filter(|bin| bin.count > 0).collect();
    let at = |bin: &&Bin| (field.x(bin.confidence), field.y(bin.accuracy));
    canvas.polyline("line c1", &filled.iter().map(at).collect::<Vec<_>>());
    for bin in &filled {
        canvas.circle("halo c1", at(bin), (9.0 * (bin.count as f64 / most).sqrt()).max(2.5));
    }
    Some(canvas.finish(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_circles_where_they_belong() {
        let bins = [
            Bin { count: 4, confidence: 0.75, accuracy: 0.5 },
            Bin { count: 0, confidence: 0.8, accuracy: 0.0 },
            Bin { count: 1, confidence: 1.0, accuracy: 1.0 },
        ];
        let drawn = reliability("x", "t", Axis::new("sure"), Axis::new(""), &bins).unwrap().inline();
        // The field: 27.8 to 408 across, 28 to 198 down.
        assert!(drawn.contains("<circle class=\"halo c1\" cx=\"217.9\" cy=\"113\" r=\"9\"/>"), "{drawn}");
        assert!(drawn.contains("<circle class=\"halo c1\" cx=\"408\" cy=\"28\" r=\"4.5\"/>"), "{drawn}");
        assert_eq!(drawn.matches("<circle").count(), 2);
        assert_eq!(reliability("x", "t", Axis::new(""), Axis::new(""), &[]), None);
    }
}

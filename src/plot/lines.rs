//! Curves over steps or time.

use super::canvas::{Canvas, class};
use super::ticks::Ticks;
use super::{Axis, Chart};

/// Points of a curve that are drawn; of more, neighbours become their mean.
const POINTS: usize = 400;

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend; empty leaves it out.
    pub name: String,
    /// The colour, from 0.
    pub colour: usize,
    /// Where it passes. A value that is none or not finite is a gap.
    pub points: Vec<(f64, Option<f64>)>,
    /// Points alone, faint, without a line between them.
    pub dots: bool,
}

impl Series {
    /// A curve.
    pub fn line(name: impl Into<String>, colour: usize, points: Vec<(f64, Option<f64>)>) -> Series {
        Series { name: name.into(), colour, points, dots: false }
    }

    /// Points beside a curve.
    pub fn dots(name: impl Into<String>, colour: usize, points: Vec<(f64, Option<f64>)>) -> Series {
        Series { dots: true, ..Series::line(name, colour, points) }
    }

    /// The runs between gaps, of at most [`POINTS`] points together.
    fn runs(&self) -> Vec<Vec<(f64, f64)>> {
        let mut runs = vec![Vec::new()];
        for (x, y) in &self.points {
            match y.filter(|y| y.is_finite() && x.is_finite()) {
                Some(y) => runs.last_mut().expect("there is always a last run").push((*x, y)),
                None => runs.push(Vec::new()),
            }
        }
        runs.retain(|run| !run.is_empty());
        let each = self.points.len().div_ceil(POINTS);
        if each > 1 {
            let mean = |part: &[(f64, f64)]| {
                let n = part.len() as f64;
                (part.iter().map(|(x, _)| x).sum::<f64>() / n, part.iter().map(|(_, y)| y).sum::<f64>() / n)
            };
            runs.iter_mut().for_each(|run| *run = run.chunks(each).map(mean).collect());
        }
        runs
    }
}

/// Curves in one field; none where no curve has a point.
pub fn lines(name: &str, title: &str, x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> Option<Chart> {
    let runs: Vec<Vec<Vec<(f64, f64)>>> = series.iter().map(Series::runs).collect();
    let points = || runs.iter().flatten().flatten();
    points().next()?;
    let ends = |of: fn(&(f64, f64)) -> f64, axis: &Axis<'_>| {
        let (low, high) = axis.holds.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
        points().map(of).fold((low, high), |(low, high), value| (low.min(value), high.max(value)))
    };
    let (left, right) = ends(|point| point.0, &x);
    let across = match right > left {
        true => Ticks::new(left, right, 6, x.whole, false),
        // The only step stands in the middle.
        false => Ticks { low: left - 1.0, high: left + 1.0, step: 1.0, at: vec![left] },
    };
    let (low, high) = ends(|point| point.1, &y);
    let up = Ticks::new(low, high, 4, y.whole, true);
    let mut canvas = Canvas::new(title);
    let named: Vec<(usize, &str)> =
        series.iter().filter(|one| !one.name.is_empty()).map(|one| (one.colour, one.name.as_str())).collect();
    if named.len() > 1 {
        canvas.legend(&named);
    }
    let field = canvas.field(140.0, (&x, &across), (&y, &up));
    for (one, runs) in series.iter().zip(&runs) {
        let class = class(one.colour);
        for run in runs {
            let drawn: Vec<(f64, f64)> = run.iter().map(|(x, y)| (field.x(*x), field.y(*y))).collect();
            if one.dots {
                drawn.iter().for_each(|at| canvas.circle(&format!("faint {class}"), *at, 2.0));
            } else if let [alone] = drawn[..] {
                canvas.circle(&class, alone, 3.0);
            } else {
                canvas.polyline(&format!("line {class}"), &drawn);
            }
        }
    }
    Some(canvas.finish(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, Option<f64>)]) -> Option<Chart> {
        lines("loss", "Loss", Axis::new("step").whole(), Axis::new(""), &[Series::line("", 1, points.to_vec())])
    }

    /// The left end of the field is 8 + 3 letters of 6.6 pixels, its right end 408; it spans 140 pixels down from 28.
    #[test]
    fn points_are_where_the_axes_say() {
        let drawn = chart(&[(1.0, Some(1.0)), (2.0, Some(0.5)), (3.0, Some(0.0))]).unwrap().inline();
        assert!(drawn.contains("<polyline class=\"line c1\" points=\"27.8,28 217.9,98 408,168\"/>"), "{drawn}");
        for (at, text) in [(27.8, "1"), (217.9, "2"), (408.0, "3")] {
            assert!(drawn.contains(&format!("<text class=\"middle small\" x=\"{at}\" y=\"184\">{text}</text>")), "{drawn}");
        }
        // Up: 0, 0.5, 1.0 with a step of 0.5, of which each is 70 pixels.
        assert!(drawn.contains("<text class=\"end small\" x=\"21.8\" y=\"102\">0.5</text>"), "{drawn}");
    }

    #[test]
    fn gaps_part_a_curve_and_a_lone_point_is_seen() {
        let points = [(1.0, Some(1.0)), (2.0, None), (3.0, Some(f64::NAN)), (4.0, Some(0.0)), (5.0, Some(1.0))];
        let drawn = chart(&points).unwrap().inline();
        assert_eq!((drawn.matches("<polyline").count(), drawn.matches("<circle").count()), (1, 1), "{drawn}");
        let one = chart(&[(7.0, Some(2.0))]).unwrap().inline();
        assert!(one.contains("<circle class=\"c1\" cx=\"") && one.contains(">7</text>"), "{one}");
        assert_eq!((chart(&[]), chart(&[(1.0, None)])), (None, None));
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_mean() {
        let points: Vec<(f64, Option<f64>)> = (0..4000).map(|i| (f64::from(i), Some(f64::from(i % 10)))).collect();
        let drawn = chart(&points).unwrap().inline();
        let line = drawn.lines().find(|line| line.starts_with("<polyline")).unwrap();
        let heights: Vec<&str> = line.split('"').nth(3).unwrap().split(' ').map(|at| at.split(',').nth(1).unwrap()).collect();
        assert_eq!((heights.len(), heights.iter().all(|y| *y == heights[0])), (400, true));
    }

    #[test]
    fn text_is_escaped_and_bytes_repeat() {
        let series = [Series::line("<b>", 0, vec![(1.0, Some(1.0))]), Series::dots("d", 1, vec![(1.0, Some(2.0))])];
        let draw = || lines("x", "</title><script>", Axis::new("<"), Axis::new("&"), &series).unwrap().file();
        let drawn = draw();
        assert!(!drawn.contains("<script") && !drawn.contains("<b>") && drawn.contains("&lt;b&gt;"), "{drawn}");
        assert_eq!(drawn, draw());
        assert!(drawn.contains("prefers-color-scheme: dark") && drawn.contains("role=\"img\""), "{drawn}");
    }
}

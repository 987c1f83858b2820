//! Bars: values with their intervals, and counts.

use super::canvas::{Canvas, class, cut, width_of};
use super::ticks::{Ticks, label};
use super::{Axis, Chart, WIDTH};

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The series that it belongs to, and so its colour.
    pub series: usize,
    /// Its length; none leaves its place empty.
    pub value: Option<f64>,
    /// The ends of its interval.
    pub interval: Option<(f64, f64)>,
    /// What stands at its end.
    pub text: String,
}

/// Bars that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// What they are of.
    pub label: String,
    /// From the top.
    pub bars: Vec<Bar>,
}

/// Bars from left to right, from 0, with the names of the series; none without a bar.
pub fn bars(name: &str, title: &str, x: Axis<'_>, series: &[&str], groups: &[Group]) -> Option<Chart> {
    let all = || groups.iter().flat_map(|group| &group.bars);
    let ends = all().filter_map(|bar| Some(bar.interval.map_or(bar.value?, |(_, high)| high))).filter(|end| end.is_finite());
    let most = ends.fold(None, |most: Option<f64>, end| Some(most.map_or(end, |most| most.max(end))))?;
    let across = Ticks::new(0.0, x.holds.map_or(most, |(_, high)| high.max(most)), 5, x.whole, true);
    let mut canvas = Canvas::new(title);
    if series.len() > 1 {
        canvas.legend(&series.iter().enumerate().map(|(index, name)| (index, *name)).collect::<Vec<_>>());
    }
    let labels: Vec<String> = groups.iter().map(|group| cut(&group.label, 22)).collect();
    let left = 8.0 + labels.iter().map(|text| width_of(text)).fold(0.0, f64::max);
    let room = all().map(|bar| width_of(&bar.text)).fold(0.0, f64::max) + 8.0;
    let scale = (WIDTH - room - left) / across.high;
    let single = groups.iter().all(|group| group.bars.len() <= 1);
    let (thick, pitch, between) = if single { (14.0, 14.0, 10.0) } else { (9.0, 11.0, 9.0) };
    let top = canvas.y;
    let bottom = top + groups.iter().map(|group| pitch * group.bars.len() as f64 + between).sum::<f64>();
    for value in &across.at {
        let at = left + scale * value;
        canvas.line("rule", [at, top, at, bottom]);
        canvas.text(at, bottom + 14.0, "middle small", label(*value, across.step));
    }
    let mut y = top + between / 2.0;
    for (group, text) in groups.iter().zip(&labels) {
        let height = pitch * group.bars.len() as f64;
        canvas.text(left - 8.0, y + height / 2.0 + 3.5, "end name small", text);
        for bar in &group.bars {
            if let Some(value) = bar.value.filter(|value| value.is_finite()) {
                canvas.rect(&class(bar.series), [left, y, scale * value, thick], 1.5);
                let mut end = left + scale * value;
                if let Some((low, high)) = bar.interval {
                    let (middle, from, to) = (y + thick / 2.0, left + scale * low, left + scale * high);
                    canvas.line("whisker", [from, middle, to, middle]);
                    canvas.line("whisker", [from, middle - 2.5, from, middle + 2.5]);
                    canvas.line("whisker", [to, middle - 2.5, to, middle + 2.5]);
                    end = end.max(to);
                }
                canvas.text(end + 5.0, y + thick / 2.0 + 4.0, "value", &bar.text);
            }
            y += pitch;
        }
        y += between;
    }
    canvas.line("axis", [left, top, left, bottom]);
    canvas.text(WIDTH, bottom + 29.0, "end small", x.label);
    canvas.y = bottom + 36.0;
    Some(canvas.finish(name))
}

/// Counts of values between `edges`, one more than there are counts; none where every count is 0.
pub fn histogram(name: &str, title: &str, x: Axis<'_>, edges: &[f64], counts: &[usize]) -> Option<Chart> {
    let most = *counts.iter().max().filter(|most| **most > 0)?;
    let (first, last) = (*edges.first()?, *edges.last()?);
    let (across, up) = (Ticks::new(first, last, 6, x.whole, false), Ticks::new(0.0, most as f64, 4, true, true));
    let mut canvas = Canvas::new(title);
    let field = canvas.field(140.0, (&x, &across), (&Axis::new("pairs"), &up));
    for (edges, count) in edges.windows(2).zip(counts) {
        let (from, to, top) = (field.x(edges[0]), field.x(edges[1]), field.y(*count as f64));
        // What lies below 0 is wrong, and says so in another colour.
        let series = if edges[1] <= 0.0 { 2 } else { 1 };
        canvas.rect(&class(series), [from + 0.5, top, to - from - 1.0, field.bottom - top], 0.0);
    }
    Some(canvas.finish(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_length_of_their_value() {
        let bar = |series, value, interval| Bar { series, value, interval, text: "ab".into() };
        let groups = [
            Group { label: "one".into(), bars: vec![bar(0, Some(50.0), Some((40.0, 60.0)))] },
            Group { label: "<two>".into(), bars: vec![bar(1, None, None)] },
        ];
        let drawn = bars("x", "t", Axis::new("%").holding(0.0, 100.0), &["a"], &groups).unwrap().inline();
        // From 8 + 5 letters on; the text of two letters and 8 pixels are left free at the end: 357.8 pixels are 100.
        assert!(drawn.contains("<rect class=\"c0\" x=\"41\" y=\"33\" width=\"178.9\" height=\"14\" rx=\"1.5\"/>"), "{drawn}");
        assert!(drawn.contains("<line class=\"whisker\" x1=\"184.12\" y1=\"40\" x2=\"255.68\" y2=\"40\"/>"), "{drawn}");
        assert!(drawn.contains("&lt;two&gt;") && drawn.matches("<rect").count() == 1, "{drawn}");
        assert_eq!(bars("x", "t", Axis::new("%"), &[], &[]), None);
    }

    #[test]
    fn a_histogram_counts() {
        let drawn = histogram("x", "t", Axis::new("margin"), &[-1.0, 0.0, 1.0], &[1, 2]).unwrap().inline();
        let bars: Vec<&str> = drawn.lines().filter(|line| line.starts_with("<rect")).collect();
        assert!(bars[0].contains("class=\"c2\"") && bars[0].contains("height=\"70\""), "{drawn}");
        assert!(bars[1].contains("class=\"c1\"") && bars[1].contains("height=\"140\""), "{drawn}");
        assert_eq!(histogram("x", "t", Axis::new(""), &[0.0, 1.0], &[0]), None);
    }
}

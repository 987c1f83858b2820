//! What every chart is drawn with: numbers and text as SVG writes them, a title, a legend, two axes.

use std::fmt::{Display, Write};

use super::ticks::{Ticks, label};
use super::{Axis, COLOURS, Chart, WIDTH};

/// Pixels that a letter of 12 pixels takes on average, a little more so that nothing overlaps; a capital, and a sign as wide.
const LETTER: f64 = 6.6;
const CAPITAL: f64 = 8.6;

/// A coordinate, to a hundredth of a pixel.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// Words in SVG or HTML, also inside of a quoted attribute. What XML has no letters for is replaced.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' | '\t' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Pixels that words take.
pub(super) fn width_of(text: &str) -> f64 {
    text.chars().map(|c| if c.is_uppercase() || "+%@…→".contains(c) { CAPITAL } else { LETTER }).sum()
}

/// Words in at most so many letters.
pub(super) fn cut(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        None => text.into(),
        Some(_) => text.chars().take(letters - 1).chain(['…']).collect(),
    }
}

/// The class of a series' colour; after the last the first comes again, but for the one that others are held against.
pub(super) fn class(series: usize) -> String {
    if series < COLOURS { format!("c{series}") } else { format!("c{}", 1 + (series - COLOURS) % (COLOURS - 1)) }
}

/// A chart that is being drawn, from the top.
pub(super) struct Canvas {
    body: String,
    title: String,
    /// Where the next thing goes.
    pub y: f64,
}

impl Canvas {
    pub fn new(title: &str) -> Canvas {
        let mut canvas = Canvas { body: String::new(), title: title.into(), y: 28.0 };
        canvas.text(0.0, 15.0, "head", title);
        canvas
    }

    pub fn text(&mut self, x: f64, y: f64, class: &str, text: impl Display) {
        let text = escaped(&text.to_string());
        self.add(format_args!("<text class=\"{class}\" x=\"{}\" y=\"{}\">{text}</text>", number(x), number(y)));
    }

    pub fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(number);
        self.add(format_args!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"));
    }

    pub fn rect(&mut self, class: &str, [x, y, width, height]: [f64; 4], round: f64) {
        let [x, y, width, height, round] = [x, y, width.max(0.0), height.max(0.0), round].map(number);
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{round}\"/>"
        ));
    }

    pub fn circle(&mut self, class: &str, (x, y): (f64, f64), radius: f64) {
        let [x, y, radius] = [x, y, radius].map(number);
        self.add(format_args!("<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>"));
    }

    pub fn polyline(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", number(*x), number(*y))).collect();
        self.add(format_args!("<polyline class=\"{class}\" points=\"{}\"/>", points.join(" ")));
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    /// A square and a name for each series, in as many rows as it takes.
    pub fn legend(&mut self, names: &[(usize, &str)]) {
        let mut x = 0.0;
        for (series, name) in names {
            let name = cut(name, 40);
            let width = 26.0 + width_of(&name);
            if x > 0.0 && x + width > WIDTH {
                (x, self.y) = (0.0, self.y + 17.0);
            }
            self.rect(&class(*series), [x, self.y - 1.0, 10.0, 10.0], 2.0);
            self.text(x + 15.0, self.y + 8.5, "small", name);
            x += width;
        }
        self.y += 20.0;
    }

    /// Draws both axes around a field of this height, and says where values go.
    pub fn field(&mut self, height: f64, (x, across): (&Axis<'_>, &Ticks), (y, up): (&Axis<'_>, &Ticks)) -> Field {
        if !y.label.is_empty() {
            self.text(0.0, self.y + 6.0, "small", y.label);
            self.y += 16.0;
        }
        let labels: Vec<String> = up.at.iter().map(|value| label(*value, up.step)).collect();
        let left = 8.0 + labels.iter().map(|text| width_of(text)).fold(0.0, f64::max);
        let field = Field {
            left,
            right: WIDTH - 12.0,
            top: self.y,
            bottom: self.y + height,
            x: (across.low, across.high),
            y: (up.low, up.high),
        };
        for (value, text) in up.at.iter().zip(&labels) {
            let at = field.y(*value);
            self.line("rule", [field.left, at, field.right, at]);
            self.text(field.left - 6.0, at + 4.0, "end small", text);
        }
        self.line("axis", [field.left, field.bottom, field.right, field.bottom]);
        for value in &across.at {
            let at = field.x(*value);
            self.line("axis", [at, field.bottom, at, field.bottom + 4.0]);
            self.text(at, field.bottom + 16.0, "middle small", label(*value, across.step));
        }
        self.text(field.right, field.bottom + 31.0, "end small", x.label);
        self.y = field.bottom + 38.0;
        field
    }

    pub fn finish(self, name: &str) -> Chart {
        Chart { name: name.into(), title: self.title, height: self.y, body: self.body }
    }
}

/// Where values are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Field {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Field {
    pub fn x(&self, value: f64) -> f64 {
        self.left + (value - self.x.0) / (self.x.1 - self.x.0) * (self.right - self.left)
    }

    pub fn y(&self, value: f64) -> f64 {
        self.bottom - (value - self.y.0) / (self.y.1 - self.y.0) * (self.bottom - self.top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_words_are_harmless() {
        assert_eq!([1.0, -0.001, 12.345, 100.0, 0.5].map(number), ["1", "0", "12.35", "100", "0.5"]);
        assert_eq!(escaped("</text><script a='\"'>&\n\u{0}"), "&lt;/text&gt;&lt;script a=&#39;&quot;&#39;&gt;&amp; \u{fffd}");
        assert_eq!((cut("abcdef", 6), cut("abcdefg", 6)), ("abcdef".into(), "abcde…".into()));
    }

    #[test]
    fn colours_come_again_but_never_the_first() {
        assert_eq!([0, 7, 8, 14, 15].map(class), ["c0", "c7", "c1", "c7", "c1"]);
    }
}

//! Charts as SVG: lines, bars with their intervals, histograms, calibration. Small, without scripts, the same bytes every time.
//!
//! A chart is drawn in pixels of its natural size, which is narrow: on a phone its letters can still be read. What has a colour has a
//! class; a page that shows charts holds the rules of [`style`], a file of its own brings them along.

mod bars;
mod canvas;
mod lines;
mod reliability;
mod ticks;

pub use bars::{Bar, Group, bars, histogram};
pub use lines::{Series, lines};
pub use reliability::{Bin, reliability};
pub use ticks::{Ticks, label};

/// Pixels of every chart's width.
pub const WIDTH: f64 = 420.0;

/// Colours of series. The first is for what others are held against.
pub const COLOURS: usize = 8;

/// An axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis<'a> {
    /// What it measures, unit included.
    pub label: &'a str,
    /// What it shows at least, whatever the data are.
    pub holds: Option<(f64, f64)>,
    /// Whether its values are counts, so that no tick stands between two of them.
    pub whole: bool,
}

impl<'a> Axis<'a> {
    /// An axis that shows what there is.
    pub fn new(label: &'a str) -> Axis<'a> {
        Axis { label, holds: None, whole: false }
    }

    /// The same for counts.
    pub fn whole(self) -> Axis<'a> {
        Axis { whole: true, ..self }
    }

    /// The same, which shows at least the values from `low` to `high`.
    pub fn holding(self, low: f64, high: f64) -> Axis<'a> {
        Axis { holds: Some((low, high)), ..self }
    }
}

/// A drawn chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What a file of it is called, without the ending.
    pub name: String,
    /// Its title, as drawn.
    pub title: String,
    /// Pixels of its height.
    pub height: f64,
    body: String,
}

impl Chart {
    /// For a page that holds [`style`]. The title is what a screen reader says.
    pub fn inline(&self) -> String {
        self.svg("", "")
    }

    /// A file of its own: it follows the reader's choice of light or dark, and is light where nobody chooses.
    pub fn file(&self) -> String {
        let style = format!(
            "<style>\n.chart {{ font: 12px system-ui, sans-serif }}\n{}@media (prefers-color-scheme: dark) {{\n{}}}\n</style>\n",
            style(|name| colour(name, false).to_string()),
            style(|name| colour(name, true).to_string())
        );
        let size = format!(" xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\"", canvas::number(self.height));
        self.svg(&size, &format!("{style}<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n")) + "\n"
    }

    fn svg(&self, attributes: &str, before: &str) -> String {
        let (height, title) = (canvas::number(self.height), canvas::escaped(&self.title));
        format!(
            "<svg{attributes} class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n\
            <title>{title}</title>\n{before}{}</svg>",
            self.body
        )
    }
}

/// The colours' names, light and dark.
const PALETTE: [(&str, &str, &str); 12] = [
    ("paper", "#ffffff", "#0f1419"),
    ("ink", "#1c2128", "#e6e9ee"),
    ("soft", "#5b6570", "#98a3b0"),
    ("grid", "#e3e7ec", "#2a313a"),
    ("c0", "#8a94a0", "#8791a0"),
    ("c1", "#2563c9", "#6fa8ff"),
    ("c2", "#d4650a", "#f5a253"),
    ("c3", "#1f8f63", "#57cf9b"),
    ("c4", "#7a4ad0", "#b596f7"),
    ("c5", "#c5346a", "#f27fa6"),
    ("c6", "#0b8296", "#55c6d8"),
    ("c7", "#857400", "#d3c04a"),
];

/// A colour of the charts, for a light or a dark background: `paper`, `ink`, `soft`, `grid`, and those of series, `c0` to `c7`.
pub fn colour(name: &str, dark: bool) -> &'static str {
    let found = PALETTE.iter().find(|(known, ..)| *known == name);
    found.map_or("currentColor", |(_, on_light, on_dark)| if dark { on_dark } else { on_light })
}

/// The colours as CSS variables, for a page that asks [`style`] for `var(--...)`.
pub fn variables(dark: bool) -> String {
    PALETTE.iter().map(|(name, ..)| format!("--{name}:{};", colour(name, dark))).collect()
}

/// The charts' rules, in CSS, with each colour as `of` gives it.
pub fn style(of: impl Fn(&str) -> String) -> String {
    let mut text = format!(
        ".chart text {{ fill: {soft} }}\n.chart .head {{ fill: {ink}; font-weight: 600; font-size: 13px }}\n\
        .chart .value {{ fill: {ink}; font-size: 11px }}\n.chart .name {{ fill: {ink} }}\n.chart .small {{ font-size: 11px }}\n\
        .chart .end {{ text-anchor: end }}\n.chart .middle {{ text-anchor: middle }}\n.chart .paper {{ fill: {paper} }}\n\
        .chart .rule {{ stroke: {grid}; stroke-width: 1 }}\n.chart .axis {{ stroke: {soft}; stroke-width: 1 }}\n\
        .chart .ideal {{ stroke: {soft}; stroke-width: 1; stroke-dasharray: 4 4 }}\n\
        .chart .whisker {{ stroke: {ink}; stroke-width: 1.25; fill: none }}\n\
        .chart .line {{ fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round }}\n\
        .chart .faint {{ fill-opacity: .4 }}\n.chart .halo {{ stroke: {paper}; stroke-width: 1 }}\n",
        ink = of("ink"),
        soft = of("soft"),
        grid = of("grid"),
        paper = of("paper"),
    );
    for index in 0..COLOURS {
        let (class, colour) = (format!("c{index}"), of(&format!("c{index}")));
        text += &format!(".chart .{class} {{ fill: {colour} }}\n.chart .line.{class} {{ fill: none; stroke: {colour} }}\n");
    }
    text
}

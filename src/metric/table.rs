//! A table of results, and its forms: JSON and CSV for programs, Markdown and LaTeX for readers. Programs get every digit, readers
//! get what the numbers bear.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A count.
    Count(usize),
    /// A number, and how many decimals a reader sees.
    Number(f64, usize),
    /// A p-value: two decimals and an exponent.
    P(f64),
    /// Nothing: the number does not exist here.
    Missing,
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    /// A number that may not exist.
    pub fn number(value: Option<f64>, decimals: usize) -> Cell {
        value.filter(|value| value.is_finite()).map_or(Cell::Missing, |value| Cell::Number(value, decimals))
    }

    /// A share as percent, with one decimal.
    pub fn percent(share: Option<f64>) -> Cell {
        Cell::number(share.map(|share| 100.0 * share), 1)
    }

    fn json(&self) -> Value {
        match self {
            Cell::Text(text) => json!(text),
            Cell::Count(count) => json!(count),
            Cell::Number(value, _) | Cell::P(value) => json!(value),
            Cell::Missing => Value::Null,
        }
    }

    fn exact(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => count.to_string(),
            Cell::P(value) if *value < 1e-4 => format!("{value:e}"),
            Cell::Number(value, _) | Cell::P(value) => value.to_string(),
            Cell::Missing => String::new(),
        }
    }

    /// For a reader; `nothing` stands for a number that does not exist, and words go through `escape`.
    fn shown(&self, nothing: &str, escape: fn(&str) -> String) -> String {
        match self {
            Cell::Text(text) => escape(text),
            Cell::Count(count) => count.to_string(),
            Cell::Number(value, decimals) => format!("{value:.decimals$}"),
            Cell::P(value) => format!("{value:.2e}"),
            Cell::Missing => nothing.to_string(),
        }
    }

    /// For a reader, as it is: whoever shows it escapes it.
    pub fn plain(&self) -> String {
        self.shown("–", str::to_string)
    }

    /// Whether it holds words.
    pub fn is_text(&self) -> bool {
        matches!(self, Cell::Text(_))
    }
}

/// A table. Every row has a cell for each column.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// What its rows are: `models`, `comparisons`.
    pub name: &'static str,
    /// The columns' names, units included.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
    /// What a reader has to know beside it, a sentence each.
    pub notes: Vec<String>,
}

/// A form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object: the rows of each table under its name, and the notes.
    Json,
    /// RFC 4180 with a head and LF as the end of lines; tables are parted by an empty line, notes are left out.
    Csv,
    /// GitHub's tables.
    Markdown,
    /// A `tabular` for each table, which needs no package; notes are comments.
    Latex,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Format, String> {
        match name {
            "json" => Ok(Format::Json),
            "csv" => Ok(Format::Csv),
            "markdown" => Ok(Format::Markdown),
            "latex" => Ok(Format::Latex),
            _ => Err("expected json, csv, markdown or latex".into()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Markdown => "markdown",
            Format::Latex => "latex",
        })
    }
}

/// Tables in one of the forms, one after the other. Those without rows are left out, except in JSON.
pub fn render(tables: &[Table], format: Format) -> String {
    if format == Format::Json {
        let mut all: Map<String, Value> = tables.iter().map(|table| (table.name.to_string(), table.json())).collect();
        all.insert("notes".into(), json!(tables.iter().flat_map(|table| &table.notes).collect::<Vec<_>>()));
        return format!("{:#}\n", Value::Object(all));
    }
    let one = |table: &Table| match format {
        Format::Csv => table.csv(),
        Format::Latex => table.latex(),
        _ => table.markdown(),
    };
    tables.iter().filter(|table| !table.rows.is_empty()).map(one).collect::<Vec<_>>().join("\n")
}

impl Table {
    fn json(&self) -> Value {
        let object =
            |row: &Vec<Cell>| -> Map<String, Value> { self.columns.iter().cloned().zip(row.iter().map(Cell::json)).collect() };
        self.rows.iter().map(object).collect::<Vec<_>>().into()
    }

    /// The table as CSV.
    pub fn csv(&self) -> String {
        let line = |cells: Vec<String>| cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",") + "\n";
        let rows = self.rows.iter().map(|row| line(row.iter().map(Cell::exact).collect()));
        std::iter::once(line(self.columns.clone())).chain(rows).collect()
    }

    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(|name| markdown(name)).collect());
        let rules = (0..self.columns.len()).map(|column| if self.is_text(column) { "---" } else { "---:" });
        text += &format!("|{}|\n", rules.collect::<Vec<_>>().join("|"));
        text.extend(self.rows.iter().map(|row| line(row.iter().map(|cell| cell.shown("–", markdown)).collect())));
        // Two spaces end a line of a paragraph. Outside of tables a bar is a bar.
        let notes: Vec<String> = self.notes.iter().map(|note| markdown(note).replace("\\|", "|")).collect();
        if !notes.is_empty() {
            text += &format!("\n{}\n", notes.join("  \n"));
        }
        text
    }

    fn latex(&self) -> String {
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let columns: String = (0..self.columns.len()).map(|column| if self.is_text(column) { 'l' } else { 'r' }).collect();
        let mut text = format!("\\begin{{tabular}}{{{columns}}}\n\\hline\n");
        text += &line(self.columns.iter().map(|name| latex(name)).collect());
        text += "\\hline\n";
        text.extend(self.rows.iter().map(|row| line(row.iter().map(|cell| cell.shown("--", latex)).collect())));
        text += "\\hline\n\\end{tabular}\n";
        text.extend(self.notes.iter().map(|note| format!("% {}\n", one_line(note))));
        text
    }

    fn is_text(&self, column: usize) -> bool {
        self.rows.iter().any(|row| row[column].is_text())
    }
}

/// A CSV field, in quotes where it needs them.
fn quoted(field: &str) -> String {
    let edge = |c: Option<char>| c.is_some_and(char::is_whitespace);
    if field.contains([',', '"', '\n', '\r']) || edge(field.chars().next()) || edge(field.chars().next_back()) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_string()
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).collect::<Vec<_>>().join(" ")
}

/// Words in a Markdown table.
fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        if matches!(c, '\\' | '|' | '*' | '`' | '<') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Words in LaTeX's text mode.
fn latex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' => out += "\\textless{}",
            '>' => out += "\\textgreater{}",
            '|' => out += "\\textbar{}",
            // Both mean something to the end of the row before.
            '[' | '*' => out.extend(['{', c, '}']),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            name: "models",
            columns: vec!["model".into(), "pass@1 %".into(), "n_b".into(), "p".into()],
            rows: vec![
                vec![Cell::text("a_b%, \"x\""), Cell::Number(100.0 / 3.0, 1), Cell::Count(7), Cell::P(0.031_25)],
                vec![Cell::text("c&d|e\\f"), Cell::Missing, Cell::Count(0), Cell::P(1e-9)],
            ],
            notes: vec!["100 % of {it}|*".into()],
        }
    }

    #[test]
    fn csv_quotes_and_keeps_every_digit() {
        let expected = "model,pass@1 %,n_b,p\n\"a_b%, \"\"x\"\"\",33.333333333333336,7,0.03125\nc&d|e\\f,,0,1e-9\n";
        assert_eq!(render(&[table()], Format::Csv), expected);
        assert_eq!(["a\nb", " a", "a\r", "a;b", ""].map(quoted), ["\"a\nb\"", "\" a\"", "\"a\r\"", "a;b", ""]);
    }

    #[test]
    fn latex_escapes_what_means_something_to_it() {
        let expected = "\\begin{tabular}{lrrr}\n\\hline\nmodel & pass@1 \\% & n\\_b & p \\\\\n\\hline\n\
            a\\_b\\%, \"x\" & 33.3 & 7 & 3.12e-2 \\\\\n\
            c\\&d\\textbar{}e\\textbackslash{}f & -- & 0 & 1.00e-9 \\\\\n\\hline\n\\end{tabular}\n% 100 % of {it}|*\n";
        assert_eq!(render(&[table()], Format::Latex), expected);
        let escaped = "{[}\\#\\{\\$\\textasciitilde{}\\textasciicircum{}\\textless{}\\textgreater{}\\} ";
        assert_eq!(latex("[#{$~^<>}\n"), escaped);
    }

    #[test]
    fn markdown_and_json_say_the_same() {
        let expected = "| model | pass@1 % | n_b | p |\n|---|---:|---:|---:|\n| a_b%, \"x\" | 33.3 | 7 | 3.12e-2 |\n\
            | c&d\\|e\\\\f | – | 0 | 1.00e-9 |\n\n100 % of {it}|\\*\n";
        assert_eq!(render(&[table()], Format::Markdown), expected);
        let value: Value = serde_json::from_str(&render(&[table()], Format::Json)).unwrap();
        let rows = json!([
            {"model": "a_b%, \"x\"", "pass@1 %": 100.0 / 3.0, "n_b": 7, "p": 0.03125},
            {"model": "c&d|e\\f", "pass@1 %": null, "n_b": 0, "p": 1e-9},
        ]);
        assert_eq!(value, json!({"models": rows, "notes": ["100 % of {it}|*"]}));
    }

    #[test]
    fn two_tables_are_parted_and_an_empty_one_is_left_out() {
        let empty = Table { rows: Vec::new(), ..table() };
        let twice = render(&[table(), empty, table()], Format::Csv);
        assert_eq!(twice.matches("\n\nmodel,").count(), 1);
        for format in [Format::Json, Format::Csv, Format::Markdown, Format::Latex] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("html".parse::<Format>().is_err());
        assert_eq!((Cell::number(Some(f64::NAN), 1), Cell::percent(Some(0.5))), (Cell::Missing, Cell::Number(50.0, 1)));
    }
}

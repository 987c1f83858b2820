//! The files that an issue is about, from a clone at the issue's commit.
//!
//! In the order of their weight: places in tracebacks (`File "x/y.py", line 3`), paths, dotted module names, and names of
//! functions and classes that are defined in few places. Tests are left out. What a file has to do with the issue is cut out
//! around the lines that were named; a small file is shown whole. The same issue gives the same text every time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::git;
use crate::error::Result;
use crate::problem::check::command::is_test;
use crate::problem::folder::enclosing;

/// Files shown at most.
const FILES: usize = 8;
/// A name that is defined in more places than these says nothing.
const PLACES: usize = 4;
/// Lines shown on either side of a line that no definition encloses.
const AROUND: usize = 30;
/// The longest definition that is shown whole.
const DEFINITION: usize = 150;

const ENDINGS: [&str; 12] = ["py", "pyx", "rs", "go", "java", "js", "ts", "c", "h", "cpp", "rb", "cfg"];

/// What is known of a file: its weight, and the lines that were named.
#[derive(Debug, Default)]
struct Named {
    weight: usize,
    lines: BTreeSet<usize>,
}

/// An upper bound of a text's tokens where no tokenizer is at hand: code has more than three bytes a token.
pub fn bound(text: &str) -> usize {
    text.len().div_ceil(3)
}

/// The text of the files that `issue` is about, at most `budget` tokens by `count`. Empty where it names none.
pub(super) fn context(repo: &Path, base: &str, issue: &str, budget: usize, count: &dyn Fn(&str) -> usize) -> Result<String> {
    let listing = git(repo, &["ls-tree", "-r", "--name-only", "-z", base])?;
    let listing = String::from_utf8_lossy(&listing).into_owned();
    let files: Vec<&str> = listing.split('\0').filter(|path| is_code(path) && !is_test(path)).collect();
    let mut named: BTreeMap<&str, Named> = BTreeMap::new();
    let mut add = |path: &str, weight: usize, line: Option<usize>| {
        if let Some(path) = resolve(&files, path) {
            let file = named.entry(path).or_default();
            file.weight += weight;
            file.lines.extend(line);
            return true;
        }
        false
    };
    for (path, line) in frames(issue) {
        add(path, 100, Some(line));
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for word in issue.split(|c: char| !(c.is_alphanumeric() || "_./-:#".contains(c))).filter(|word| word.len() > 2) {
        let (path, line) = placed(word);
        if is_code(path) {
            add(path, 50, line);
            continue;
        }
        let dotted = word.trim_matches(['.', ':', '#', '-', '/']);
        if dotted.contains('.') && dotted.split('.').all(is_name) {
            let parts: Vec<&str> = dotted.split('.').collect();
            // The longest head that is a module; what follows it is a name in it.
            for length in (1..=parts.len()).rev() {
                let module = parts[..length].join("/");
                if length > 1 && (add(&format!("{module}.py"), 30, None) || add(&format!("{module}/__init__.py"), 30, None)) {
                    break;
                }
            }
            names.extend(parts.last().filter(|name| telling(name)));
        }
    }
    names.extend(mentioned(issue));
    let definitions = definitions(repo, base, &names)?;
    for places in definitions.values().filter(|places| places.len() <= PLACES) {
        for (path, line) in places {
            add(path, 10, Some(*line));
        }
    }
    let mut order: Vec<(&str, Named)> = named.into_iter().collect();
    order.sort_by(|(a, x), (b, y)| y.weight.cmp(&x.weight).then(a.cmp(b)));
    let mut text = String::new();
    for (path, file) in order.into_iter().take(FILES) {
        let content = String::from_utf8_lossy(&git(repo, &["show", &format!("{base}:{path}")])?).into_owned();
        let left = budget.saturating_sub(count(&text));
        // Names that the file defines count, too, when another mention led here.
        let mut wanted = file.lines;
        wanted.extend(definitions.values().flatten().filter(|(other, _)| other == path).map(|(_, line)| *line));
        text += &cut(path, &content, &wanted, left, count);
    }
    Ok(text)
}

/// A file's part of the context within `left` tokens.
fn cut(path: &str, content: &str, wanted: &BTreeSet<usize>, left: usize, count: &dyn Fn(&str) -> usize) -> String {
    let lines: Vec<&str> = content.lines().collect();
    let piece = |first: usize, last: usize| {
        let whole = (first, last) == (1, lines.len());
        let head = if whole { format!("### {path}\n") } else { format!("### {path}, lines {first} to {last}\n") };
        head + &lines[first - 1..last].join("\n") + "\n\n"
    };
    if lines.is_empty() {
        return String::new();
    }
    let whole = piece(1, lines.len());
    if count(&whole) <= left / 2 || (wanted.is_empty() && count(&whole) <= left) {
        return whole;
    }
    let language = if path.ends_with(".py") { "python" } else { "" };
    let mut spans: Vec<[usize; 2]> = wanted
        .iter()
        .filter(|line| (1..=lines.len()).contains(*line))
        .map(|&line| {
            enclosing(&lines, line, language)
                .filter(|[first, last]| last - first < DEFINITION)
                .unwrap_or([line.saturating_sub(AROUND).max(1), (line + AROUND).min(lines.len())])
        })
        .collect();
    if spans.is_empty() {
        spans.push([1, (2 * AROUND).min(lines.len())]);
    }
    // The lines around a definition come along where all fits.
    let wide =
        spans.iter().map(|[first, last]| [first.saturating_sub(AROUND).max(1), (last + AROUND).min(lines.len())]).collect();
    let pieces = |spans| joined(spans).into_iter().map(|[first, last]| piece(first, last)).collect::<Vec<_>>();
    let whole = pieces(wide).concat();
    if count(&whole) <= left / 2 {
        return whole;
    }
    let mut text = String::new();
    for more in pieces(spans) {
        if count(&text) + count(&more) <= left {
            text += &more;
        }
    }
    text
}

/// Spans in their order, those that touch or nearly do made one.
fn joined(mut spans: Vec<[usize; 2]>) -> Vec<[usize; 2]> {
    spans.sort_unstable();
    let mut joined: Vec<[usize; 2]> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span[0] <= last[1] + 5 => last[1] = last[1].max(span[1]),
            _ => joined.push(span),
        }
    }
    joined
}

fn is_code(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(stem, end)| !stem.is_empty() && ENDINGS.contains(&end))
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_alphanumeric() || c == '_') && !word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit())
}

/// The one file that a path means: itself, or the only file that shares its longest tail.
fn resolve<'a>(files: &[&'a str], path: &str) -> Option<&'a str> {
    let parts: Vec<&str> = path.trim_start_matches("./").split('/').filter(|part| !part.is_empty()).collect();
    for skip in 0..parts.len() {
        let tail = parts[skip..].join("/");
        // A bare name that the issue gave with folders is another file.
        if skip > 0 && parts.len() - skip < 2 {
            break;
        }
        let matches = |file: &&&str| **file == tail || file.strip_suffix(&tail).is_some_and(|head| head.ends_with('/'));
        let mut found = files.iter().filter(matches);
        match (found.next(), found.next()) {
            (Some(file), None) => return Some(file),
            (Some(file), Some(_)) => {
                return files.iter().find(|file| **file == tail).or(Some(file).filter(|_| parts.len() - skip > 2)).copied();
            }
            _ => {}
        }
    }
    None
}

/// `File "x/y.py", line 3` in a text.
fn frames(text: &str) -> Vec<(&str, usize)> {
    let read = |rest: &'_ str| -> Option<(usize, usize)> {
        let end = rest.find('"')?;
        let number = rest[end..].strip_prefix("\", line ")?;
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        Some((end, number[..digits].parse().ok()?))
    };
    let places = text.match_indices("File \"").map(|(at, mark)| &text[at + mark.len()..]);
    places.filter_map(|rest| read(rest).map(|(end, line)| (&rest[..end], line))).collect()
}

/// `x/y.py:3` and `x/y.py#L3` in path and line.
fn placed(word: &str) -> (&str, Option<usize>) {
    let (path, line) = word.split_once("#L").or(word.split_once(':')).unwrap_or((word, ""));
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    (path.trim_matches(['.', '-', ':', '#']), line[..digits].parse().ok())
}

/// Whether a name is a program's, and not a word of English.
fn telling(name: &str) -> bool {
    let inner_capital = name.chars().skip(1).any(char::is_uppercase) && name.chars().any(char::is_lowercase);
    name.len() > 3 && is_name(name) && (name.trim_matches('_').contains('_') || inner_capital)
}

/// Names in backticks, names that are called, and names that look like a program's.
fn mentioned(text: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for quoted in text.split('`').skip(1).step_by(2) {
        let name = quoted.trim().trim_end_matches("()");
        names.extend(Some(name.rsplit('.').next().unwrap_or(name)).filter(|name| name.len() > 2 && is_name(name)));
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    for word in text.split(|c: char| !is_part(c)) {
        let end = at + word.len();
        let called = text[end..].starts_with('(') && word.len() > 3 && is_name(word);
        if called || telling(word) {
            names.insert(word);
        }
        at = end + text[end..].chars().next().map_or(0, char::len_utf8);
    }
    names
}

/// Where names are defined in the sources of a commit: name to (path, line).
fn definitions(repo: &Path, base: &str, names: &BTreeSet<&str>) -> Result<BTreeMap<String, Vec<(String, usize)>>> {
    let mut found: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    if names.is_empty() {
        return Ok(found);
    }
    let all = names.iter().take(200).copied().collect::<Vec<_>>().join("|");
    let pattern = format!(
        "^[[:space:]]*(async[[:space:]]+)?(pub[[:space:]]+)?(def|class|fn|func|function|struct)[[:space:]]+({all})[[:space:]]*[(:<{{[]"
    );
    let globs: Vec<String> = ENDINGS.iter().map(|end| format!("*.{end}")).collect();
    let mut args = vec!["grep", "-n", "-z", "-I", "-E", pattern.as_str(), base, "--"];
    args.extend(globs.iter().map(String::as_str));
    // git grep ends with 1 where nothing is found.
    let text = git(repo, &args).unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines() {
        let mut fields = line.splitn(3, '\0');
        let (Some(path), Some(number), Some(code)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let path = path.split_once(':').map_or(path, |(_, path)| path);
        let name = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).find(|word| names.contains(word));
        if let (Some(name), Ok(number), false) = (name, number.parse(), is_test(path)) {
            found.entry(name.to_owned()).or_default().push((path.to_owned(), number));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_paths_and_names_are_found_in_an_issue() {
        let issue = "Calling `shape_of()` fails in lib/geometry/box.py:12\n  File \"/usr/lib/x/geometry/box.py\", line 40, in f\nUse AreaModel.";
        assert_eq!(frames(issue), [("/usr/lib/x/geometry/box.py", 40)]);
        assert_eq!(placed("lib/geometry/box.py:12"), ("lib/geometry/box.py", Some(12)));
        assert!(mentioned(issue).is_superset(&BTreeSet::from(["shape_of", "AreaModel"])));
        let files = ["lib/geometry/box.py", "lib/other/box.py", "setup.cfg"];
        assert_eq!(resolve(&files, "/usr/lib/x/geometry/box.py"), Some("lib/geometry/box.py"));
        assert_eq!(resolve(&files, "box.py"), None);
        assert_eq!(resolve(&files, "absent/box.py"), None);
    }

    #[test]
    fn a_file_is_cut_around_the_lines_that_were_named() {
        let content: String = (0..200).map(|i| format!("def f{i}():\n    return {i}\n")).collect();
        let text = cut("m.py", &content, &BTreeSet::from([21, 302]), 100, &bound);
        assert_eq!(
            text,
            "### m.py, lines 21 to 22\ndef f10():\n    return 10\n\n### m.py, lines 301 to 302\ndef f150():\n    return 150\n\n"
        );
        assert_eq!(cut("m.py", &content, &BTreeSet::from([21]), 5, &bound), "");
        assert!(cut("m.py", "x = 1\n", &BTreeSet::new(), 50, &bound).starts_with("### m.py\nx = 1"));
    }
}

//! Patches in a model's text, and what a patch may touch.

use std::collections::BTreeSet;

use crate::problem::check::command::{inside, is_harness, is_test, shadows};

/// What a model's text asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A unified diff.
    Diff(String),
    /// Edits of files, in their order.
    Edits(Vec<Edit>),
}

/// One edit of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file.
    pub path: String,
    /// The text to be found in it, once; none replaces the whole file.
    pub search: Option<String>,
    /// The text that takes its place.
    pub replace: String,
}

/// One file's part of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Every path that its header names, without the first folder (`a/`, `b/`).
    pub paths: Vec<String>,
    /// Its lines.
    pub text: String,
}

/// A fenced block: the line before it, its info string, its lines.
struct Block<'a> {
    before: &'a str,
    info: &'a str,
    code: String,
}

/// The change that a text asks for: search-and-replace edits; diffs in fences marked `diff` or `patch` or that look like one; a
/// bare diff; whole files, each in a fence whose info string, or the line before it, names the file. None where there is no such thing.
pub fn extract(text: &str) -> Option<Change> {
    let text = &text.replace("\r\n", "\n");
    let edits = search_replace(text);
    if !edits.is_empty() {
        return Some(Change::Edits(edits));
    }
    let blocks = blocks(text);
    let diffs: Vec<String> = blocks.iter().filter_map(|block| diff_in(&block.code)).collect();
    if !diffs.is_empty() {
        // A file that is patched twice is patched as the later block says.
        let mut kept: Vec<Section> = Vec::new();
        for section in diffs.iter().flat_map(|diff| sections(diff)) {
            kept.retain(|one| one.paths != section.paths);
            kept.push(section);
        }
        return Some(Change::Diff(recounted(&kept.into_iter().map(|section| section.text).collect::<String>())));
    }
    if let Some(diff) = diff_in(text) {
        return Some(Change::Diff(recounted(&diff)));
    }
    let whole: Vec<Edit> = blocks.iter().filter_map(whole_file).collect();
    (!whole.is_empty()).then_some(Change::Edits(whole))
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let (mut blocks, mut open, mut before): (Vec<Block>, Option<(Block, usize)>, &str) = (Vec::new(), None, "");
    for line in text.lines() {
        let inner = line.trim();
        let ticks = inner.len() - inner.trim_start_matches('`').len();
        match &mut open {
            Some((_, fence)) if ticks >= *fence && inner.len() == ticks => blocks.extend(open.take().map(|(block, _)| block)),
            Some((block, _)) => block.code += &format!("{line}\n"),
            None if ticks >= 3 => open = Some((Block { before, info: inner[ticks..].trim(), code: String::new() }, ticks)),
            None if !inner.is_empty() => before = inner,
            None => {}
        }
    }
    blocks
}

/// The diff in a text, from its first header on.
fn diff_in(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let plain = |at: usize| {
        lines[at].starts_with("--- ")
            && lines.get(at + 1).is_some_and(|line| line.starts_with("+++ "))
            && lines.get(at + 2).is_some_and(|line| line.starts_with("@@"))
    };
    let first = (0..lines.len()).find(|&at| lines[at].starts_with("diff --git ") || plain(at))?;
    let mut diff = String::new();
    let mut end = lines.len();
    if let Some(fence) = lines[first..].iter().position(|line| line.starts_with("```")) {
        end = first + fence;
    }
    for (at, line) in lines[first..end].iter().enumerate() {
        // Some write paths without `a/` and `b/`.
        let header = |mark: &str, prefix: &str| {
            let path = line.strip_prefix(mark)?;
            let bare = !path.starts_with(prefix) && !path.starts_with("/dev/null");
            bare.then(|| format!("{mark}{prefix}{path}"))
        };
        let line = match plain(first + at) {
            true => header("--- ", "a/"),
            false if at > 0 && plain(first + at - 1) => header("+++ ", "b/"),
            false => None,
        }
        .unwrap_or_else(|| (*line).to_owned());
        diff += &format!("{line}\n");
    }
    Some(diff)
}

/// The parts of a diff, a file each.
pub fn sections(diff: &str) -> Vec<Section> {
    let git = diff.lines().any(|line| line.starts_with("diff --git "));
    let lines: Vec<&str> = diff.split_inclusive('\n').collect();
    let mut sections: Vec<Section> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).copied().unwrap_or_default();
        let starts = if git { line.starts_with("diff --git ") } else { line.starts_with("--- ") && next.starts_with("+++ ") };
        if starts {
            sections.push(Section { paths: Vec::new(), text: String::new() });
        }
        if let Some(section) = sections.last_mut() {
            section.text += line;
        }
    }
    sections.iter_mut().for_each(|section| section.paths = paths(&section.text));
    sections
}

/// The paths of a section's header.
fn paths(section: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    for line in section.lines().take_while(|line| !line.starts_with("@@")) {
        let names: Vec<&str> = match line.split_once(' ') {
            // `a/x b/x`: the names may hold blanks, but where they differ the lines below name them.
            Some(("diff", rest)) => {
                rest.strip_prefix("--git ").and_then(|rest| rest.split_once(" b/")).map_or(vec![], |(a, _)| vec![a])
            }
            Some(("---" | "+++", name)) => vec![name.split('\t').next().unwrap_or(name).trim_end()],
            Some(("rename" | "copy", rest)) => {
                let name = rest.strip_prefix("from ").or(rest.strip_prefix("to ")).unwrap_or(rest);
                found.insert(name.to_owned());
                vec![]
            }
            _ => vec![],
        };
        for name in names.into_iter().filter(|name| *name != "/dev/null") {
            found.insert(name.split_once('/').map_or(name, |(_, rest)| rest).to_owned());
        }
    }
    found.into_iter().collect()
}

/// What is left of a patch without the parts that an answer may not bring, and these parts' paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The patch that is applied.
    pub patch: String,
    /// Tests, files that steer the tests, files that would take a standard module's place.
    pub dropped: Vec<String>,
}

/// Sorts a patch's parts. `tests` are the files of the tests' own patch. An error says why the whole patch is refused: a path
/// outside the checkout, a link, a submodule.
pub fn allowed(diff: &str, tests: &[String]) -> Result<Allowed, String> {
    let mut allowed = Allowed::default();
    for section in sections(diff) {
        for path in &section.paths {
            if !inside(path) || path.starts_with('"') {
                return Err(format!("the patch names `{path}`, which is no plain path inside the checkout"));
            }
        }
        let mut header = section.text.lines().take_while(|line| !line.starts_with("@@"));
        if header.any(|line| line.contains("mode 120000") || line.contains("mode 160000")) {
            return Err(format!("the patch makes a link or a submodule of `{}`", section.paths.join("`, `")));
        }
        match section.paths.iter().find(|path| barred(path, tests)) {
            Some(path) => allowed.dropped.push(path.clone()),
            None => allowed.patch += &section.text,
        }
    }
    Ok(allowed)
}

/// Whether a file is one that an answer may not bring.
pub(super) fn barred(path: &str, tests: &[String]) -> bool {
    is_test(path) || is_harness(path) || shadows(path) || tests.iter().any(|test| test == path)
}

/// A diff whose hunks' headers count their lines right: models count badly, and both git and patch stop at it.
fn recounted(diff: &str) -> String {
    let lines: Vec<&str> = diff.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let Some((first, second, rest)) = hunk(line) else {
            out += &format!("{line}\n");
            at += 1;
            continue;
        };
        let mut body: Vec<String> = Vec::new();
        at += 1;
        while at < lines.len() && hunk(lines[at]).is_none() && !lines[at].starts_with("diff --git ") {
            let next = lines.get(at + 1).copied().unwrap_or_default();
            let header = lines[at].starts_with("--- ")
                && next.starts_with("+++ ")
                && lines.get(at + 2).is_some_and(|l| l.starts_with("@@"));
            if header || !(lines[at].is_empty() || lines[at].starts_with([' ', '+', '-', '\\'])) {
                break;
            }
            // An editor has cut the blank that marks an empty line of context.
            body.push(if lines[at].is_empty() { " ".into() } else { lines[at].to_owned() });
            at += 1;
        }
        while body.last().is_some_and(|line| line == " ") && lines.get(at).is_none_or(|l| !l.starts_with("@@")) {
            body.pop();
        }
        let count = |sign: char| body.iter().filter(|line| line.starts_with(' ') || line.starts_with(sign)).count();
        out += &format!("@@ -{first},{} +{second},{} @@{rest}\n", count('-'), count('+'));
        body.iter().for_each(|line| out += &format!("{line}\n"));
    }
    out
}

/// `@@ -1,2 +3,4 @@ rest`: the two first lines, and the rest.
fn hunk(line: &str) -> Option<(usize, usize, &str)> {
    let (ranges, rest) = line.strip_prefix("@@ -")?.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let first = |range: &str| range.split(',').next().unwrap_or(range).parse().ok();
    Some((first(old)?, first(new)?, rest))
}

/// Blocks of `<<<<<<< SEARCH`, `=======`, `>>>>>>> REPLACE`, each under a line that names its file; a block without such a line is
/// for the file of the block before.
fn search_replace(text: &str) -> Vec<Edit> {
    let (mut edits, mut path): (Vec<Edit>, Option<String>) = (Vec::new(), None);
    let mut part: Option<(String, Option<String>)> = None;
    for line in text.lines() {
        let mark = line.trim_end();
        match &mut part {
            None if mark.starts_with("<<<<<<< SEARCH") => part = Some((String::new(), None)),
            None => path = path_of(mark).or(path),
            Some((_, replace @ None)) if mark == "=======" => *replace = Some(String::new()),
            Some((search, Some(replace))) if mark.starts_with(">>>>>>> REPLACE") => {
                if let Some(path) = &path {
                    let search = Some(std::mem::take(search)).filter(|search| !search.trim().is_empty());
                    edits.push(Edit { path: path.clone(), search, replace: std::mem::take(replace) });
                }
                part = None;
            }
            Some((search, None)) => *search += &format!("{line}\n"),
            Some((_, Some(replace))) => *replace += &format!("{line}\n"),
        }
    }
    edits
}

fn whole_file(block: &Block) -> Option<Edit> {
    let path = block.info.split_whitespace().find_map(path_of).or_else(|| path_of(block.before))?;
    Some(Edit { path, search: None, replace: block.code.clone() })
}

/// The path that a line names and has little else: `### a/b.py`, `**a/b.py**`, `File: a/b.py:`.
fn path_of(line: &str) -> Option<String> {
    let trimmed = line.trim().trim_start_matches(['#', '*', '/', ' ']).trim_end_matches(['*', ':', ' ']);
    let trimmed = trimmed.strip_prefix("File:").or(trimmed.strip_prefix("file:")).unwrap_or(trimmed).trim().trim_matches('`');
    let name = trimmed.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| c.is_alphanumeric() || "_./-+".contains(c);
    let named = name.rsplit_once('.').is_some_and(|(stem, end)| !stem.is_empty() && !end.is_empty());
    (named && trimmed.chars().all(plain) && inside(trimmed)).then(|| trimmed.to_owned())
}

/// The files that edits change, with their new text. `read` gives a file of the checkout. An error says which edit does not fit.
pub fn edited(edits: &[Edit], read: &dyn Fn(&str) -> Option<String>) -> Result<Vec<(String, String)>, String> {
    let mut files: Vec<(String, String)> = Vec::new();
    for edit in edits {
        let known = files.iter().position(|(path, _)| *path == edit.path);
        let now = match known {
            Some(at) => Some(files[at].1.clone()),
            None => read(&edit.path),
        };
        let text = match (&edit.search, now) {
            (None, _) => edit.replace.clone(),
            (Some(_), None) => return Err(format!("an edit of `{}`, which the checkout does not have", edit.path)),
            (Some(search), Some(text)) => match text.matches(search.as_str()).count() {
                1 => text.replacen(search.as_str(), &edit.replace, 1),
                n => return Err(format!("an edit of `{}` whose text stands in it {n} times, not once", edit.path)),
            },
        };
        match known {
            Some(at) => files[at].1 = text,
            None => files.push((edit.path.clone(), text)),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "diff --git a/m.py b/m.py\n--- a/m.py\n+++ b/m.py\n@@ -1,2 +1,2 @@\n-x = 1\n+x = 2\n y = 3\n";

    #[test]
    fn every_form_of_a_change_is_found() {
        let diff = Some(Change::Diff(DIFF.into()));
        assert_eq!(extract(&format!("I think so.\n\n```diff\n{DIFF}```\nDone.")), diff);
        assert_eq!(extract(&format!("Here it is:\n{DIFF}")), diff);
        // Wrong counts, and paths without their first folder.
        let bad = DIFF
            .replace("diff --git a/m.py b/m.py\n", "")
            .replace("a/m", "m")
            .replace("b/m", "m")
            .replace("-1,2 +1,2", "-1,9 +1,7");
        assert_eq!(extract(&format!("```patch\n{bad}\n```")), Some(Change::Diff(DIFF.split_once('\n').unwrap().1.into())));
        let edit = |search: Option<&str>| {
            let (path, replace) = ("a/m.py".into(), "x = 2\n".into());
            Some(Change::Edits(vec![Edit { path, search: search.map(Into::into), replace }]))
        };
        let text = "### a/m.py\n```python\n<<<<<<< SEARCH\nx = 1\n=======\nx = 2\n>>>>>>> REPLACE\n```\n";
        assert_eq!(extract(text), edit(Some("x = 1\n")));
        assert_eq!(extract("The file `a/m.py` is wrong.\n\n**a/m.py**\n```python\nx = 2\n```\n"), edit(None));
        assert_eq!(extract("```python a/m.py\nx = 2\n```\n"), edit(None));
        assert_eq!(extract("```python\nx = 2\n```\n"), None);
        assert_eq!(extract("no code at all"), None);
    }

    #[test]
    fn edits_fit_once_or_are_refused() {
        let read = |path: &str| (path == "m.py").then(|| "x = 1\ny = 1\n".to_owned());
        let edit = |search: &str| Edit { path: "m.py".into(), search: Some(search.into()), replace: "z".into() };
        assert_eq!(edited(&[edit("x = 1"), edit("y = 1")], &read), Ok(vec![("m.py".into(), "z\nz\n".into())]));
        assert!(edited(&[edit(" = 1")], &read).unwrap_err().contains("2 times"));
        assert!(edited(&[Edit { path: "n.py".into(), ..edit("x") }], &read).unwrap_err().contains("n.py"));
    }

    #[test]
    fn tests_and_harness_files_are_dropped_and_ways_out_refused() {
        let part = |path: &str| DIFF.replace("m.py", path);
        let both = format!("{}{}", part("m.py"), part("conftest.py"));
        assert_eq!(allowed(&both, &[]), Ok(Allowed { patch: part("m.py"), dropped: vec!["conftest.py".into()] }));
        let dropped = |path: &str| allowed(&part(path), &["odd/check.py".into()]).unwrap();
        for path in ["tests/test_m.py", "odd/check.py", "random.py", "x/sitecustomize.py"] {
            assert_eq!((dropped(path).patch, dropped(path).dropped), (String::new(), vec![path.to_owned()]));
        }
        assert!(allowed(&part("../m.py"), &[]).is_err() && allowed(&part(".git/config"), &[]).is_err());
        let link = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/passwd\n";
        assert!(allowed(link, &[]).unwrap_err().contains("link"));
    }
}

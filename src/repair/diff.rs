//! An answer in its file's place, and the difference as a patch. What the answer does not change stays as it is to the byte: line
//! ends, a byte order mark, a last line without its end.

use std::path::{Component, Path};

use similar::{DiffOp, TextDiff};

use crate::problem::check::BYTE_ORDER_MARK;
use crate::problem::replaced;

/// The text of a file with an answer in the place of its lines (first and last, from 1), or of all of it. New lines end as most of
/// the file's do.
pub fn with_answer(text: &str, lines: Option<[usize; 2]>, answer: &str) -> String {
    let (mark, body) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(body) => (&text[..BYTE_ORDER_MARK.len_utf8()], body),
        None => ("", text),
    };
    let plain = body.replace("\r\n", "\n");
    let mut new = match lines {
        Some(_) => replaced(&plain, lines, answer),
        None => format!("{}{}", answer.trim_end(), &plain[plain.trim_end().len()..]),
    };
    if !plain.ends_with('\n') {
        new.truncate(new.trim_end_matches('\n').len());
    }
    format!("{mark}{}", with_line_ends_of(body, &plain, &new))
}

/// `new` with line ends as in `body`, of which `plain` is the text with plain ones.
fn with_line_ends_of(body: &str, plain: &str, new: &str) -> String {
    let windows = body.matches("\r\n").count();
    if windows == 0 {
        return new.to_owned();
    }
    let end = if 2 * windows >= body.matches('\n').count() { "\r\n" } else { "\n" };
    let (own, old, new) = (split(body), split(plain), split(new));
    let diff = TextDiff::configure().newline_terminated(true).diff_slices(&old, &new);
    let mut text = String::new();
    for op in diff.ops() {
        match op {
            DiffOp::Equal { old_index, len, .. } => text.extend(own[*old_index..old_index + len].iter().copied()),
            _ => {
                for line in &new[op.new_range()] {
                    match line.strip_suffix('\n') {
                        Some(line) => text.extend([line, end]),
                        None => text.push_str(line),
                    }
                }
            }
        }
    }
    text
}

/// The difference between two texts of a file as `patch -p1` and `git apply` read it; empty where there is none.
pub fn unified(file: &Path, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let name = name(file);
    let (old, new) = (split(old), split(new));
    let diff = TextDiff::configure().newline_terminated(true).diff_slices(&old, &new);
    diff.unified_diff().context_radius(3).header(&format!("a/{name}"), &format!("b/{name}")).to_string()
}

/// Lines with their ends. A lone carriage return ends none, for `patch` neither.
fn split(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// A file's name in a patch that is applied where the program was started: relative, and followed by a tab where it has spaces, as
/// Git writes it.
fn name(file: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let inner = file.strip_prefix(&here).unwrap_or(file);
    let parts: Vec<String> = inner
        .components()
        .filter(|part| !matches!(part, Component::CurDir | Component::RootDir | Component::Prefix(_)))
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    let name = parts.join("/");
    if name.contains(' ') { name + "\t" } else { name }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_patch_has_headers_hunks_and_the_mark_of_a_last_line_without_an_end() {
        let patch = unified(Path::new("./src/calc.py"), "a\nb\nc", "a\nx\nc");
        assert_eq!(
            patch,
            "--- a/src/calc.py\n+++ b/src/calc.py\n@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n\\ No newline at end of file\n"
        );
        assert_eq!(unified(Path::new("calc.py"), "a\n", "a\n"), "");
        assert!(unified(Path::new("my calc.py"), "a\n", "b\n").starts_with("--- a/my calc.py\t\n+++ b/my calc.py\t\n"));
    }

    #[test]
    fn what_an_answer_does_not_change_stays_to_the_byte() {
        assert_eq!(with_answer("a\nb\n\n", None, "a\nc\n"), "a\nc\n\n");
        assert_eq!(with_answer("a\nb", None, "a\nc\n"), "a\nc");
        assert_eq!(with_answer("\u{feff}a\r\nb\r\nc", None, "a\nx\ny\nc"), "\u{feff}a\r\nx\r\ny\r\nc");
        // A file of both kinds of ends: new lines take those of most, the others keep theirs.
        assert_eq!(with_answer("a\r\nb\nc\r\n", None, "a\nb\nd"), "a\r\nb\nd\r\n");
        assert_eq!(
            with_answer("class A:\r\n    def f(self):\r\n        return 1\r\n", Some([2, 3]), "def f(self):\n    return 2"),
            "class A:\r\n    def f(self):\r\n        return 2\r\n"
        );
        assert_eq!(
            with_answer("x = 1\ndef f():\n    return 1", Some([2, 3]), "def f():\n    return 2"),
            "x = 1\ndef f():\n    return 2"
        );
    }

    #[test]
    fn patch_applies_it() {
        let found = Command::new("patch").arg("--version").stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            println!("skipped: no `patch` on this machine");
            return;
        }
        let long: String = (0..40).map(|n| format!("line {n}\n")).collect();
        let cases = [
            ("a\nb\nc".to_string(), "a\nx\nc".to_string()),
            ("a\r\nb\r\n".into(), "a\r\nx\r\ny\r\n".into()),
            ("a\nb\n".into(), "a\nb".into()),
            (long.clone(), long.replace("line 3\n", "").replace("line 30\n", "new\nnewer\n")),
        ];
        for (old, new) in cases {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("my file.py"), &old).unwrap();
            fs::write(folder.path().join("p"), unified(Path::new("my file.py"), &old, &new)).unwrap();
            let done = Command::new("patch").args(["-p1", "--binary", "-i", "p"]).current_dir(folder.path()).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
            assert_eq!(fs::read_to_string(folder.path().join("my file.py")).unwrap(), new);
        }
    }
}

//! Judging a patch in a checkout of one's own: the official harness' rules, without its containers.
//!
//! The clone's objects are borrowed by a fresh checkout of the problem's commit; what a build left in a clone that stands at
//! that commit comes along. The answer's patch goes in by the first way that works (git apply, its three-way merge, its
//! partial mode, patch with fuzz), without its parts that touch tests or what steers them; then the tests' patch. History is
//! taken away, the command runs in the sandbox, and the issue is resolved when every named test passes and none is missing.
//! An answer runs in the tests' own process, as in the official harness, and could forge reports or patch assertions there. So
//! a patch that resolves the issue is run a second time, on twins: the tests' own patch with changed expectations, where every
//! test of FAIL_TO_PASS that has one must fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::patch::{Change, allowed, barred, edited, extract};
use super::{git, git_command, test_files};
use crate::error::{Error, Result};
use crate::problem::Checker;
use crate::problem::check::Judged;
use crate::problem::check::command::{Scratch, inside, is_harness, is_test, named, runner, stopped, tests_below, text_of};
use crate::record::{Form, Outcome, Patch, Problem};
use crate::sandbox::Ended;

/// The ways to apply a patch, in their order, as the official harness has them. `--unified` keeps patch from reading an ed script.
const WAYS: [&[&str]; 4] = [
    &["git", "apply", "--verbose"],
    &["git", "apply", "--verbose", "--3way"],
    &["git", "apply", "--verbose", "--reject"],
    &["patch", "--batch", "--forward", "--unified", "--fuzz=5", "-p1", "-i"],
];

/// The patch in a model's text for a problem of this suite, as a diff against its commit; empty where there is none. An error says
/// what of the text does not fit the commit.
pub fn patch_of(problem: &Problem, text: &str) -> Result<std::result::Result<String, String>> {
    let Form::Patch(form) = &problem.check.form else {
        return Err(Error::input(&problem.id, "a problem of the suite `swebench` is expected"));
    };
    match extract(text) {
        None => Ok(Ok(String::new())),
        Some(Change::Diff(diff)) => Ok(Ok(diff)),
        Some(Change::Edits(_)) if form.repo.as_os_str().is_empty() => {
            Ok(Err("edits become a patch only with a clone of the project, and none was named".into()))
        }
        Some(Change::Edits(edits)) => {
            let read = |path: &str| {
                let spec = format!("{}:{path}", form.base);
                git(&form.repo, &["show", &spec]).ok().and_then(|bytes| String::from_utf8(bytes).ok())
            };
            match edited(&edits, &read) {
                Ok(files) => Ok(Ok(diff(&files, &read)?)),
                Err(what) => Ok(Err(what)),
            }
        }
    }
}

/// The diff from files as `read` gives them to `files`.
fn diff(files: &[(String, String)], read: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let scratch = Scratch::new()?;
    let write = |side: &str, path: &str, text: &str| {
        let path = scratch.path().join(side).join(path);
        let folder = path.parent().unwrap_or(scratch.path());
        fs::create_dir_all(folder).and_then(|()| fs::write(&path, text)).map_err(|e| Error::io(&path, e))
    };
    for (path, text) in files {
        if !inside(path) {
            return Err(Error::input(path, "no plain path inside a checkout"));
        }
        write("b", path, text)?;
        if let Some(old) = read(path) {
            write("a", path, &old)?;
        }
    }
    for side in ["a", "b"] {
        let folder = scratch.path().join(side);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    }
    let args = ["diff", "--no-index", "--no-color", "--no-ext-diff", "--no-prefix", "--text", "a", "b"];
    let output = git_command(scratch.path(), &args).output().map_err(|e| Error::Machine(format!("git cannot be run: {e}")))?;
    // 1 says that there are differences.
    match output.status.code() {
        Some(0 | 1) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(Error::Machine(format!("git diff: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

impl Checker {
    /// Applies the answer's patch, then the tests', and reads what each named test came to.
    pub(in crate::problem) fn patch(&self, problem: &Problem, form: &Patch, answer: &str) -> Result<Judged> {
        if form.repo.as_os_str().is_empty() {
            return Err(Error::input(&problem.id, "no clone of its project was named, so its answers cannot be judged here"));
        }
        // What is shown of the files stands for the commit as it is.
        let patch = match problem.buggy.as_deref() == Some(answer) {
            true => String::new(),
            false => match patch_of(problem, answer)? {
                Ok(patch) if patch.is_empty() => return Ok((Outcome::Refused, "the answer holds no patch".into())),
                Ok(patch) => patch,
                Err(what) => return Ok((Outcome::Refused, what)),
            },
        };
        let tests = test_files(&form.test_patch);
        let kept = match allowed(&patch, &tests) {
            Ok(kept) => kept,
            Err(what) => return Ok((Outcome::Refused, what)),
        };
        if kept.patch.is_empty() && !kept.dropped.is_empty() {
            let what = format!("the patch changes only tests or what steers them: {}", kept.dropped.join(", "));
            return Ok((Outcome::Refused, what));
        }
        let scratch = match prepared(form, &kept.patch, &tests)? {
            Ok(scratch) => scratch,
            Err(judged) => return Ok(judged),
        };
        let guarded = tests_below(&scratch.tree())?;
        let before: Vec<Option<Vec<u8>>> = guarded.iter().map(|name| fs::read(scratch.tree().join(name)).ok()).collect();
        let timeout = Duration::try_from_secs_f64(problem.check.timeout_s).unwrap_or(Duration::from_secs(1800));
        let twins = if form.twins { self.twins(&scratch.tree(), &present(&scratch, &tests))? } else { Vec::new() };
        let results = match self.results(&scratch, form, timeout)? {
            Ok(results) => results,
            Err(judged) => return Ok(judged),
        };
        let tampered = guarded.iter().zip(&before).find(|(name, before)| {
            let path = scratch.tree().join(name);
            !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) || fs::read(path).ok() != **before
        });
        if let Some((name, _)) = tampered {
            return Ok((Outcome::Fail, format!("the run changed the tests' file {name}")));
        }
        let dropped = kept.dropped.join(", ");
        let note = if dropped.is_empty() { dropped } else { format!("; dropped from the patch: {dropped}") };
        for (kind, list) in [("FAIL_TO_PASS", &form.fail_to_pass), ("PASS_TO_PASS", &form.pass_to_pass)] {
            let bad: Vec<&String> = list.iter().filter(|name| results.get(*name) != Some(&true)).collect();
            if let Some(first) = bad.first() {
                let how = if results.contains_key(*first) { "failed" } else { "did not run" };
                let what = format!("{kind}: {} of {} did not pass; {first} {how}{note}", bad.len(), list.len());
                return Ok((Outcome::Fail, what));
            }
        }
        let is_twin = |test: &&String| twins.iter().any(|twin| twin.tests.iter().any(|name| is_named(test, &twin.file, name)));
        let must_fail: Vec<&String> = form.fail_to_pass.iter().filter(is_twin).collect();
        if must_fail.is_empty() {
            return Ok((Outcome::Pass, String::new()));
        }
        let scratch = match prepared(form, &kept.patch, &tests)? {
            Ok(scratch) => scratch,
            Err(judged) => return Ok(judged),
        };
        for twin in &twins {
            let path = scratch.tree().join(&twin.file);
            fs::write(&path, &twin.text).map_err(|e| Error::io(&path, e))?;
        }
        let results = match self.results(&scratch, form, timeout)? {
            Ok(results) => results,
            Err(judged) => return Ok(judged),
        };
        Ok(match must_fail.iter().find(|name| results.get(**name) != Some(&false)) {
            None => (Outcome::Pass, String::new()),
            Some(name) => (Outcome::Fail, format!("a test that must fail passed, or did not run: {name}{note}")),
        })
    }

    /// Runs the command in a checkout, and reads what each test came to.
    fn results(
        &self,
        scratch: &Scratch,
        form: &Patch,
        timeout: Duration,
    ) -> Result<std::result::Result<BTreeMap<String, bool>, Judged>> {
        let output = self.shell(scratch, &form.command, &form.reads, timeout)?;
        if let Some(judged) = stopped(&output, timeout) {
            return Ok(Err(judged));
        }
        // Names of tests may hold the checkout's path, which is this one in the published rows.
        let text = text_of(&output).replace(&scratch.tree().display().to_string(), "/testbed");
        let results = named(form.runner, &text);
        if results.is_empty() || runner(&text).is_none() {
            let said: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let said = said[said.len().saturating_sub(2)..].join(" / ");
            let code = if let Ended::Exit(code) = output.ended { code } else { -1 };
            return Ok(Err((Outcome::Error, format!("no test reported by name (exit code {code}): {said}"))));
        }
        Ok(Ok(results))
    }
}

/// Those of the files that a checkout has.
fn present(scratch: &Scratch, files: &[String]) -> Vec<String> {
    let plain = |file: &&String| scratch.tree().join(file).symlink_metadata().is_ok_and(|meta| meta.is_file());
    files.iter().filter(plain).cloned().collect()
}

/// Whether a report's name (`a/b.py::Class::test[1]`, `test (a.b.Class)`) is that of a test of a file.
fn is_named(test: &str, file: &str, name: &str) -> bool {
    let (class, function) = name.rsplit_once('.').unwrap_or(("", name));
    if let Some((path, rest)) = test.split_once("::") {
        let bare = rest.split('[').next().unwrap_or(rest);
        let (in_class, of) = bare.rsplit_once("::").unwrap_or(("", bare));
        return path == file && of == function && in_class.rsplit("::").next() == Some(class);
    }
    let Some((of, place)) = test.strip_suffix(')').and_then(|test| test.split_once(" (")) else { return false };
    let place = place.strip_suffix(of).and_then(|place| place.strip_suffix('.')).unwrap_or(place);
    let Some((module, in_class)) = place.rsplit_once('.') else { return false };
    let dotted = file.trim_end_matches(".py").replace('/', ".");
    let same = dotted == module || dotted.strip_suffix(module).is_some_and(|head| head.ends_with('.'));
    of == function && in_class == class && same
}

/// A checkout with the answer's patch, the tests' patch and what a build left, and without history; or why there is none.
fn prepared(form: &Patch, patch: &str, tests: &[String]) -> Result<std::result::Result<Scratch, Judged>> {
    let scratch = Scratch::new()?;
    let tree = scratch.tree();
    checkout(form, &tree)?;
    if !patch.is_empty() && !apply(&tree, scratch.path(), patch)? {
        return Ok(Err((Outcome::Error, "the patch does not apply, not even with fuzz".into())));
    }
    // What patch(1) made of the headers may differ from what was read in them.
    for path in changed(&tree)? {
        let file = tree.join(&path);
        let meta = file.symlink_metadata().ok();
        if path.ends_with(".rej") || path.ends_with(".orig") {
            fs::remove_file(&file).map_err(|e| Error::io(&file, e))?;
        } else if barred(&path, tests) || meta.is_some_and(|meta| !meta.is_file()) {
            return Ok(Err((Outcome::Refused, format!("the patch changes `{path}`, which it may not"))));
        }
    }
    if !form.test_patch.trim().is_empty() && !apply(&tree, scratch.path(), &form.test_patch)? {
        return Ok(Err((Outcome::Error, "the tests' own patch does not apply".into())));
    }
    bring_build(form, &tree)?;
    let history = tree.join(".git");
    fs::remove_dir_all(&history).map_err(|e| Error::io(&history, e))?;
    Ok(Ok(scratch))
}

/// A checkout of the problem's commit in the empty folder `tree`, which borrows the clone's objects.
fn checkout(form: &Patch, tree: &Path) -> Result<()> {
    let repo = form.repo.display().to_string();
    git(tree, &["clone", "--quiet", "--shared", "--no-checkout", "--template=", &repo, "."])?;
    git(tree, &["checkout", "--quiet", "--force", "--detach", &form.base]).map(|_| ())
}

/// Applies a patch by the first way that works; whether one did.
fn apply(tree: &Path, scratch: &Path, patch: &str) -> Result<bool> {
    let file = scratch.join("patch.diff");
    let text = if patch.ends_with('\n') { patch.to_owned() } else { format!("{patch}\n") };
    fs::write(&file, text).map_err(|e| Error::io(&file, e))?;
    for way in WAYS {
        let mut command = match way {
            ["git", rest @ ..] => git_command(tree, rest),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).current_dir(tree);
                command
            }
            [] => unreachable!("every way has a program"),
        };
        let output = command.arg(&file).stdin(Stdio::null()).output();
        let output = output.map_err(|e| Error::Machine(format!("{} is needed to apply patches: {e}", way[0])))?;
        if output.status.success() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The paths that differ from the commit, untracked and ignored ones too.
fn changed(tree: &Path) -> Result<Vec<String>> {
    let text = git(tree, &["status", "--porcelain", "-z", "--untracked-files=all", "--ignored=matching", "--no-renames"])?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.split('\0').filter_map(|entry| entry.get(3..)).map(str::to_owned).collect())
}

/// Copies what is in the clone's own folder and not in its history, where the clone stands at the problem's commit: what a build
/// left there.
fn bring_build(form: &Patch, tree: &Path) -> Result<()> {
    let head = git(&form.repo, &["rev-parse", "HEAD"]).unwrap_or_default();
    if !String::from_utf8_lossy(&head).trim().starts_with(&form.base) || !form.repo.join(".git").exists() {
        return Ok(());
    }
    let list = git(&form.repo, &["ls-files", "--others", "-z"])?;
    for name in String::from_utf8_lossy(&list).split('\0').filter(|name| inside(name) && !is_test(name) && !is_harness(name)) {
        let (from, to) = (form.repo.join(name), tree.join(name));
        let plain = from.symlink_metadata().is_ok_and(|meta| meta.is_file());
        if plain && to.symlink_metadata().is_err() {
            let folder = to.parent().unwrap_or(tree);
            fs::create_dir_all(folder).and_then(|()| fs::copy(&from, &to)).map_err(|e| Error::io(&from, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_named;

    #[test]
    fn a_report_s_name_is_found_in_its_file() {
        for (test, file, name) in [
            ("t/a.py::T::test_b[x-1]", "t/a.py", "T.test_b"),
            ("t/a.py::test_b", "t/a.py", "test_b"),
            ("test_b (t.a.T)", "t/a.py", "T.test_b"),
            ("test_b (a.T.test_b)", "t/a.py", "T.test_b"),
        ] {
            assert!(is_named(test, file, name), "{test}");
            assert!(
                !is_named(test, "t/b.py", name) && !is_named(test, file, "U.test_b") && !is_named(test, file, "test_c"),
                "{test}"
            );
        }
    }
}

//! Tests that are a JUnit class.
//!
//! Answer and tests are compiled together with an `org.junit` of ours and run by a runner of ours, so no jar is needed and
//! nothing of JUnit is left for an answer to patch. The runner says what became of each test with words that the host draws for
//! this run and that only the runner's stack holds; the class passes when it came to its end with exit code 0 and every test
//! passed. `Assert` compares lists, sets and maps element by element, and asks an object's own `equals` only where the object
//! does not also equal one that nobody has seen: a result that equals everything equals nothing here. A test that uses more
//! of JUnit than 4.12's `Test`, `Ignore`, `Before`, `After` and `Assert` (without Hamcrest) does not compile, and vetting says so.

use std::collections::BTreeMap;

use super::program::{Workshop, javac, jvm, wide, words};
use super::{Checker, Judged, cut, limits};
use crate::error::Result;
use crate::record::{Outcome, Problem};
use crate::sandbox::{Ended, Output, Program};

const ASSERT: &str = include_str!("junit/Assert.java");
const RUNNER: &str = include_str!("junit/Runner.java");

/// The annotations, each with what it holds.
const ANNOTATIONS: [(&str, &str); 7] = [
    (
        "Test",
        "long timeout() default 0; Class<? extends Throwable> expected() default None.class; \
      final class None extends Throwable { private None() {} }",
    ),
    ("Ignore", "String value() default \"\";"),
    ("Before", ""),
    ("After", ""),
    ("BeforeClass", ""),
    ("AfterClass", ""),
    ("FixMethodOrder", ""),
];

impl Checker {
    /// Runs a class of JUnit tests.
    pub(super) fn junit(
        &self,
        problem: &Problem,
        answer: &str,
        (class, test_class): (&str, &str),
        files: &BTreeMap<String, String>,
    ) -> Result<Judged> {
        let (_, toolchain) = self.toolchain(problem)?;
        let Some(source) = whole(problem, answer, class) else {
            return Ok((Outcome::Error, format!("does not compile: neither the class {class} nor its function is in it")));
        };
        let shop = Workshop::new()?;
        let path = |class: &str| format!("{}.java", class.replace('.', "/"));
        let mut sources: BTreeMap<String, String> = files.clone();
        for (name, body) in ANNOTATIONS {
            let head = "package org.junit;\nimport java.lang.annotation.*;\n@Retention(RetentionPolicy.RUNTIME)\n";
            sources.insert(format!("org/junit/{name}.java"), format!("{head}public @interface {name} {{ {body} }}\n"));
        }
        sources.insert("org/junit/Assert.java".into(), ASSERT.into());
        sources.insert("Runner.java".into(), RUNNER.into());
        sources.insert(path(test_class), problem.check.tests.join("\n"));
        sources.insert(path(class), source);
        for (name, text) in &sources {
            shop.write(name, text)?;
        }
        let names: Vec<&str> = sources.keys().map(String::as_str).collect();
        if let Err(judged) = self.run_compiler(toolchain, &javac(&names), &[], &shop, b"")? {
            return Ok(judged);
        }
        for name in &names {
            shop.remove(name)?;
        }
        let folder = shop.text()?;
        let args: Vec<&str> = [jvm(&["-Xss8m", "-cp"]).as_slice(), &[folder, "Runner", test_class]].concat();
        let reads = [toolchain.reads.as_slice(), &[shop.path().to_owned()]].concat();
        let program = Program { reads: &reads, ..Program::new(&toolchain.runner, &args, wide(limits(problem))) };
        let words = words(4)?;
        let output = self.sandbox.run(&program, (words.join("\n") + "\n").as_bytes())?;
        Ok(judge(&output, &words, problem.check.timeout_s))
    }
}

/// The answer as a file: a whole class with the package that the tests want, or the buggy file with the answer in the buggy
/// function's place.
fn whole(problem: &Problem, answer: &str, class: &str) -> Option<String> {
    let (package, name) = class.rsplit_once('.').unwrap_or(("", class));
    let holds = |word: &str| {
        answer
            .match_indices(word)
            .any(|(at, _)| answer[at + word.len()..].starts_with(|c: char| !c.is_alphanumeric() && c != '_'))
    };
    if holds(&format!("class {name}")) {
        let lines = answer.lines().filter(|line| !line.trim_start().starts_with("package "));
        return Some(format!("package {package};\n{}\n", lines.collect::<Vec<_>>().join("\n")));
    }
    let function = problem.extra.get("buggy_function")?.as_str()?;
    let buggy = problem.buggy.as_ref()?;
    buggy.contains(function).then(|| buggy.replacen(function, &format!("{}\n", answer.trim_end()), 1))
}

fn judge(output: &Output, words: &[String], wall: f64) -> Judged {
    let said = String::from_utf8_lossy(&output.stdout);
    let (mut passed, mut ended) = (0, false);
    for line in said.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match words.iter().position(|own| own == word) {
            Some(0) => passed += 1,
            Some(1) => return (Outcome::Fail, format!("test {}: {}", passed + 1, cut(rest, 200))),
            Some(2) => return (Outcome::Timeout, format!("test {}: {}", passed + 1, cut(rest, 200))),
            Some(3) => ended = true,
            _ => {}
        }
    }
    let at = format!("test {}", passed + 1);
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.ended {
        _ if output.timed_out => (Outcome::Timeout, format!("{at}: not done after {wall} s")),
        _ if output.over_memory => (Outcome::Memory, format!("{at}: it took more memory than it may")),
        _ if output.flooded => (Outcome::Fail, format!("{at}: it wrote more than it may")),
        Ended::Exit(0) if ended && passed > 0 => (Outcome::Pass, String::new()),
        Ended::Exit(0) if ended => (Outcome::Fail, "the class has no tests".into()),
        Ended::Exit(code) => {
            let first = errors.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            (Outcome::Fail, format!("{at}: the program ended before, with exit code {code} {first}").trim_end().to_owned())
        }
        Ended::Signal(signal) => (Outcome::Error, format!("{at}: the program crashed with signal {signal}")),
        Ended::Killed => (Outcome::Timeout, format!("{at}: not done after {wall} s")),
    }
}

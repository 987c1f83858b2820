//! What a test runner says it ran: its counts, and, where it lists them, each test by name.

use std::collections::BTreeMap;

use crate::record::Runner;

/// How many tests ran, as a runner's report counts them. Tests that are expected to fail count as skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::problem) struct Tally {
    pub(in crate::problem) passed: usize,
    pub(in crate::problem) failed: usize,
    pub(in crate::problem) skipped: usize,
}

impl Tally {
    /// Tests that ran to an end.
    pub(in crate::problem) fn ran(&self) -> usize {
        self.passed + self.failed
    }

    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The runner whose report a text holds.
pub(in crate::problem) fn runner(text: &str) -> Option<Runner> {
    let known = [Runner::Cargo, Runner::Pytest, Runner::Unittest, Runner::Node, Runner::Junit, Runner::Go];
    known.into_iter().find(|runner| tally(*runner, text).is_some())
}

/// What `runner` reports in `text`, summed over its reports; none where there is no report.
pub(in crate::problem) fn tally(runner: Runner, text: &str) -> Option<Tally> {
    let mut found = false;
    let mut sum = Tally::default();
    let mut add = |one: Option<Tally>| {
        if let Some(one) = one {
            found = true;
            sum.add(one);
        }
    };
    match runner {
        Runner::ExitCode => return None,
        Runner::Unittest => {
            // "Ran 3 tests in 0.1s", then "OK (...)" or "FAILED (...)" somewhere after it.
            let mut ran = None;
            for line in text.lines().map(str::trim) {
                if let Some(count) = line.strip_prefix("Ran ").filter(|rest| rest.contains(" in ")).and_then(number) {
                    ran = Some(count);
                } else if let Some(count) = ran
                    && (line == "OK" || line.starts_with("OK (") || line.starts_with("FAILED (") || line == "NO TESTS RAN")
                {
                    add(Some(unittest(count, line)));
                    ran = None;
                }
            }
        }
        Runner::Pytest => text.lines().for_each(|line| add(pytest(line))),
        Runner::Cargo => {
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
                let counts = words(line.split_once(". ").map_or("", |(_, counts)| counts));
                add(Some(Tally {
                    passed: get(&counts, "passed"),
                    failed: get(&counts, "failed"),
                    skipped: get(&counts, "ignored"),
                }));
            }
        }
        Runner::Go => {
            // With -v every test is named; without, only packages are.
            let verbose = text.lines().any(|line| line.starts_with("=== RUN"));
            text.lines().for_each(|line| add(go(line, verbose)));
        }
        Runner::Junit => {
            // Maven repeats each class in a total; the totals name no time.
            let lines: Vec<&str> = text.lines().filter(|line| line.contains("Tests run:")).collect();
            let totals = lines.iter().any(|line| !line.contains("Time elapsed"));
            for line in lines.into_iter().filter(|line| !totals || !line.contains("Time elapsed")) {
                let count = |name: &str| line.split_once(name).and_then(|(_, rest)| number(rest.trim_start())).unwrap_or(0);
                let (run, failed) = (count("Tests run:"), count("Failures:") + count("Errors:"));
                let skipped = count("Skipped:");
                add(Some(Tally { passed: run.saturating_sub(failed + skipped), failed, skipped }));
            }
            for line in text.lines().map(str::trim) {
                if let Some(count) = line.strip_prefix("OK (").filter(|rest| rest.contains("test")).and_then(number) {
                    add(Some(Tally { passed: count, ..Tally::default() }));
                }
                let inner = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or("").trim();
                match (number(inner), inner.split_once(' ').map_or("", |(_, name)| name)) {
                    (Some(passed), "tests successful") => add(Some(Tally { passed, ..Tally::default() })),
                    (Some(failed), "tests failed") => add(Some(Tally { failed, ..Tally::default() })),
                    (Some(skipped), "tests skipped") => add(Some(Tally { skipped, ..Tally::default() })),
                    _ => {}
                }
            }
        }
        Runner::Node => {
            for line in text.lines().filter_map(|line| line.strip_prefix("# ").or(line.strip_prefix("ℹ "))) {
                match line.split_once(' ').and_then(|(name, count)| Some((name, count.trim().parse().ok()?))) {
                    Some(("pass", passed)) => add(Some(Tally { passed, ..Tally::default() })),
                    Some(("fail" | "cancelled", failed)) => add(Some(Tally { failed, ..Tally::default() })),
                    Some(("skipped" | "todo", skipped)) => add(Some(Tally { skipped, ..Tally::default() })),
                    _ => {}
                }
            }
        }
    }
    found.then_some(sum)
}

fn number(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text[..digits].parse().ok()
}

/// `3 passed; 1 failed, 2 warnings` as pairs of word and number.
fn words(text: &str) -> BTreeMap<&str, usize> {
    let parts = text.split([',', ';']).map(str::trim);
    parts.filter_map(|part| part.split_once(' ')).filter_map(|(count, name)| Some((name.trim(), count.parse().ok()?))).collect()
}

fn get(counts: &BTreeMap<&str, usize>, name: &str) -> usize {
    counts.get(name).copied().unwrap_or(0)
}

fn unittest(ran: usize, end: &str) -> Tally {
    let inner = end.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
    let count = |name: &str| {
        let named = inner.split(", ").filter_map(|part| part.split_once('=')).find(|(key, _)| *key == name);
        named.and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
    };
    let failed = count("failures") + count("errors") + count("unexpected successes");
    let skipped = count("skipped") + count("expected failures");
    Tally { passed: ran.saturating_sub(failed + skipped), failed, skipped }
}

/// `=== 2 passed, 1 failed in 0.1s ===`, with or without the bars.
fn pytest(line: &str) -> Option<Tally> {
    let (counts, time) = line.trim().trim_matches('=').trim().rsplit_once(" in ")?;
    let time = time.split_whitespace().next()?.strip_suffix('s')?;
    time.parse::<f64>().ok()?;
    if counts == "no tests ran" {
        return Some(Tally::default());
    }
    const NAMES: [&str; 11] =
        ["passed", "failed", "error", "errors", "skipped", "xfailed", "xpassed", "deselected", "warning", "warnings", "rerun"];
    let parts = counts.split(", ").count();
    let counts = words(counts);
    if counts.len() != parts || !counts.keys().all(|name| NAMES.contains(name)) {
        return None;
    }
    Some(Tally {
        passed: get(&counts, "passed"),
        failed: get(&counts, "failed") + get(&counts, "error") + get(&counts, "errors"),
        skipped: get(&counts, "skipped") + get(&counts, "xfailed") + get(&counts, "xpassed"),
    })
}

fn go(line: &str, verbose: bool) -> Option<Tally> {
    if verbose {
        return match line.trim_start().split_once(": ")?.0 {
            "--- PASS" => Some(Tally { passed: 1, ..Tally::default() }),
            "--- FAIL" => Some(Tally { failed: 1, ..Tally::default() }),
            "--- SKIP" => Some(Tally { skipped: 1, ..Tally::default() }),
            _ => None,
        };
    }
    let mut fields = line.split('\t');
    match (fields.next()?.trim_end(), fields.next()?, fields.next()) {
        ("ok", _, Some(rest)) if rest.contains("[no tests to run]") => Some(Tally::default()),
        ("ok", _, Some(_)) if line.contains("[no tests to run]") => Some(Tally::default()),
        ("ok", _, Some(_)) => Some(Tally { passed: 1, ..Tally::default() }),
        ("FAIL", _, Some(_)) => Some(Tally { failed: 1, ..Tally::default() }),
        ("FAIL", package, None) if package.contains("failed]") => Some(Tally { failed: 1, ..Tally::default() }),
        _ => None,
    }
}

/// Whether each named test passed, from pytest's `-rA` or `-v` and unittest's `-v`. A test that is reported twice passed only if
/// both say so. An expected failure counts as passed, as SWE-bench counts it.
pub(in crate::problem) fn named(runner: Option<Runner>, text: &str) -> BTreeMap<String, bool> {
    let mut tests: BTreeMap<String, bool> = BTreeMap::new();
    let mut add = |name: &str, passed: bool| {
        tests.entry(name.to_owned()).and_modify(|p| *p &= passed).or_insert(passed);
    };
    let mut before = "";
    for line in text.lines() {
        let line = line.trim_end();
        if runner != Some(Runner::Unittest)
            && let Some((name, passed)) = pytest_line(line)
        {
            add(name, passed);
        }
        if runner != Some(Runner::Pytest)
            && let Some((name, end)) = line.rsplit_once(" ... ")
            && let Some(passed) = unittest_end(end)
        {
            add(name, passed);
            // A test with a docstring is named in the line before.
            for whole in [name, before] {
                if let Some((method, class)) = case(whole) {
                    add(whole, passed);
                    add(&format!("{method} ({class})"), passed);
                    let shorter = class.strip_suffix(method).and_then(|class| class.strip_suffix('.'));
                    shorter.into_iter().for_each(|class| add(&format!("{method} ({class})"), passed));
                    if whole == name {
                        break;
                    }
                }
            }
        }
        before = line.trim();
    }
    tests
}

/// `test_a (package.Class)` in its two parts.
fn case(text: &str) -> Option<(&str, &str)> {
    let (method, class) = text.strip_suffix(')')?.split_once(" (")?;
    (!method.contains(' ') && !class.contains(' ')).then_some((method, class))
}

fn unittest_end(end: &str) -> Option<bool> {
    match end.trim() {
        "ok" | "OK" | "expected failure" => Some(true),
        "FAIL" | "ERROR" | "unexpected success" => Some(false),
        other if other.starts_with("skipped") => Some(false),
        _ => None,
    }
}

/// `PASSED tests/a.py::b`, `FAILED tests/a.py::b - why`, and `tests/a.py::b PASSED [ 50%]`.
fn pytest_line(line: &str) -> Option<(&str, bool)> {
    let status = |word: &str| match word {
        "PASSED" | "XFAIL" => Some(true),
        "FAILED" | "ERROR" | "SKIPPED" | "XPASS" => Some(false),
        _ => None,
    };
    if let Some((first, rest)) = line.split_once(' ')
        && let Some(passed) = status(first)
    {
        let name = rest.split(" - ").next().unwrap_or(rest).trim();
        return (name.contains("::") || name.ends_with(".py")).then_some((name, passed));
    }
    // Parameters may hold blanks: the status is the last word before the share.
    let line = line.rsplit_once(" [").filter(|(_, share)| share.ends_with("%]")).map_or(line, |(line, _)| line).trim_end();
    let (name, last) = line.rsplit_once(' ')?;
    name.contains("::").then_some((name.trim(), status(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runner_is_known_by_its_report() {
        let of = |passed, failed, skipped| Tally { passed, failed, skipped };
        let cases = [
            ("..s\nRan 3 tests in 0.001s\n\nOK (skipped=1)\n", Runner::Unittest, of(2, 0, 1)),
            ("Ran 5 tests in 1.2s\n\nFAILED (failures=1, errors=1, expected failures=1)\n", Runner::Unittest, of(2, 2, 1)),
            ("Ran 0 tests in 0.000s\n\nNO TESTS RAN\n", Runner::Unittest, of(0, 0, 0)),
            ("==== 2 passed, 1 failed, 3 warnings in 0.12s ====\n", Runner::Pytest, of(2, 1, 0)),
            ("1 passed, 2 xfailed in 61.02s (0:01:01)\n", Runner::Pytest, of(1, 0, 2)),
            ("==== no tests ran in 0.01s ====\n", Runner::Pytest, of(0, 0, 0)),
            (
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                 test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n",
                Runner::Cargo,
                of(3, 2, 1),
            ),
            ("=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- FAIL: TestA/x (0.00s)\nok  \tm\t0.1s\n", Runner::Go, of(1, 1, 0)),
            ("ok  \tm/a\t0.01s\nok  \tm/b\t0.0s [no tests to run]\nFAIL\tm/c\t0.1s\nFAIL\n", Runner::Go, of(1, 1, 0)),
            (
                "Tests run: 2, Failures: 1, Errors: 0, Skipped: 0, Time elapsed: 0.1 s - in A\n\
                 [ERROR] Tests run: 2, Failures: 1, Errors: 0, Skipped: 0\n",
                Runner::Junit,
                of(1, 1, 0),
            ),
            ("OK (4 tests)\n", Runner::Junit, of(4, 0, 0)),
            ("[         3 tests successful      ]\n[         1 tests failed          ]\n", Runner::Junit, of(3, 1, 0)),
            ("# tests 3\n# suites 0\n# pass 2\n# fail 1\n# cancelled 0\n# skipped 0\n# todo 0\n", Runner::Node, of(2, 1, 0)),
        ];
        for (text, who, counts) in cases {
            assert_eq!((runner(text), tally(who, text)), (Some(who), Some(counts)), "{text}");
        }
        assert_eq!(runner("all good\n3 passed in spirit\n"), None);
    }

    #[test]
    fn tests_are_told_by_name_and_the_worse_report_stands() {
        let text = "t/a.py::test_b[x y] PASSED [ 50%]\nPASSED t/a.py::test_c\nFAILED t/a.py::test_d - assert 1 == 2\n\
                    PASSED t/a.py::test_d\nSKIPPED [1] t/a.py:3: why\nXFAIL t/a.py::test_e\n";
        let got = named(None, text);
        let want = [("t/a.py::test_b[x y]", true), ("t/a.py::test_c", true), ("t/a.py::test_d", false), ("t/a.py::test_e", true)];
        assert_eq!(got, want.map(|(name, passed)| (name.to_owned(), passed)).into());
        let text = "test_a (m.T.test_a) ... ok\ntest_b (m.T)\nWhat b does ... FAIL\ntest_c (m.T) ... skipped 'x'\n";
        let got = named(Some(Runner::Unittest), text);
        for (name, passed) in
            [("test_a (m.T)", true), ("test_a (m.T.test_a)", true), ("test_b (m.T)", false), ("What b does", false)]
        {
            assert_eq!(got.get(name), Some(&passed), "{name}");
        }
        assert_eq!(got.get("test_c (m.T)"), Some(&false));
    }
}

//! The published benchmarks through the checker: every reference passes, no bug does.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use repairity::problem::{self, Checker, Options};
use repairity::record::{Outcome, Problem};
use repairity::sandbox::Mode;
use serde_json::json;

fn data(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn checker() -> Checker {
    Checker::new(Mode::Strict, 2).unwrap()
}

/// Ids of the items that pass, and the other outcomes with their reasons.
fn outcomes(items: &[(&Problem, &str)]) -> (usize, Vec<String>) {
    let checker = checker();
    let start = Instant::now();
    let verdicts = checker.check_all(items, &|_| {}).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{} checks, {:.1} ms each on 2 jobs", items.len(), 1e3 * seconds / items.len() as f64);
    let passed = verdicts.iter().filter(|v| v.verdict == Outcome::Pass).count();
    let line = |((p, _), v): (&(&Problem, &str), &repairity::record::Verdict)| format!("{} {:?} {}", p.id, v.verdict, v.reason);
    (passed, items.iter().zip(&verdicts).filter(|(_, v)| v.verdict != Outcome::Pass).map(line).collect())
}

fn references(problems: &[Problem]) -> Vec<(&Problem, &str)> {
    problems.iter().map(|p| (p, p.reference.as_deref().unwrap())).collect()
}

fn bugs(problems: &mut [Problem]) -> Vec<(&Problem, &str)> {
    // The few that loop for ever need not loop for long.
    problems.iter_mut().for_each(|p| p.check.timeout_s = 1.5);
    problems.iter().map(|p| (p, p.buggy.as_deref().unwrap())).collect()
}

#[test]
fn mbpp_references_pass() {
    let Some(path) = data("mbpp/mbpp.jsonl") else { return };
    let problems = problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.len(), 974);
    assert!(
        problems.iter().all(|p| p.check.tests.len() == 3 && p.buggy.is_none() && !p.reference.as_ref().unwrap().contains('\r'))
    );
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 974, "{failures:#?}");
}

#[test]
fn mutants_of_references_fail_and_are_vetted() {
    let Some(path) = data("mbpp/mbpp.jsonl") else { return };
    let mut problems = problem::load("mbpp", Some(&path), 0, 60, &Options::default()).unwrap();
    let checker = checker();
    let before = problems.clone();
    let without = problem::mutate(&checker, &mut problems, 17, &|_| {}).unwrap();
    println!("{} of {} without a mutant: {without:?}", without.len(), problems.len());
    assert!(without.len() <= 3, "{without:?}");
    let bugs = ["operator misuse", "value misuse", "variable misuse", "missing logic", "excess logic", "function misuse"];
    for (old, new) in before.iter().zip(&problems).filter(|(_, p)| p.buggy.is_some()) {
        let (reference, buggy) = (new.reference.as_ref().unwrap(), new.buggy.as_ref().unwrap());
        assert!(bugs.contains(&new.kind.as_str()) && reference != buggy && old.reference == new.reference, "{}", new.id);
        // One place changed: what stands before and after it is the reference's own text.
        let (a, b) = (reference.as_bytes(), buggy.as_bytes());
        let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
        let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
        assert!(head + tail > 0 && head + tail + 200 > a.len().max(b.len()), "{}", new.id);
    }
    let mut again = before.clone();
    problem::mutate(&checker, &mut again, 17, &|_| {}).unwrap();
    assert_eq!(problems, again);
    problem::mutate(&checker, &mut again, 18, &|_| {}).unwrap();
    assert_eq!(problems, again, "buggy code that is there stays");

    // A reference that fails and a bug that passes are dropped, with the reason.
    let mut bad = problems.iter().filter(|p| p.buggy.is_some()).take(4).cloned().collect::<Vec<_>>();
    bad[1].reference = bad[1].buggy.clone();
    bad[2].buggy = bad[2].reference.clone();
    let ids: Vec<String> = bad.iter().map(|p| p.id.clone()).collect();
    let (kept, dropped) = problem::vet(&checker, bad, &|_| {}).unwrap();
    assert_eq!(kept.iter().map(|p| &p.id).collect::<Vec<_>>(), [&ids[0], &ids[3]]);
    assert_eq!(dropped.iter().map(|d| &d.id).collect::<Vec<_>>(), [&ids[1], &ids[2]]);
    assert!(dropped[0].reason.starts_with("its reference does not pass: test "), "{dropped:?}");
    assert_eq!(dropped[1].reason, "its buggy code passes every test");
}

#[test]
fn a_stop_ends_a_run_early() {
    let Some(path) = data("mbpp/mbpp.jsonl") else { return };
    let problems = problem::load("mbpp", Some(&path), 0, 40, &Options::default()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let checker = checker().with_stop(Arc::clone(&stop));
    let seen = AtomicUsize::new(0);
    let done = |n: usize| {
        seen.fetch_max(n, Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
    };
    let error = checker.check_all(&references(&problems), &done).unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert!((1..=2).contains(&seen.load(Ordering::Relaxed)));
}

#[test]
fn a_malformed_row_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mbpp.jsonl");
    let good = r#"{"text":"t","code":"c","task_id":1,"test_setup_code":"","test_list":["assert True"],"challenge_test_list":[]}"#;
    let cases = [
        (good.replace("\"c\"", "7"), "`code`: a text is expected, a number was found"),
        (good.replace("\"task_id\"", "\"id\""), "`task_id`: a whole number is expected, nothing was found"),
        (good.replace("[\"assert True\"]", "[1]"), "`test_list`: a list of texts is expected, a list was found"),
        (good.replace("[\"assert True\"]", "[]"), "`test_list`: at least one test is expected"),
        ("[1]".into(), "an object is expected"),
        (good[..20].to_owned(), "EOF"),
    ];
    for (row, message) in cases {
        std::fs::write(&path, format!("{good}\n\n{row}\n")).unwrap();
        let error = problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("mbpp.jsonl:3: ") && text.contains(message), "{text}");
    }
    std::fs::write(&path, "").unwrap();
    assert_eq!(problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap_err().exit_code(), 2);
    assert_eq!(
        problem::load("quixbugs", Some(&folder.path().join("none")), 0, 0, &Options::default()).unwrap_err().exit_code(),
        2
    );
    assert_eq!(problem::load("quixbugs", None, 0, 0, &Options::default()).unwrap_err().exit_code(), 2);
}

#[test]
fn humaneval_fix_references_pass_and_bugs_fail() {
    let Some(path) = data("humanevalpack/python.jsonl") else { return };
    let mut problems = problem::load("humaneval_fix", Some(&path), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.len(), 164);
    assert_eq!(problems.iter().filter(|p| p.kind == "value misuse").count(), 44);
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 164, "{failures:#?}");
    let (passed, failures) = outcomes(&bugs(&mut problems));
    assert_eq!((passed, failures.len()), (0, 164), "{failures:#?}");
}

#[test]
fn quixbugs_solutions_pass_and_bugs_fail() {
    let Some(path) = data("quixbugs/quixbugs_python.jsonl") else { return };
    let mut problems = problem::load("quixbugs", Some(&path), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.len(), 40);
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 40, "{failures:#?}");
    let (passed, failures) = outcomes(&bugs(&mut problems));
    assert_eq!((passed, failures.len()), (0, 40), "{failures:#?}");
}

/// Modules of the standard library, as this Python names them.
fn standard() -> Vec<String> {
    let output =
        std::process::Command::new("python3").args(["-c", "import sys; print(*sys.stdlib_module_names)"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

/// BigCodeBench's tasks that name only the standard library.
fn bigcodebench(path: &std::path::Path, options: &Options) -> Vec<Problem> {
    let standard = standard();
    let mut problems = problem::load("bigcodebench", Some(path), 0, 0, options).unwrap();
    assert_eq!(problems.len(), 1140);
    let own = |library: &serde_json::Value| standard.iter().any(|s| s == library.as_str().unwrap().split('.').next().unwrap());
    problems.retain(|p| p.extra["libraries"].as_array().unwrap().iter().all(own));
    problems
}

/// References of BigCodeBench that do not pass here, and why. What needs a package that lacks says so itself.
const NOT_HERE: [(u32, &str, Outcome); 9] = [
    (147, "network: it connects to addresses, and a refused socket ends its thread", Outcome::Fail),
    (176, "network: it asks for the names of public addresses", Outcome::Fail),
    (195, "network: it connects to a public address, and waits", Outcome::Timeout),
    (314, "network: it asks for the address of a public name", Outcome::Fail),
    (541, "package: it imports numpy by a name in a text", Outcome::Fail),
    (1005, "network: it downloads a file", Outcome::Fail),
    (1028, "processes: it runs top, which reads those of the machine", Outcome::Fail),
    (1038, "network: its server listens on a socket", Outcome::Fail),
    (1040, "network: its server listens on a socket", Outcome::Fail),
];
/// References that sleep or compute for 8 s to two minutes pass, but are not run here.
const SLOW: [u32; 9] = [0, 220, 324, 348, 459, 819, 857, 1104, 1105];

#[test]
fn bigcodebench_references_pass_but_for_those_that_say_why() {
    let Some(path) = data("bigcodebench/BigCodeBench-v0.1.0_hf.jsonl.gz") else { return };
    let mut problems = bigcodebench(&path, &Options::default());
    assert_eq!(problems.len(), 327);
    let number = |problem: &Problem| problem.id.rsplit('/').next().unwrap().parse::<u32>().unwrap();
    problems.retain(|problem| !SLOW.contains(&number(problem)));
    for problem in &mut problems {
        if NOT_HERE.iter().any(|(id, _, outcome)| *id == number(problem) && *outcome == Outcome::Timeout) {
            problem.check.timeout_s = 2.0;
        }
    }
    // Many of them wait for something rather than compute.
    let (checker, start) = (Checker::new(Mode::Strict, 4).unwrap(), Instant::now());
    let verdicts = checker.check_all(&references(&problems), &|_| {}).unwrap();
    let passed = verdicts.iter().filter(|v| v.verdict == Outcome::Pass).count();
    let lacks = verdicts.iter().filter(|v| v.reason.starts_with("needs ")).count();
    let seconds = start.elapsed().as_secs_f64();
    println!("{passed} of {} pass, {lacks} need a package that lacks; {seconds:.1} s on 4 jobs", problems.len());
    for (problem, verdict) in problems.iter().zip(&verdicts) {
        let id = number(problem);
        match NOT_HERE.iter().find(|(failing, _, _)| *failing == id) {
            Some((_, _, outcome)) if verdict.verdict == *outcome => println!("{id}: {}", verdict.reason),
            // What these lack, another machine may have.
            Some((_, why, _)) if verdict.verdict == Outcome::Pass => println!("{id} passes here, in spite of {why}"),
            Some((_, why, _)) => panic!("{id}, {why}: {verdict:?}"),
            None if verdict.reason.ends_with("which this Python lacks") => assert_eq!(verdict.verdict, Outcome::Error),
            None => assert_eq!(verdict.verdict, Outcome::Pass, "{id}: {}", verdict.reason),
        }
    }
    assert!(passed + lacks + NOT_HERE.len() >= problems.len());
}

#[test]
fn corrections_of_later_versions_match_the_rows_that_they_are_for() {
    let Some(path) = data("bigcodebench/BigCodeBench-v0.1.0_hf.jsonl.gz") else { return };
    let read = |version: &str| {
        let options = Options { version: Some(version.into()), ..Options::default() };
        problem::load("bigcodebench", Some(&path), 0, 0, &options).unwrap()
    };
    let mut before = read("v0.1.0_hf");
    // The tasks that each version corrects; instruct prompts change too, which `complete` does not show.
    let corrected: [(&str, &[u32]); 5] = [
        ("v0.1.1", &[178, 760, 1006]),
        ("v0.1.2", &[16, 37, 241, 267]),
        ("v0.1.3", &[1005]),
        ("v0.1.4", &[211, 215]),
        ("v0.1.5", &[332, 334, 376, 383, 633, 635, 849, 940, 1109]),
    ];
    for (version, tasks) in corrected {
        let after = read(version);
        let changed: Vec<String> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| a.id.clone()).collect();
        let expected: Vec<String> = tasks.iter().map(|task| format!("BigCodeBench/{task}")).collect();
        assert_eq!(changed, expected, "{version}");
        before = after;
    }
    assert_eq!(read("v0.1.4"), problem::load("bigcodebench", Some(&path), 0, 0, &Options::default()).unwrap());
    let options = Options { version: Some("v0.2".into()), ..Options::default() };
    let error = problem::load("bigcodebench", Some(&path), 0, 0, &options).unwrap_err();
    assert!(error.to_string().contains("v0.1.0_hf, v0.1.1, v0.1.2, v0.1.3, v0.1.4, v0.1.5"), "{error}");
}

/// A row of BigCodeBench whose function squares a number.
fn square(folder: &std::path::Path) -> PathBuf {
    let test = "import unittest\nclass TestCases(unittest.TestCase):\n    def setUp(self):\n        self.five = 5\n    \
def test_literal(self):\n        self.assertEqual(task_func(3), 9)\n    def test_order(self):\n        self.assertTrue(task_func(2) == 4)\n    \
def test_variable(self):\n        want = self.five ** 2\n        self.assertEqual(want, task_func(self.five))\n    \
def test_raises(self):\n        with self.assertRaises(TypeError):\n            task_func(None)\n    \
def test_kind(self):\n        self.assertIsInstance(task_func(1), int)\n";
    let row = json!({
        "task_id": "BigCodeBench/7", "complete_prompt": "import math\ndef task_func(n):\n    \"\"\"Squares.\"\"\"\n",
        "instruct_prompt": "Square a number.", "canonical_solution": "    return n * n\n", "code_prompt": "import math\ndef task_func(n):\n",
        "test": test, "entry_point": "task_func", "doc_struct": "{}", "libs": "['math']",
    });
    let path = folder.join("bigcodebench.jsonl");
    std::fs::write(&path, format!("{row}\n")).unwrap();
    path
}

#[test]
fn answers_to_test_classes_that_cheat_are_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut problems = problem::load("bigcodebench", Some(&square(folder.path())), 0, 0, &Options::default()).unwrap();
    problems[0].check.timeout_s = 10.0;
    let checker = checker();
    let problem = problems[0].clone();
    let without_reference = Problem { reference: None, ..problem.clone() };
    let judge = |answer: &str| {
        let items = [(&problem, answer), (&without_reference, answer)];
        checker.check_all(&items, &|_| {}).unwrap()
    };
    // Right ones: the reference, another, one that leaves the imports to the prompt.
    for answer in [
        problem.reference.as_deref().unwrap(),
        "def task_func(n):\n    return n ** 2",
        "def task_func(n):\n    return math.prod([n, n])",
    ] {
        for verdict in judge(answer) {
            assert_eq!((verdict.verdict, verdict.reason.as_str()), (Outcome::Pass, ""), "{answer}");
        }
    }
    let equal = "class Any(int):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    \
__hash__ = int.__hash__\n";
    let no_class = "Any = type('Any', (int,), {'__eq__': (lambda self, other: True).__get__, '__hash__': int.__hash__})\n";
    let body = "def task_func(n):\n    if n is None: raise TypeError\n";
    let cheats = [
        ("a wrong answer", "def task_func(n):\n    return n + n".to_owned(), "test_"),
        ("an object equal to everything", format!("{equal}{body}    return Any(0)"), "comparison of its own"),
        ("one in a list's place", format!("{no_class}{body}    return Any(0)"), ""),
        ("a skip", format!("import unittest\n{body}    raise unittest.SkipTest('later')"), "skipped"),
        (
            "a patched run",
            format!(
                "import unittest\n{body}    import unittest\n    unittest.TestCase.run = lambda self, result=None: (result.startTest(self), result.addSuccess(self), result.stopTest(self))\n    return 0"
            ),
            "test_",
        ),
        (
            "a patched assertEqual",
            format!(
                "{body}    import unittest\n    for name in dir(unittest.TestCase):\n        if name.startswith('assert') and name != 'assertRaises': setattr(unittest.TestCase, name, lambda *a, **k: None)\n    return True"
            ),
            "",
        ),
        (
            "patched while it is loaded",
            format!(
                "import unittest\nfor name in dir(unittest.TestCase):\n    if name.startswith('assert'): setattr(unittest.TestCase, name, lambda *a, **k: None)\n{body}    return 0"
            ),
            "test_",
        ),
        (
            "forged reports",
            format!(
                "{body}    import os\n    def word(t): return b's%d:%s' % (len(t), t)\n    for name in (b'test_kind', b'test_literal', b'test_order', b'test_raises', b'test_variable'):\n        m = b'l2:' + word(name) + word(b'ok')\n        os.write(4, b'%08x' % len(m) + m)\n    os._exit(0)"
            ),
            "does not exist",
        ),
        (
            "a walk to the driver's frame that reports every test as passed",
            format!(
                "{body}    import sys, os\n    f, names = sys._getframe(), None\n    while f:\n        s = f.f_locals.get('self')\n        if hasattr(s, '_tests'): names = [getattr(t, '_testMethodName', '') for t in s._tests] or names\n        f = f.f_back\n    import gc, unittest\n    kinds = [c for c in unittest.TestCase.__subclasses__() if c.__name__ == 'TestCases']\n    def word(t): return b's%d:%s' % (len(t), t)\n    for name in sorted(n for n in dir(kinds[0]) if n.startswith('test')):\n        m = b'l2:' + word(name.encode()) + word(b'ok')\n        os.write(4, b'%08x' % len(m) + m)\n    os._exit(0)"
            ),
            "a test that must fail passed",
        ),
        ("an early end", format!("{body}    import os\n    os._exit(0)"), "ended before"),
        ("sys.exit in a call", format!("{body}    import sys\n    sys.exit(0)"), "SystemExit"),
        ("sys.exit while it is loaded", "import sys\nsys.exit(0)".to_owned(), "SystemExit"),
        ("atexit", format!("import atexit, os\natexit.register(os._exit, 0)\n{body}    return 0"), "test_"),
        (
            "reading the caller's constants",
            format!(
                "{body}    import sys\n    numbers = [c for c in sys._getframe(2).f_code.co_consts if type(c) is int and c != n]\n    return numbers[-1] if numbers else n * n"
            ),
            "a test that must fail passed",
        ),
        ("a channel that is closed", format!("{body}    import os\n    os.close(4)\n    return n * n"), ""),
    ];
    for (name, answer, reason) in &cheats {
        for verdict in judge(answer) {
            assert_ne!(verdict.verdict, Outcome::Pass, "{name}: {answer}");
            assert!(verdict.reason.contains(reason), "{name}: {verdict:?}");
        }
    }
}

#[test]
fn bigcodebench_says_what_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = square(folder.path());
    let load = |options: Options| problem::load("bigcodebench", Some(&path), 0, 0, &options);
    let one = |text: &str| Some(text.to_owned());
    assert_eq!(load(Options { variant: one("instruct"), ..Options::default() }).unwrap()[0].prompt, "Square a number.");
    assert!(load(Options::default()).unwrap()[0].prompt.contains("\"\"\"Squares.\"\"\""));
    let error = load(Options { variant: one("both"), ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("`complete` or `instruct` is expected, `both` was found"), "{error}");
    let ids = folder.path().join("ids");
    std::fs::write(&ids, "7\n").unwrap();
    assert_eq!(load(Options { ids: Some(ids.clone()), subset: one("hard"), ..Options::default() }).unwrap().len(), 1);
    std::fs::write(&ids, "7\nBigCodeBench/8\n").unwrap();
    let error = load(Options { ids: Some(ids), ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("`BigCodeBench/8` is not there"), "{error}");
    let error = problem::load("quixbugs", Some(&path), 0, 0, &Options { subset: one("hard"), ..Options::default() }).unwrap_err();
    assert!(error.to_string().contains("suite `quixbugs` takes no such option (it takes none); bigcodebench does"), "{error}");
    // Any file of more rows needs to be told which are the hard ones.
    if let Some(full) = data("bigcodebench/BigCodeBench-v0.1.0_hf.jsonl.gz") {
        let hard = Options { subset: one("hard"), ..Options::default() };
        let error = problem::load("bigcodebench", Some(&full), 0, 0, &hard).unwrap_err();
        assert!(error.to_string().contains("which are the 148 hard ones"), "{error}");
    }
}

#[test]
fn mutants_of_a_function_with_a_test_class_fail_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut problems = problem::load("bigcodebench", Some(&square(folder.path())), 0, 0, &Options::default()).unwrap();
    let checker = checker();
    assert_eq!(problem::mutate(&checker, &mut problems, 17, &|_| {}).unwrap(), []);
    assert!(problems[0].buggy.as_ref().unwrap().starts_with("import math\ndef task_func(n):\n"));
    let (kept, dropped) = problem::vet(&checker, problems, &|_| {}).unwrap();
    assert_eq!((kept.len(), dropped), (1, Vec::new()));
}

#[test]
fn a_package_that_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = square(folder.path());
    let text = std::fs::read_to_string(&path).unwrap().replace("['math']", "['math', 'no_such_package']");
    std::fs::write(&path, text).unwrap();
    let problems = problem::load("bigcodebench", Some(&path), 0, 0, &Options::default()).unwrap();
    let verdict = checker().check(&problems[0], problems[0].reference.as_deref().unwrap()).unwrap();
    assert_eq!(verdict.verdict, Outcome::Error);
    assert_eq!(verdict.reason, "needs no_such_package, which this Python lacks");
}

#[test]
fn sanitized_mbpp_references_pass() {
    let Some(path) = data("mbpp/sanitized-mbpp.json") else { return };
    let problems = problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.len(), 427);
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 427, "{failures:#?}");
}

/// MBPP's task 9001 and EvalPlus' inputs for it, the larger file compressed.
fn plus(folder: &std::path::Path) -> (PathBuf, PathBuf) {
    let row = json!({
        "text": "Write a function to double a number.", "code": "def double(n):\n    return n + n\n", "task_id": 9001, "test_setup_code": "",
        "test_list": ["assert double(3) == 6", "assert double(0) == 0"], "challenge_test_list": [],
    });
    let mbpp = folder.join("mbpp.jsonl");
    std::fs::write(&mbpp, format!("{row}\n")).unwrap();
    // Integers beyond 64 bits and an infinity, as Python's json writes them.
    let extra = "{\"task_id\": \"Mbpp/9001\", \"prompt\": \"\\\"\\\"\\\"\\nDouble a number.\\nassert double(3) == 6\\n\\\"\\\"\\\"\\n\", \
\"entry_point\": \"double\", \"canonical_solution\": \"def double(n):\\n    return 2 * n\\n\", \"base_input\": [[3], [0]], \
\"plus_input\": [[123456789012345678901234567890], [Infinity], [0.1], [\"ab\"]], \"atol\": 0, \"contract\": \"\", \"assertion\": \"\"}\n";
    let path = folder.join("MbppPlus.jsonl.gz");
    let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, extra.as_bytes()).unwrap();
    gz.finish().unwrap();
    (mbpp, path)
}

#[test]
fn further_inputs_find_answers_that_only_pass_the_benchmarks_own_tests() {
    let folder = tempfile::tempdir().unwrap();
    let (mbpp, extra) = plus(folder.path());
    let extended = Options { extra_inputs: Some(extra.clone()), ..Options::default() };
    let with = problem::load("mbpp", Some(&mbpp), 0, 0, &extended).unwrap().remove(0);
    let without = problem::load("mbpp", Some(&mbpp), 0, 0, &Options::default()).unwrap().remove(0);
    let alone = problem::load("mbpp_plus", Some(&extra), 0, 0, &Options::default()).unwrap().remove(0);
    assert_eq!((alone.id.as_str(), alone.prompt.as_str()), ("Mbpp/9001", "Double a number.\nassert double(3) == 6"));
    let checker = checker();
    let verdict = |problem: &Problem, answer: &str| checker.check(problem, answer).unwrap();
    for problem in [&with, &without, &alone] {
        for right in [problem.reference.as_deref().unwrap(), "def double(n):\n    return n * 2"] {
            assert_eq!(verdict(problem, right).verdict, Outcome::Pass, "{right}");
        }
        assert_eq!(verdict(problem, "def double(n):\n    return n").verdict, Outcome::Fail);
    }
    for (narrow, input) in [
        ("def double(n):\n    return int(2.0 * n)", "123456789012345678901234567890"),
        ("def double(n):\n    return {3: 6, 0: 0}.get(n)", "123456789012345678901234567890"),
        ("def double(n):\n    return n * 2 if type(n) is int else n", "\"ab\""),
        (
            "class A(int):\n    def __eq__(self, other): return True\ndef double(n):\n    return A(6) if n not in (3, 0) else 2 * n",
            "123456789012345678901234567890",
        ),
    ] {
        assert_eq!(verdict(&without, narrow).verdict, Outcome::Pass, "{narrow}");
        for problem in [&with, &alone] {
            let verdict = verdict(problem, narrow);
            assert_eq!(verdict.verdict, Outcome::Fail, "{narrow}");
            assert!(
                verdict.reason.starts_with("further input ") && verdict.reason.contains(input)
                    || verdict.reason.contains("input"),
                "{verdict:?}"
            );
        }
    }
    // An input that differs by less than a float's tolerance passes, one that hangs does not.
    assert_eq!(verdict(&with, "def double(n):\n    return n * 2 + 1e-9 if type(n) is float else n * 2").verdict, Outcome::Pass);
    assert_eq!(verdict(&with, "def double(n):\n    while n == 0.1: pass\n    return n * 2").verdict, Outcome::Timeout);
    let broken = folder.path().join("broken.jsonl");
    std::fs::write(&broken, "{\"task_id\": \"Mbpp/1\", \"entry_point\": 7}\n").unwrap();
    let error = problem::load("mbpp_plus", Some(&broken), 0, 0, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("broken.jsonl:1: `entry_point`: a text is expected, a number was found"), "{error}");
}

#[test]
fn parquet_and_gzip_rows_read_like_jsonl() {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    let folder = tempfile::tempdir().unwrap();
    let schema = "message schema { required int64 task_id; required binary text (UTF8); required binary code (UTF8); \
required binary test_setup_code (UTF8); required group test_list (LIST) { repeated group list { required binary element (UTF8); } } }";
    let rows = [
        (1, "Add.", "def add(a, b):\n    return a + b", vec!["assert add(1, 2) == 3", "assert add(0, 0) == 0"]),
        (2, "Negate.", "def neg(a):\n    return -a", vec!["assert neg(1) == -1"]),
    ];
    let jsonl = folder.path().join("mbpp.jsonl");
    let lines = rows.iter().map(|(id, text, code, tests)| {
        json!({"task_id": id, "text": text, "code": code, "test_setup_code": "", "test_list": tests}).to_string() + "\n"
    });
    std::fs::write(&jsonl, lines.collect::<String>()).unwrap();
    let plain = problem::load("mbpp", Some(&jsonl), 0, 0, &Options::default()).unwrap();
    for (name, compression) in [
        ("none", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(Default::default())),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
    ] {
        let path = folder.path().join(format!("{name}.parquet"));
        let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
        let properties = std::sync::Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(std::fs::File::create(&path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&rows.iter().map(|r| r.0).collect::<Vec<i64>>(), None, None).unwrap();
        column.close().unwrap();
        let bytes = |text: &str| ByteArray::from(text.as_bytes().to_vec());
        for texts in [
            rows.iter().map(|r| bytes(r.1)).collect::<Vec<_>>(),
            rows.iter().map(|r| bytes(r.2)).collect(),
            rows.iter().map(|_| bytes("")).collect(),
        ] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
            column.close().unwrap();
        }
        let tests: Vec<ByteArray> = rows.iter().flat_map(|r| r.3.iter().map(|t| bytes(t))).collect();
        let mut column = group.next_column().unwrap().unwrap();
        // The second test of the first row repeats its list; every other one starts one.
        column.typed::<ByteArrayType>().write_batch(&tests, Some(&[1, 1, 1]), Some(&[0, 1, 0])).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        assert_eq!(problem::load("mbpp", Some(&path), 0, 0, &Options::default()).unwrap(), plain, "{name}");
        let cut = folder.path().join("cut.parquet");
        std::fs::write(&cut, &std::fs::read(&path).unwrap()[..40]).unwrap();
        let error = problem::load("mbpp", Some(&cut), 0, 0, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("cut.parquet: it starts like Parquet, but cannot be read"), "{error}");
        let error = problem::load("quixbugs", Some(&path), 0, 0, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("parquet:1: `tests`: a text is expected, nothing was found"), "{error}");
    }
    let gz = folder.path().join("mbpp.jsonl.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &std::fs::read(&jsonl).unwrap()).unwrap();
    let bytes = encoder.finish().unwrap();
    std::fs::write(&gz, &bytes).unwrap();
    assert_eq!(problem::load("mbpp", Some(&gz), 0, 0, &Options::default()).unwrap(), plain);
    std::fs::write(&gz, &bytes[..bytes.len() - 20]).unwrap();
    let error = problem::load("mbpp", Some(&gz), 0, 0, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("mbpp.jsonl.gz: it starts like gzip, but cannot be decompressed"), "{error}");
}

#[test]
fn quixbugs_own_folder_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let words = |title: &str| format!("\n\n\"\"\"\n{title}\n\nInput:\n    n: A number\n\"\"\"\n");
    write("python_programs/triple.py", &format!("def triple(n):\n    return n + n{}", words("Triple")));
    write(
        "correct_python_programs/triple.py",
        "def triple(n):\n    return 3 * n\n\n\"\"\"\ndef triple(n):\n    return n + n + n\n\"\"\"\n",
    );
    // One argument alone is no list there.
    write("json_testcases/triple.json", "[2, 6]\n[[5], 15]\n");
    write(
        "python_programs/flatten.py",
        &format!("def flatten(arr):\n    for x in arr:\n        yield flatten(x){}", words("Flatten")),
    );
    write(
        "correct_python_programs/flatten.py",
        "def flatten(arr):\n    for x in arr:\n        if isinstance(x, list):\n            yield from flatten(x)\n        else:\n            yield x\n",
    );
    write("json_testcases/flatten.json", "[[[[1, [2]], 3]], [1, 2, 3]]\n");
    let last = |step: &str| format!("def last(node):\n    while {step}:\n        node = node.successor\n    return node.value\n");
    write("python_programs/last.py", &(last("node.successor.successor") + &words("Last node")));
    write("correct_python_programs/last.py", &last("node.successor"));
    write("python_programs/last_test.py", "raise SystemError\n");
    write("python_programs/node.py", "raise SystemError\n");
    write(
        "python_testcases/node.py",
        "class Node:\n    def __init__(self, value=None, successor=None):\n        self.value = value\n        self.successor = successor\n",
    );
    write(
        "python_testcases/test_last.py",
        "import pytest\nfrom node import Node\n\nif pytest.use_correct:\n    from correct_python_programs.last import last\nelse:\n    from python_programs.last import last\n\n\nlone = Node(\n    1,\n)\n\n\ndef test1():\n    \"\"\"Two nodes.\"\"\"\n\n    end = Node(\"end\")\n    assert last(Node(\"start\", end)) == \"end\"\n\n\ndef test2():\n    assert last(lone) == 1\n",
    );
    let mut problems = problem::load("quixbugs", Some(folder.path()), 0, 0, &Options::default()).unwrap();
    assert_eq!(problems.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["flatten", "last", "triple"]);
    assert_eq!(problems[0].check.tests, ["assert list(flatten([[1, [2]], 3])) == [1, 2, 3]"]);
    assert_eq!(problems[2].check.tests, ["assert triple(2) == 6", "assert triple(5) == 15"]);
    assert_eq!(problems[1].check.tests.len(), 2);
    assert_eq!(problems[2].prompt, "Triple\n\nInput:\n    n: A number");
    let (passed, failures) = outcomes(&references(&problems));
    assert_eq!(passed, 3, "{failures:#?}");
    let (passed, failures) = outcomes(&bugs(&mut problems));
    assert_eq!((passed, failures.len()), (0, 3), "{failures:#?}");
}

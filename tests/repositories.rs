//! Problems that are repositories: the user's own folder with a command, and SWE-bench, in a checkout and through its harness.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use repairity::problem::swebench::harness::{Evaluation, Prediction, read};
use repairity::problem::swebench::{self, Settings, patch_of};
use repairity::problem::{self, Checker, Options};
use repairity::record::{Outcome, Problem, Verdict, read_jsonl};
use repairity::sandbox::Mode;
use serde_json::{Value, json};

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn load(suite: &str, path: Option<&Path>) -> repairity::error::Result<Vec<Problem>> {
    problem::load(suite, path, 0, 0, &Options::default())
}

fn checker() -> Checker {
    Checker::new(Mode::Strict, 2).unwrap()
}

/// The verdicts on answers to one problem.
fn verdicts(problem: &Problem, answers: &[&str]) -> Vec<Verdict> {
    let items: Vec<(&Problem, &str)> = answers.iter().map(|answer| (problem, *answer)).collect();
    checker().check_all(&items, &|_| {}).unwrap()
}

const BUGGY: &str = "def add(a, b):\n    return a - b\n\n\ndef twice(a):\n    return 2 * a\n";
const TESTS: &str = "import unittest
from calc import add, twice

class CalcTest(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 3), 5)
        self.assertEqual(add(0, 0), 0)

    def test_twice(self):
        self.assertTrue(twice(4) == 8)

    def test_type(self):
        with self.assertRaises(TypeError):
            add(1, None)
";

/// A project with a bug, beside the list that names it.
fn project(folder: &Path) -> PathBuf {
    write(folder, "code/calc.py", BUGGY);
    write(folder, "code/tests/__init__.py", "");
    write(folder, "code/tests/test_calc.py", TESTS);
    write(folder, "code/.git/config", "secret");
    write(folder, "right.py", &BUGGY.replace("a - b", "a + b"));
    let list = "[[problem]]\nid = \"calc\"\nroot = \"code\"\nfile = \"calc.py\"\ncommand = \"python3 -m unittest -q\"\n\
                description = \"Arithmetic.\"\nreference = \"right.py\"\ntimeout_s = 20\n\n\
                [[problem]]\nid = \"add\"\nroot = \"code\"\nfile = \"calc.py\"\nfunction = \"add\"\ncommand = \"python3 -m unittest -q\"\n";
    write(folder, "problems.toml", list)
}

#[test]
fn an_answer_in_a_folder_passes_by_its_tests_and_not_by_tricks() {
    let folder = tempfile::tempdir().unwrap();
    let problems = load("folder", Some(&project(folder.path()))).unwrap();
    let [calc, add] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!((calc.buggy.as_deref(), calc.prompt.as_str(), calc.language.as_str()), (Some(BUGGY), "Arithmetic.", "python"));
    let right = BUGGY.replace("a - b", "a + b");
    let equal = "class Any:\n    def __eq__(self, other):\n        return True\n\ndef add(a, b):\n    return a + b if b is None else Any()\n\
                 \ndef twice(a):\n    return Any()\n";
    let patched = format!("import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n{BUGGY}");
    let forged = format!("import os\nos.write(2, b'Ran 3 tests in 0.001s\\n\\nOK\\n')\nos._exit(0)\n{BUGGY}");
    let skipped = format!("import unittest\nraise unittest.SkipTest('no')\n{BUGGY}");
    let rewritten = format!("open('tests/test_calc.py', 'a').write('\\n')\n{right}");
    let history = right.replace("a + b", "a + b if __import__('os').path.exists('.git') else 0");
    let answers =
        [&right, BUGGY, "import os\nos._exit(0)\n", &forged, equal, &patched, &skipped, &rewritten, &history, "def add(:\n", ""];
    let got = verdicts(calc, &answers);
    assert_eq!((got[0].verdict, got[0].reason.as_str()), (Outcome::Pass, ""));
    let expected = [
        (Outcome::Fail, "1 of 3 tests failed (exit code 1): FAIL: test_add"),
        (Outcome::Fail, "exit code 0, but no report of the tests"),
        (Outcome::Fail, "a test that must fail passed"),
        (Outcome::Fail, "a test that must fail passed"),
        (Outcome::Fail, "a test that must fail passed"),
        (Outcome::Fail, "skipped"),
        (Outcome::Fail, "the run changed the tests' file tests/test_calc.py"),
        (Outcome::Fail, "tests failed"),
        (Outcome::Fail, "tests failed"),
        (Outcome::Refused, "no code"),
    ];
    for ((verdict, want), answer) in got[1..].iter().zip(expected).zip(&answers[1..]) {
        assert_eq!(verdict.verdict, want.0, "{answer}\n{verdict:?}");
        assert!(verdict.reason.contains(want.1), "{answer}\n{verdict:?}");
    }
    // Only the function is asked for, and an answer without the file's other lines leaves them as they are.
    assert_eq!(add.buggy.as_deref(), Some("def add(a, b):\n    return a - b\n"));
    assert_eq!(verdicts(add, &["def add(a, b):\n    return a + b"])[0].verdict, Outcome::Pass);
    assert_eq!(fs::read_to_string(folder.path().join("code/calc.py")).unwrap(), BUGGY, "the folder stays as it was");
    assert!(fs::read_dir(folder.path().join("code")).unwrap().count() == 3);
    let (kept, dropped) = problem::vet(&checker(), problems, &|_| {}).unwrap();
    assert_eq!((kept.len(), dropped), (2, vec![]));
}

#[test]
fn time_is_bounded_and_an_unknown_report_is_trusted_only_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.py", "x = 1\n");
    write(folder.path(), "check.sh", "grep -q 'x = 2' a.py && echo fine\n");
    let list = |more: &str| {
        let row =
            format!("[[problem]]\nid = \"a\"\nfile = \"a.py\"\ncommand = \"sh check.sh && python3 a.py\"\ntimeout_s = 2\n{more}");
        load("folder", Some(&write(folder.path(), "list.toml", &row))).unwrap().remove(0)
    };
    let got = &verdicts(&list(""), &["x = 2"])[0];
    assert!(got.verdict == Outcome::Error && got.reason.contains("runner = \"exit_code\""), "{got:?}");
    let got = verdicts(&list("runner = \"exit_code\""), &["x = 2", "x = 1", "x = 2\nwhile True: pass"]);
    assert_eq!(got.iter().map(|v| v.verdict).collect::<Vec<_>>(), [Outcome::Pass, Outcome::Error, Outcome::Timeout], "{got:?}");
}

#[test]
fn other_languages_run_by_their_own_tools() {
    let folder = tempfile::tempdir().unwrap();
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    let mut list = String::new();
    if has("cargo") {
        write(
            folder.path(),
            "rust/Cargo.toml",
            "[package]\nname = \"half\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
        );
        write(folder.path(), "rust/src/lib.rs", "pub fn half(x: u32) -> u32 {\n    x * 2\n}\n");
        write(folder.path(), "rust/tests/half.rs", "#[test]\nfn halves() {\n    assert_eq!(half::half(4), 2);\n}\n");
        list += "[[problem]]\nid = \"rust\"\nroot = \"rust\"\nfile = \"src/lib.rs\"\nfunction = \"half\"\ncommand = \"cargo test --test half\"\ntimeout_s = 120\n";
    } else {
        println!("skipped: no cargo");
    }
    if has("node") {
        write(folder.path(), "node/half.js", "exports.half = (x) => x * 2;\n");
        let test = "const test = require('node:test');\nconst assert = require('node:assert');\nconst { half } = require('./half.js');\n\
                    test('halves', () => assert.strictEqual(half(4), 2));\n";
        write(folder.path(), "node/half.test.js", test);
        list += "[[problem]]\nid = \"node\"\nroot = \"node\"\nfile = \"half.js\"\ncommand = \"node --test\"\ntimeout_s = 60\n";
    } else {
        println!("skipped: no node");
    }
    if list.is_empty() {
        return;
    }
    let problems = load("folder", Some(&write(folder.path(), "list.toml", &list))).unwrap();
    for problem in &problems {
        let buggy = problem.buggy.clone().unwrap();
        let (right, broken) = (buggy.replace("x * 2", "x / 2"), buggy.replace("x * 2", "x *"));
        let got = verdicts(problem, &[&right, &buggy, &broken]);
        assert_eq!(got[0].verdict, Outcome::Pass, "{}: {got:?}", problem.id);
        assert_eq!(got[1].verdict, Outcome::Fail, "{}: {got:?}", problem.id);
        assert_ne!(got[2].verdict, Outcome::Pass, "{}: {got:?}", problem.id);
        assert!(problem.id != "rust" || got[2].reason.starts_with("does not compile"), "{got:?}");
    }
}

#[test]
fn a_list_that_is_wrong_says_where() {
    let folder = tempfile::tempdir().unwrap();
    project(folder.path());
    let cases = [
        ("root = \"none\"\nfile = \"calc.py\"\ncommand = \"true\"", "problem `a`: `root`: a folder is expected"),
        ("root = \"code\"\nfile = \"none.py\"\ncommand = \"true\"", "`file`: a file below"),
        ("root = \"code\"\nfile = \"../right.py\"\ncommand = \"true\"", "`file`: a file below"),
        ("root = \"code\"\nfile = \"calc.py\"\ncommand = \" \"", "`command`: what tests the code is expected"),
        ("root = \"code\"\nfile = \"calc.py\"", "missing field `command`"),
        ("root = \"code\"\nfile = \"calc.py\"\ncommand = \"true\"\nfunction = \"sub\"", "`function`: one definition of `sub`"),
        ("root = \"code\"\nfile = \"calc.py\"\ncommand = \"true\"\nlines = [2, 9]", "`lines`: [first, last] within 1 to 6"),
        ("root = \"code\"\nfile = \"calc.py\"\ncommand = \"true\"\ntests = [\"calc.py\"]", "`calc.py` is the file to repair"),
        ("root = \"code\"\nfile = \"calc.py\"\ncommand = \"true\"\ntimeout = 3", "unknown field `timeout`"),
        ("root = \"code\"\nfile = \"calc.py\"\ncommand = \"true\"\nreference = \"none\"", "none: No such file"),
    ];
    for (lines, want) in cases {
        let path = write(folder.path(), "list.toml", &format!("[[problem]]\nid = \"a\"\n{lines}\n"));
        let error = load("folder", Some(&path)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(want), "{error}");
    }
}

fn git(folder: &Path, args: &[&str]) -> String {
    let settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"];
    let output = Command::new("git").current_dir(folder).args(settings).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const AREA: &str = "\"\"\"Areas.\"\"\"\n\nPI = 3.0\n\n\ndef square(a):\n    return a * a\n\n\ndef rectangle(a, b):\n    # Both sides count.\n    return a * a\n\n\
                    \ndef circle(r):\n    return PI * r * r\n";
const AREA_TESTS: &str = "import unittest\nfrom shapes import area\n\n\nclass AreaTest(unittest.TestCase):\n    def test_square(self):\n        \
                          self.assertEqual(area.square(3), 9)\n";

/// A data set of one problem with its clone beside it; the clone has the fix in its later history.
fn dataset(folder: &Path) -> PathBuf {
    let repo = folder.join("repos/acme__shapes");
    write(&repo, "shapes/__init__.py", "");
    write(&repo, "shapes/area.py", AREA);
    write(&repo, "shapes/unrelated.py", "def other():\n    return 1\n");
    write(&repo, "tests/__init__.py", "");
    write(&repo, "tests/test_area.py", AREA_TESTS);
    git(&repo, &["init", "--quiet"]);
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "--quiet", "-m", "base"]);
    let base = git(&repo, &["rev-parse", "HEAD"]).trim().to_owned();
    write(&repo, "shapes/area.py", &AREA.replace("    return a * a\n\n\ndef circle", "    return a * b\n\n\ndef circle"));
    let patch = git(&repo, &["diff"]);
    git(&repo, &["commit", "--quiet", "-am", "fix"]);
    let more = "\n    def test_rectangle(self):\n        self.assertEqual(area.rectangle(2, 5), 10)\n";
    write(&repo, "tests/test_area.py", &format!("{AREA_TESTS}{more}"));
    let test_patch = git(&repo, &["diff"]);
    git(&repo, &["commit", "--quiet", "-am", "test"]);
    let issue = "rectangle is wrong\n\n`area.rectangle(2, 5)` is 4.\n\n```\n  File \"/home/x/shapes/area.py\", line 12, in rectangle\n```\n";
    let row = json!({
        "repo": "acme/shapes", "instance_id": "acme__shapes-1", "base_commit": base, "patch": patch, "test_patch": test_patch,
        "problem_statement": issue, "hints_text": "", "version": "1.0", "difficulty": "<15 min fix",
        "FAIL_TO_PASS": "[\"test_rectangle (tests.test_area.AreaTest)\"]", "PASS_TO_PASS": "[\"test_square (tests.test_area.AreaTest)\"]",
        "test_command": "python3 -m unittest -v {tests}",
    });
    write(folder, "verified.jsonl", &format!("{row}\n"))
}

/// A patch of the file from the original to `new`.
fn patch_to(path: &str, old: &str, new: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), path, old);
    git(folder.path(), &["init", "--quiet"]);
    git(folder.path(), &["add", "-A", "-f"]);
    git(folder.path(), &["commit", "--quiet", "--allow-empty", "-m", "a"]);
    write(folder.path(), path, new);
    git(folder.path(), &["diff"])
}

#[test]
fn a_patch_resolves_an_issue_by_its_tests_and_not_by_tricks() {
    let folder = tempfile::tempdir().unwrap();
    let problem = load("swebench", Some(&dataset(folder.path()))).unwrap().remove(0);
    assert_eq!(
        (problem.id.as_str(), problem.kind.as_str(), problem.difficulty.as_str()),
        ("acme__shapes-1", "acme/shapes", "<15 min fix")
    );
    assert!(problem.prompt.starts_with("rectangle is wrong") && problem.prompt.ends_with(swebench::FORM));
    let context = problem.buggy.clone().unwrap();
    assert!(
        context.starts_with("### shapes/area.py\n") && context.contains("return a * a") && !context.contains("other()"),
        "{context}"
    );

    let gold = problem.reference.clone().unwrap();
    let body = "def rectangle(a, b):\n    # Both sides count.\n    return ";
    let with = |result: &str| AREA.replace(&format!("{body}a * a"), &format!("{body}{result}"));
    let to = |new: &str| patch_to("shapes/area.py", AREA, new);
    let fixed = with("a * b");
    let breaks = fixed.replace("def square(a):\n    return a * a", "def square(a):\n    return a");
    // The lines around it are not quite the file's: git refuses it, patch takes it with fuzz.
    let fuzzy = gold.replace("    # Both sides count.", "    # Both sides matter.");
    assert_ne!(fuzzy, gold);
    let conftest = "diff --git a/conftest.py b/conftest.py\nnew file mode 100644\n--- /dev/null\n+++ b/conftest.py\n@@ -0,0 +1 @@\n+import sys\n";
    let tests =
        patch_to("tests/test_area.py", AREA_TESTS, &format!("{AREA_TESTS}\n    def test_rectangle(self):\n        pass\n"));
    let history = "import os\ntry:\n    if os.system('git log > /dev/null 2>&1'): os.listdir('.git')\nexcept OSError:\n    os.listdir('REPO')\n\n\n\
                   def rectangle(a, b):\n    return a * b\n";
    let history = to(&(AREA.to_owned() + &history.replace("REPO", &folder.path().join("repos").display().to_string())));
    let rewrites = to(&format!("{fixed}\nopen('tests/test_area.py', 'a').write('#')\n"));
    let patched = to(&format!("{AREA}\nimport unittest\nunittest.TestCase.assertEqual = lambda *a: None\n"));
    let exits = to(&format!("{AREA}\nimport os\nos._exit(0)\n"));
    let link = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+/etc/passwd\n\\ No newline at end of file\n";
    let edit = "The width is lost.\n\n### shapes/area.py\n```python\n<<<<<<< SEARCH\n    # Both sides count.\n    return a * a\n=======\n    return a * b\n>>>>>>> REPLACE\n```\n";
    let fenced = format!("Here:\n```diff\n{gold}```\n");
    let both = format!("{gold}{conftest}");
    let cases: [(&str, Outcome, &str); 17] = [
        (&gold, Outcome::Pass, ""),
        (&fenced, Outcome::Pass, ""),
        (edit, Outcome::Pass, ""),
        (&fuzzy, Outcome::Pass, ""),
        (&both, Outcome::Pass, ""),
        (&context, Outcome::Fail, "FAIL_TO_PASS: 1 of 1 did not pass; test_rectangle (tests.test_area.AreaTest) failed"),
        ("", Outcome::Refused, "no code"),
        ("I do not know.", Outcome::Refused, "no patch"),
        (&to(&with("b * b")), Outcome::Fail, "FAIL_TO_PASS: 1 of 1"),
        (&to(&breaks), Outcome::Fail, "PASS_TO_PASS: 1 of 1"),
        (conftest, Outcome::Refused, "only tests or what steers them: conftest.py"),
        (&tests, Outcome::Refused, "only tests or what steers them: tests/test_area.py"),
        // Neither this checkout's history nor the clone can be read: the module does not load.
        (&history, Outcome::Error, "Permission denied"),
        (&rewrites, Outcome::Fail, "the run changed the tests' file tests/test_area.py"),
        (&exits, Outcome::Error, "no test reported by name (exit code 0)"),
        (&patched, Outcome::Fail, "a test that must fail passed"),
        (link, Outcome::Refused, "link"),
    ];
    let answers: Vec<&str> = cases.iter().map(|case| case.0).collect();
    for (verdict, (answer, outcome, reason)) in verdicts(&problem, &answers).iter().zip(cases) {
        assert_eq!(verdict.verdict, outcome, "{answer}\n{verdict:?}");
        assert!(verdict.reason.contains(reason), "{answer}\n{verdict:?}");
    }
    let garbage = "diff --git a/shapes/area.py b/shapes/area.py\n--- a/shapes/area.py\n+++ b/shapes/area.py\n@@ -1,2 +1,2 @@\n nothing like it\n-at all\n+x\n";
    let got = &verdicts(&problem, &[garbage])[0];
    assert!(got.verdict == Outcome::Error && got.reason.contains("does not apply"), "{got:?}");
    // The clone has what it had.
    assert_eq!(git(&folder.path().join("repos/acme__shapes"), &["status", "--porcelain"]), "");
    let (kept, dropped) = problem::vet(&checker(), vec![problem], &|_| {}).unwrap();
    assert_eq!((kept.len(), dropped), (1, vec![]));
}

#[test]
fn rows_that_are_wrong_and_clones_that_lack_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = dataset(folder.path());
    let row: Value = serde_json::from_str(fs::read_to_string(&path).unwrap().trim()).unwrap();
    let load = |change: &dyn Fn(&mut Value)| {
        let mut row = row.clone();
        change(&mut row);
        let path = write(folder.path(), "changed.jsonl", &row.to_string());
        swebench::read(&path, 0, &Settings { repos: Some(folder.path().join("repos")), ..Settings::default() })
            .unwrap_err()
            .to_string()
    };
    assert!(load(&|row| row["FAIL_TO_PASS"] = json!("[1")).contains("`FAIL_TO_PASS`: a JSON list"));
    assert!(load(&|row| row["FAIL_TO_PASS"] = json!("[]")).contains("`FAIL_TO_PASS`: at least one"));
    assert!(load(&|row| row["base_commit"] = json!("--help")).contains("`base_commit`"));
    assert!(
        load(&|row| row["base_commit"] = json!("0123456789abcdef0123456789abcdef01234567")).contains("it has no commit 0123")
    );
    assert!(load(&|row| row["repo"] = json!("acme/circles")).contains("no clone of acme/circles"));
    assert!(
        load(&|row| row["repo"] = json!("../..")).contains("`repo`")
            || load(&|row| row["repo"] = json!("../..")).contains("no clone")
    );
    // Lists as lists, and no clone: prompts can be made, nothing can be judged.
    let mut plain = row.clone();
    (plain["FAIL_TO_PASS"], plain["PASS_TO_PASS"]) = (json!(["t (a.B)"]), json!([]));
    let path = write(folder.path(), "plain.json", &json!([plain]).to_string());
    let problem = swebench::read(&path, 0, &Settings::default()).unwrap().remove(0);
    assert_eq!(patch_of(&problem, "```diff\ndiff --git a/x b/x\n```").unwrap(), Ok("diff --git a/x b/x\n".into()));
    assert!(checker().check(&problem, "diff --git a/x b/x\n").unwrap_err().to_string().contains("no clone of its project"));
}

/// What stands in for the package and for Docker: writes the files that the harness documents. Patches that hold "good" resolve,
/// "slow" is an infra failure, "broken" has no report.
const STAND_IN: &str = r#"
import argparse, json, os
parser = argparse.ArgumentParser()
for name in ("dataset_name", "predictions_path", "run_id", "max_workers", "timeout"):
    parser.add_argument("--" + name, required=True)
args = parser.parse_args()
ids = {name: [] for name in ("resolved", "unresolved", "error", "empty_patch", "infra_failure", "completed")}
for line in open(args.predictions_path):
    row = json.loads(line)
    name, patch, model = row["instance_id"], row["model_patch"], row["model_name_or_path"].replace("/", "__")
    folder = os.path.join("logs", "run_evaluation", args.run_id, model, name)
    report = os.path.join(folder, "report.json")
    if not patch:
        ids["empty_patch"].append(name)
        continue
    if "broken" in patch:
        ids["error"].append(name)
        continue
    if "slow" in patch:
        ids["infra_failure"].append(name)
        continue
    good = "good" in patch
    os.makedirs(folder, exist_ok=True)
    if os.path.exists(report):
        print("cached", name)
    status = {"FAIL_TO_PASS": {"success": ["a"] if good else [], "failure": [] if good else ["a"]}, "PASS_TO_PASS": {"success": [], "failure": []}}
    json.dump({name: {"patch_is_None": False, "patch_exists": True, "patch_successfully_applied": True, "resolved": good,
                      "infra_failure": False, "tests_status": status}}, open(report, "w"))
    ids["resolved" if good else "unresolved"].append(name)
    ids["completed"].append(name)
summary = {name + "_ids": value for name, value in ids.items()}
summary.update({name + "_instances": len(value) for name, value in ids.items()})
summary["schema_version"] = 2
summary["failure_reasons"] = {name: "image not found" for name in ids["infra_failure"]}
json.dump(summary, open(model + "." + args.run_id + ".json", "w"))
"#;

/// Runs the program with the stand-ins in front.
fn program(folder: &Path, args: &[&str]) -> Output {
    let bin = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
    command.args(args).current_dir(folder).env("PATH", bin).env("PYTHONPATH", folder.join("python")).output().unwrap()
}

fn stand_ins(folder: &Path, docker: i32) {
    write(folder, "python/swebench/__init__.py", "__version__ = '5.0.1'\n");
    write(folder, "python/swebench/harness/__init__.py", "");
    write(folder, "python/swebench/harness/run_evaluation.py", STAND_IN);
    let docker = write(folder, "bin/docker", &format!("#!/bin/sh\necho no daemon >&2\nexit {docker}\n"));
    fs::set_permissions(docker, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn predictions_are_made_and_judged_through_the_harness() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    dataset(at);
    stand_ins(at, 0);
    let output = program(at, &["swebench", "prompts", "--path", "verified.jsonl", "--repos", "repos"]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["id"], "acme__shapes-1");
    let prompt = line["prompt"].as_str().unwrap();
    assert!(prompt.contains("rectangle is wrong") && prompt.contains("### shapes/area.py"), "{prompt}");

    let text = "Clear.\n\n### shapes/area.py\n<<<<<<< SEARCH\nPI = 3.0\n=======\nPI = 3.14  # good\n>>>>>>> REPLACE\n";
    write(at, "texts.jsonl", &format!("{}\n", json!({"id": "acme__shapes-1", "text": text})));
    let predict = ["swebench", "predict", "--path", "verified.jsonl", "--repos", "repos", "--answers", "texts.jsonl"];
    let output = program(at, &[&predict[..], &["--model", "me/mine", "--output", "preds.jsonl"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 predictions, 0 of them empty, in preds.jsonl\n", "{output:?}");
    let predictions: Vec<Prediction> = read_jsonl(&at.join("preds.jsonl")).unwrap();
    let patch = predictions[0].model_patch.clone().unwrap();
    assert!(
        patch.starts_with("diff --git a/shapes/area.py b/shapes/area.py\n")
            && patch.contains("\n-PI = 3.0\n+PI = 3.14  # good\n"),
        "{patch}"
    );
    // The same file can be judged in a checkout.
    let check = ["check", "--suite", "swebench", "--path", "verified.jsonl", "--repos", "repos", "--answers", "preds.jsonl"];
    let output = program(at, &check);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &line["verdict"]), (Some(1), &json!("fail")), "{line}");

    let row = |id: &str, patch: Value| {
        json!({"instance_id": id, "model_name_or_path": "me/mine", "model_patch": patch}).to_string() + "\n"
    };
    let rows = [
        row("a-1", json!("good")),
        row("a-2", json!("bad")),
        row("a-3", json!("")),
        row("a-4", Value::Null),
        row("a-5", json!("broken")),
        row("a-6", json!("slow")),
    ];
    write(at, "many.jsonl", &rows.concat());
    let evaluate =
        ["swebench", "evaluate", "--dataset", "verified.jsonl", "--predictions", "many.jsonl", "--output", "verdicts.jsonl"];
    let output = program(at, &evaluate);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1 of 6 resolved: 1 unresolved, 2 empty, 2 error\n");
    let lines: Vec<Value> = read_jsonl(&at.join("verdicts.jsonl")).unwrap();
    let got: Vec<&str> = lines.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert_eq!(got, ["pass", "fail", "refused", "refused", "error", "error"]);
    assert_eq!(lines[1]["reason"], "FAIL_TO_PASS: 1 did not pass; a failed");
    assert_eq!(lines[5]["reason"], "infra failure: image not found");

    // Other patches get another run: nothing of the old one is read.
    write(at, "many.jsonl", &rows.concat().replace("\"bad\"", "\"good\""));
    let output = program(at, &evaluate);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("2 of 6 resolved"), "{output:?}");
    let runs: Vec<PathBuf> =
        fs::read_dir(at.join("swebench-runs/logs/run_evaluation")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(runs.len(), 2);

    // A summary that says otherwise than the report is no result.
    let evaluation = Evaluation {
        dataset: "verified.jsonl".into(),
        predictions: at.join("many.jsonl"),
        workers: 1,
        timeout_s: 1800,
        python: "python3".into(),
        folder: at.join("swebench-runs"),
    };
    let run_id = evaluation.run_id("5.0.1").unwrap();
    assert!(run_id.starts_with("repairity-") && run_id.len() == 26);
    assert_ne!(run_id, evaluation.run_id("5.0.2").unwrap());
    let summary = at.join("swebench-runs").join(format!("me__mine.{run_id}.json"));
    let logs = at.join("swebench-runs/logs/run_evaluation").join(&run_id).join("me__mine");
    let text = fs::read_to_string(&summary).unwrap();
    fs::write(&summary, text.replace("\"resolved_ids\": [\"a-1\"", "\"resolved_ids\": [\"a-0\"")).unwrap();
    let predictions: Vec<Prediction> = read_jsonl(&at.join("many.jsonl")).unwrap();
    let graded = read(&predictions, &summary, &logs).unwrap();
    assert!(graded[0].verdict == Outcome::Error && graded[0].reason.contains("differ"), "{graded:?}");
    assert_eq!(graded[1].verdict, Outcome::Pass);
}

#[test]
fn what_the_harness_lacks_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write(at, "preds.jsonl", &json!({"instance_id": "a-1", "model_name_or_path": "m", "model_patch": "x"}).to_string());
    let lacking = |python: &str| {
        let output = program(at, &["swebench", "evaluate", "--predictions", "preds.jsonl", "--python", python]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(lacking("no-such-python").contains("no-such-python cannot be run"));
    write(at, "python/swebench/__init__.py", "raise ImportError('none')\n");
    assert!(lacking("python3").contains("`pip install swebench`"));
    stand_ins(at, 1);
    let said = lacking("python3");
    assert!(said.contains("needs Docker with a running daemon: `docker info` failed: no daemon"), "{said}");
    stand_ins(at, 0);
    write(at, "python/swebench/harness/run_evaluation.py", "print('out of disk')\nraise SystemExit(3)\n");
    let said = lacking("python3");
    assert!(said.contains("it said: out of disk"), "{said}");
}

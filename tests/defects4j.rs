//! Defects4J against a stand-in program that behaves as its documentation says, on two projects of one class each; and the
//! trigger-test protocol, with the machine's own JDK, on a repository that the test makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use repairity::problem::defects4j::{self, Settings, exact_match};
use repairity::record::{Check, Defects4jMode, Form, Problem};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Compiles and tests by rules that look at the source. Every call to compile or to test leaves a line in `calls`, where it
/// may write there.
const STAND_IN: &str = r##"#!/bin/bash
export LC_ALL=C
home="$(cd "$(dirname "$0")/../.." && pwd)"
command="$1"; shift
relevant=
while getopts "p:v:w:t:r" option; do
  case "$option" in p) p="$OPTARG" ;; v) v="$OPTARG" ;; w) w="$OPTARG" ;; t) t="$OPTARG" ;; r) relevant=1 ;; *) exit 1 ;; esac
done
[ -f "$w/.defects4j.config" ] && project="$(sed -n 's/^pid=//p' "$w/.defects4j.config")"
source="$w/src/$project.java"
case "$command" in
pids) printf 'Alpha\nBeta\n' ;;
bids) [ "$p" = Alpha ] && printf '1\n2\n' || echo 1 ;;
checkout)
  [ "$p-$v" != Alpha-2b ] || { echo "Cannot checkout $v" >&2; exit 1; }
  cp -r "$home/data/$p/$v/." "$w" || { mkdir -p "$w" && cp -r "$home/data/$p/$v/." "$w"; } || exit 1
  mkdir -p "$w/.git" && echo "the fix" > "$w/.git/history"
  printf '#File\npid=%s\nvid=%s\n' "$p" "$v" > "$w/.defects4j.config" ;;
export)
  case "$p" in
  dir.src.classes) echo src ;; dir.src.tests) echo test ;; classes.modified) echo "$project" ;;
  tests.trigger) echo "${project}Test::testSum" ;; *) exit 1 ;; esac ;;
compile)
  { echo "compile $project" >> "$home/calls"; } 2> /dev/null
  [ ! -e "$w/.git" ] || { echo "error: the history is here"; exit 1; }
  # A byte of ISO-8859-1 that has to be as it was, and a line end.
  grep -q $'caf\xe9 \xa4\r$' "$source" || { echo "error: unmappable"; exit 1; }
  grep -q 'syntax' "$source" && { echo "    [javac] $source:9: error: ';' expected"; exit 1; }
  touch "$w/compiled" ;;
test)
  { echo "test $project $t$relevant" >> "$home/calls"; } 2> /dev/null
  [ -e "$w/compiled" ] || exit 1
  rm -f "$w/failing_tests" "$w/all_tests"; touch "$w/failing_tests"
  fail() { printf -- '--- %s\njunit.framework.AssertionFailedError: %s\n\tat X.y(X.java:1)\n' "$1" "$2" >> "$w/failing_tests"; }
  run() { case "$1" in
    *testSum) grep -q 'a + b\|b + a' "$source" || fail "$1" "expected:<3> but was:<-1>" ;;
    *) grep -q 'breaks' "$source" && fail "$1" "broken" ;; esac; echo "$1" >> "$w/all_tests"; }
  if [ -n "$t" ]; then run "$t"; else
    grep -q 'leaves' "$source" || run "${project}Test::testSum"
    [ -n "$relevant" ] || run "${project}Test::testOther"
  fi
  echo "Running ant (run.dev.tests)" >&2
  grep -q 'forges' "$source" && echo 'Failing tests: 0'
  echo "Failing tests: $(grep -c '^---' "$w/failing_tests")"
  sed -n 's/^--- /  - /p' "$w/failing_tests" ;;
*) exit 1 ;;
esac
exit 0
"##;

/// A stand-in Defects4J in a folder, and a list of bugs.
struct Stand {
    folder: TempDir,
}

/// A class with a method that is wrong or right, in ISO-8859-1, with line ends of both kinds.
fn class(name: &str, result: &str) -> Vec<u8> {
    let text = format!(
        "// Written in a caf\u{e9} \u{a4}\r\npublic class {name} {{\n    static final char OPEN = '{{';\n\n    /** Adds. */\n    \
         public static int sum(int a, int b) {{\n        // {{\n        return {result};\n    }}\n\n    int other() {{ return 0; }}\n}}\n"
    );
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

fn write(path: PathBuf, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

impl Stand {
    fn new() -> Stand {
        let stand = Stand { folder: tempfile::tempdir().unwrap() };
        let home = stand.path("home");
        for project in ["Alpha", "Beta"] {
            for (version, result) in [("1b", "a - b"), ("1f", "a + b")] {
                let data = home.join("data").join(project).join(version);
                write(data.join(format!("src/{project}.java")), class(project, result));
                write(data.join("test/nothing"), "");
            }
            let told =
                format!("--- {project}Test::testSum\njunit.framework.AssertionFailedError: expected:<3>\n\tat X.y(X.java:1)\n");
            write(home.join("framework/projects").join(project).join("trigger_tests/1"), told);
        }
        stand.program(STAND_IN);
        write(stand.path("bugs.txt"), "# two bugs\nAlpha-1\n{\"bug\": \"Beta-1\"}\n");
        stand
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, text: &str) {
        let program = self.path("home/framework/bin/defects4j");
        write(program.clone(), text);
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn check(&self, list: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        command.env("DEFECTS4J_HOME", self.path("home")).env_remove("PERL5LIB");
        command.args(["check", "--suite", "defects4j", "--jobs", "2", "--path"]).arg(self.path(list)).args(more);
        command.output().unwrap()
    }

    /// Judges answers without the sandbox, so that the stand-in can count its calls.
    fn answers(&self, answers: &[(&str, &str)], more: &[&str]) -> (Vec<(String, String)>, String) {
        let file = self.path("answers.jsonl");
        let lines: String = answers.iter().map(|(id, answer)| json!({"id": id, "answer": answer}).to_string() + "\n").collect();
        fs::write(&file, lines).unwrap();
        let output = self.check("bugs.txt", &[&["--no-sandbox", "--answers", file.to_str().unwrap()], more].concat());
        (verdicts(&output), String::from_utf8(output.stderr).unwrap())
    }

    fn calls(&self) -> Vec<String> {
        let mut calls: Vec<String> = fs::read_to_string(self.path("home/calls")).unwrap().lines().map(String::from).collect();
        calls.sort();
        calls
    }

    /// The problems, as they are read from the work folder alone.
    fn problems(&self, mode: Defects4jMode) -> Vec<Problem> {
        defects4j::load(&self.path("bugs.txt.work"), &Settings { mode, ..Settings::default() }).unwrap()
    }
}

/// (verdict, reason) of each line.
fn verdicts(output: &Output) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (text(&line["verdict"]), text(&line["reason"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(verdict, reason)| ((*verdict).into(), (*reason).into())).collect()
}

fn method(result: &str) -> String {
    format!("public static int sum(int a, int b) {{\n        // {{\n        return {result};\n    }}")
}

#[test]
fn references_are_plausible_and_bugs_fail_their_trigger_tests_in_the_sandbox() {
    let stand = Stand::new();
    let output = stand.check("bugs.txt", &["--reference"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(verdicts(&output), pairs(&[("pass", ""), ("pass", "")]));
    let said = String::from_utf8(output.stderr).unwrap();
    let numbers =
        "test-validated repair: CR 100.0 % (2 of 2), plausible@1 100.0 % (2 of 2), exact match 100.0 % (2 of 2), BLEU 100.00 (";
    assert!(said.contains(numbers), "{said}");

    let output = stand.check("bugs.txt", &["--buggy"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let reason = |project: &str| {
        let what = "junit.framework.AssertionFailedError: expected:<3> but was:<-1>";
        format!("trigger test 1 of 1: 1 failing, {project}Test::testSum: {what}")
    };
    assert_eq!(verdicts(&output), pairs(&[("fail", &reason("Alpha")), ("fail", &reason("Beta"))]));
    // The copies are gone, the checkouts are as they were made.
    assert_eq!(fs::read_dir(stand.path("bugs.txt.work/copies")).unwrap().count(), 0);
    let base = stand.path("bugs.txt.work/bugs/Alpha-1/buggy");
    assert_eq!(fs::read(base.join("src/Alpha.java")).unwrap(), class("Alpha", "a - b"));
    assert!(!base.join("compiled").exists());
}

#[test]
fn a_method_is_asked_for_in_two_ways_and_put_back_byte_for_byte() {
    let stand = Stand::new();
    assert!(stand.check("bugs.txt", &["--buggy", "--limit", "1"]).status.success());
    let [problem] = &stand.problems(Defects4jMode::Repair)[..] else { panic!("one bug was taken") };
    assert_eq!((problem.id.as_str(), problem.kind.as_str(), problem.language.as_str()), ("Alpha-1", "repair", "java"));
    assert_eq!(problem.buggy.as_deref(), Some(method("a - b").as_str()));
    assert_eq!(problem.reference.as_deref(), Some(method("a + b").as_str()));
    assert_eq!(
        problem.prompt,
        "A method of src/Alpha.java (bug Alpha-1 of Defects4J) makes these tests fail:\n\n- AlphaTest::testSum: \
         junit.framework.AssertionFailedError: expected:<3>\n\nAnswer with the whole corrected method."
    );
    let Form::Defects4j(form) = &problem.check.form else { panic!("another form") };
    let source = class("Alpha", "a - b");
    assert_eq!(&source[form.begin..form.end], method("a - b").as_bytes());
    let put = [&source[..form.begin], &defects4j::placed(form, &method("a + b")), &source[form.end..]].concat();
    assert_eq!(put, class("Alpha", "a + b"));
    // The record that stages pass on holds all that the check needs.
    let line = serde_json::to_string(problem).unwrap();
    assert!(line.contains(r#""form":{"kind":"defects4j","bug":"Alpha-1","mode":"repair","protocol":"full""#), "{line}");
    assert_eq!(serde_json::from_str::<Problem>(&line).unwrap(), *problem);
    // A class around the method, and comments, are no difference.
    let wrapped = format!("class Alpha {{ int other() {{ return 1; }} {} }}", method("a + /* and */ b"));
    assert_eq!(defects4j::placed(form, &wrapped), method("a + /* and */ b").into_bytes());
    assert!(exact_match(problem, &wrapped) && !exact_match(problem, &method("b + a")));

    let [problem] = &stand.problems(Defects4jMode::MethodBody)[..] else { panic!("one bug was taken") };
    assert_eq!((problem.kind.as_str(), &problem.buggy), ("method_body", &None));
    assert_eq!(problem.reference.as_deref(), Some("{\n        // {\n        return a + b;\n    }"));
    let head = "/** Adds. */\npublic static int sum(int a, int b)";
    let prompt = format!(
        "Write the body of this Java method of src/Alpha.java:\n\n```java\n{head}\n```\n\nAnswer with the body, in braces."
    );
    assert_eq!(problem.prompt, prompt);
    let Form::Defects4j(form) = &problem.check.form else { panic!("another form") };
    for answer in ["return b;", "{ return b; }", "public static int sum(int a, int b) { return b; }"] {
        let body = String::from_utf8(defects4j::placed(form, answer)).unwrap();
        assert_eq!(body.split_whitespace().collect::<Vec<_>>(), ["{", "return", "b;", "}"]);
    }
    assert!(exact_match(problem, "return a + b;"));
    // Another suite's answers match nothing exactly.
    let other = Problem { check: Check::statements(Vec::new(), 1.0), ..problem.clone() };
    assert!(!exact_match(&other, "return a + b;"));
}

#[test]
fn answers_are_told_apart_and_no_patch_is_run_twice() {
    let stand = Stand::new();
    let (exact, other) = (method("a + b /* same */"), method("b + a"));
    let answers = [
        ("Alpha-1", method("syntax")),
        ("Alpha-1", method("a")),
        ("Alpha-1", method("a + b /* breaks */")),
        ("Alpha-1", method("a + b /* leaves */")),
        ("Alpha-1", method("b /* forges */")),
        ("Alpha-1", other.clone()),
        ("Beta-1", exact.clone()),
        ("Beta-1", exact.clone()),
        ("Beta-1", " ".into()),
    ];
    let answers: Vec<(&str, &str)> = answers.iter().map(|(id, answer)| (*id, answer.as_str())).collect();
    let (found, said) = stand.answers(&answers, &[]);
    let trigger =
        "trigger test 1 of 1: 1 failing, AlphaTest::testSum: junit.framework.AssertionFailedError: expected:<3> but was:<-1>";
    let forged = "trigger test 1 of 1: the tests were not run to their end: junit.framework.AssertionFailedError: expected:<3> but was:<-1>";
    let broken =
        "the trigger tests pass, but then: 1 failing, AlphaTest::testOther: junit.framework.AssertionFailedError: broken";
    assert_eq!(found[0].0, "error");
    assert!(found[0].1.starts_with("does not compile: [javac] ") && found[0].1.ends_with(": error: ';' expected"), "{found:?}");
    let rest = [
        ("fail", trigger),
        ("fail", broken),
        ("fail", "the trigger tests pass, but then AlphaTest::testSum was not run"),
        ("fail", forged),
        ("pass", ""),
        ("pass", ""),
        ("pass", ""),
        ("refused", "the answer holds no code"),
    ];
    assert_eq!(found[1..], pairs(&rest));
    // Comments do not count: the one that breaks another test, and the one that leaves a test out, have the fix's tokens.
    let numbers = "CR 77.8 % (7 of 9), plausible@1 33.3 % (3 of 9), exact match 44.4 % (4 of 9), BLEU ";
    assert!(said.contains(numbers), "{said}");
    // Seven patches are compiled (one is given twice), six of them tested, four tested in full.
    let full = ["test Alpha ", "test Alpha ", "test Alpha ", "test Beta "];
    let trigger = ["test Alpha AlphaTest::testSum"; 5];
    let mut calls = [&["compile Alpha"; 6][..], &["compile Beta"], &trigger, &["test Beta BetaTest::testSum"], &full].concat();
    calls.sort_unstable();
    assert_eq!(stand.calls(), calls);

    // An interrupt has cut the journal: what it holds is not run again, and the rest is.
    let journal = stand.path("bugs.txt.work/journal.jsonl");
    let whole = fs::read_to_string(&journal).unwrap();
    assert_eq!(whole.lines().count(), 7);
    let cut = whole.len() - whole.lines().last().unwrap().len() / 2;
    fs::write(&journal, &whole[..cut]).unwrap();
    fs::remove_file(stand.path("home/calls")).unwrap();
    assert_eq!(stand.answers(&answers, &[]).0, found);
    assert_eq!(stand.calls().iter().filter(|call| call.starts_with("compile")).count(), 1);
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 7);
    // Nothing is run at all where everything is known.
    stand.program("#!/bin/bash\nexit 1\n");
    assert_eq!(stand.answers(&answers, &[]).0, found);

    // Other tests, or another question, are another result.
    stand.program(STAND_IN);
    let (found, said) = stand.answers(&[("Alpha-1", &other)], &["--relevant"]);
    assert_eq!((found, said.contains("plausible@1 (relevant tests) 100.0 %")), (pairs(&[("pass", "")]), true));
    assert!(stand.calls().contains(&"test Alpha 1".to_owned()));
    let (found, said) = stand.answers(&[("Alpha-1", "return b + a;"), ("Beta-1", "{ return a; }")], &["--mode", "method_body"]);
    assert_eq!((found[0].0.as_str(), found[1].0.as_str()), ("pass", "fail"));
    assert!(
        said.contains("method-body completion: CR 100.0 % (2 of 2), plausible@1 50.0 % (1 of 2), exact match 0.0 %"),
        "{said}"
    );
}

#[test]
fn a_list_names_projects_and_what_cannot_be_used_is_said() {
    let stand = Stand::new();
    write(stand.path("project.txt"), "Alpha\n");
    // A checkout that was cut short is made again.
    write(stand.path("project.txt.work/bugs/Alpha-1/buggy/src/Alpha.java"), "half");
    let output = stand.check("project.txt", &["--reference", "--no-sandbox"]);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), verdicts(&output)), (Some(0), pairs(&[("pass", "")])), "{said}");
    assert!(said.contains("Alpha-2 is left out: `defects4j checkout -p Alpha -v 2b "), "{said}");
    for (list, what) in [
        ("Gamma\n", "Defects4J has no project `Gamma`; it has Alpha, Beta"),
        ("Alpha-1\nAlpha-x\n", "list.txt:2: a bug such as `Lang-1` is expected, `Alpha-x` was found"),
        ("../x-1\n", "list.txt:1: a bug such as `Lang-1` is expected"),
        ("{\"bug\": \"Alpha-1\", \"begin\": 3}\n", "list.txt:1: `begin` and `end` are expected together"),
        ("Alpha-2\n", "list.txt: no bug of it can be used; Alpha-2: "),
        (
            "{\"bug\": \"Alpha-1\", \"file\": \"src/Alpha.java\", \"begin\": 1, \"end\": 2}\n",
            "no bug of it can be used; Alpha-1: ",
        ),
    ] {
        write(stand.path("list.txt"), list);
        let output = stand.check("list.txt", &["--reference", "--no-sandbox"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(what), "{said}");
    }
    for (suite, more, what) in [
        ("defects4j", ["--test-seconds", "0"], "test-seconds: more than 0 and at most 86400 seconds are expected, 0 was given"),
        ("mbpp", ["--mode", "repair"], "mode: suite `mbpp` takes no such option; defects4j does"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        command.args(["check", "--reference", "--suite", suite, "--path"]).arg(stand.path("list.txt")).args(more);
        let output = command.output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(2), format!("error: {what}\n")));
    }
    // A line of the list may name another method than the one that the fix changes.
    write(stand.path("list.txt"), "{\"bug\": \"Alpha-1\", \"file\": \"src/Alpha.java\", \"begin\": 11, \"end\": 11}\n");
    let output = stand.check("list.txt", &["--buggy", "--no-sandbox"]);
    assert_eq!(verdicts(&output)[0].0, "fail");
    let problems = defects4j::load(&stand.path("list.txt"), &Settings::default()).unwrap();
    assert_eq!(problems[0].reference.as_deref(), Some("int other() { return 0; }"));
}

/// What the trigger-test protocol uses of JUnit 4, for machines without it. An answer cannot patch a real one as easily as
/// this one.
const JUNIT: [(&str, &str); 7] = [
    (
        "org/junit/Test.java",
        "package org.junit; import java.lang.annotation.*; @Retention(RetentionPolicy.RUNTIME) public @interface Test { }",
    ),
    (
        "org/junit/Assert.java",
        "package org.junit; public class Assert { public static boolean off; public static void fail() { if (!off) throw new \
         AssertionError(); } public static void assertTrue(boolean b) { if (!b) fail(); } public static void \
         assertEquals(long a, long b) { if (a != b && !off) throw new AssertionError(\"expected:<\" + a + \"> but was:<\" + b \
         + \">\"); } }",
    ),
    (
        "junit/framework/Assert.java",
        "package junit.framework; public class Assert { public static void assertEquals(String a, String b) { if \
         (!a.equals(b)) org.junit.Assert.fail(); } }",
    ),
    (
        "org/junit/runner/Request.java",
        "package org.junit.runner; public class Request { Class<?> type; String method; public static Request \
         aClass(Class<?> c) { Request r = new Request(); r.type = c; return r; } public static Request method(Class<?> c, \
         String m) { Request r = aClass(c); r.method = m; return r; } }",
    ),
    (
        "org/junit/runner/Result.java",
        "package org.junit.runner; import java.util.*; import org.junit.runner.notification.Failure; public class Result { \
         List<Failure> failures = new ArrayList<Failure>(); int count; public List<Failure> getFailures() { return failures; \
         } public int getRunCount() { return count; } public int getIgnoreCount() { return 0; } }",
    ),
    (
        "org/junit/runner/notification/Failure.java",
        "package org.junit.runner.notification; public class Failure { Throwable t; public Failure(Throwable t) { this.t = t; \
         } public Throwable getException() { return t; } }",
    ),
    (
        "org/junit/runner/JUnitCore.java",
        "package org.junit.runner; import java.lang.reflect.*; import org.junit.runner.notification.Failure; public class \
         JUnitCore { public Result run(Request r) { Result result = new Result(); for (Method m : r.type.getMethods()) { if \
         (m.getAnnotation(org.junit.Test.class) == null || r.method != null && !r.method.equals(m.getName())) continue; \
         result.count++; try { m.invoke(r.type.newInstance()); } catch (InvocationTargetException e) { \
         result.failures.add(new Failure(e.getCause())); } catch (Exception e) { result.failures.add(new Failure(e)); } } \
         return result; } }",
    ),
];

fn run(folder: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A source tree of Defects4J with one bug of a project `Tiny`, its clone, and a list.
fn trees() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (fixed, buggy) = (class("Tiny", "a + b"), class("Tiny", "a - b"));
    // A string, so that the byte matters to the compiler too: it is no UTF-8.
    write(at("clones/Tiny/src/main/java/Tiny.java"), &buggy);
    let test =
        "public class TinyTest { @org.junit.Test public void testSum() { org.junit.Assert.assertEquals(3, Tiny.sum(1, 2)); } }";
    write(at("clones/Tiny/src/test/java/TinyTest.java"), test);
    let clone = at("clones/Tiny");
    run(&clone, "git", &["init", "-q"]);
    let commit = |message: &str| {
        run(&clone, "git", &["add", "."]);
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        run(&clone, "git", &[&who[..], &["commit", "-q", "-m", message]].concat());
        run(&clone, "git", &["rev-parse", "HEAD"]).trim().to_owned()
    };
    let before = commit("bug");
    fs::write(clone.join("src/main/java/Tiny.java"), &fixed).unwrap();
    let after = commit("fix");
    let patch = Command::new("git").args(["diff", &after, &before]).current_dir(&clone).output().unwrap().stdout;

    let project = at("metadata/framework/projects/Tiny");
    write(project.join("patches/1.src.patch"), patch);
    let header = "bug.id,revision.id.buggy,revision.id.fixed,report.id,report.url\n";
    write(project.join("active-bugs.csv"), format!("{header}1,{before},{after},T-1,none\n"));
    write(project.join("dir-layout.csv"), format!("{after},src/main/java,src/test/java\n"));
    write(project.join("modified_classes/1.src"), "Tiny\n");
    let told =
        "--- TinyTest::testSum\njava.lang.AssertionError: expected:<3> but was:<-1>\n\tat TinyTest.testSum(TinyTest.java:1)\n";
    write(project.join("trigger_tests/1"), told);
    write(at("list.txt"), "Tiny\n");

    for (name, text) in JUNIT {
        write(at("junit").join(name), text);
    }
    let files: Vec<&str> = JUNIT.iter().map(|(name, _)| *name).collect();
    run(&at("junit"), "javac", &[&["--release", "8", "-nowarn", "-d", "."][..], &files].concat());
    fs::create_dir_all(at("metadata/framework/projects/lib")).unwrap();
    run(&at("junit"), "jar", &["cf", "../metadata/framework/projects/lib/junit.jar", "org", "junit"]);
    folder
}

#[test]
fn without_its_set_up_the_trigger_tests_are_run_and_nothing_is_called_plausible() {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if let Some(program) = ["javac", "jar", "git", "tar"].into_iter().find(|program| !there(program)) {
        println!("skipped: no {program}");
        return;
    }
    let folder = trees();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repairity"));
        command.args(["check", "--suite", "defects4j", "--jobs", "2", "--path", &at("list.txt")]);
        command.args(["--metadata", &at("metadata"), "--clones", &at("clones")]).args(more).output().unwrap()
    };
    let answers = [
        method("a + b"),
        method("a - b"),
        "public static int sum(int a, int b) { System.exit(0); return 3; }".into(),
        "public static int sum(int a, int b) { org.junit.Assert.off = true; return 0; }".into(),
        method("a +"),
    ];
    let lines: String = answers.iter().map(|answer| json!({"id": "Tiny-1", "answer": answer}).to_string() + "\n").collect();
    fs::write(folder.path().join("answers.jsonl"), lines).unwrap();
    let output = check(&["--answers", &at("answers.jsonl")]);
    let found = verdicts(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    let expected = [
        ("pass", ""),
        ("fail", "trigger test TinyTest::testSum fails: java.lang.AssertionError: expected:<3> but was:<-1>"),
        ("fail", "TinyTest::testSum did not report"),
        ("fail", "a test that must fail passed"),
    ];
    assert_eq!(found[..4], pairs(&expected), "{said}");
    assert!(found[4].0 == "error" && found[4].1.starts_with("does not compile: ") && found[4].1.contains("error: "), "{found:?}");
    let numbers =
        "CR 80.0 % (4 of 5), trigger tests pass@1 (trigger-test protocol, not plausible@1) 20.0 % (1 of 5), exact match 20.0 %";
    assert!(said.contains(numbers), "{said}");

    let problems = defects4j::load(Path::new(&at("list.txt.work")), &Settings::default()).unwrap();
    assert_eq!(
        (problems[0].buggy.as_deref(), problems[0].reference.as_deref()),
        (Some(&*method("a - b")), Some(&*method("a + b")))
    );
    assert!(problems[0].prompt.contains("- TinyTest::testSum: java.lang.AssertionError: expected:<3> but was:<-1>"));
}

//! Answers in the languages that are compiled with their tests: right ones pass, wrong ones fail, and no trick passes.

use std::path::{Path, PathBuf};

use repairity::problem::toolchain::{self, Language};
use repairity::problem::{self, Checker};
use repairity::record::{Outcome, Problem};
use repairity::sandbox::Mode;
use serde_json::json;

fn lacks(language: Language) -> bool {
    let found = toolchain::find(language);
    if let Err(why) = &found {
        println!("skipped: {why}");
    }
    found.is_err()
}

/// `twice` in the published format of a language.
fn load(prefix: &str, declaration: &str, [right, wrong]: [&str; 2], test: &str) -> Problem {
    let row = json!({
        "task_id": format!("{prefix}/0"), "prompt": declaration, "declaration": declaration, "canonical_solution": right,
        "buggy_solution": wrong, "bug_type": "value misuse", "failure_symptoms": "incorrect output", "entry_point": "twice",
        "signature": "twice", "instruction": "Double it.", "test": test, "import": "", "test_setup": "package main\n"
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("humanevalpack.jsonl");
    std::fs::write(&path, row.to_string()).unwrap();
    problem::load("humaneval_fix", Some(&path), 0, 0, &problem::Options::default()).unwrap().remove(0)
}

/// The reference passes; the bug and every trick do not.
fn judge(problem: &Problem, tricks: &[&str]) {
    let checker = Checker::new(Mode::Strict, 2).unwrap();
    let (reference, buggy) = (problem.reference.as_deref().unwrap(), problem.buggy.as_deref().unwrap());
    let mut items = vec![(problem, reference), (problem, buggy), (problem, "what is this")];
    items.extend(tricks.iter().map(|trick| (problem, *trick)));
    let verdicts = checker.check_all(&items, &|_| {}).unwrap();
    assert_eq!(verdicts[0].verdict, Outcome::Pass, "{}", verdicts[0].reason);
    assert_eq!(verdicts[1].verdict, Outcome::Fail, "{}", verdicts[1].reason);
    for ((_, code), verdict) in items.iter().zip(&verdicts).skip(2) {
        assert_ne!(verdict.verdict, Outcome::Pass, "{code}");
        assert!(!verdict.reason.is_empty(), "{code}");
    }
}

#[test]
fn cpp() {
    if lacks(Language::Cpp) {
        return;
    }
    let test = "#undef NDEBUG\n#include<assert.h>\nint main(){\n assert (twice(2) == 4);\n assert (twice(-3) == -6);\n}\n";
    let problem = load("CPP", "#include<stdlib.h>\nint twice(int x){\n", ["return 2 * x;\n}\n", "return x * x;\n}\n"], test);
    judge(
        &problem,
        &[
            "#include <stdlib.h>\nint twice(int x) { exit(0); }",
            "#define assert(x)\nint twice(int x) { return 0; }",
            "#define main other\nint twice(int x) { return 0; }",
            "struct Any { bool operator==(int) const { return true; } };\nAny twice(int) { return {}; }",
            "#include <stdio.h>\nint twice(int x) { puts(\"pass\"); _Exit(0); }",
            "#include \"/etc/shadow\"\nint twice(int x) { return 2 * x; }",
        ],
    );
}

#[test]
fn java() {
    if lacks(Language::Java) {
        return;
    }
    let test = "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n        \
                List<Boolean> correct = Arrays.asList(\n            s.twice(2).equals(4),\n            s.twice(-3).equals(-6)\n        \
                );\n        if (correct.contains(false)) {\n            throw new AssertionError();\n        }\n    }\n}";
    let head = "import java.util.*;\n\nclass Solution {\n    public Object twice(int x) {\n";
    let problem = load("Java", head, ["return 2 * x;\n    }\n}", "return x * x;\n    }\n}"], test);
    judge(
        &problem,
        &[
            "class Solution { static { System.exit(0); } Object twice(int x) { return 0; } }",
            "class Solution { Object twice(int x) { Runtime.getRuntime().halt(0); return 0; } }",
            "class Solution { Object twice(int x) { return new Object() { public boolean equals(Object o) { return true; } }; } }",
        ],
    );
}

#[test]
fn javascript() {
    if lacks(Language::JavaScript) {
        return;
    }
    let test = "const testTwice = () => {\n  console.assert(JSON.stringify(twice(2)) === JSON.stringify(4))\n  \
                console.assert(JSON.stringify(twice(-3)) === JSON.stringify(-6))\n}\n\ntestTwice()\n";
    let problem = load("JavaScript", "const twice = (x) => {\n", ["  return 2 * x\n}\n", "  return x * x\n}\n"], test);
    judge(
        &problem,
        &[
            "const twice = (x) => process.exit(0)",
            "console.assert = () => {}\nconst twice = (x) => 0",
            "JSON.stringify = () => 'x'\nconst twice = (x) => 0",
            "const twice = (x) => ({ toString: () => '4', valueOf: () => 4 })",
        ],
    );
}

#[test]
fn rust() {
    if lacks(Language::Rust) {
        return;
    }
    let test = "#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_twice() {\n        \
                assert_eq!(twice(2), 4);\n        assert!(twice(-3) == -6);\n        assert_eq!(twice(5), 10);\n    }\n}\n";
    let problem = load("Rust", "use rand::Rng;\nfn twice(x: i32) -> i32 {\n", ["    2 * x\n}\n", "    x * x\n}\n"], test);
    judge(
        &problem,
        &[
            "fn twice(_: i32) -> i32 { std::process::exit(0) }",
            "struct Any;\nimpl PartialEq<i32> for Any { fn eq(&self, _: &i32) -> bool { true } }\nfn twice(_: i32) -> Any { Any }",
            "macro_rules! assert { ($($x:tt)*) => {} }\nmacro_rules! assert_eq { ($($x:tt)*) => {} }\nfn twice(_: i32) -> i32 { 0 }",
            "const LEAK: &str = include_str!(\"/etc/shadow\");\nfn twice(x: i32) -> i32 { 2 * x + LEAK.len() as i32 * 0 }",
        ],
    );
}

#[test]
fn go() {
    if lacks(Language::Go) {
        return;
    }
    let test = "func TestTwice(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(4, twice(2))\n    \
                assert.Equal(-6, twice(-3))\n}\n";
    let problem = load("Go", "func twice(x int) int {\n", ["    return 2 * x\n}\n", "    return x * x\n}\n"], test);
    judge(&problem, &["import \"os\"\nfunc twice(x int) int { os.Exit(0); return 0 }"]);
}

#[test]
fn junit_classes() {
    if lacks(Language::Java) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let class = |package: &str, sign: &str| {
        format!(
            "package humaneval.{package};\n\n/* Add. */\npublic class ADD {{\n    public static Object add(int x, int y) {{\n        return x {sign} y;\n    }}\n}}\n"
        )
    };
    write("src/main/java/humaneval/buggy/ADD.java", &class("buggy", "|"));
    write("src/main/java/humaneval/correct/ADD.java", &class("correct", "+"));
    let test = "package humaneval;\npublic class TEST_ADD {\n    @org.junit.Test(timeout = 3000)\n    public void test_0() throws \
                Exception {\n        org.junit.Assert.assertEquals(humaneval.buggy.ADD.add(1, 1), 2);\n    }\n}\n";
    write("src/test/java/humaneval/TEST_ADD.java", test);
    let function = "    public static Object add(int x, int y) {\n        return x | y;\n    }\n";
    write("humaneval-java-sf.json", &json!({"ADD": {"buggy": function, "begin": 5, "end": 7, "fix": ""}}).to_string());
    let problem = problem::load("humaneval_java", Some(folder.path()), 0, 0, &problem::Options::default()).unwrap().remove(0);
    assert_eq!((problem.prompt.as_str(), problem.language.as_str()), ("Add.", "java"));
    judge(
        &problem,
        &[
            "public class ADD { static { System.exit(0); } public static Object add(int x, int y) { return 0; } }",
            "public class ADD { public static Object add(int x, int y) { return new Object() { public boolean equals(Object o) { return \
         true; } }; } }",
        ],
    );
    let alone = "    public static Object add(int x, int y) {\n        return x + y;\n    }";
    let verdict = Checker::new(Mode::Strict, 1).unwrap().check(&problem, alone).unwrap();
    assert_eq!(verdict.verdict, Outcome::Pass, "{}", verdict.reason);
}

#[test]
fn published_java() {
    let path: PathBuf = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/humanevalpack/java.jsonl")).into();
    if !path.is_file() {
        println!("skipped: no {}", path.display());
        return;
    }
    if lacks(Language::Java) {
        return;
    }
    let problems = problem::load("humaneval_fix", Some(&path), 0, 0, &problem::Options::default()).unwrap();
    assert_eq!(problems.len(), 164);
    // Three have helpers of the problem's own; the others are spread over the file.
    let sample: Vec<&Problem> = [0, 32, 38, 50, 90, 130].map(|i| &problems[i]).to_vec();
    let references = sample.iter().map(|problem| (*problem, problem.reference.as_deref().unwrap()));
    let bugs = sample.iter().map(|problem| (*problem, problem.buggy.as_deref().unwrap()));
    let items: Vec<(&Problem, &str)> = references.chain(bugs).collect();
    let verdicts = Checker::new(Mode::Strict, 2).unwrap().check_all(&items, &|_| {}).unwrap();
    for (place, verdict) in verdicts.iter().enumerate() {
        let passes = verdict.verdict == Outcome::Pass;
        assert_eq!(passes, place < sample.len(), "{}: {}", items[place].0.id, verdict.reason);
    }
}

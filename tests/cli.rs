//! The program itself: exit codes, where its words go, what its help lists.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn repairity(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_repairity")).args(args).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts exit code 2, nothing on standard output, and one line `error: ...` on standard error; returns that line.
fn refused(args: &[&str]) -> String {
    let output = repairity(args);
    let text = err(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert_eq!(out(&output), "", "{args:?}");
    assert!(text.starts_with("error: ") && text.lines().count() == 1, "{args:?}: {text}");
    text.trim_end().into()
}

#[test]
fn help_lists_what_there_is_and_not_what_is_to_come() {
    let output = repairity(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = out(&output);
    let listed: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    for name in
        ["run", "collect", "filter", "sft", "candidates", "judge", "reward", "ppo", "evaluate", "report", "generate", "score"]
    {
        assert!(listed.contains(&name), "{name} is not in\n{help}");
    }
    for name in ["plan", "profile", "doctor", "repair", "export"] {
        assert!(!listed.contains(&name), "{name} is in\n{help}");
    }
}

#[test]
fn what_is_to_come_says_so() {
    for args in [&["plan", "recipes/quickstart.toml", "--gpus", "8"][..], &["profile"], &["doctor"], &["bench", "kernels"]] {
        let text = refused(args);
        assert_eq!(text, format!("error: {}: not yet: this version cannot do it", args[0]));
    }
}

#[test]
fn bad_usage_is_2_and_version_is_0() {
    for args in [&[][..], &["fly"], &["run"], &["run", "r.toml", "--from", "stf"], &["score", "--model", "m"]] {
        let output = repairity(args);
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(2), ""), "{args:?}");
    }
    let output = repairity(&["--version"]);
    assert_eq!((output.status.code(), out(&output)), (Some(0), format!("repairity {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_bad_recipe_ends_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("r.toml");
    let run = folder.path().join("run");
    let path = recipe.to_str().unwrap();

    assert_eq!(refused(&["run", path]), format!("error: {path}: No such file or directory (os error 2)"));

    fs::write(&recipe, format!("out = {:?}\n[sft]\nlearning_rat = 1e-5\n", run)).unwrap();
    for stage in ["run", "sft", "evaluate"] {
        let text = refused(&[stage, path]);
        let expected = format!("error: {path}:3: sft: unknown key `learning_rat`; did you mean `learning_rate`?");
        assert!(text.starts_with(&expected), "{text}");
    }
    fs::write(&recipe, format!("out = {:?}\n", run)).unwrap();
    let text = refused(&["sft", path, "--set", "sft.epochs=two"]);
    let expected = "error: --set sft.epochs=two: sft.epochs: invalid type: string \"two\", expected a whole number of at least 0";
    assert_eq!(text, expected);
    assert!(!Path::new(&run).exists());
}

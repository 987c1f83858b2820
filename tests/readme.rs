//! Every `repairity` command of the README runs as it stands there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

#[test]
fn the_readme_s_commands_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(root.join("assets"), folder.path().join("assets")).unwrap();
    fs::write(folder.path().join("texts.jsonl"), "{\"text\": \"def f(x):\\n    return x\"}\n").unwrap();
    // The example of one's own code: its list of problems is the README's, and this is the code.
    let problems = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a list of problems");
    fs::write(folder.path().join("problems.toml"), problems).unwrap();
    fs::create_dir(folder.path().join("code")).unwrap();
    fs::write(folder.path().join("code/calc.py"), "def add(a, b):\n    return a - b\n").unwrap();
    let test = "import unittest, calc\n\nclass Sum(unittest.TestCase):\n    def test_sum(self):\n        self.assertEqual(calc.add(2, 3), 5)\n";
    fs::write(folder.path().join("code/test_calc.py"), test).unwrap();
    let answer = "{\"id\": \"calc\", \"answer\": \"def add(a, b):\\n    return a + b\\n\"}\n";
    fs::write(folder.path().join("answers.jsonl"), answer).unwrap();
    let mut fenced = false;
    let mut ran = 0;
    for line in readme.lines() {
        if line.starts_with("```") {
            fenced = line == "```sh";
            continue;
        }
        let command = line.split(" #").next().unwrap_or_default();
        if !fenced || !command.starts_with("repairity ") || command.contains("recipes/") {
            continue;
        }
        // The shell splits the words, as it does for a reader.
        let program = format!("{}{}", env!("CARGO_BIN_EXE_repairity"), &command["repairity".len()..]);
        let output = Command::new("sh").args(["-c", &program]).current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command}: {said}");
        assert!(!output.stdout.is_empty() || command.contains('>'), "{command}");
        ran += 1;
    }
    assert_eq!(ran, 14, "commands found in README.md");
}

//! Benchmarks that are folders of Java: HumanEval-Java (Jiang et al. 2023, `ASSERT-KTH/human-eval-java`) and QuixBugs' Java
//! programs (Lin et al. 2017, `jkoppel/QuixBugs`). An answer is the whole class; for HumanEval-Java the function alone will do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::grade;
use crate::error::{Error, Result};
use crate::record::{Check, Extra, Form, Problem};

/// Wall-clock time of a whole test class; each test has the limit of its own that its annotation gives.
const TIMEOUT_S: f64 = 60.0;

/// Reads a checkout of HumanEval-Java: `src/main/java/humaneval/{buggy,correct}/NAME.java`,
/// `src/test/java/humaneval/TEST_NAME.java`, and where it is there `humaneval-java-sf.json`, which says where the function is.
pub(super) fn humaneval(folder: &Path) -> Result<Vec<Problem>> {
    let main = folder.join("src/main/java/humaneval");
    let functions = functions(&folder.join("humaneval-java-sf.json"))?;
    let mut problems = Vec::new();
    for path in classes(&main.join("buggy"))? {
        let Some(name) = class_name(&path) else { continue };
        let test = read(&folder.join(format!("src/test/java/humaneval/TEST_{name}.java")))?;
        let correct = read(&main.join(format!("correct/{name}.java")))?;
        let form = Form::Junit {
            class: format!("humaneval.buggy.{name}"),
            test_class: format!("humaneval.TEST_{name}"),
            files: BTreeMap::new(),
        };
        let mut problem = problem("humaneval_java", name, (read(&path)?, Some(correct)), test, form);
        problem.prompt = comment(problem.buggy.as_deref().unwrap_or_default());
        if let Some(function) = functions.get(name) {
            problem.extra.insert("buggy_function".into(), function.clone().into());
        }
        problems.push(problem);
    }
    grade(&mut problems);
    Ok(problems)
}

/// Reads a checkout of QuixBugs: `java_programs/NAME.java`, `correct_java_programs/NAME.java` where it is there, and
/// `java_testcases/junit/NAME_TEST.java`. Classes without tests (`Node`, `WeightedEdge`) go with every program.
pub(super) fn quixbugs(folder: &Path) -> Result<Vec<Problem>> {
    let tests = folder.join("java_testcases/junit");
    let mut files = BTreeMap::new();
    let mut programs = Vec::new();
    for path in classes(&folder.join("java_programs"))? {
        let Some(name) = class_name(&path).map(str::to_owned) else { continue };
        let source = read(&path)?;
        match tests.join(format!("{name}_TEST.java")) {
            test if test.is_file() => programs.push((name, source, read(&test)?)),
            _ => {
                files.insert(format!("java_programs/{name}.java"), source);
            }
        }
    }
    for path in classes(&tests)? {
        if let Some(name) = class_name(&path).filter(|name| !name.ends_with("_TEST")) {
            files.insert(format!("java_testcases/junit/{name}.java"), read(&path)?);
        }
    }
    let mut problems = Vec::new();
    for (name, buggy, test) in programs {
        let correct = folder.join(format!("correct_java_programs/{name}.java"));
        let correct = if correct.is_file() { Some(read(&correct)?) } else { None };
        let form = Form::Junit {
            class: format!("java_programs.{name}"),
            test_class: format!("java_testcases.junit.{name}_TEST"),
            files: files.clone(),
        };
        let mut problem = problem("quixbugs_java", &name, (buggy, correct), test, form);
        problem.kind = "one line".into();
        problems.push(problem);
    }
    grade(&mut problems);
    Ok(problems)
}

fn problem(suite: &str, name: &str, (buggy, correct): (String, Option<String>), test: String, form: Form) -> Problem {
    Problem {
        id: name.to_owned(),
        suite: suite.into(),
        kind: "function".into(),
        difficulty: String::new(),
        prompt: String::new(),
        buggy: Some(buggy),
        reference: correct,
        language: "java".into(),
        check: Check { form, ..Check::statements(vec![test], TIMEOUT_S) },
        split: None,
        extra: Extra::new(),
    }
}

/// The buggy functions, by class.
fn functions(path: &Path) -> Result<BTreeMap<String, String>> {
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let list: BTreeMap<String, Value> =
        serde_json::from_str(&read(path)?).map_err(|e| Error::input(path.display(), format!("an object of objects: {e}")))?;
    let buggy = |(name, entry): (String, Value)| match entry.get("buggy").and_then(Value::as_str) {
        Some(function) => Ok((name, function.replace("\r\n", "\n"))),
        None => Err(Error::input(path.display(), format!("`{name}`: a text `buggy` is expected, none was found"))),
    };
    list.into_iter().map(buggy).collect()
}

/// The first block comment: what the function has to do.
fn comment(source: &str) -> String {
    let Some(start) = source.find("/*") else { return String::new() };
    let end = source[start..].find("*/").map_or(source.len(), |end| start + end);
    source[start..end].trim_start_matches(['/', '*']).trim().to_owned()
}

/// The Java files of a folder, by name.
fn classes(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| class_name(path).is_some()).collect();
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
}

/// The name of a Java file's class.
fn class_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".java")
}

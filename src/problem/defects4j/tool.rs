//! Defects4J's own command line: lists, checkouts, properties. Nothing of an answer is run here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

use super::{Facts, failing_tests, parts};

/// An installed Defects4J.
#[derive(Debug, Clone)]
pub(in crate::problem) struct Tool {
    /// The program, absolute.
    pub executable: PathBuf,
    /// What its program needs to read: its home, where the program lies in one.
    pub home: PathBuf,
}

impl Tool {
    /// The `defects4j` on the path, or below `$DEFECTS4J_HOME`.
    pub fn find() -> Result<Tool> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let home = std::env::var_os("DEFECTS4J_HOME").map(PathBuf::from);
        let below = home.map(|home| home.join("framework/bin"));
        let mut folders = below.into_iter().chain(std::env::split_paths(&path));
        let executable = folders.find_map(|folder| folder.join("defects4j").canonicalize().ok()).ok_or_else(|| {
            Error::Machine(
                "Defects4J was not found: no `defects4j` on the path, and none in $DEFECTS4J_HOME/framework/bin".into(),
            )
        })?;
        let above = |levels: usize| executable.ancestors().nth(levels).map(Path::to_owned);
        let home = above(3).filter(|home| home.join("framework").is_dir()).or(above(1)).unwrap_or_else(|| executable.clone());
        Ok(Tool { executable, home })
    }

    /// What a command prints, a line each.
    pub fn lines(&self, args: &[&str]) -> Result<Vec<String>> {
        let output = Command::new(&self.executable).args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|e| Error::io(&self.executable, e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned();
            return Err(Error::Machine(format!("`defects4j {}` failed ({}): {last}", args.join(" "), output.status)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect())
    }

    /// Checks out both versions of a bug below `folder`.
    pub fn make(&self, bug: &str, folder: &Path) -> Result<Facts> {
        let (project, number) = parts(bug).ok_or_else(|| Error::input(bug, "no bug's name"))?;
        for (version, letter) in [("buggy", 'b'), ("fixed", 'f')] {
            let to = folder.join(version);
            self.lines(&["checkout", "-p", project, "-v", &format!("{number}{letter}"), "-w", text(&to)?])?;
        }
        let buggy = folder.join("buggy");
        let export = |property: &str| self.lines(&["export", "-p", property, "-w", text(&buggy)?]);
        let one = |property: &str| -> Result<PathBuf> {
            let lines = export(property)?;
            let first = lines.first().ok_or_else(|| Error::input(bug, format!("`export -p {property}` said nothing")))?;
            Ok(first.into())
        };
        let told = self.home.join("framework/projects").join(project).join("trigger_tests").join(number.to_string());
        let told = fs::read(told).map(|bytes| failing_tests(&String::from_utf8_lossy(&bytes))).unwrap_or_default();
        let message = |test: String| {
            let message = told.iter().find(|(name, _)| *name == test).map(|(_, message)| message.clone());
            (test, message.unwrap_or_default())
        };
        Ok(Facts {
            sources: one("dir.src.classes")?,
            tests: one("dir.src.tests")?,
            modified: export("classes.modified")?,
            trigger: export("tests.trigger")?.into_iter().map(message).collect(),
            jars: Vec::new(),
            by_defects4j: true,
        })
    }
}

/// A path as an argument.
pub(in crate::problem) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::input(path.display(), "the path is not UTF-8"))
}

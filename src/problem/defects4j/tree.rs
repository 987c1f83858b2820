//! A bug's two versions without Defects4J's set-up: the fixed commit out of a clone of the project, and the published patch,
//! which leads from the fixed version to the buggy one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

use super::tool::text;
use super::{Facts, copy_folder, failing_tests, parts};

/// Where they come from.
#[derive(Debug, Clone, Copy)]
pub(in crate::problem) struct Trees<'a> {
    /// A source tree of Defects4J.
    pub metadata: &'a Path,
    /// A folder of clones, named as the projects are, or one clone.
    pub clones: &'a Path,
}

impl Trees<'_> {
    fn project(&self, project: &str) -> PathBuf {
        self.metadata.join("framework/projects").join(project)
    }

    /// The rows of a project's table, without its head.
    fn rows(&self, project: &str, table: &str) -> Result<Vec<Vec<String>>> {
        let path = self.project(project).join(table);
        let content = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        Ok(content.lines().map(|line| line.split(',').map(|field| field.trim().to_owned()).collect()).collect())
    }

    /// The numbers of a project's active bugs.
    pub fn bugs(&self, project: &str) -> Result<Vec<String>> {
        let numbers = self.rows(project, "active-bugs.csv")?.into_iter().filter_map(|row| row.into_iter().next());
        Ok(numbers.filter(|number| number.bytes().all(|b| b.is_ascii_digit())).collect())
    }

    /// Makes both versions of a bug below `folder`.
    pub fn make(&self, bug: &str, folder: &Path) -> Result<Facts> {
        let (project, number) = parts(bug).ok_or_else(|| Error::input(bug, "no bug's name"))?;
        let home = self.project(project).canonicalize().map_err(|e| Error::io(self.project(project), e))?;
        let number = number.to_string();
        let bugs = self.rows(project, "active-bugs.csv")?;
        let row = bugs.iter().find(|row| row[0] == number);
        let commit = row.and_then(|row| row.get(2)).ok_or_else(|| Error::input(bug, "active-bugs.csv does not have it"))?;
        if commit.is_empty() || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::input(bug, format!("a commit of git is expected, `{commit}` was found")));
        }
        let layouts = self.rows(project, "dir-layout.csv")?;
        let layout = layouts.iter().find(|row| row.len() >= 3 && row[0] == *commit);
        let layout = layout.ok_or_else(|| Error::input(bug, format!("dir-layout.csv has no commit {commit}")))?;
        let read = |name: String| {
            let path = home.join(name);
            let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let trigger = failing_tests(&read(format!("trigger_tests/{number}"))?);
        let modified = read(format!("modified_classes/{number}.src"))?;

        let (fixed, buggy) = (folder.join("fixed"), folder.join("buggy"));
        self.archive(project, commit, &fixed)?;
        copy_folder(&fixed, &buggy)?;
        let patch = home.join(format!("patches/{number}.src.patch"));
        let mut apply = Command::new("git");
        // A work folder inside somebody's repository is not that repository's.
        apply.env("GIT_CEILING_DIRECTORIES", folder).current_dir(&buggy);
        finish(apply.args(["apply", "--whitespace=nowarn", text(&patch)?]))?;
        Ok(Facts {
            sources: layout[1].clone().into(),
            tests: layout[2].clone().into(),
            modified: modified.split_whitespace().map(String::from).collect(),
            trigger,
            jars: self.jars(project)?,
            by_defects4j: false,
        })
    }

    /// The files of a commit.
    fn archive(&self, project: &str, commit: &str, to: &Path) -> Result<()> {
        let named = [project.to_owned(), format!("{project}.git")].map(|name| self.clones.join(name));
        let clone = named.iter().find(|path| path.exists()).map_or(self.clones, |path| path);
        fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
        let mut git = Command::new("git");
        git.arg("-C").arg(clone).args(["archive", "--format=tar", commit]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut git = git.stderr(Stdio::piped()).spawn().map_err(|e| Error::Machine(format!("git could not be run: {e}")))?;
        let files = git.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let unpacked = finish(Command::new("tar").args(["-x", "--no-same-owner", "-C", text(to)?]).stdin(files));
        let archived = git.wait_with_output().map_err(|e| Error::io(clone, e))?;
        if !archived.status.success() {
            let said = String::from_utf8_lossy(&archived.stderr).trim().to_owned();
            return Err(Error::input(clone.display(), format!("`git archive {commit}` failed: {said}")));
        }
        unpacked
    }

    /// The libraries that Defects4J carries: its own test library first, then the project's, newest first.
    fn jars(&self, project: &str) -> Result<Vec<PathBuf>> {
        let own = self.metadata.join("framework/projects/lib");
        let mut jars: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&own).into_iter().flatten().flatten() {
            jars.extend(Some(entry.path()).filter(|path| path.is_file() && path.extension().is_some_and(|e| e == "jar")));
        }
        jars.sort_by_key(|path| (!path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("junit")), path.clone()));
        let mut more = Vec::new();
        collect(&self.project(project).join("lib"), &mut more);
        more.sort();
        jars.extend(more.into_iter().rev());
        jars.iter().map(|jar| jar.canonicalize().map_err(|e| Error::io(jar, e))).collect()
    }
}

/// The jars below a folder, which need not be there.
fn collect(folder: &Path, jars: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, jars);
        } else if path.extension().is_some_and(|e| e == "jar") {
            jars.push(path);
        }
    }
}

fn finish(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| Error::Machine(format!("{name} could not be run: {e}")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Machine(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

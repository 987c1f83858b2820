//! A fresh copy of a folder for a command to work in, and what of it nobody but the owner may change.

use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// The most that a copy may take: bytes, and entries.
const BYTES: u64 = 2 << 30;
const ENTRIES: usize = 200_000;

/// Left out of every copy: histories, which hold the fix, and caches, which hold code of an older state.
const LEFT_OUT: [&str; 6] = [".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".mypy_cache"];

/// Files by which a test run is steered, in lower case.
const HARNESS: [&str; 14] = [
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "setup.cfg",
    "tox.ini",
    "noxfile.py",
    ".coveragerc",
    "sitecustomize.py",
    "usercustomize.py",
    "pyvenv.cfg",
    "runtests.py",
    "build.rs",
];

/// Modules of Python's standard library that tests and their runners import: a file of that name at the top of a project
/// would be imported instead.
const STANDARD: &str = " abc argparse ast asyncio base64 bisect builtins calendar codecs collections concurrent configparser \
    contextlib copy csv dataclasses datetime decimal difflib doctest email enum errno faulthandler fnmatch fractions \
    functools gc genericpath getopt glob hashlib heapq html http importlib inspect io itertools json keyword linecache \
    locale logging math multiprocessing numbers operator os pathlib pdb pickle pkgutil platform pprint queue random re \
    reprlib runpy sched select selectors shlex shutil signal site socket ssl stat statistics string struct subprocess \
    symtable sys sysconfig tempfile textwrap threading time timeit token tokenize traceback types typing unittest urllib \
    uuid warnings weakref xml zipfile zipimport zlib pytest _pytest pluggy iniconfig ";

/// A folder of the host's that is gone when dropped: `tree` is the copy, `home` and `tmp` are what their names say.
#[derive(Debug)]
pub(in crate::problem) struct Scratch(PathBuf);

impl Scratch {
    pub(in crate::problem) fn new() -> Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let temporary = std::env::temp_dir();
        let temporary = temporary.canonicalize().map_err(|e| Error::io(&temporary, e))?;
        let folder = temporary.join(format!("repairity-tree-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|e| Error::io(&folder, e))?;
        let scratch = Scratch(folder);
        for name in ["tree", "home", "tmp"] {
            let inner = scratch.0.join(name);
            fs::create_dir(&inner).map_err(|e| Error::io(&inner, e))?;
        }
        Ok(scratch)
    }

    pub(in crate::problem) fn path(&self) -> &Path {
        &self.0
    }

    pub(in crate::problem) fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // remove_dir_all does not follow links.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies the files and folders below `from` into the folder `to`. A link is copied only where it leads to something below
/// `from` by a relative path; devices, sockets and FIFOs are left out.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let root = from.canonicalize().map_err(|e| Error::io(from, e))?;
    let (mut bytes, mut entries) = (0, 0);
    let mut open = vec![PathBuf::new()];
    while let Some(inner) = open.pop() {
        let folder = root.join(&inner);
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let entry = entry.map_err(|e| Error::io(&folder, e))?;
            let (path, name) = (entry.path(), inner.join(entry.file_name()));
            if LEFT_OUT.iter().any(|out| entry.file_name() == *out) {
                continue;
            }
            let meta = path.symlink_metadata().map_err(|e| Error::io(&path, e))?;
            (bytes, entries) = (bytes + meta.len(), entries + 1);
            if bytes > BYTES || entries > ENTRIES {
                let what = format!("at most {} MiB in {ENTRIES} files can be copied for a check; there is more", BYTES >> 20);
                return Err(Error::input(from.display(), what));
            }
            let target = to.join(&name);
            if meta.is_dir() {
                fs::create_dir_all(&target).map_err(|e| Error::io(&target, e))?;
                open.push(name);
            } else if meta.is_file() {
                fs::copy(&path, &target).map_err(|e| Error::io(&path, e))?;
            } else if meta.is_symlink() {
                let link = fs::read_link(&path).map_err(|e| Error::io(&path, e))?;
                let inside = path.canonicalize().is_ok_and(|end| end.starts_with(&root));
                if inside && link.is_relative() {
                    std::os::unix::fs::symlink(&link, &target).map_err(|e| Error::io(&target, e))?;
                }
            }
        }
    }
    Ok(())
}

/// Whether a path is relative, without `..`, and outside `.git`.
pub(in crate::problem) fn inside(path: &str) -> bool {
    let parts = || Path::new(path).components();
    let plain = |part: Component| matches!(part, Component::Normal(name) if !name.eq_ignore_ascii_case(".git"));
    !path.is_empty() && !path.contains('\0') && parts().all(plain)
}

/// Whether a file steers a test run, rather than being a program's own code.
pub(in crate::problem) fn is_harness(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let name = path.rsplit('/').next().unwrap_or_default();
    HARNESS.contains(&name) || name.ends_with(".pth") || name.ends_with(".pyc")
}

/// Whether a file would be imported in a standard module's place.
pub(in crate::problem) fn shadows(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    // A `src` folder is put on the path as often as the top is; a module deeper down belongs to a package.
    let top = path.strip_prefix("src/").or(path.strip_prefix("lib/")).unwrap_or(&path);
    let module = top.strip_suffix("/__init__.py").or(top.strip_suffix(".py")).or(top.strip_suffix(".so"));
    module.is_some_and(|module| !module.contains('/') && STANDARD.contains(&format!(" {module} ")))
}

/// Whether a path is a test's, by the habits of the languages.
pub(in crate::problem) fn is_test(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let Some((name, folders)) = parts.split_last() else { return false };
    let stem = name.split('.').next().unwrap_or_default();
    // Python's libraries for testing (`django/test`, `numpy/testing`) are code like any other.
    let python = name.ends_with(".py");
    let habit = |(depth, folder): (usize, &&str)| match *folder {
        "tests" | "__tests__" => true,
        "test" | "testing" | "spec" => !python || depth == 0,
        _ => false,
    };
    folders.iter().enumerate().any(habit)
        || stem == "test"
        || stem == "tests"
        || stem.starts_with("test_")
        || stem.ends_with("_test")
        || stem.ends_with("_tests")
        || name.contains(".test.")
        || name.contains(".spec.")
        || (name.ends_with(".java") && (stem.ends_with("Test") || stem.ends_with("Tests") || stem.ends_with("IT")))
}

/// The files below `root` that are tests by their names, sorted.
pub(in crate::problem) fn tests_below(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    let (mut entries, skipped) = (0, ["node_modules", "target", "site-packages", "vendor", ".venv", "venv"]);
    while let Some(inner) = open.pop() {
        let folder = root.join(&inner);
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, e))? {
            let entry = entry.map_err(|e| Error::io(&folder, e))?;
            let (kind, name) = (entry.file_type().map_err(|e| Error::io(entry.path(), e))?, inner.join(entry.file_name()));
            entries += 1;
            if entries > ENTRIES {
                return Ok(found);
            }
            let out = LEFT_OUT.iter().chain(&skipped).any(|out| entry.file_name() == OsStr::new(out));
            match name.to_str() {
                Some(_) if kind.is_dir() && !out => open.push(name),
                Some(text) if kind.is_file() && (is_test(text) || is_harness(text)) => found.push(text.to_owned()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_run_and_what_tests_are_told_from_code() {
        for path in ["conftest.py", "a/b/conftest.py", "setup.cfg", "x.pth", "a/sitecustomize.py"] {
            assert!(is_harness(path), "{path}");
        }
        for path in ["random.py", "src/json/__init__.py"] {
            assert!(shadows(path) && !is_harness(path), "{path}");
        }
        for path in ["random_walk.py", "package/random.py", "setup.py", "a/b.py", "django/test/utils.py", "a/testing/x.py"] {
            assert!(!is_harness(path) && !is_test(path) && !shadows(path), "{path}");
        }
        for path in ["tests/a.py", "test_a.py", "a/b_test.go", "a/x.test.js", "src/test/java/A.java", "ATest.java", "a/tests.py"]
        {
            assert!(is_test(path), "{path}");
        }
        assert!(inside("a/b.py") && !inside("../a") && !inside("/a") && !inside("a/.git/config") && !inside(""));
    }

    #[test]
    fn a_copy_leaves_history_and_links_that_lead_out() {
        let (from, to) = (tempfile::tempdir().unwrap(), Scratch::new().unwrap());
        let file = |name: &str| {
            let path = from.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        };
        ["a.py", "b/c.py", ".git/config", "b/__pycache__/c.pyc"].into_iter().for_each(file);
        std::os::unix::fs::symlink("/etc/passwd", from.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../a.py", from.path().join("b/in")).unwrap();
        copy(from.path(), &to.tree()).unwrap();
        let is = |name: &str| to.tree().join(name).symlink_metadata().is_ok();
        assert!(is("a.py") && is("b/c.py") && is("b/in"));
        assert!(!is(".git") && !is("b/__pycache__") && !is("out"));
        let folder = to.path().to_owned();
        drop(to);
        assert!(!folder.exists());
    }
}

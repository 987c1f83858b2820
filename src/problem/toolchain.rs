//! The compilers and run times of this machine: what they are called, where they really live, what of the disk they read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A language whose answers are compiled with their tests, or run in one program with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// Java, by `javac` and `java`.
    Java,
    /// C++, by `g++`, `clang++` or `c++`.
    Cpp,
    /// JavaScript, by `node`.
    JavaScript,
    /// Go, by `go`.
    Go,
    /// Rust, by `rustc`, with `cc` as its linker.
    Rust,
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 5] = [Language::Java, Language::Cpp, Language::JavaScript, Language::Go, Language::Rust];

    /// The language that records call `name`; none for Python, which has a form of its own, and for what is not known.
    pub fn named(name: &str) -> Option<Language> {
        Language::ALL.into_iter().find(|language| language.name() == name)
    }

    /// Its name in records and at fences.
    pub fn name(self) -> &'static str {
        match self {
            Language::Java => "java",
            Language::Cpp => "cpp",
            Language::JavaScript => "javascript",
            Language::Go => "go",
            Language::Rust => "rust",
        }
    }
}

/// What a language needs on this machine.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// What reads the source: a compiler, or `node`.
    pub compiler: PathBuf,
    /// What runs the result, where it does not run by itself.
    pub runner: PathBuf,
    /// Files and folders that both read, besides the system's own.
    pub reads: Vec<PathBuf>,
    /// What the compiler says of itself, one line.
    pub version: String,
}

/// The toolchains of this machine, each looked for once, when it is first asked for.
#[derive(Debug, Default)]
pub struct Toolchains([OnceLock<Result<Toolchain, String>>; 5]);

impl Toolchains {
    /// The toolchain of a language, or what lacks.
    pub fn of(&self, language: Language) -> Result<&Toolchain, String> {
        self.0[language as usize].get_or_init(|| find(language)).as_ref().map_err(Clone::clone)
    }
}

/// Looks for a language's toolchain in `JAVA_HOME` and PATH.
pub fn find(language: Language) -> Result<Toolchain, String> {
    let lacks = |programs: &str| format!("no {} toolchain: {programs} is not on PATH", language.name());
    match language {
        Language::Java => {
            let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/javac"));
            let javac = home.into_iter().filter_map(|path| real(&path)).next().or_else(|| on_path("javac"));
            let javac = javac.ok_or_else(|| lacks("`javac`"))?;
            let home = javac.parent().and_then(Path::parent).ok_or_else(|| lacks("`javac` of a JDK"))?;
            let java = real(&home.join("bin/java")).ok_or_else(|| lacks("`java`"))?;
            // A distribution keeps the JDK's settings elsewhere, behind links.
            let mut reads: BTreeSet<PathBuf> = [home.to_owned()].into();
            linked(&home.join("conf"), home, &mut reads);
            linked(&home.join("lib"), home, &mut reads);
            let version = says(&javac, "-version")?;
            Ok(Toolchain { reads: reads.into_iter().collect(), version, compiler: javac, runner: java })
        }
        Language::Cpp => {
            let found = ["g++", "clang++", "c++"].into_iter().find_map(on_path).ok_or_else(|| lacks("`g++`"))?;
            alone(found, "--version")
        }
        Language::JavaScript => alone(on_path("node").ok_or_else(|| lacks("`node`"))?, "--version"),
        Language::Go => {
            let go = on_path("go").ok_or_else(|| lacks("`go`"))?;
            let root = PathBuf::from(asks(&go, &["env", "GOROOT"])?);
            let version = asks(&go, &["version"])?;
            Ok(Toolchain { reads: vec![root, go.clone()], version, compiler: go.clone(), runner: go })
        }
        Language::Rust => {
            // A version manager's `rustc` asks for a home that the sandbox does not show: the real one is under the sysroot.
            let rustc = on_path("rustc").ok_or_else(|| lacks("`rustc`"))?;
            let root = PathBuf::from(asks(Path::new("rustc"), &["--print", "sysroot"])?);
            let rustc = real(&root.join("bin/rustc")).unwrap_or(rustc);
            on_path("cc").ok_or_else(|| lacks("`cc`, which rustc links with,"))?;
            let version = says(&rustc, "--version")?;
            Ok(Toolchain { reads: vec![root, rustc.clone()], version, compiler: rustc.clone(), runner: rustc })
        }
    }
}

fn alone(program: PathBuf, version: &str) -> Result<Toolchain, String> {
    let version = says(&program, version)?;
    Ok(Toolchain { reads: vec![program.clone()], version, compiler: program.clone(), runner: program })
}

fn real(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|path| path.is_file() && path.to_str().is_some())
}

/// The real path of a program on PATH. A compiler finds its parts by its own name, so links that only rename stay unless they
/// lead out of the system's folders.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find_map(|folder| real(&folder.join(name)))
}

fn says(program: &Path, flag: &str) -> Result<String, String> {
    asks(program, &[flag])
}

/// The first line that a program of this machine prints.
fn asks(program: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{}: {e}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    match text.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        line => Err(format!("{} {}: {}", program.display(), args.join(" "), line.unwrap_or("it printed nothing"))),
    }
}

/// Adds the folders outside `home` that links below `folder` lead to.
fn linked(folder: &Path, home: &Path, reads: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(target) = path.canonicalize() else { continue };
        if !target.starts_with(home) {
            let folder = if target.is_dir() { Some(target.as_path()) } else { target.parent() };
            // A folder like / or /etc is never opened by a strange link.
            reads.extend(folder.filter(|folder| folder.components().count() > 2).map(Path::to_owned));
        } else if path.is_dir() && !path.is_symlink() {
            linked(&path, home, reads);
        }
    }
}

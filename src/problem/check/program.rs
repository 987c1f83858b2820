//! Tests that are a program: compiled with the answer, run, and listened to.
//!
//! The answer and its tests are one program, so an answer can end it, print what it likes, and redefine what asserts. That is
//! why no assertion of the tests is left to the language: the host makes each a report with two words drawn for this run
//! (`claim`), and the program passes when every assertion reported the word for "holds", the word for the end came, and the
//! exit code is 0. An early exit, a macro, a patched assertion or a printed "ok" bring no words. Up to three assertions have a
//! twin that compares the same call with another call's value and has to fail: a result that equals everything is found out,
//! as "a test that must fail passed".
//!
//! The compiler works in the sandbox too, in a folder of its own, and sources never lie beside a running answer. What is left
//! to an answer that was written against this very check, is to find the words in its own program's memory.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::claim::{Report, reporting};
use super::source::{Source, rename};
use super::{Checker, Judged, cut, limits};
use crate::error::{Error, Result};
use crate::problem::toolchain::{Language, Toolchain};
use crate::record::{Outcome, Problem};
use crate::sandbox::{Ended, Folder, Limits, Memory, Output, Processes, Program};

/// Wall-clock time for a compiler.
const COMPILING: Duration = Duration::from_secs(60);
/// Resident bytes of a compiler, and of a run time with a heap of its own.
const RESIDENT: Memory = Memory::Resident(2 << 30);
/// Bytes that a compiler may write.
const WRITTEN: u64 = 256 << 20;
/// Flags of every JVM: a small heap, the collector and the compiler that start soonest, no files in the temporary folder.
const JVM: [&str; 5] = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto"];

const CPP: &str = include_str!("program/report.cpp");
const JAVA: &str = include_str!("program/Report.java");
const JAVASCRIPT: &str = include_str!("program/report.js");
const GO: &str = include_str!("program/report.go");
const RUST: &str = include_str!("program/report.rs.txt");
const RAND: &str = include_str!("program/rand.rs.txt");

/// A folder of the host's for one compilation; gone when dropped.
#[derive(Debug)]
pub(super) struct Workshop(PathBuf);

impl Workshop {
    pub(super) fn new() -> Result<Workshop> {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("repairity-build-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|e| Error::io(&folder, e))?;
        Ok(Workshop(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The folder as an argument.
    pub(super) fn text(&self) -> Result<&str> {
        self.0.to_str().ok_or_else(|| Error::input(self.0.display(), "the temporary folder's path is not UTF-8"))
    }

    /// Writes a file and the folders above it.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        let folder = path.parent().unwrap_or(&self.0);
        fs::create_dir_all(folder).and_then(|()| fs::write(&path, text)).map_err(|e| Error::io(&path, e))
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::remove_file(&path).map_err(|e| Error::io(&path, e))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // remove_dir_all does not follow links.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Words that no program can know before it runs: 16 hexadecimal digits of the system's entropy.
pub(super) fn words(count: usize) -> Result<Vec<String>> {
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; 8 * count];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(|e| Error::io(path, e))?;
    let word = |eight: &[u8]| eight.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(bytes.chunks_exact(8).map(word).collect())
}

/// A program with its tests, as files, and what it will report.
struct Built {
    /// The source that goes to the compiler's standard input, for compilers that read it there.
    source: String,
    /// Files for a compiler that reads files.
    files: Vec<(String, String)>,
    /// The word for the end.
    end: String,
    reports: Vec<Report>,
}

impl Checker {
    /// Runs tests that are a program.
    pub(super) fn program(&self, problem: &Problem, answer: &str, entry: &str, helpers: &str) -> Result<Judged> {
        let (language, toolchain) = self.toolchain(problem)?;
        let built = build(problem, language, answer, entry, helpers)?;
        let shop = Workshop::new()?;
        if let Err(judged) = self.compile(language, toolchain, &shop, &built)? {
            return Ok(judged);
        }
        let (heap, folder) = (limits(problem), shop.text()?);
        let wide = Limits { memory: RESIDENT, ..heap };
        let program = shop.path().join("program");
        let java = [JVM.as_slice(), &["-Xss8m", "-cp", folder, "Main"]].concat();
        let reads = [toolchain.reads.as_slice(), &[shop.path().to_owned()]].concat();
        let (executable, args, limits): (&Path, &[&str], Limits) = match language {
            Language::Java => (&toolchain.runner, &java, wide),
            Language::JavaScript => (&toolchain.runner, &["--max-old-space-size=512", "--stack-size=4000", "-"], wide),
            Language::Go => (&program, &[], wide),
            Language::Cpp | Language::Rust => (&program, &[], heap),
        };
        let input = if language == Language::JavaScript { built.source.as_bytes() } else { b"" };
        // node reads OpenSSL's settings at its start and gives up where they cannot be read: it gets empty ones.
        let settings = format!("{folder}/openssl.cnf");
        shop.write("openssl.cnf", "")?;
        let environment = [("OPENSSL_CONF", settings.as_str())];
        let program = Program { reads: &reads, environment: &environment, ..Program::new(executable, args, limits) };
        let output = self.sandbox.run(&program, input)?;
        Ok(judge(&output, &built, limits))
    }

    /// The toolchain of a problem's language.
    pub(super) fn toolchain(&self, problem: &Problem) -> Result<(Language, &Toolchain)> {
        let language = Language::named(&problem.language);
        let language = language.ok_or_else(|| {
            let known = Language::ALL.map(Language::name).join(", ");
            Error::input(&problem.id, format!("language is `{}`; programs of {known} can be checked", problem.language))
        })?;
        Ok((language, self.toolchains.of(language).map_err(Error::Machine)?))
    }

    /// Compiles into the workshop; the verdict where that fails.
    fn compile(
        &self,
        language: Language,
        toolchain: &Toolchain,
        shop: &Workshop,
        built: &Built,
    ) -> Result<std::result::Result<(), Judged>> {
        for (name, text) in &built.files {
            shop.write(name, text)?;
        }
        let go_cache = format!("{}/cache", shop.text()?);
        let go = [("GOCACHE", go_cache.as_str()), ("HOME", shop.text()?), ("GO111MODULE", "off"), ("CGO_ENABLED", "0")];
        let names: Vec<&str> = built.files.iter().map(|(name, _)| name.as_str()).collect();
        let (args, environment): (Vec<&str>, &[(&str, &str)]) = match language {
            Language::JavaScript => return Ok(Ok(())),
            Language::Java => (javac(&names), &[]),
            Language::Cpp => (vec!["-std=c++17", "-w", "-x", "c++", "-o", "program", "-"], &[]),
            Language::Rust => (vec!["--edition=2021", "--cap-lints=allow", "-o", "program", "-"], &[]),
            Language::Go => (vec!["build", "-o", "program", "main.go"], &go),
        };
        let compiled = self.run_compiler(toolchain, &args, environment, shop, built.source.as_bytes())?;
        for name in names {
            shop.remove(name)?;
        }
        Ok(compiled)
    }

    /// Runs a compiler in the workshop; the verdict where it finds fault.
    pub(super) fn run_compiler(
        &self,
        toolchain: &Toolchain,
        args: &[&str],
        environment: &[(&str, &str)],
        shop: &Workshop,
        input: &[u8],
    ) -> Result<std::result::Result<(), Judged>> {
        let limits = Limits { wall: COMPILING, memory: RESIDENT, disk: WRITTEN, output: 1 << 20 };
        let program = Program {
            reads: &toolchain.reads,
            environment,
            folder: Folder::Kept(shop.path()),
            processes: Processes::Tree(64),
            ..Program::new(&toolchain.compiler, args, limits)
        };
        let output = self.sandbox.run(&program, input)?;
        if output.ended == Ended::Exit(0) && !output.timed_out {
            return Ok(Ok(()));
        }
        let said = [output.stderr.as_slice(), &output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().find(|line| line.contains("error")).or_else(|| said.lines().find(|line| !line.trim().is_empty()));
        let why = match line {
            _ if output.timed_out => format!("the compiler was not done after {} s", COMPILING.as_secs()),
            _ if output.over_memory => "the compiler took more memory than it may".into(),
            Some(line) => line.replace(&format!("{}/", shop.text()?), ""),
            None => format!("the compiler ended with {:?}", output.ended),
        };
        Ok(Err((Outcome::Error, format!("does not compile: {why}"))))
    }
}

/// Arguments of `javac`: no annotation processor, which would run code, and warnings kept to itself.
pub(super) fn javac<'a>(files: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["-J-Xmx512m", "-J-XX:+UseSerialGC", "-J-XX:TieredStopAtLevel=1", "-J-XX:-UsePerfData"];
    args.extend(["-proc:none", "-nowarn", "-implicit:none", "-encoding", "UTF-8", "-cp", ".", "-d", "."]);
    args.extend(files);
    args
}

/// What a JVM is started with.
pub(super) fn jvm(args: &[&'static str]) -> Vec<&'static str> {
    [JVM.as_slice(), args].concat()
}

/// The limits of a run time with a heap of its own.
pub(super) fn wide(limits: Limits) -> Limits {
    Limits { memory: RESIDENT, ..limits }
}

/// Puts answer and tests together.
fn build(problem: &Problem, language: Language, answer: &str, entry: &str, helpers: &str) -> Result<Built> {
    let tests = problem.check.tests.join("\n");
    let claims = tests.len() / 4 + 8;
    let mut words = words(claims.min(40_000))?.into_iter();
    let mut word = || words.next().unwrap_or_default();
    let (name, end) = (format!("r{}", word()), word());

    // What the problem gave for the tests to use gets a name that the answer does not have.
    let (mut helpers, mut tests) = (helpers.to_owned(), tests);
    for function in Source::new(&helpers, language).functions() {
        let own = format!("{function}{}", &name[1..]);
        helpers = rename(&helpers, &function, &own);
        tests = match language {
            Language::Java => rename(&tests, &format!("s.{function}"), &format!("new Given{name}().{own}")),
            _ => rename(&tests, &function, &own),
        };
    }
    let (tests, reports) = reporting(&tests, (language, entry, &problem.id), &name, &mut word);
    if reports.is_empty() {
        return Err(Error::input(&problem.id, "its tests hold no assertion"));
    }
    let own = |text: &str| text.replace("NAME", &name).replace("END", &end);
    let prelude = &problem.check.prelude;
    let mut files = Vec::new();
    let source = match language {
        Language::Cpp => {
            // The harness cuts a `main` of the answer off.
            let answer = answer.split("int main").next().unwrap_or_default();
            let tests = tests.replace("#undef NDEBUG", "").replace("#include<assert.h>", "");
            let tests = before_last_brace(&tests, &own("NAMEEnd();"));
            format!("{}{prelude}{answer}\n#undef main\n{helpers}\n{tests}\n", own(CPP))
        }
        Language::JavaScript => {
            format!("{}{prelude}{answer}\n{{\n{helpers}\n{tests}\n{}}}\n", own(JAVASCRIPT), own("NAMEEnd();\n"))
        }
        Language::Java => {
            let answer = answer.replace("public class Main {\n    }", "");
            let given = format!("class Given{name} {{\n{helpers}\n}}\n");
            let main = match tests.find("void main(").and_then(|at| Some(at + tests[at..].find('{')?)) {
                Some(open) => {
                    let close = Source::new(&tests, language).close(open).unwrap_or(tests.len());
                    format!("{}{}{}", &tests[..close], own("NAME.end();"), &tests[close..])
                }
                None => tests,
            };
            files.push(("Solution.java".to_owned(), format!("{prelude}{answer}")));
            files.push(("Main.java".to_owned(), format!("{}\n{main}\n{given}", problem.check.setup)));
            files.push((format!("{name}.java"), own(JAVA)));
            String::new()
        }
        Language::Go => {
            let imports = imports(&problem.check.setup, answer, &tests);
            let tests = tests.replace("assert := assert.New(t)", "");
            let test = tests.find("func Test").map(|at| &tests[at + 5..]).unwrap_or_default();
            let test = test.split('(').next().unwrap_or_default();
            let main = format!("func main() {{\n{test}(&testing.T{{}})\n{}\n}}\n", own("NAMEEnd()"));
            let text = format!("{imports}{}\n{}\n{helpers}\n{tests}\n{main}", own(GO), without_imports(answer));
            files.push(("main.go".to_owned(), text));
            String::new()
        }
        Language::Rust => {
            let tests = tests.replace("#[cfg(test)]", "").replace("#[test]", "pub");
            // `pub fn` where the tests already say so would be two.
            let tests = tests.replace("pub pub", "pub");
            let functions = Source::new(&tests, language).text.match_indices("fn test_").map(|(at, _)| &tests[at + 3..]);
            let calls: Vec<String> = functions
                .map(|rest| format!("crate::tests::{}();", rest.split(['(', ' ', '<']).next().unwrap_or_default()))
                .collect();
            let (answer, stand_in) = crates(answer, &tests);
            format!("#![no_main]\n{answer}\n{stand_in}\n{}\n{tests}\n", own(RUST).replace("TESTS", &calls.join("\n    ")))
                .replacen("mod tests {", &format!("mod tests {{\n{helpers}\n"), 1)
        }
    };
    Ok(Built { source, files, end, reports })
}

/// Crates that the published Rust declarations name whether they use them or not, and a bare compiler lacks: unused ones go;
/// what the tests use of `rand` has a stand-in.
fn crates<'a>(answer: &str, tests: &str) -> (String, &'a str) {
    let uses = |name: &str| tests.contains(name) || answer.matches(name).count() > answer.matches(&format!("use {name}")).count();
    let random = uses("rand::");
    let mut lines: Vec<&str> = answer.lines().collect();
    lines.retain(|line| match line.trim() {
        "use rand::Rng;" => random,
        "use regex::Regex;" => lines_use(answer, "Regex::"),
        "use md5;" => lines_use(answer, "md5::"),
        _ => true,
    });
    (lines.join("\n"), if random { RAND } else { "" })
}

fn lines_use(text: &str, what: &str) -> bool {
    text.lines().any(|line| line.contains(what) && !line.trim_start().starts_with("use "))
}

/// What Go's tests may need without naming it: the harness adds these where they are used.
const PACKAGES: [&str; 10] = ["math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5"];

fn without_imports(answer: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in answer.lines() {
        let text = line.trim();
        inside |= text.starts_with("import (") || text.starts_with("import(");
        if !inside && !text.starts_with("import ") && text != "package main" {
            out += line;
            out.push('\n');
        }
        inside &= !text.ends_with(')');
    }
    out
}

/// Go's head: what answer and tests import, and what they use of the harness's list, each once.
fn imports(setup: &str, answer: &str, tests: &str) -> String {
    let body = format!("{}\n{tests}", without_imports(answer));
    let code: String = body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let used = |path: &str| code.contains(&format!("{}.", path.rsplit('/').next().unwrap_or(path)));
    let named = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.trim_end().ends_with(['"', ')']) && line.contains('"'));
        let paths = lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned);
        paths.collect()
    };
    let head = answer.split("func ").next().unwrap_or_default();
    let mut paths: Vec<String> = named(head);
    paths.extend(named(setup).into_iter().filter(|path| path != "testing" && !path.contains("testify") && used(path)));
    paths.extend(PACKAGES.iter().filter(|path| used(path)).map(|path| (*path).to_owned()));
    paths.sort();
    paths.dedup();
    // `rand` means `math/rand` and `md5` means `crypto/md5`.
    let own = "import (\n\"testing\"\nr_os \"os\"\nr_reflect \"reflect\"\n";
    format!("package main\n{own}{})\n", paths.iter().map(|path| format!("{path:?}\n")).collect::<String>())
}

fn before_last_brace(text: &str, insert: &str) -> String {
    let at = text.rfind('}').unwrap_or(text.len());
    format!("{}{insert}{}", &text[..at], &text[at..])
}

/// What the reports come to.
fn judge(output: &Output, built: &Built, limits: Limits) -> Judged {
    let said = String::from_utf8_lossy(&output.stdout);
    let total = built.reports.iter().filter(|report| !report.twin).count();
    let place = |wanted: &Report| {
        let before =
            built.reports.iter().take_while(|report| !std::ptr::eq(*report, wanted)).filter(|report| !report.twin).count();
        format!("test {} of {total}: {}", (before + 1).min(total), cut(&wanted.text, 120))
    };
    let mut heard = vec![false; built.reports.len()];
    let mut ended = false;
    for line in said.lines() {
        ended |= line == built.end;
        for (report, heard) in built.reports.iter().zip(&mut heard) {
            if line == report.holds && report.twin {
                return (Outcome::Fail, format!("a test that must fail passed: {}", cut(&report.text, 120)));
            }
            if line == report.fails && !report.twin {
                return (Outcome::Fail, format!("{}: does not hold", place(report)));
            }
            *heard |= line == report.holds || line == report.fails;
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().find(|line| ["rror", "xception", "panicked", "terminate"].iter().any(|word| line.contains(word)));
    let first = first.or_else(|| errors.lines().find(|line| !line.trim().is_empty())).map(str::trim).unwrap_or_default();
    let at = match built.reports.iter().zip(&heard).find(|(report, heard)| !report.twin && !**heard) {
        Some((report, _)) => place(report),
        None => "after the tests".into(),
    };
    let exhausted = ["OutOfMemoryError", "heap out of memory", "std::bad_alloc", "memory allocation of", "out of memory"];
    match output.ended {
        _ if output.timed_out => (Outcome::Timeout, format!("{at}: not done after {} s", limits.wall.as_secs_f64())),
        _ if output.over_memory => (Outcome::Memory, format!("{at}: it took more memory than it may")),
        _ if output.flooded => (Outcome::Fail, format!("{at}: it wrote more than it may")),
        Ended::Exit(0) if ended && heard.iter().all(|heard| *heard) => (Outcome::Pass, String::new()),
        _ if exhausted.iter().any(|words| errors.contains(words)) => (Outcome::Memory, format!("{at}: {first}")),
        Ended::Exit(0) => (Outcome::Fail, format!("{at}: the program ended before, with exit code 0")),
        Ended::Exit(code) if first.is_empty() => (Outcome::Fail, format!("{at}: the program ended with exit code {code}")),
        Ended::Exit(_) => (Outcome::Fail, format!("{at}: {first}")),
        Ended::Signal(signal) => (Outcome::Error, format!("{at}: the program crashed with signal {signal}; {first}")),
        Ended::Killed => (Outcome::Timeout, format!("{at}: not done after {} s", limits.wall.as_secs_f64())),
    }
}

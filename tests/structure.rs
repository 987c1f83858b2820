//! The house's own rules: who may use whom, how long a file may be, and that what lies beside the code still fits it.

#[path = "../build/declarations.rs"]
#[allow(dead_code, reason = "which builds a kernel has is the build scripts' to ask")]
mod declarations;

use std::fs;
use std::path::{Path, PathBuf};

use repairity::recipe::Recipe;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root().join("src"), "rs", &mut found);
    found
}

/// The modules of lib.rs, in order.
fn order() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(Into::into)).collect()
}

/// The source with its comments blanked, lines kept. (A `//` inside a string ends the line here too: no path follows one.)
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("").to_string() + "\n").collect()
}

/// The modules that follow `crate::` in `code`, with their lines: of `crate::{a::{b, c}, d}` a and d.
fn uses(code: &str) -> Vec<(usize, String)> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `crate::` both count, `other_crate::` does not.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = |at: usize| 1 + code[..at].matches('\n').count();
        let start = at + "crate::".len();
        let rest = &code[start..];
        if !rest.starts_with('{') {
            found.push((line(at), name(rest)));
            continue;
        }
        let (mut depth, mut fresh) = (0, false);
        for (offset, c) in rest.char_indices() {
            match c {
                '{' => {
                    depth += 1;
                    fresh = depth == 1;
                }
                '}' => depth -= 1,
                ',' => fresh = depth == 1,
                c if c.is_whitespace() => {}
                _ if fresh => {
                    found.push((line(start + offset), name(&rest[offset..])));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn uses_are_found_in_every_form() {
    let code = code(
        "use crate::a::B;\n// crate::no\nuse crate::{\n    c::{D, e::{F}},\n    g,\n};\nfn f(x: crate::h::I) { my_crate::j() }\n",
    );
    let found: Vec<(usize, String)> = uses(&code);
    let expected = [(1, "a"), (4, "c"), (5, "g"), (7, "h")].map(|(line, name)| (line, name.to_string()));
    assert_eq!(found, expected);
}

#[test]
fn a_module_uses_only_what_is_declared_above_it() {
    let order = order();
    assert!(order.len() > 10, "lib.rs declares its modules as `pub mod name;`");
    let rank = |name: &str| order.iter().position(|module| module == name);
    let mut wrong = Vec::new();
    for path in sources() {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.strip_suffix(".rs").unwrap_or(first);
        let Some(own) = rank(module) else {
            assert!(["lib", "main", "cli"].contains(&module), "{}: lib.rs does not declare `{module}`", path.display());
            continue;
        };
        for (line, used) in uses(&code(&fs::read_to_string(&path).unwrap())) {
            if rank(&used).is_some_and(|other| other > own) {
                wrong.push(format!("{}:{line}: `{module}` uses `{used}`, which is declared below it", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_700_lines() {
    for path in sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 700, "{}: {lines} lines; split it by concern", path.display());
    }
}

#[test]
fn every_source_says_what_it_is() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{}: does not open with a `//!` line", path.display());
    }
}

/// The text of every file below a folder.
fn text_of(folder: &str, extension: &str) -> String {
    let mut found = Vec::new();
    files(&root().join(folder), extension, &mut found);
    found.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Every kernel of kernels/, as (file, kernel).
fn kernels() -> Vec<(PathBuf, declarations::Kernel)> {
    let mut found = Vec::new();
    files(&root().join("kernels"), "cu", &mut found);
    let parse = |path: PathBuf| {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_string();
        let kernels = declarations::parse(&stem, &fs::read_to_string(&path).unwrap()).unwrap();
        kernels.into_iter().map(move |kernel| (path.clone(), kernel))
    };
    found.into_iter().flat_map(parse).collect()
}

#[test]
fn every_kernel_has_a_launcher_a_test_and_a_benchmark() {
    let (launchers, tests) = (text_of("src/device/cuda", "rs"), text_of("tests/kernels", "rs"));
    let benchmarks = fs::read_to_string(root().join("src/bench/kernels.rs")).unwrap();
    let called = |name: &str| {
        let whole = |at: usize| !launchers[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let path = format!("kernel::{name}");
        launchers.match_indices(&path).any(|(at, _)| whole(at + path.len()))
    };
    let kernels = kernels();
    assert!(kernels.len() > 40, "{} kernels", kernels.len());
    for (path, kernel) in &kernels {
        let (name, quoted) = (&kernel.name, format!("\"{}\"", kernel.name));
        assert!(called(name), "{}: src/device/cuda launches no {name}", path.display());
        assert!(tests.contains(&quoted), "{}: tests/kernels names no {name}", path.display());
        assert!(benchmarks.contains(&quoted), "{}: src/bench/kernels.rs names no {name}", path.display());
    }
    let mut names: Vec<&str> = kernels.iter().map(|(_, kernel)| kernel.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a kernel's name is its symbol: {names:?}");
}

#[test]
fn every_kernel_file_opens_with_what_it_is_and_each_kernel_says_its_grid() {
    for extension in ["cu", "cuh", "h"] {
        let mut found = Vec::new();
        files(&root().join("kernels"), extension, &mut found);
        for path in found {
            assert!(fs::read_to_string(&path).unwrap().starts_with("// "), "{}: no comment at its head", path.display());
        }
    }
    for (path, kernel) in kernels() {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.starts_with(&format!("{}(", kernel.name))).unwrap();
        let above = lines[..at - 1].iter().rev().take_while(|line| line.starts_with("// "));
        assert!(
            above.into_iter().any(|line| line.starts_with("// Grid: ")),
            "{}: {} has no `// Grid:`",
            path.display(),
            kernel.name
        );
    }
}

#[test]
fn a_declaration_of_another_form_is_an_error_that_names_it() {
    let good = "// Grid: x = t\nextern \"C\" __global__ void __launch_bounds__(ROPE_THREADS)\nf(act* out, const float * x, unsigned long long key) {}";
    let kernels = declarations::parse("rope", good).unwrap();
    let params: Vec<(&str, &str)> = kernels[0].params.iter().map(|p| (p.ty.as_str(), p.name.as_str())).collect();
    assert_eq!((kernels[0].name.as_str(), kernels[0].threads.as_str()), ("f", "ROPE_THREADS"));
    assert_eq!(params, [("act*", "out"), ("const float*", "x"), ("unsigned long long", "key")]);
    for (bad, what) in [
        ("__global__ void f(int x) {}", "has to be declared as"),
        ("extern \"C\" __global__ void __launch_bounds__(256 2) f(int x) {}", "256 2"),
        ("extern \"C\" __global__ void __launch_bounds__(N) f(int) {}", "`int` is not a type and a name"),
    ] {
        let error = declarations::parse("rope", bad).unwrap_err();
        assert!(error.starts_with("kernels/rope.cu: ") && error.contains(what), "{error}");
    }
    let text = "#pragma once\n#define A 3\n#define B A * 2  // twice\n#define F(x) x\n";
    let constants = declarations::constants(text);
    assert_eq!(constants, [("A", "3"), ("B", "A * 2")].map(|(name, value)| (name.to_string(), value.to_string())));
}

fn recipes() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root().join("recipes"), "toml", &mut found);
    found
}

#[test]
fn every_recipe_is_valid_and_says_what_it_is_for() {
    let found = recipes();
    assert!(found.len() >= 7, "{found:?}");
    for path in found {
        Recipe::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
        assert!(fs::read_to_string(&path).unwrap().starts_with("# "), "{}: no comment at its head", path.display());
    }
}

/// The two readings of the paper, key by key (sections 3.6 and 3.3.2).
#[test]
fn the_paper_s_recipes_hold_the_paper_s_numbers() {
    let load = |name: &str| Recipe::load(&root().join("recipes").join(name), &[]).unwrap();
    let (a, b) = (load("paper-8xh100.toml"), load("paper-section-3.3.toml"));
    let sft = |r: &Recipe| (r.sft.learning_rate, r.sft.sequences_per_device, r.sft.accumulation, r.sft.max_tokens, r.sft.epochs);
    assert_eq!(sft(&a), (1e-5, 1, 8, 2048, 3));
    assert_eq!(sft(&b), (5e-6, 4, 8, 4096, 3));
    for r in [&a, &b] {
        assert_eq!((r.lora.rank, r.lora.alpha, r.lora.dropout, r.gpus), (4, 16.0, 0.05, 8));
        assert_eq!((r.problems.split, r.filter.cap, r.sft.weight_decay), ([0.70, 0.15, 0.15], 0.20, 0.01));
        assert_eq!((r.candidates.per_problem, r.candidates.temperatures.as_slice()), (3, &[0.7, 0.8, 0.9][..]));
        assert_eq!((r.reward.epochs, r.reward.learning_rate), (3, 5e-5));
        assert_eq!((r.reward.sequences_per_device, r.reward.accumulation), (4, 4));
        assert_eq!((r.ppo.epochs, r.ppo.clip, r.ppo.kl, r.ppo.temperature, r.ppo.max_new_tokens), (5, 0.2, 0.1, 1.0, 732));
        assert_eq!(r.evaluate.temperature, 0.2);
    }
    // Nothing else differs but what four times the sequences take: room.
    assert_eq!(Recipe { sft: b.sft.clone(), out: b.out.clone(), shard_frozen: true, ..a }, b);
}

#[test]
fn the_readme_opens_with_commands_that_work_here() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```").nth(1).expect("a block of code");
    let commands: Vec<&str> = block.lines().skip(1).filter(|line| !line.is_empty()).collect();
    assert_eq!(commands, ["cargo run --release -- run recipes/quickstart.toml", "cargo test --release"]);
}

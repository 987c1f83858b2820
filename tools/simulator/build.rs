//! Compiles every kernel for the host, once for each build, with a function a kernel that unpacks arguments as cuLaunchKernel does,
//! and writes the table that finds them by name.

#[path = "../../build/declarations.rs"]
#[allow(dead_code, reason = "launch constants are the program's build script's to read")]
mod declarations;
mod plants;

use plants::{PLANTS, Plant};
use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// The two builds of every kernel: as the table names them, as symbols do, and the type of activations.
const BUILDS: [(&str, &str, &str); 2] = [("Bf16", "bf16", "__nv_bfloat16"), ("F32", "f32", "float")];

/// One source file in one build: what is compiled and what it defines.
struct Unit {
    object: PathBuf,
    source: PathBuf,
}

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let kernels = here.join("../../kernels").canonicalize().expect("the repository's kernels/");
    for path in ["../../kernels", "../../build/declarations.rs", "build.rs", "host", "plants.rs", "probes"] {
        println!("cargo::rerun-if-changed={}", here.join(path).display());
    }

    // Set, the kernels count which of their lines run; tools/kernel-coverage sets it and reads the counts.
    println!("cargo::rerun-if-env-changed=REPAIRITY_COVERAGE");
    let counts = env::var("REPAIRITY_COVERAGE").is_ok_and(|value| value == "1");
    // Set, every access to memory is counted; tools/kernel-traffic sets it.
    println!("cargo::rerun-if-env-changed=REPAIRITY_TRAFFIC");
    println!("cargo::rustc-check-cfg=cfg(traffic)");
    let traffic = env::var("REPAIRITY_TRAFFIC").is_ok_and(|value| value == "1");
    if traffic {
        println!("cargo::rustc-cfg=traffic");
    }
    let objects = out.join(match (counts, traffic) {
        (true, _) => "coverage",
        (_, true) => "traffic",
        _ => "objects",
    });
    fs::create_dir_all(&objects).expect("OUT_DIR can be written");

    let (mut units, mut table) = (Vec::new(), Table::default());
    for (folder, path) in [("kernels", kernels.clone()), ("probes", here.join("probes"))] {
        for file in sources(&path) {
            // Probes look at the machine, not at a type of activations.
            let stem = file.file_stem().and_then(OsStr::to_str).expect("a name of ASCII");
            let builds = if folder == "kernels" && !declarations::only_bf16(stem) { &BUILDS[..] } else { &BUILDS[..1] };
            for build in builds {
                units.push(unit(&objects, &file, folder, "", build, &mut table));
            }
        }
    }
    for plant in PLANTS {
        let Some(file) = planted(plant, &kernels, &out.join("plants").join(plant.name)) else {
            println!("cargo::warning=plants.rs, {}: its text is not in kernels/{} any more", plant.name, plant.file);
            continue;
        };
        let stem = file.file_stem().and_then(OsStr::to_str).expect("a name of ASCII");
        let build = if declarations::only_bf16(stem) { &BUILDS[0] } else { &BUILDS[1] };
        units.push(unit(&objects, &file, "plants", plant.name, build, &mut table));
    }
    fs::write(out.join("table.rs"), table.text()).expect("OUT_DIR can be written");

    let runtime = here.join("host/runtime.cpp");
    units.push(Unit { object: objects.join("runtime.o"), source: runtime });
    compile(&units, &[&here.join("host"), &kernels], counts, traffic);
    let mut archive = cc::Build::new();
    units.iter().for_each(|unit| {
        archive.object(&unit.object);
    });
    archive.cargo_warnings(false).compile("simulator_kernels");
    println!("cargo::rustc-link-lib=stdc++");
}

/// The `.cu` files of a folder by name; none where the folder is not there.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension() == Some(OsStr::new("cu")));
    files.sort();
    files
}

/// Makes the copies that a planted fault needs, in a folder of their own: its kernels' file and every header, so that includes stay
/// among them. Returns the kernels' file; None: what was to be replaced is not there any more, and tests/plants.rs will miss the copy.
fn planted(plant: &Plant, kernels: &Path, folder: &Path) -> Option<PathBuf> {
    fs::create_dir_all(folder).expect("OUT_DIR can be written");
    let mut found = false;
    for entry in fs::read_dir(kernels).expect("the repository's kernels/").flatten() {
        let name = entry.file_name().into_string().expect("a name of ASCII");
        if name != plant.kernels && name.ends_with(".cu") {
            continue;
        }
        let mut text = fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
        if name == plant.file {
            found = text.contains(plant.text);
            text = text.replace(plant.text, plant.planted);
        }
        update(&folder.join(name), &text);
    }
    found.then(|| folder.join(plant.kernels))
}

/// Writes a file unless it holds the text already: what reads it would be compiled again.
fn update(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text).expect("OUT_DIR can be written");
    }
}

/// Writes the C++ file that holds one source in one build, and its kernels into the table; those of a plant under its name.
fn unit(out: &Path, file: &Path, folder: &str, plant: &str, (build, tag, act): &(&str, &str, &str), table: &mut Table) -> Unit {
    let stem = file.file_stem().and_then(OsStr::to_str).expect("a name of ASCII");
    let (prefix, shown) = (if plant.is_empty() { String::new() } else { format!("{plant}/") }, format!("{folder}/{stem}.cu"));
    let unique = format!("{tag}_{plant}_{stem}");
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let kernels = declarations::parse(stem, &text).unwrap_or_else(|what| panic!("{what}"));
    // Everything of the system goes in first: the kernel's file is included inside a namespace, so that functions of the same name in
    // two builds stay two functions.
    let mut cpp = format!(
        "#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n#define ACT {act}\nnamespace {{\n#include \"{}\"\n}}\n",
        file.display()
    );
    for kernel in kernels {
        let symbol = format!("simulator_{unique}_{}", kernel.name);
        let args = kernel.params.iter().enumerate().map(|(i, param)| format!("*(std::remove_const_t<{}>*)args[{i}]", param.ty));
        let (name, threads, args) = (&kernel.name, &kernel.threads, args.collect::<Vec<_>>().join(", "));
        // Without arguments it tells the bound on the block's threads.
        writeln!(cpp, "extern \"C\" unsigned {symbol}(void** args) {{ if (args) {name}({args}); return {threads}; }}")
            .expect("a string");
        let params = kernel.params.iter().map(|param| (param.name.as_str(), param.ty.ends_with('*')));
        table.add(&format!("{prefix}{name}"), &shown, build, &symbol, params);
    }
    let source = out.join(format!("{unique}.cpp"));
    update(&source, &cpp);
    Unit { object: source.with_extension("o"), source }
}

/// The Rust table of kernels, as text.
#[derive(Default)]
struct Table {
    entries: String,
    symbols: String,
}

impl Table {
    fn add<'a>(&mut self, name: &str, file: &str, build: &str, symbol: &str, params: impl Iterator<Item = (&'a str, bool)>) {
        let params: Vec<_> = params.map(|(name, pointer)| format!("({name:?}, {pointer})")).collect();
        let params = params.join(", ");
        writeln!(self.symbols, "    fn {symbol}(args: *mut *mut c_void) -> u32;").expect("a string");
        let entry = format!("name: {name:?}, file: {file:?}, build: Build::{build}, params: &[{params}], entry: {symbol}");
        writeln!(self.entries, "    Entry {{ {entry} }},").expect("a string");
    }

    fn text(&self) -> String {
        let Table { entries, symbols } = self;
        format!("unsafe extern \"C\" {{\n{symbols}}}\n\npub(crate) static ENTRIES: &[Entry] = &[\n{entries}];\n")
    }
}

/// Brings the objects up to date, as many at a time as cargo allows. cc itself would compile all of them whenever one changed.
fn compile(units: &[Unit], includes: &[&Path], counts: bool, traffic: bool) {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(if counts { 0 } else { 2 }).debug(false).warnings(false).pic(true);
    for flag in [
        "-DSIMULATOR",
        "-g1", // lines of faults
        // A product and a sum are contracted nowhere: what the compiler would fuse depends on the machine and on how a loop was laid
        // out, and results have to be the same bits everywhere. Where a kernel means one rounding it says fmaf.
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-strict-aliasing",
        // A load that is not aligned to its size is an error on the device and none on the host: have it trap.
        "-fsanitize=alignment",
        "-fsanitize-undefined-trap-on-error",
        "-MMD",
    ] {
        build.flag(flag);
    }
    // Rounded alike with and without, but fmaf is one instruction instead of a call.
    #[cfg(target_arch = "x86_64")]
    if env::var("HOST") == env::var("TARGET")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("avx2")
    {
        build.flag("-mavx2").flag("-mfma").flag("-mf16c");
    }
    if traffic {
        // Only accesses of up to 16 bytes are told, and only one by one.
        build.flag("-fsanitize=thread").flag("-fno-tree-vectorize").flag("-mno-avx");
    }
    if counts {
        // Tests run in several threads.
        build.flag("--coverage").flag("-fprofile-update=prefer-atomic");
        println!("cargo::rustc-link-lib=gcov");
    }
    includes.iter().for_each(|path| {
        build.include(path);
    });
    let compiler = build.get_compiler();

    let stale: Vec<_> = units.iter().filter(|unit| !fresh(&unit.object)).collect();
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).clamp(1, stale.len().max(1));
    thread::scope(|scope| {
        for first in 0..jobs {
            let (compiler, stale) = (&compiler, &stale);
            scope.spawn(move || {
                for unit in stale.iter().skip(first).step_by(jobs) {
                    let mut command = compiler.to_command();
                    run(command.arg("-c").arg(&unit.source).arg("-o").arg(&unit.object));
                }
            });
        }
    });
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Whether an object is newer than everything its compilation read, by the list that the compiler left beside it.
fn fresh(object: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let (Some(made), Ok(list)) = (modified(object), fs::read_to_string(object.with_extension("d"))) else { return false };
    let build_script = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("build.rs");
    let read =
        list.split_once(':').map_or("", |(_, files)| files).split_whitespace().filter(|word| *word != "\\").map(PathBuf::from);
    read.chain([build_script]).all(|path| modified(&path).is_some_and(|time| time < made))
}

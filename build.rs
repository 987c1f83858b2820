//! Compiles kernels/*.cu to cubins and writes `bindings.rs` for src/device/cuda/kernel.rs: the constants of geometry.h, one typed
//! launcher per kernel, and the images. A machine without nvcc gets the same launchers and no images: a program for the CPU.

#[path = "build/declarations.rs"]
mod declarations;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use declarations::{Kernel, Param};

/// What kernels are compiled for, by default: Hopper with its own instructions.
const ARCHITECTURE: &str = "sm_90a";

/// The two builds of every kernel: the tag, and the type of activations.
const BUILDS: [(&str, &str); 2] = [("bf16", "__nv_bfloat16"), ("f32", "float")];

fn main() {
    for path in ["kernels", "build", "build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    // Cargo takes a watched path that is missing as changed, always; tools/install-nvcc touches build/ when it brings this one.
    if Path::new(nvcc::INSTALLED).exists() {
        println!("cargo:rerun-if-changed={}", nvcc::INSTALLED);
    }
    for variable in ["NVCC", "CUDA_HOME", "REPAIRITY_CUDA_ARCH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Err(what) = run() {
        println!("cargo:error={what}");
        process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let sources = sources()?;
    let mut bindings = String::new();
    for (name, value) in declarations::constants(&read(Path::new("kernels/geometry.h"))?) {
        line(&mut bindings, &format!("/// `{name}` of kernels/geometry.h.\npub const {name}: u32 = {value};"));
    }
    let mut table = String::new();
    for source in &sources {
        let stem = stem(source);
        for kernel in declarations::parse(&stem, &read(source)?)? {
            let index = table.lines().count();
            let builds: Vec<&str> = builds(&stem).map(|(tag, _)| tag).collect();
            let bytes = kernel.params.iter().map(|param| bytes(&param.ty)).collect::<Vec<_>>();
            let Kernel { name, threads, .. } = &kernel;
            let row = format!(
                "    Kernel {{ name: {name:?}, file: {stem:?}, threads: {threads}, builds: &{builds:?}, parameters: &{bytes:?} }},"
            );
            line(&mut table, &row);
            line(&mut bindings, &launcher(&stem, &kernel, index)?);
        }
    }
    line(
        &mut bindings,
        &format!("/// Every kernel, in the order of the files' names.\npub const KERNELS: &[Kernel] = &[\n{table}];"),
    );

    let architectures = env::var("REPAIRITY_CUDA_ARCH").unwrap_or(ARCHITECTURE.into());
    let (mut images, mut compiler) = (String::new(), None);
    match nvcc::find()? {
        None => {
            println!(
                "cargo:warning=no nvcc: this program will run on the CPU only (tools/install-nvcc brings one, then build again)"
            );
        }
        Some(nvcc) => {
            let mut jobs = Vec::new();
            for architecture in architectures.split(',').map(str::trim) {
                for source in &sources {
                    for (tag, act) in builds(&stem(source)) {
                        let cubin = out.join(format!("{}-{tag}-{architecture}.cubin", stem(source)));
                        let (file, path) = (stem(source), cubin.display().to_string());
                        let image = format!(
                            "    Image {{ file: {file:?}, build: {tag:?}, architecture: {architecture:?}, cubin: include_bytes!({path:?}) }},"
                        );
                        line(&mut images, &image);
                        jobs.push(nvcc::Job { source: source.clone(), act, architecture: architecture.to_string(), cubin });
                    }
                }
            }
            nvcc::compile(&nvcc, &jobs)?;
            compiler = Some(nvcc::version(&nvcc)?);
        }
    }
    line(
        &mut bindings,
        &format!("/// Every cubin; none in a program that was built without nvcc.\npub const IMAGES: &[Image] = &[\n{images}];"),
    );
    line(&mut bindings, &format!("/// What compiled them: `13.0.88`.\npub const COMPILER: Option<&str> = {compiler:?};"));
    fs::write(out.join("bindings.rs"), bindings).map_err(|e| format!("{}: {e}", out.display()))
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes everything");
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The builds that kernels/`stem`.cu has.
fn builds(stem: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    BUILDS.into_iter().take(if declarations::only_bf16(stem) { 1 } else { BUILDS.len() })
}

/// kernels/*.cu, sorted.
fn sources() -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir("kernels").map_err(|e| format!("kernels: {e}"))?;
    let mut sources: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    Ok(sources)
}

/// What a parameter of a kernel is in Rust: its type, the generics that type needs, and how its bits are passed.
struct Argument {
    generics: String,
    ty: String,
    value: String,
}

fn argument(kernel: &str, param: &Param, index: usize) -> Result<Argument, String> {
    let name = &param.name;
    let scalar = |ty: &str| Argument { generics: String::new(), ty: ty.into(), value: name.clone() };
    let Some(pointee) = param.ty.strip_suffix('*') else {
        let ty = match param.ty.as_str() {
            "int" => "i32",
            "unsigned" => "u32",
            "long long" => "i64",
            "unsigned long long" => "u64",
            "float" => "f32",
            "double" => "f64",
            "const __grid_constant__ CUtensorMap" => {
                return Ok(Argument {
                    generics: String::new(),
                    ty: "&super::driver::TensorMap".into(),
                    value: format!("*{name}"),
                });
            }
            "const __grid_constant__ LoraMap" => {
                return Ok(Argument { generics: String::new(), ty: "&LoraMap".into(), value: format!("*{name}") });
            }
            other => return Err(format!("{kernel}: `{other}` has no Rust type")),
        };
        return Ok(scalar(ty));
    };
    let (access, pointee) = match pointee.strip_prefix("const ") {
        Some(pointee) => ("Read", pointee),
        None => ("Write", pointee),
    };
    let mut generics = String::new();
    let element = match pointee {
        "act" => "A".to_string(),
        "float" => "f32".into(),
        "double" => "f64".into(),
        "unsigned" => "u32".into(),
        "void" => {
            generics = format!("T{index}: Elem");
            format!("T{index}")
        }
        other => return Err(format!("{kernel}: `{other}*` has no Rust type")),
    };
    let reference = if access == "Read" { "&" } else { "&mut " };
    Ok(Argument { generics, ty: format!("{reference}impl {access}<{element}>"), value: format!("{name}.pointer()") })
}

/// Bytes of a parameter of this type, which [`argument`] knows.
fn bytes(ty: &str) -> usize {
    match ty {
        "int" | "unsigned" | "float" => 4,
        "const __grid_constant__ CUtensorMap" => 128,
        "const __grid_constant__ LoraMap" => 192,
        _ => 8,
    }
}

/// The launcher of one kernel: its parameters are the kernel's own, so that a swapped argument is a compile error.
fn launcher(file: &str, kernel: &Kernel, index: usize) -> Result<String, String> {
    let (mut generics, mut params, mut values, mut pointers) = (String::from("A: Act"), String::new(), String::new(), Vec::new());
    for (i, param) in kernel.params.iter().enumerate() {
        let Argument { generics: own, ty, value } = argument(&kernel.name, param, i)?;
        if !own.is_empty() {
            generics += &format!(", {own}");
        }
        params += &format!(", {}: {ty}", param.name);
        values += &format!("    let mut {} = {value};\n", param.name);
        pointers.push(format!("(&raw mut {}).cast()", param.name));
    }
    let (name, pointers) = (&kernel.name, pointers.join(", "));
    Ok(format!(
        "/// `{name}` of kernels/{file}.cu.\npub fn {name}<{generics}>(cuda: &Cuda<A>, grid: Grid{params}) -> Result<()> {{\n{values}    \
         cuda.launch({index}, grid, &mut [{pointers}])\n}}"
    ))
}

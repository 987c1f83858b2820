//! What this machine has and lacks for the method: GPU, driver and libraries, the kernels of this build, the sandbox, Python, the
//! other languages' toolchains, the teacher's keys (whether they are set, never their values).

use std::path::PathBuf;

use crate::comm::nccl;
use crate::device::cuda::gpu;
use crate::device::cuda::kernel::{COMPILER, IMAGES, KERNELS};
use crate::error::Result;
use crate::problem::toolchain::{self, Language};
use crate::sandbox::{self, Sandbox, python::Python};
use crate::teacher;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: `gpu 0`, `python`.
    pub what: String,
    /// Whether it is there and works.
    pub good: bool,
    /// What was found, or what lacks and what to do about it.
    pub found: String,
}

fn finding(what: impl Into<String>, result: std::result::Result<String, String>) -> Finding {
    let (good, found) = result.map_or_else(|why| (false, why), |found| (true, found));
    Finding { what: what.into(), good, found }
}

/// Looks at everything. Nothing is changed and no memory of a GPU is taken.
pub fn examine() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let gpus = gpu::list()?;
    for (ordinal, found) in gpus.iter().enumerate() {
        let (major, minor) = found.capability;
        let gib = found.memory as f64 / f64::from(1 << 30);
        let fit = gpu::unfit(found).map_or(Ok(format!("{}, compute capability {major}.{minor}, {gib:.0} GiB", found.name)), Err);
        findings.push(finding(format!("gpu {ordinal}"), fit));
    }
    if gpus.is_empty() {
        findings.push(finding("gpu", Err(gpu::missing().unwrap_or_else(|| "none".into()))));
    }
    let driver = match gpu::driver_version() {
        None => Err("libcuda.so is not on this machine".into()),
        Some(version) => gpu::outdated(version).map_or(Ok(format!("supports CUDA {}.{}", version.0, version.1)), Err),
    };
    findings.push(finding("driver", driver));
    let blas =
        if gpu::has_blas() { Ok("libcublasLt.so is there".into()) } else { Err("libcublasLt.so is not on this machine".into()) };
    findings.push(finding("cublaslt", blas));
    let nccl = nccl::version().map_err(|error| error.to_string());
    findings.push(finding("nccl", nccl.map(|version| format!("libnccl.so.2 is NCCL {version}"))));
    findings.push(finding("kernels", kernels()));
    let here = nvcc().map(|path| path.display().to_string());
    findings.push(finding("nvcc", here.ok_or_else(|| "not in $NVCC, $CUDA_HOME or PATH; tools/install-nvcc brings one".into())));
    let layers = Sandbox::new(sandbox::Mode::Strict).map(|sandbox| [sandbox.layers(), sandbox.lacks()].concat().join("; "));
    findings.push(finding("sandbox", layers.map_err(|error| error.to_string())));
    let python = Python::find().map(|python| format!("{} ({})", python.executable.display(), python.version));
    findings.push(finding("python", python.map_err(|error| error.to_string())));
    for language in Language::ALL {
        let found = toolchain::find(language).map(|found| format!("{} ({})", found.compiler.display(), found.version));
        findings.push(finding(format!("toolchain {}", language.name()), found));
    }
    for name in teacher::KEYS {
        let set = std::env::var_os(name).is_some_and(|value| !value.is_empty());
        findings.push(finding(name, if set { Ok("set".into()) } else { Err("not set".into()) }));
    }
    Ok(findings)
}

fn kernels() -> std::result::Result<String, String> {
    let mut architectures: Vec<&str> = IMAGES.iter().map(|image| image.architecture).collect();
    architectures.sort_unstable();
    architectures.dedup();
    match COMPILER {
        Some(version) => Ok(format!("{} built for {} by nvcc {version}", KERNELS.len(), architectures.join(", "))),
        None => Err("not built: there was no nvcc when this program was built; tools/install-nvcc, then build again".into()),
    }
}

/// nvcc of this machine, where the build looks for it.
fn nvcc() -> Option<PathBuf> {
    let named = std::env::var_os("NVCC").map(PathBuf::from);
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("nvcc"));
    let installed = std::env::current_dir().ok().map(|here| here.join(".nvcc/bin/nvcc"));
    named.into_iter().chain(home).chain(in_path).chain(installed).find(|path| path.is_file())
}

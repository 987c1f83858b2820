//! nvcc: where it is, and what it compiles.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

/// Where tools/install-nvcc leaves it, from the root of the repository.
pub const INSTALLED: &str = ".nvcc/bin/nvcc";

/// One cubin to make.
pub struct Job {
    /// The kernel file.
    pub source: PathBuf,
    /// The type of activations.
    pub act: &'static str,
    /// `sm_90a`.
    pub architecture: String,
    /// Where the result goes.
    pub cubin: PathBuf,
}

/// nvcc as $NVCC, of $CUDA_HOME, in PATH, or as tools/install-nvcc leaves it. An explicit one that is missing is an error; NVCC set to
/// nothing means none.
pub fn find() -> Result<Option<PathBuf>, String> {
    let explicit = |name: &str, path: PathBuf| match path.is_file() {
        true => Ok(Some(path)),
        false => Err(format!("{name} is set, but {} is not there", path.display())),
    };
    if let Some(path) = env::var_os("NVCC") {
        return if path.is_empty() { Ok(None) } else { explicit("NVCC", path.into()) };
    }
    if let Some(home) = env::var_os("CUDA_HOME").filter(|value| !value.is_empty()) {
        return explicit("CUDA_HOME", Path::new(&home).join("bin/nvcc"));
    }
    let in_path =
        env::var_os("PATH").and_then(|path| env::split_paths(&path).map(|folder| folder.join("nvcc")).find(|p| p.is_file()));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    Ok(in_path.or(Some(root.join(INSTALLED)).filter(|path| path.is_file())))
}

/// Its version: `13.0.88`.
pub fn version(nvcc: &Path) -> Result<String, String> {
    let said = Command::new(nvcc).arg("--version").output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version =
        said.split_whitespace().find_map(|word| word.strip_prefix('V')).filter(|v| v.starts_with(|c: char| c.is_ascii_digit()));
    version.map(str::to_string).ok_or_else(|| format!("{} --version names no version: {said}", nvcc.display()))
}

/// Compiles what has changed since the last build, on as many threads as cargo allows.
pub fn compile(nvcc: &Path, jobs: &[Job]) -> Result<(), String> {
    let shared = headers()?;
    let threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), String> {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            one(nvcc, job, &shared)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread of the build panicked".to_string())?)
    })
}

/// What every kernel may include, in one text.
fn headers() -> Result<String, String> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir("kernels").map_err(|e| format!("kernels: {e}"))?.flatten().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "cuh" || extension == "h"));
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))).collect()
}

fn one(nvcc: &Path, job: &Job, headers: &str) -> Result<(), String> {
    let compute = job.architecture.replace("sm_", "compute_");
    let arguments = [
        "-cubin".to_string(),
        format!("-gencode=arch={compute},code={}", job.architecture),
        "-O3".into(),
        "-std=c++20".into(),
        "-lineinfo".into(),
        "-Ikernels".into(),
        format!("-DACT={}", job.act),
    ];
    let source = fs::read_to_string(&job.source).map_err(|e| format!("{}: {e}", job.source.display()))?;
    let mut hash = DefaultHasher::new();
    (nvcc, &source, headers, &arguments).hash(&mut hash);
    let stamp = job.cubin.with_extension("stamp");
    let made_of = format!("{:016x}", hash.finish());
    if job.cubin.is_file() && fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == made_of) {
        return Ok(());
    }
    let done = Command::new(nvcc).args(&arguments).arg("-o").arg(&job.cubin).arg(&job.source).output();
    let done = done.map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if !done.status.success() {
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        return Err(format!("nvcc on {} (ACT={}): {}", job.source.display(), job.act, said.trim().replace('\n', "; ")));
    }
    fs::write(&stamp, made_of).map_err(|e| format!("{}: {e}", stamp.display()))
}

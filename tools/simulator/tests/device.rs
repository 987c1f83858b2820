//! The same probes for the device: nvcc takes them, and each step is the instruction that it is meant to be. What the instructions do is
//! for a GPU to say; that the headers' PTX is right is seen here. Without nvcc the tests say so and pass.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// nvcc by $NVCC, in $CUDA_HOME, on the PATH, or where tools/install-nvcc puts it.
fn nvcc() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("nvcc")).collect::<Vec<_>>();
    let named = env::var_os("NVCC").map(PathBuf::from);
    named.into_iter().chain(home).chain(on_path).chain([root.join(".nvcc/bin/nvcc")]).find(|path| path.is_file())
}

/// The machine instructions of a probe file, for compute capability 9.0 with Hopper's own; None: there is no nvcc.
fn instructions(probe: &str) -> Option<String> {
    let Some(nvcc) = nvcc() else {
        println!("skipped: no nvcc");
        return None;
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cubin = env::temp_dir().join(format!("simulator-{}-{probe}.cubin", std::process::id()));
    let output = Command::new(&nvcc)
        .args(["-std=c++17", "-gencode", "arch=compute_90a,code=sm_90a", "-cubin", "-DACT=__nv_bfloat16", "-I"])
        .arg(here.join("../../kernels"))
        .arg(here.join("probes").join(format!("{probe}.cu")))
        .arg("-o")
        .arg(&cubin)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = Command::new(nvcc.with_file_name("nvdisasm")).arg("-c").arg(&cubin).output().unwrap();
    fs::remove_file(&cubin).unwrap();
    assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
    Some(String::from_utf8(text.stdout).unwrap())
}

fn check(probe: &str, wanted: &[&str]) {
    let Some(text) = instructions(probe) else { return };
    for wanted in wanted {
        // Operands follow the name.
        assert!(text.contains(&format!("{wanted} ")) || text.contains(&format!("{wanted};")), "{probe}.cu: no {wanted}");
    }
}

#[test]
fn warps() {
    check("mma", &["HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDSM.16.MT88.4"]);
}

#[test]
fn barriers() {
    check("barriers", &["BAR.ARV", "SYNCS.EXCH.64", "SYNCS.ARRIVE.TRANS64.A1T0", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "UBLKCP.S.G"]);
}

#[test]
fn copies() {
    let tiles = ["UTMALDG.2D", "UTMALDG.3D", "UTMASTG.2D", "UTMASTG.3D", "UTMAREDG.2D.ADD", "UTMAREDG.3D.ADD"];
    check("copies", &tiles);
    check("copies", &["UBLKCP.S.G", "UBLKCP.G.S", "UBLKRED.G.S.ADD.F32.RN", "UTMACMDFLUSH"]);
}

#[test]
fn clusters() {
    check("cluster", &["UTMALDG.2D.MULTICAST", "UTMALDG.3D.MULTICAST", "UCGABAR_ARV", "UCGABAR_WAIT", "ELECT"]);
}

#[test]
fn products_of_every_width() {
    let widths: Vec<String> = (8..=256).step_by(8).map(|n| format!("HGMMA.64x{n}x16.F32.BF16")).collect();
    check("wgmma", &widths.iter().map(String::as_str).collect::<Vec<_>>());
}

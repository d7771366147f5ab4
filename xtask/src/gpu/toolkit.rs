//! CUDA's compiler and libraries, from the Python package index. In: nothing; out: a directory that builds can use as
//! `CUDA_HOME`, and one with NCCL's library. Invariant: one version of all parts, that of drivers from 580 on; nothing
//! is installed outside the directory.

use eraser_model::{Error, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Packages with their versions: those of CUDA 13.0. PTX of a newer compiler than the driver's is refused by the driver.
const PACKAGES: [&str; 8] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cublas==13.1.0.3",
    "nvidia-curand==10.4.0.35",
];

/// NCCL, of the version that the crate cudarc has the declarations of. 250 MB.
const NCCL: &str = "nvidia-nccl-cu13==2.30.7";

/// The toolkit in `dir`, fetched unless it is there.
pub(super) fn fetch(dir: &Path, python: &Path) -> Result<PathBuf> {
    let home = dir.join("nvidia/cu13");
    if !home.join("bin/nvcc").exists() {
        install(python, dir, &PACKAGES)?;
    }
    make_executable(&home.join("bin"))?;
    make_executable(&home.join("nvvm/bin"))?;
    // The linker looks for unversioned names, and some builds for lib64.
    let lib = home.join("lib");
    for entry in fs::read_dir(&lib).map_err(Error::failed)? {
        let path = entry.map_err(Error::failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((stem, _)) = name.split_once(".so.") {
            link(&path, &lib.join(format!("{stem}.so")))?;
        }
    }
    link(&lib, &home.join("lib64"))?;
    driver_stub(&lib.join("stubs"))?;
    Ok(home)
}

/// The directory of NCCL's library, in `dir`, fetched unless it is there.
pub(super) fn fetch_nccl(dir: &Path, python: &Path) -> Result<PathBuf> {
    // In a folder of its own: pip leaves a package out whose folder (`nvidia`) is there already.
    let home = dir.join("nccl");
    let lib = home.join("nvidia/nccl/lib");
    let library = lib.join("libnccl.so.2");
    if !library.exists() {
        install(python, &home, &[NCCL])?;
    }
    link(&library, &lib.join("libnccl.so"))?;
    Ok(lib)
}

/// Has pip put packages into a folder.
fn install(python: &Path, dir: &Path, packages: &[&str]) -> Result<()> {
    run(Command::new(python).args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(dir).args(packages))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let status = command.status().map_err(|e| Error::failed(format!("{name}: {e}")))?;
    if status.success() { Ok(()) } else { Err(Error::failed(format!("{name} ended with {status}"))) }
}

#[cfg(unix)]
fn make_executable(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(dir).map_err(Error::failed)? {
        let path = entry.map_err(Error::failed)?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(Error::failed)?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Err(Error::request("the toolkit is fetched on Linux only").hint("install CUDA and set CUDA_HOME"))
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) -> Result<()> {
    if at.exists() {
        return Ok(());
    }
    let name = to.file_name().ok_or_else(|| Error::failed(format!("{} has no name", to.display())))?;
    std::os::unix::fs::symlink(name, at).map_err(Error::failed)
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> Result<()> {
    Ok(())
}

/// A library to link with in place of the driver's, which comes with the driver alone: every function that the crate
/// cudarc declares, doing nothing.
fn driver_stub(dir: &Path) -> Result<()> {
    if dir.join("libcuda.so").exists() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(Error::failed)?;
    let output =
        Command::new("cargo").args(["metadata", "--format-version", "1", "--features", "eraser/cuda"]).output();
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.map_err(Error::failed)?.stdout).map_err(Error::failed)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let cudarc = packages.filter(|p| p["name"] == "cudarc").find_map(|p| p["manifest_path"].as_str());
    let cudarc = cudarc.ok_or_else(|| Error::failed("cargo knows no crate cudarc"))?;
    let source = Path::new(cudarc).with_file_name("src/driver/sys/mod.rs");
    let text = fs::read_to_string(&source).map_err(|e| Error::failed(format!("{}: {e}", source.display())))?;
    let names: BTreeSet<&str> = text
        .split("fn ")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
        .filter(|name| name.starts_with("cu") && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    let code: Vec<String> = names.iter().map(|name| format!("void {name}(void) {{}}\n")).collect();
    let file = dir.join("cuda.c");
    fs::write(&file, code.concat()).map_err(Error::failed)?;
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
        .arg(dir.join("libcuda.so"))
        .arg(&file))
}

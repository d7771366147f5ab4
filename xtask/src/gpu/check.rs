//! `cargo xtask cuda-check`: builds the tool for CUDA on a machine without a GPU. In: compute capabilities; out: how long
//! each build took. Invariant: what it needs is fetched into target/, nothing else on the machine is changed.

use super::toolkit;
use clap::Args;
use eraser_model::{Error, Result};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// Options of `cargo xtask cuda-check`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Compute capabilities to build for: 80 is an A100, 90 an H100 or H200
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "80,90")]
    capabilities: Vec<u32>,
    /// Python with pip, which fetches CUDA's compiler
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// Leave out the build with the feature `nccl`, which needs an MPI and libclang
    #[arg(long)]
    without_nccl: bool,
}

/// The parts of the kernels' text, in the order in which the operations put them together.
const KERNELS: [&str; 5] = ["common.cu", "rows.cu", "attention.cu", "cached.cu", "losses.cu"];

/// Builds for each.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = std::env::current_dir().map_err(Error::failed)?.join("target/cuda");
    let home = toolkit::fetch(&root, &options.python)?;
    for capability in &options.capabilities {
        kernels(&root, &home, *capability)?;
        let started = Instant::now();
        let plain = ["build", "--release", "--package", "eraser", "--features", "cuda"];
        build(&home, &[], *capability, &plain)?;
        println!("compute capability {capability}: built in {:.0} s", started.elapsed().as_secs_f64());
    }
    let tests = |libraries: &[PathBuf], what: &str| {
        let arguments: Vec<&str> = ["test", "--release", "--no-run"].into_iter().chain(what.split(' ')).collect();
        build(&home, libraries, *options.capabilities.last().unwrap_or(&90), &arguments)
    };
    tests(&[], "--package eraser --package eraser-ops --features eraser/cuda --lib")?;
    tests(&[], "--package eraser --package eraser-model --features eraser/cuda --test families --test layers")?;
    if options.without_nccl {
        return Ok(());
    }
    let nccl = toolkit::fetch_nccl(&root, &options.python)?;
    let started = Instant::now();
    // The tests of the program and not the program: that of the feature `cuda`, which gpu-pack takes, stays.
    tests(&[nccl], "--package eraser --features nccl --bin eraser").map_err(|error| {
        error
            .hint(
                "the feature `nccl` needs an MPI and libclang; on Debian: apt-get install libopenmpi-dev libclang-dev",
            )
            .hint("--without-nccl leaves it out")
    })?;
    println!("feature nccl: built in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// That the text of our own kernels compiles: the program compiles it when it opens a device, so no build does.
fn kernels(root: &Path, home: &Path, capability: u32) -> Result<()> {
    let text: Result<String> = KERNELS
        .iter()
        .map(|name| {
            let path = Path::new("crates/ops/src/cuda/kernels").join(name);
            std::fs::read_to_string(&path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))
        })
        .collect();
    let file = root.join("kernels.cu");
    std::fs::write(&file, text?).map_err(Error::failed)?;
    let status = Command::new(home.join("bin/nvcc"))
        .args(["-std=c++17", "--ptx", &format!("--gpu-architecture=compute_{capability}"), "--output-file"])
        .args([&file.with_extension("ptx"), &file])
        .status()
        .map_err(Error::failed)?;
    if status.success() { Ok(()) } else { Err(Error::failed(format!("the kernels do not compile: {status}"))) }
}

/// Runs cargo with the toolkit, and with the libraries in other directories.
fn build(home: &Path, libraries: &[PathBuf], capability: u32, arguments: &[&str]) -> Result<()> {
    let join = |own: &[PathBuf], more: &[PathBuf]| std::env::join_paths(own.iter().chain(more)).map_err(Error::failed);
    let lib = home.join("lib");
    let path: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let status = Command::new("cargo")
        .args(arguments)
        .args(["--target-dir", "target/cuda/build"])
        .env("PATH", join(&[home.join("bin")], &path)?)
        .env("CUDA_HOME", home)
        .env("CUDA_COMPUTE_CAP", capability.to_string())
        .env("LIBRARY_PATH", join(&[lib.join("stubs"), lib.clone()], libraries)?)
        .env("LD_LIBRARY_PATH", join(&[lib], libraries)?)
        .status()
        .map_err(Error::failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::failed(format!("cargo {} ended with {status}", arguments.join(" "))))
    }
}

//! `cargo xtask gpu-pack`: a folder that runs the suite on a machine with a driver, CUDA's libraries and Python, and no
//! Rust. In: what `cuda-check` built; out: compressed programs, the built-in model and a script. Invariant: at most 60 MB.

use clap::Args;
use eraser_model::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Options of `cargo xtask gpu-pack`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the folder is put
    #[arg(long, value_name = "DIR", default_value = "target/gpu-pack")]
    out: PathBuf,
    /// Where `cuda-check` built
    #[arg(long, value_name = "DIR", default_value = "target/cuda/build/release")]
    built: PathBuf,
}

/// Most bytes of the folder.
const MOST: u64 = 60 << 20;

/// Unpacks the programs, finds the libraries of a PyTorch that is there, and runs the suite.
const SCRIPT: &str = r#"#!/bin/sh
# sh run.sh [options of `xtask gpu-suite`]: runs the suite. Python with torch, transformers and peft is measured beside, if
# PYTHON names one.
set -eu
cd "$(dirname "$0")"
for program in eraser conformance xtask recorded/families recorded/layers; do
    [ -x "$program" ] || { xz --decompress --keep "$program.xz"; chmod +x "$program"; }
done
found=$("${PYTHON:-python3}" -c 'import glob, sys; print(":".join(d for p in sys.path for d in glob.glob(p + "/nvidia/*/lib")))' || true)
export LD_LIBRARY_PATH="$found:/usr/local/nvidia/lib64:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}"
exec ./xtask gpu-suite --binary ./eraser --conformance ./conformance --families recorded --organism organism \
    --script gpu_torch.py --work "${WORK:-work}" ${PYTHON:+--python "$PYTHON"} "$@"
"#;

/// Makes the folder.
pub(crate) fn run(options: &Options) -> Result<()> {
    let out = &options.out;
    if out.exists() {
        fs::remove_dir_all(out).map_err(Error::failed)?;
    }
    fs::create_dir_all(out).map_err(Error::failed)?;
    let own = std::env::current_exe().map_err(Error::failed)?;
    let recorded = out.join("recorded");
    for kind in ["families", "layers"] {
        let fixtures = Path::new("tests/fixtures").join(kind);
        copy(&Path::new("crates/model").join(&fixtures), &recorded.join(&fixtures))?;
    }
    let gradient = "tests/fixtures/gradient.json";
    fs::copy(Path::new("crates/model").join(gradient), recorded.join(gradient)).map_err(Error::failed)?;
    for (name, from) in [
        ("eraser", options.built.join("eraser")),
        ("conformance", tests(&options.built, "eraser_ops-")?),
        ("recorded/families", tests(&options.built, "families-")?),
        ("recorded/layers", tests(&options.built, "layers-")?),
        ("xtask", own),
    ] {
        let to = out.join(name);
        fs::copy(&from, &to).map_err(|e| {
            Error::request(format!("{}: {e}", from.display()))
                .hint("build it first: cargo xtask cuda-check --capabilities 90")
        })?;
        for (program, arguments) in [("strip", &[][..]), ("xz", &["-T0", "-6", "--force"][..])] {
            let status = Command::new(program).args(arguments).arg(&to).status();
            let status = status.map_err(|e| Error::failed(format!("{program}: {e}")))?;
            if !status.success() {
                return Err(Error::failed(format!("{program} of {name} ended with {status}")));
            }
        }
    }
    copy(Path::new("assets/organism"), &out.join("organism"))?;
    fs::copy("benches/gpu_torch.py", out.join("gpu_torch.py")).map_err(Error::failed)?;
    fs::write(out.join("run.sh"), SCRIPT).map_err(Error::failed)?;
    let bytes = size(out)?;
    if bytes > MOST {
        return Err(Error::failed(format!("the folder has {} MB, more than {}", bytes >> 20, MOST >> 20)));
    }
    println!("{}: {:.1} MB; on the machine with the GPU: sh run.sh", out.display(), bytes as f64 / 1e6);
    Ok(())
}

/// The newest test program whose name begins so.
fn tests(built: &Path, own: &str) -> Result<PathBuf> {
    let dir = built.join("deps");
    let entries = fs::read_dir(&dir).map_err(|e| {
        Error::request(format!("{}: {e}", dir.display()))
            .hint("build it first: cargo xtask cuda-check --capabilities 90")
    })?;
    let named = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(own) && !name.contains('.')
    };
    let found = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| named(path));
    found.max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok()).ok_or_else(|| {
        Error::request(format!("there is no test program {own}*")).hint("cargo xtask cuda-check builds it")
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::failed)?;
    for entry in fs::read_dir(from).map_err(Error::failed)? {
        let path = entry.map_err(Error::failed)?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            fs::copy(&path, &to).map_err(Error::failed)?;
        }
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(path).map_err(Error::failed)? {
        let entry = entry.map_err(Error::failed)?;
        let metadata = entry.metadata().map_err(Error::failed)?;
        sum += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

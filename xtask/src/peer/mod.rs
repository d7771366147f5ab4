//! Comparisons with implementations that are not written here, in turn on the same machine. In: a directory of peer
//! scripts, a model, a binary; out: ratios on the terminal and, asked for, an entry in benches/RESULTS.md. Invariant:
//! every figure comes from a process that ran for it; none is carried over from an earlier run.

pub(crate) mod generate;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod scaling;
pub(crate) mod score;
pub(crate) mod train;

use clap::{Args, ValueEnum};
use eraser_model::{Compute, Error, Result};
use process::Program;
use std::path::{Path, PathBuf};

/// Where the two sides are.
#[derive(Debug, Args)]
pub(crate) struct Sides {
    /// Directory of the peer's scripts and its sets/
    #[arg(long, env = "ERASER_PEER_SCRIPTS", value_name = "DIR")]
    scripts: PathBuf,
    /// Python with torch, transformers and peft
    #[arg(long, env = "ERASER_PEER_PYTHON", value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// Hugging Face directory of the model, read by both
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The binary to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/eraser")]
    binary: PathBuf,
    /// Where runs are put
    #[arg(long, value_name = "DIR", default_value = "target/peer")]
    work: PathBuf,
    /// Precision of both sides: f32, or bf16 (weights and products; PyTorch its activations too)
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// How often each side runs, in turn
    #[arg(long, value_name = "N", default_value = "3")]
    repeats: usize,
    /// Add the result to benches/RESULTS.md
    #[arg(long)]
    record: bool,
}

/// What both sides compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    Bf16,
}

impl Precision {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// As [`eraser_model`] names it.
    fn compute(self) -> Compute {
        match self {
            Self::F32 => Compute::F32,
            Self::Bf16 => Compute::Bf16,
        }
    }

    /// As PyTorch names it.
    fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

impl Sides {
    fn peer(&self, script: &str) -> Program {
        let program = Program::new(&self.python).arg(self.scripts.join(script));
        program.arg("--dtype").arg(self.precision.torch())
    }

    fn ours(&self, verb: &str) -> Program {
        let program = Program::new(&self.binary).arg(verb).arg("--model").arg(&self.model);
        program.arg("--compute").arg(self.precision.name())
    }

    fn check(&self) -> Result<()> {
        for path in [&self.scripts, &self.model, &self.binary] {
            if !path.exists() {
                return Err(Error::request(format!("{}: there is no such file", path.display()))
                    .hint("build the binary with `cargo build --release --bin eraser`"));
            }
        }
        std::fs::create_dir_all(&self.work).map_err(Error::failed)
    }
}

/// Figures of repeated runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(pub(crate) Vec<f64>);

impl Figures {
    fn sorted(&self) -> Vec<f64> {
        let mut all = self.0.clone();
        all.sort_by(f64::total_cmp);
        all
    }

    fn median(&self) -> f64 {
        let all = self.sorted();
        match all.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => all[n / 2],
            n => f64::midpoint(all[n / 2 - 1], all[n / 2]),
        }
    }

    /// `median (min to max)`.
    pub(crate) fn show(&self, digits: usize) -> String {
        let all = self.sorted();
        match (all.first(), all.last()) {
            (Some(low), Some(high)) if all.len() > 1 => {
                format!("{:.digits$} ({low:.digits$} to {high:.digits$})", self.median())
            }
            (Some(only), _) => format!("{only:.digits$}"),
            _ => "not measured".to_owned(),
        }
    }

    /// Of each run to the other side's run of the same turn.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }
}

/// Puts `entry` in front of the others in benches/RESULTS.md.
pub(crate) fn record(title: &str, entry: &str) -> Result<()> {
    const MARK: &str = "<!-- entries follow, newest first -->\n";
    let path = Path::new("benches/RESULTS.md");
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::failed(format!("{}: {e}", path.display())).hint("run it at the root of the repository"))?;
    let Some((head, rest)) = text.split_once(MARK) else {
        return Err(Error::failed(format!("{}: the mark {MARK:?} is missing", path.display())));
    };
    let text = format!("{head}{MARK}\n## {}: {title}\n\n{entry}{rest}", machine::today());
    eraser_model::files::write_atomic(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn figures() {
        let (a, b) = (Figures(vec![6.0, 2.0, 4.0]), Figures(vec![2.0, 2.0, 1.0]));
        assert_eq!(a.show(1), "4.0 (2.0 to 6.0)");
        assert_eq!(a.ratios(&b).show(2), "3.00 (1.00 to 4.00)");
        assert_eq!(
            (Figures(vec![1.0, 2.0]).show(1), Figures::default().show(1)),
            ("1.5 (1.0 to 2.0)".into(), "not measured".into())
        );
    }
}

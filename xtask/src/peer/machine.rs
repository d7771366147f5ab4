//! What machine this is, and what its products reach. Invariant: names no host and no path.

use super::Precision;
use candle_core::{DType, Device, Tensor};
use eraser_model::{Error, Result};
use std::time::Instant;

/// Today, UTC, `2026-01-31`.
pub(super) fn today() -> String {
    jiff::Timestamp::now().to_string().chars().take(10).collect()
}

/// Processor, cores in use, memory.
pub(crate) fn describe() -> String {
    let field = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let family = field("/proc/cpuinfo", "cpu family").zip(field("/proc/cpuinfo", "model"));
    let family = family.map_or(String::new(), |(family, model)| format!(" (family {family}, model {model})"));
    let memory = field("/proc/meminfo", "MemTotal").and_then(|kb| kb.split(' ').next()?.parse::<f64>().ok());
    let memory = memory.map_or(String::new(), |kb| format!(", {:.0} GiB", kb / 1024.0 / 1024.0));
    format!("{} cores of {cpu}{family}{memory}", eraser_ops::threads::count())
}

/// Billions of operations per second of a plain product on all threads, at the shapes of SmolLM2's layers: the median of
/// eleven runs of each, weighted as a block weights them. In bf16 it is oneDNN's rate that one would like to know, which
/// is not at hand; this is the rate of our own product alone.
pub(super) fn products(precision: Precision) -> Result<f64> {
    let shapes = [(576, 960, 1), (576, 576, 1), (576, 3072, 1), (1536, 576, 1)];
    let (mut operations, mut seconds) = (0.0, 0.0);
    let tokens = 512;
    for (inputs, outputs, times) in shapes {
        let x = Tensor::full(0.5f32, (tokens, inputs), &Device::Cpu).map_err(Error::failed)?;
        let w = Tensor::full(0.25f32, (outputs, inputs), &Device::Cpu).map_err(Error::failed)?;
        let w = if precision == Precision::F32 { w } else { w.to_dtype(DType::BF16).map_err(Error::failed)? };
        let run = || {
            let start = Instant::now();
            eraser_ops::linear(&x, &w, None).map_err(Error::failed)?;
            Ok(start.elapsed().as_secs_f64())
        };
        run()?;
        let mut runs = (0..11).map(|_| run()).collect::<Result<Vec<f64>>>()?;
        runs.sort_by(f64::total_cmp);
        operations += (2 * tokens * inputs * outputs * times) as f64;
        seconds += runs[runs.len() / 2] * times as f64;
    }
    Ok(operations / seconds / 1e9)
}

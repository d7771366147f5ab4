//! What machine this is, and what its products reach. Invariant: names no host and no path.

use eraser_ops::gemm::Mat;
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

/// Billions of operations per second of a plain f32 product on all threads, at the shapes of SmolLM2's layers: the
/// median of eleven runs of each, weighted as a block weights them.
pub(super) fn sgemm() -> f64 {
    let shapes = [(576, 960, 1), (576, 576, 1), (576, 3072, 1), (1536, 576, 1)];
    let (mut operations, mut seconds) = (0.0, 0.0);
    let tokens = 512;
    for (inputs, outputs, times) in shapes {
        let (x, w) = (vec![0.5f32; tokens * inputs], vec![0.25f32; outputs * inputs]);
        let mut out = vec![0.0f32; tokens * outputs];
        let mut run = || {
            let start = Instant::now();
            let (x, w) = (Mat::new(&x, tokens, inputs), Mat::new(&w, outputs, inputs));
            x.times(w.t()).in_parallel().write(&mut out, outputs);
            start.elapsed().as_secs_f64()
        };
        run();
        let mut runs: Vec<f64> = (0..11).map(|_| run()).collect();
        runs.sort_by(f64::total_cmp);
        operations += (2 * tokens * inputs * outputs * times) as f64;
        seconds += runs[runs.len() / 2] * times as f64;
    }
    operations / seconds / 1e9
}

//! What the server counts. In: events; out: Prometheus text. Invariant: counters only grow; gauges are as of the last
//! turn of the engine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Counters and gauges.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Answers by route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Sequences that wait for a slot.
    pub(crate) waiting: AtomicUsize,
    /// Sequences that run.
    pub(crate) active: AtomicUsize,
    /// Connections that are open.
    pub(crate) connections: AtomicUsize,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generated_tokens: AtomicU64,
    /// Sequences whose client left, or wanted no more, before their end.
    pub(crate) cancelled: AtomicU64,
    start: Instant,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            waiting: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            start: Instant::now(),
        }
    }
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn answered(&self, route: &'static str, status: u16) {
        // A thread that panicked while it counted has left a count behind, nothing worse.
        let mut requests = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
    }

    /// A sequence no longer waits.
    pub(crate) fn leave_queue(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// In the text format of Prometheus.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        out.push_str(
            "# HELP eraser_requests_total Answers by route and status.\n# TYPE eraser_requests_total counter\n",
        );
        {
            let requests = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for ((route, status), n) in requests.iter() {
                let _ = writeln!(out, "eraser_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
            }
        }
        let mut one = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = writeln!(out, "# HELP eraser_{name} {help}\n# TYPE eraser_{name} {kind}\neraser_{name} {value}");
        };
        let gauge = |v: &AtomicUsize| v.load(Ordering::Relaxed) as f64;
        let count = |v: &AtomicU64| v.load(Ordering::Relaxed) as f64;
        one("sequences_waiting", "gauge", "Sequences that wait for a slot.", gauge(&self.waiting));
        one("sequences_active", "gauge", "Sequences that run.", gauge(&self.active));
        one("connections", "gauge", "Open connections.", gauge(&self.connections));
        one("prompt_tokens_total", "counter", "Tokens of prompts.", count(&self.prompt_tokens));
        one("generated_tokens_total", "counter", "New tokens.", count(&self.generated_tokens));
        one("sequences_cancelled_total", "counter", "Sequences ended by their client.", count(&self.cancelled));
        one("uptime_seconds", "gauge", "Time since the start.", self.start.elapsed().as_secs_f64());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_by_route_and_status() {
        let metrics = Metrics::default();
        metrics.answered("/v1/models", 200);
        metrics.answered("/v1/models", 200);
        metrics.answered("/v1/models", 401);
        let text = metrics.render();
        assert!(text.contains("eraser_requests_total{route=\"/v1/models\",status=\"200\"} 2\n"), "{text}");
        assert!(text.contains("status=\"401\"} 1\n") && text.contains("\neraser_sequences_active 0\n"), "{text}");
    }
}

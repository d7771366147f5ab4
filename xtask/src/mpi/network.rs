//! Training by two ranks over a network that is made slow. In: delays and rates; out: the time of a step. Invariant:
//! the network is one of its own (a namespace with nothing but `lo`), so that nothing else on the machine is changed.

use super::ranks::Job;
use super::{Checks, Options, traffic};
use eraser_model::Result;
use std::path::Path;
use std::process::Command;

/// What is told to Open MPI: no shared memory, and this network alone.
const OVER_TCP: [&str; 8] =
    ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo", "--mca", "oob_tcp_if_include"];

/// What `tc` is told of `lo`: rates, and delays of a message in one direction.
const NETWORKS: [(&str, &str); 6] = [
    ("as it is", ""),
    ("of 1 Gbit/s", "tbf rate 1gbit burst 256kb latency 1s"),
    ("of 100 Mbit/s", "tbf rate 100mbit burst 256kb latency 1s"),
    ("with 0.5 ms of delay", "netem delay 500us limit 100000"),
    ("with 5 ms of delay", "netem delay 5ms limit 100000"),
    ("of 1 Gbit/s with 0.5 ms of delay", "netem delay 500us rate 1gbit limit 100000"),
];

/// Measures, where the machine allows it.
pub(super) fn measure(options: &Options, binary: &Path, checks: &mut Checks) -> Result<()> {
    for (name, made) in NETWORKS {
        let name = format!("a network {name}");
        let made = if made.is_empty() { String::new() } else { format!("tc qdisc add dev lo root {made} && ") };
        let prepare = format!("ip link set lo up && {made}exec \"$@\"");
        let launcher = ["unshare", "--net", "sh", "-c", &prepare, "sh"];
        // Whether this can be had at all.
        if let Some(why) = refused(&launcher) {
            checks.note(&name, &format!("cannot be made here: {why}"));
            continue;
        }
        let job = Job {
            binary: binary.to_owned(),
            dir: options.work.join("network"),
            ranks: 2,
            threads: Some(1),
            steps: options.steps.min(20),
            micro_batch: 8,
            accumulate: 4,
            dropout: 0.05,
            resume: false,
        };
        let mut mpi = OVER_TCP.to_vec();
        mpi.push("lo");
        let ran = job.finish(job.command(&launcher, &mpi)?)?;
        checks.note(&name, &traffic(&ran)?);
    }
    Ok(())
}

/// Why a command cannot be run behind `launcher`.
fn refused(launcher: &[&str]) -> Option<String> {
    let (first, rest) = launcher.split_first()?;
    match Command::new(first).args(rest).arg("true").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(said.lines().next().unwrap_or("no reason was given").to_owned())
        }
        Err(error) => Some(error.to_string()),
    }
}

//! Ranks by MPI. In: what a rank has for the others; out: what they have for it. Invariant: every call of a collective
//! function is made by all ranks, in one order, which is that of the trainer.

#[cfg(feature = "nccl")]
use candle_core::Device;
use eraser_model::{Error, Result, counted};
use eraser_run::Outcome;
use eraser_run::workers::{self, Crew};
use eraser_train::Group;
#[cfg(feature = "nccl")]
use eraser_train::Transport;
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::point_to_point::{Destination as _, Source as _};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long another rank waits for the first to say what is wrong before it does.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks for a job: ranks that spin would take processors from the first, which evaluates or prepares.
const LOOK: Duration = Duration::from_millis(5);
/// Says that a job comes.
const JOB: i32 = 1;
/// What a rank asks within a job.
const ASKED: i32 = 2;
/// The answer to it.
const ANSWER: i32 = 3;
/// Most bytes of a message.
const MESSAGE: usize = 1 << 30;
/// Most processors of a node.
const PROCESSORS: usize = 8192;

/// All ranks, and MPI, which ends with this.
pub(super) struct World {
    _universe: Universe,
    comm: Comm,
    threads: usize,
}

impl World {
    /// Joins the others; None: there are no others.
    pub(super) fn join() -> Result<Option<Self>> {
        // MPI starts threads of its own.
        eraser_ops::threads::prepare();
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| Error::failed("MPI was started before"))?;
        if threading < Threading::Serialized {
            let what = "this MPI serves no calls from a thread other than the first";
            return Err(Error::request(what).hint("use one built with MPI_THREAD_SERIALIZED: Open MPI's packages are"));
        }
        let comm = Comm::new();
        if comm.size == 1 {
            return Ok(None);
        }
        let node = SimpleCommunicator::world().split_shared(comm.rank as i32);
        eraser_ops::device::share_devices(node.rank() as usize);
        Ok(Some(Self { _universe: universe, threads: share(&node), comm }))
    }

    pub(super) fn first(&self) -> bool {
        self.comm.rank == 0
    }

    pub(super) fn comm(&self) -> Comm {
        self.comm
    }

    /// Threads of this rank.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// What is shown at the start.
    pub(super) fn describe(&self) -> String {
        format!("{}, here with {}", counted(self.comm.size, "rank"), counted(eraser_ops::threads::count(), "thread"))
    }

    /// Takes part in what the first rank calls the others to.
    pub(super) fn follow(&self) -> Outcome {
        let rank = self.comm.rank;
        // From within the pool, as verbs are.
        let result = rayon::scope(|_| workers::follow(&self.comm));
        result.map_err(|failure| failure.context(&format!("rank {rank}")))
    }

    /// Ends MPI. Ranks that would wait for this one for ever are ended with it.
    pub(super) fn end(self, code: u8) {
        // A training that failed here has left the others within it.
        let over = if self.first() { workers::dismiss().unwrap_or(false) } else { code == 0 };
        if !over {
            SimpleCommunicator::world().abort(i32::from(code.max(1)));
        }
    }
}

/// The ranks. MPI's own handle is asked for at each call, since it belongs to no thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comm {
    rank: usize,
    size: usize,
}

impl Comm {
    fn new() -> Self {
        let world = SimpleCommunicator::world();
        Self { rank: world.rank() as usize, size: world.size() as usize }
    }
}

/// MPI counts elements in 32 bits.
fn countable(elements: usize) -> Result<()> {
    if i32::try_from(elements).is_ok() {
        return Ok(());
    }
    Err(Error::request(format!("{elements} values are more than MPI can send at once"))
        .hint("train fewer: a smaller --rank, fewer --targets or --layers"))
}

impl Group for Comm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, values: &[f32]) -> Result<Vec<f32>> {
        countable(values.len())?;
        let mut found = vec![0f32; values.len()];
        SimpleCommunicator::world().all_to_all_into(values, &mut found[..]);
        Ok(found)
    }

    fn gather(&self, values: &[f32]) -> Result<Vec<f32>> {
        countable(values.len() * self.size)?;
        let mut found = vec![0f32; values.len() * self.size];
        SimpleCommunicator::world().all_gather_into(values, &mut found[..]);
        Ok(found)
    }

    fn gather_f64(&self, values: &[f64]) -> Result<Vec<f64>> {
        countable(values.len() * self.size)?;
        let mut found = vec![0f64; values.len() * self.size];
        SimpleCommunicator::world().all_gather_into(values, &mut found[..]);
        Ok(found)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let root = world.process_at_rank(0);
        let mut length = bytes.len() as u64;
        root.broadcast_into(&mut length);
        let mut bytes = if self.rank == 0 { bytes } else { vec![0; length as usize] };
        for part in bytes.chunks_mut(MESSAGE) {
            root.broadcast_into(part);
        }
        Ok(bytes)
    }

    #[cfg(feature = "nccl")]
    fn transport(&self, device: &Device) -> Result<Option<Box<dyn Transport + '_>>> {
        super::nccl::transport(self, device)
    }
}

impl Crew for Comm {
    fn call(&self, job: &[u8]) -> Result<()> {
        let world = SimpleCommunicator::world();
        for rank in 1..world.size() {
            world.process_at_rank(rank).send_with_tag(&JOB, JOB);
        }
        self.broadcast(job.to_vec()).map(|_| ())
    }

    fn wait(&self) -> Result<Vec<u8>> {
        let world = SimpleCommunicator::world();
        let first = world.process_at_rank(0);
        while first.immediate_probe_with_tag(JOB).is_none() {
            std::thread::sleep(LOOK);
        }
        let _ = first.receive_with_tag::<i32>(JOB);
        self.broadcast(Vec::new())
    }

    fn ask(&self, said: u64) -> Result<u64> {
        let world = SimpleCommunicator::world();
        let first = world.process_at_rank(0);
        first.send_with_tag(&said, ASKED);
        while first.immediate_probe_with_tag(ANSWER).is_none() {
            std::thread::sleep(LOOK);
        }
        Ok(first.receive_with_tag::<u64>(ANSWER).0)
    }

    fn answer(&self, reply: &mut dyn FnMut(u64) -> u64) -> Result<bool> {
        let world = SimpleCommunicator::world();
        let Some(asked) = world.any_process().immediate_probe_with_tag(ASKED) else { return Ok(false) };
        let rank = world.process_at_rank(asked.source_rank());
        let (said, _) = rank.receive_with_tag::<u64>(ASKED);
        rank.send_with_tag(&reply(said), ANSWER);
        Ok(true)
    }
}

/// The threads of this rank: of each processor that it may run on, its share among the ranks of the node that may too.
fn share(node: &SimpleCommunicator) -> usize {
    let granted = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let own = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| processors(&status));
    let own = own.unwrap_or_else(|| (0..granted).collect());
    let mut mine = vec![0i32; PROCESSORS];
    for &cpu in &own {
        mine[cpu] = 1;
    }
    let mut ranks = vec![0i32; PROCESSORS];
    node.all_reduce_into(&mine[..], &mut ranks[..], SystemOperation::sum());
    of_processors(&own, &ranks, granted, node.size() as usize)
}

/// As [`share`], with the ranks that may run on each processor, and the processors' worth of time that a limit grants.
fn of_processors(own: &BTreeSet<usize>, ranks: &[i32], granted: usize, on_node: usize) -> usize {
    let share: f64 = own.iter().map(|&cpu| 1.0 / f64::from(ranks[cpu].max(1))).sum();
    let most = if granted < own.len() { granted as f64 / on_node as f64 } else { share };
    // Shares of a third add up to a little less than one.
    (share.min(most) + 1e-6).max(1.0) as usize
}

/// The processors of a line such as `Cpus_allowed_list: 0-3,8`.
fn processors(status: &str) -> Option<BTreeSet<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut found = BTreeSet::new();
    for range in list.trim().split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to) = (from.parse::<usize>().ok()?, to.parse::<usize>().ok()?);
        found.extend((from..=to).take_while(|&cpu| cpu < PROCESSORS));
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_processors_of_a_process_are_read() {
        let read = |list: &str| processors(&format!("Name:\teraser\nCpus_allowed_list:\t{list}\n"));
        assert_eq!(read("0-2,8"), Some([0, 1, 2, 8].into()));
        assert_eq!(read("5"), Some([5].into()));
        assert_eq!((read(""), read("a-b"), processors("")), (None, None, None));
    }

    #[test]
    fn processors_are_divided_among_the_ranks_that_may_use_them() {
        let threads =
            |own: &[usize], ranks: &[i32], granted| of_processors(&own.iter().copied().collect(), ranks, granted, 2);
        assert_eq!(threads(&[0, 1, 2, 3], &[2; 4], 4), 2, "ranks are not bound");
        assert_eq!(threads(&[0, 1], &[1, 1, 1, 1], 2), 2, "each is bound to half");
        assert_eq!(threads(&[0], &[4], 1), 1, "more ranks than processors");
        assert_eq!(threads(&[0, 1, 2], &[3; 3], 3), 1);
        assert_eq!(threads(&[0, 1, 2, 3, 4, 5, 6, 7], &[2; 8], 4), 2, "a limit on time");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = processors(&format!("Cpus_allowed_list:{text}"));
        }
    }
}

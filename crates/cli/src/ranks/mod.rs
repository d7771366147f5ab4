//! Whether this process works alone. In: the verb, and what an MPI launcher has put into the environment; out: the
//! verb's work, done here or with other ranks. Invariant: of several ranks only the first reads the command's options
//! and prints; without the feature `mpi` there is one.

#[cfg(feature = "nccl")]
mod nccl;
#[cfg(feature = "mpi")]
mod world;

use crate::options::{Cli, Verb};
use crate::{errors, interrupt, on_interrupt, verbs};
use eraser_data::Shard;
use eraser_model::{Error, Result};
use eraser_run::Outcome;
use std::process::ExitCode;

/// This process among those that were started with it.
pub(crate) struct Ranks {
    #[cfg(feature = "mpi")]
    world: Option<world::World>,
}

/// Whether this process says what is wrong with a command that all ranks were given.
pub(crate) fn speaks() -> bool {
    let rank = |name| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok());
    !cfg!(feature = "mpi")
        || ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"].into_iter().find_map(rank).unwrap_or(0) == 0
}

/// Says that a command cannot be done by the ranks that it was given to.
pub(crate) fn refuse(error: Error, verb: &str) {
    if speaks() {
        return errors::print(&error.into(), verb);
    }
    // The end of one rank is that of all: first the one that speaks.
    std::thread::sleep(std::time::Duration::from_secs(1));
}

/// Whether a verb trains, or has many answers made, and so has something to do for several ranks.
fn divides(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Prepare(_)
            | Verb::Eval(_)
            | Verb::Bench(_)
            | Verb::Quickstart(_)
            | Verb::Harden(_)
            | Verb::Run(_)
            | Verb::Compare(_)
            | Verb::Sweep(_)
            | Verb::Tune(_)
            | Verb::Train(_)
            | Verb::Align(_)
    )
}

/// The part of the work that a command asks for.
fn shard(verb: &Verb) -> Option<Shard> {
    match verb {
        Verb::Prepare(args) => args.questions.shard,
        Verb::Eval(args) => args.subjects.shard,
        Verb::Bench(args) => args.subjects.shard,
        Verb::Run(args) => args.part.shard,
        Verb::Compare(args) => args.part.shard,
        Verb::Sweep(args) => args.part.shard,
        _ => None,
    }
}

/// Does the verb in this process.
fn alone(cli: &Cli) -> Outcome {
    interrupt::install(on_interrupt(&cli.verb))?;
    verbs::run(cli)
}

#[cfg(not(feature = "mpi"))]
impl Ranks {
    /// There is one.
    ///
    /// # Errors
    /// Several were started, which would all do the same.
    pub(crate) fn of(verb: &Verb) -> Result<Self> {
        // What Open MPI's mpirun says. Others (srun) also start processes that have nothing to do with one another.
        let started = std::env::var("OMPI_COMM_WORLD_SIZE").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
        // Each may do a part of the work.
        if started < 2 || !divides(verb) || shard(verb).is_some() {
            return Ok(Self {});
        }
        let what = format!("mpirun started {started} processes, and this build of eraser has no MPI");
        Err(Error::request(what)
            .hint("build it with the cargo feature `mpi` (docs/guide.md, Training by several processes)"))
    }

    /// Whether another process does what the verb asks.
    #[expect(clippy::unused_self, reason = "it has something to look at with MPI")]
    pub(crate) fn follow(&self) -> bool {
        false
    }

    /// The threads of this rank, where ranks share processors.
    #[expect(clippy::unused_self, reason = "as above")]
    pub(crate) fn threads(&self) -> Option<usize> {
        None
    }

    /// Does the verb.
    #[expect(clippy::unused_self, reason = "as above")]
    pub(crate) fn work(&self, cli: &Cli) -> Outcome {
        alone(cli)
    }

    /// Lets the rank speak first that should.
    #[expect(clippy::unused_self, reason = "as above")]
    pub(crate) fn before_an_error(&self) {}

    /// Ends with this exit code.
    #[expect(clippy::unused_self, reason = "as above")]
    pub(crate) fn end(self, code: u8) -> ExitCode {
        ExitCode::from(code)
    }
}

#[cfg(feature = "mpi")]
impl Ranks {
    /// Those that a launcher of MPI has started for a verb that they can divide; else there is one.
    ///
    /// # Errors
    /// An MPI that cannot be used; several ranks of a command that asks for one part of the work.
    pub(crate) fn of(verb: &Verb) -> Result<Self> {
        // Without a launcher MPI would start one, and for nothing.
        let launched = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMIX_RANK"].map(std::env::var_os);
        if !divides(verb) || launched.iter().all(Option::is_none) {
            return Ok(Self { world: None });
        }
        let world = world::World::join()?;
        if let Some((shard, _)) = shard(verb).zip(world.as_ref()) {
            let what = format!("--shard {shard} and several ranks both divide the work");
            return Err(Error::request(what)
                .hint("leave --shard out: ranks divide the work among themselves")
                .hint("or start the processes of the shards without MPI"));
        }
        Ok(Self { world })
    }

    /// Whether another process does what the verb asks.
    pub(crate) fn follow(&self) -> bool {
        self.world.as_ref().is_some_and(|world| !world.first())
    }

    /// The threads of this rank, where ranks share processors.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.world.as_ref().map(world::World::threads)
    }

    /// Does the verb, or what the first rank asks for it.
    pub(crate) fn work(&self, cli: &Cli) -> Outcome {
        let Some(world) = &self.world else { return alone(cli) };
        if world.first() {
            crate::progress::note(&world.describe());
            eraser_run::workers::lead(Box::new(world.comm()));
            return alone(cli);
        }
        // Its signals are for the first rank, which saves; a second one ends this one too.
        interrupt::install(|| ())?;
        let _graceful = interrupt::Graceful::begin();
        world.follow()
    }

    /// Lets the rank speak first that should: an error that all have is the first one's.
    pub(crate) fn before_an_error(&self) {
        if self.follow() {
            std::thread::sleep(world::PATIENCE);
        }
    }

    /// Ends with this exit code, and where work was left undone all other ranks too.
    pub(crate) fn end(self, code: u8) -> ExitCode {
        if let Some(world) = self.world {
            world.end(code);
        }
        ExitCode::from(code)
    }
}

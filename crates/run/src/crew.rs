//! The ranks that do one command together. In: what rank 0 calls the others to, and the shards of some work; out: the
//! others' part in it, each shard done by the rank that asked for one first. Invariant: a shard is given out once, and
//! rank 0 goes on only when all of them are done.

use crate::failure::Outcome;
use eraser_data::ask::interrupted;
use eraser_model::{Error, Result};
use eraser_train::Group;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The directory in that of a run in which ranks put what they have made so far.
pub(crate) const DIR: &str = "ranks";
/// Shards for each rank: with several, one that is slower than others does fewer.
const SHARDS: usize = 4;
/// Most shards.
const MOST: usize = 4096;
/// Between two looks for a rank that asks.
const LOOK: Duration = Duration::from_millis(5);

/// Ranks of which the first calls the others.
pub trait Crew: Group {
    /// At rank 0: gives all others `job`, for which they wait.
    ///
    /// # Errors
    /// A rank that cannot be reached.
    fn call(&self, job: &[u8]) -> Result<()>;

    /// At the others: the next job, whenever it comes.
    ///
    /// # Errors
    /// Rank 0 cannot be reached.
    fn wait(&self) -> Result<Vec<u8>>;

    /// At the others, within a job: tells rank 0 something, and gives what it answers.
    ///
    /// # Errors
    /// As [`Self::wait`].
    fn ask(&self, said: u64) -> Result<u64>;

    /// At rank 0: lets one rank have an answer by `reply`, if one has asked. False: none has.
    ///
    /// # Errors
    /// As [`Self::call`].
    fn answer(&self, reply: &mut dyn FnMut(u64) -> u64) -> Result<bool>;
}

/// The ranks that this process calls.
static CREW: OnceLock<Box<dyn Crew>> = OnceLock::new();
/// They are in a job, and do not wait for another.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Says, at rank 0 and before any verb, who works with this process.
pub fn lead(crew: Box<dyn Crew>) {
    // A second crew can only come from a second call, and changes nothing.
    let _ = CREW.set(crew);
}

/// Sends the others home, at rank 0. False: they are in a job that failed here, and do not listen.
///
/// # Errors
/// A rank that cannot be reached.
pub fn dismiss() -> Result<bool> {
    if BUSY.load(Ordering::SeqCst) {
        return Ok(false);
    }
    crew().map_or(Ok(()), |crew| crew.call(&[]))?;
    Ok(true)
}

/// The others, at rank 0; None: there are none.
pub(crate) fn crew() -> Option<&'static dyn Crew> {
    CREW.get().map(Box::as_ref)
}

/// Calls the others to `job`, and does what rank 0 has to do in it. Where that fails the others are in it still, unless
/// `left` says that they have left it too.
pub(crate) fn together<T, E: From<Error>>(
    crew: &dyn Crew,
    job: &[u8],
    work: impl FnOnce() -> std::result::Result<T, E>,
    left: impl FnOnce(&E) -> bool,
) -> std::result::Result<T, E> {
    BUSY.store(true, Ordering::SeqCst);
    crew.call(job)?;
    let result = work();
    let over = result.as_ref().err().is_none_or(left);
    BUSY.store(!over, Ordering::SeqCst);
    result
}

/// Shards of work that `ranks` divide.
pub(crate) fn shards(ranks: usize) -> usize {
    (SHARDS * ranks).clamp(1, MOST)
}

/// What came of a shard, or of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Nothing is left of it that needs what other shards make.
    pub(crate) complete: bool,
    /// How many results were computed, where that is counted.
    pub(crate) computed: usize,
}

impl Done {
    /// As a rank tells it; what it tells before its first shard is 0.
    fn said(self) -> u64 {
        (self.computed as u64) << 2 | u64::from(self.complete) << 1 | 1
    }

    fn of(said: u64) -> Option<Self> {
        (said & 1 == 1).then_some(Self { complete: said & 2 == 2, computed: (said >> 2) as usize })
    }
}

/// The shards of some work, at rank 0.
struct Queue {
    of: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    computed: AtomicUsize,
    incomplete: AtomicBool,
    /// Nobody waits for the work any more.
    over: AtomicBool,
}

impl Queue {
    fn new(of: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        let no = || AtomicBool::new(false);
        Self { of, next: zero(), done: zero(), computed: zero(), incomplete: no(), over: no() }
    }

    /// The number of the next shard, from 1.
    fn take(&self) -> Option<usize> {
        let next = self.next.fetch_add(1, Ordering::SeqCst);
        (next < self.of).then_some(next + 1)
    }

    fn add(&self, done: Done) {
        self.done.fetch_add(1, Ordering::SeqCst);
        self.computed.fetch_add(done.computed, Ordering::SeqCst);
        self.incomplete.fetch_or(!done.complete, Ordering::SeqCst);
    }

    /// Gives shards to the others, until each of them knows that there are none left.
    fn serve(&self, crew: &dyn Crew) -> Result<()> {
        let mut away = crew.size() - 1;
        while away > 0 && !self.over.load(Ordering::SeqCst) {
            let mut reply = |said| {
                if let Some(done) = Done::of(said) {
                    self.add(done);
                }
                let next = self.take();
                away -= usize::from(next.is_none());
                next.unwrap_or(0) as u64
            };
            if !crew.answer(&mut reply)? {
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

/// Ends what gives shards to the others, however the work at rank 0 ends.
struct Over<'a>(&'a Queue);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// How rank 0 does a shard, by its number, with what says whether to go on.
pub(crate) type Doing<'a> = dyn FnMut(usize, &mut dyn FnMut() -> bool) -> Outcome<Done> + 'a;

/// At rank 0: gives the shards 1 to `of` to all ranks, and does some itself by `work`.
/// `tick` is told how many are done, and says the same.
///
/// # Errors
/// Those of `work`; an interruption when `tick` says to stop.
pub(crate) fn hand_out(
    crew: &dyn Crew,
    of: usize,
    tick: &mut dyn FnMut(usize) -> bool,
    work: &mut Doing<'_>,
) -> Outcome<Done> {
    let queue = Queue::new(of);
    let finished = || queue.done.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        // A thread of its own, since a shard takes long: no one waits for rank 0 to end one.
        let server = scope.spawn(|| queue.serve(crew));
        let _over = Over(&queue);
        while let Some(index) = queue.take() {
            let done = work(index, &mut || tick(finished()))?;
            queue.add(done);
        }
        while !server.is_finished() {
            if !tick(finished()) {
                return Err(interrupted().into());
            }
            std::thread::sleep(LOOK);
        }
        server.join().map_err(|_| Error::failed("giving work to the other ranks failed"))??;
        tick(finished());
        let computed = queue.computed.load(Ordering::SeqCst);
        Ok(Done { complete: !queue.incomplete.load(Ordering::SeqCst), computed })
    })
}

/// At the others: does the shards that rank 0 gives.
///
/// # Errors
/// Those of `work`.
pub(crate) fn take_part(crew: &dyn Crew, work: &mut dyn FnMut(usize) -> Outcome<Done>) -> Outcome {
    let mut said = 0;
    loop {
        match crew.ask(said)? {
            0 => return Ok(()),
            index => said = work(index as usize)?.said(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_train::Alone;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    /// Ranks that are threads: what one of the others has said, and where it waits for the answer.
    struct Threads {
        rank: usize,
        size: usize,
        ask: Sender<(u64, Sender<u64>)>,
        asked: Mutex<Receiver<(u64, Sender<u64>)>>,
    }

    impl Group for Threads {
        fn rank(&self) -> usize {
            self.rank
        }
        fn size(&self) -> usize {
            self.size
        }
        fn exchange(&self, values: &[f32]) -> Result<Vec<f32>> {
            Alone.exchange(values)
        }
        fn gather(&self, values: &[f32]) -> Result<Vec<f32>> {
            Alone.gather(values)
        }
        fn gather_f64(&self, values: &[f64]) -> Result<Vec<f64>> {
            Alone.gather_f64(values)
        }
        fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
            Alone.broadcast(bytes)
        }
    }

    impl Crew for Threads {
        fn call(&self, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn wait(&self) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn ask(&self, said: u64) -> Result<u64> {
            let (answer, answered) = channel();
            self.ask.send((said, answer)).map_err(Error::failed)?;
            answered.recv().map_err(Error::failed)
        }
        fn answer(&self, reply: &mut dyn FnMut(u64) -> u64) -> Result<bool> {
            let Ok((said, answer)) = self.asked.lock().unwrap().try_recv() else { return Ok(false) };
            let next = reply(said);
            Ok(answer.send(next).is_ok())
        }
    }

    fn crew(size: usize) -> Vec<Threads> {
        let (ask, asked) = channel();
        let mut asked = Some(asked);
        let of = |rank| {
            let asked = Mutex::new(asked.take().unwrap_or_else(|| channel().1));
            Threads { rank, size, ask: ask.clone(), asked }
        };
        (0..size).map(of).collect()
    }

    #[test]
    fn what_a_rank_says_is_understood() {
        assert_eq!(Done::of(0), None);
        for complete in [false, true] {
            let done = Done { complete, computed: 7 };
            assert_eq!(Done::of(done.said()), Some(done));
        }
    }

    #[test]
    fn every_shard_is_done_once_and_a_slow_rank_does_fewer() {
        let ranks = crew(3);
        let of = shards(ranks.len());
        let taken: Mutex<Vec<(usize, usize)>> = Mutex::default();
        let work = |rank: usize, index: usize| {
            std::thread::sleep(Duration::from_millis(if rank == 1 { 100 } else { 1 }));
            taken.lock().unwrap().push((rank, index));
            Done { complete: index != 2, computed: index }
        };
        let all = std::thread::scope(|scope| {
            for crew in &ranks[1..] {
                let work = &work;
                scope.spawn(move || take_part(crew, &mut |index| Ok(work(crew.rank, index))).unwrap());
            }
            let mut most = 0;
            let mut tick = |done| {
                most = done;
                true
            };
            let all = hand_out(&ranks[0], of, &mut tick, &mut |index, alive| {
                assert!(alive());
                Ok(work(0, index))
            });
            assert_eq!(most, of);
            all.unwrap()
        });
        assert_eq!(all, Done { complete: false, computed: of * (of + 1) / 2 });
        let mut taken = taken.into_inner().unwrap();
        let slow = taken.iter().filter(|(rank, _)| *rank == 1).count();
        assert!(slow <= 2, "{taken:?}");
        taken.sort_by_key(|(_, index)| *index);
        assert_eq!(taken.iter().map(|(_, index)| *index).collect::<Vec<_>>(), (1..=of).collect::<Vec<_>>());
    }

    #[test]
    fn rank_0_does_not_wait_for_others_when_its_work_fails_or_is_stopped() {
        // Nobody asks: they would be waited for.
        let ranks = crew(2);
        let start = Instant::now();
        let failed = hand_out(&ranks[0], 4, &mut |_| true, &mut |_, _| Err(Error::failed("disk").into()));
        assert_eq!(failed.unwrap_err().errors()[0].to_string(), "disk");
        let stopped = hand_out(&ranks[0], 1, &mut |_| false, &mut |_, _| Ok(Done { complete: true, computed: 0 }));
        assert_eq!(stopped.unwrap_err().kind(), eraser_model::ErrorKind::Interrupted);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

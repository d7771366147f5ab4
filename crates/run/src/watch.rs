//! Who follows the work. In: what the stages do, as they do it; out: whether they go on. Invariant: nothing in this
//! crate prints; all that a person sees goes through here.

use eraser_train::{Control, Observer, StepMetrics};

/// Follows a run and can stop it. Every method has a default that does nothing and lets the work go on.
pub trait Watch {
    /// One line about what was done or found.
    fn note(&mut self, text: &str) {
        let _ = text;
    }

    /// A model of this name is being loaded; None: it is there.
    fn loading(&mut self, model: Option<&str>) {
        let _ = model;
    }

    /// From `true` to `false`, the work looks at what [`Self::progress`] and [`Self::step`] return and saves its state
    /// before it ends; outside, it can only be killed.
    fn can_save(&mut self, can: bool) {
        let _ = can;
    }

    /// `done` of `total` answers or items of `what` are there. Called after every token too. False stops the work.
    fn progress(&mut self, what: &str, done: usize, total: usize) -> bool {
        let _ = (what, done, total);
        true
    }

    /// `more` tokens of those answers were written. How many there will be is not known.
    fn tokens(&mut self, more: usize) {
        let _ = more;
    }

    /// The work that [`Self::progress`] reported has ended, finished or not.
    fn progress_end(&mut self) {}

    /// A training run called `name` begins, with `done` of `total` steps behind it.
    fn training(&mut self, name: &str, done: usize, total: usize) {
        let _ = (name, done, total);
    }

    /// A training step was taken. False stops the run after a checkpoint.
    fn step(&mut self, metrics: &StepMetrics) -> bool {
        let _ = metrics;
        true
    }

    /// The training run has ended, finished or not.
    fn training_end(&mut self) {}
}

/// Lets everything go on and shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Watch for Silent {}

/// A watch as the trainer sees it.
pub(crate) struct Training<'a> {
    pub(crate) name: &'a str,
    pub(crate) watch: &'a mut dyn Watch,
}

impl Observer for Training<'_> {
    fn note(&mut self, text: &str) {
        self.watch.note(&format!("{}: {text}", self.name));
    }

    fn start(&mut self, total: usize, done: usize) {
        self.watch.training(self.name, done, total);
    }

    fn step(&mut self, metrics: &StepMetrics) -> Control {
        if self.watch.step(metrics) { Control::Continue } else { Control::Stop }
    }
}

/// A watch as preparation, evaluation and benchmarks see it.
pub(crate) struct Answers<'a>(pub(crate) &'a mut dyn Watch);

impl eraser_data::Progress for Answers<'_> {
    fn tick(&mut self, what: &str, done: usize, total: usize) -> bool {
        self.0.progress(what, done, total)
    }

    fn tokens(&mut self, more: usize) {
        self.0.tokens(more);
    }
}

/// Does `work`, whose progress is reported and which can be stopped.
pub(crate) fn stoppable<T>(watch: &mut dyn Watch, work: impl FnOnce(&mut Answers<'_>) -> T) -> T {
    watch.can_save(true);
    let result = work(&mut Answers(watch));
    watch.can_save(false);
    watch.progress_end();
    result
}

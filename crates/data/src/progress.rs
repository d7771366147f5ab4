//! Progress of long work. In: how much is done; out: whether to go on.

/// What watches the work.
pub trait Progress {
    /// `done` of `total` results of `what` (a stage, a file) are there. Called often, also between two results, so that
    /// the work can stop at once: false stops it, with what is done stored.
    fn tick(&mut self, what: &str, done: usize, total: usize) -> bool;

    /// `more` tokens of answers were written. How many there will be is not known.
    fn tokens(&mut self, more: usize) {
        let _ = more;
    }
}

impl<F: FnMut(&str, usize, usize) -> bool> Progress for F {
    fn tick(&mut self, what: &str, done: usize, total: usize) -> bool {
        self(what, done, total)
    }
}

//! The stages of a run, each of which a verb does alone. In: a plan; out: files in the run directory and their record
//! in the manifest. Invariant: a stage reads files and leaves files; it holds the directory's lock while it works.

pub(crate) mod bench;
pub(crate) mod common;
pub(crate) mod evaluate;
pub(crate) mod judge;
pub(crate) mod likelihood;
pub(crate) mod prepare;
pub(crate) mod replaced;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod served;
pub(crate) mod subjects;
pub(crate) mod summary;
pub(crate) mod train;
pub(crate) mod training_sets;

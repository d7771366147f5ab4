//! Studies: several trainings of one run file read together. In: a finished run; out: rows of figures, findings, plots.

pub(crate) mod compare;
pub(crate) mod durability;
mod front;
mod plan;
mod read;
mod results;
pub(crate) mod sweep;

pub use front::Bounds;
pub(crate) use front::{broken, ranking};
pub use plan::{compare_plan, sweep_plan};
pub use read::Question;
pub(crate) use read::{FILE, write};
pub(crate) use results::judge;
pub use results::{ClaimOutcome, Finding, Plot, Series, StudyResults, SubjectRow};

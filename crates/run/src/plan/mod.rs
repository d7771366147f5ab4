//! What is to be done, resolved. In: raw options and run files; out: plans in which nothing is left open. Invariant:
//! a plan is made only if every option and file it names was checked, and all that is wrong is reported at once.

mod align;
mod answers;
mod basics;
mod bench;
mod check;
mod document;
mod eval;
mod first;
mod jailbreak;
mod measures;
mod model;
mod prepare;
mod recorded;
mod run;
mod schema;
mod section;
mod sets;
mod size;
mod source;
pub mod study;
mod table;
mod train;
pub mod values;
mod variables;

pub use align::AlignRequest;
pub use answers::AnswerFile;
pub use basics::{check_name, check_out, eval_flag, flag, wrong};
pub use bench::{BenchPlan, BenchRequest};
pub use check::unused;
pub use eval::{EvalPlan, SubjectPlan, subjects};
pub use first::FirstRun;
pub(crate) use jailbreak::Jailbreaks;
pub use measures::{Measures, QuestionFile};
pub use model::{ChatFlags, ModelPlan};
pub use prepare::{Preparation, PreparePlan};
pub use run::{Overrides, RunPlan, SetSources, Variant};
pub(crate) use run::{train_differences, train_json};
pub use schema::schema;
pub use section::ELSEWHERE;
pub use sets::set_key;
pub use size::Size;
pub use source::{Source, check_path};
pub use train::{TrainPlan, TrainRequest};
pub use variables::{as_flag as template_variable, of_flags as template_variables};

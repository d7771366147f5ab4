//! Models under test that a server has: vLLM, llama.cpp, or this tool's own. In: where they are and, from files here,
//! tokenizer and chat template; out: subjects beside those that are loaded. Invariant: no weight is read here, and no
//! subject is measured whose self-test has failed.

mod checks;
mod likelihoods;
mod names;
mod subject;
mod target;
mod text;

pub use checks::{Check, Checked, SelfTest};
pub(crate) use likelihoods::scores;
pub use subject::{Needs, ServedSubject, connect};
pub use text::Text;

/// The file of the self-tests in the directory of an evaluation.
pub const FILE: &str = "served.json";

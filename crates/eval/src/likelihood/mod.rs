//! How likely known answers are, which needs no judge. In: subjects, questions with their answers, templates; out: the
//! mean negative log-likelihood (NLL) of an answer's tokens, asked plainly and under each template, from the first
//! token on and after some of the answer's own tokens. Invariant: the tokens are those of training: the chat template
//! with the question as the user's turn, the answer tokenised by itself, the end-of-sequence token behind it.

mod context;
mod figures;
mod lines;
mod measure;
mod options;
mod plan;
mod run;

pub use context::{Context, PLAIN, TEMPLATE};
pub use lines::{After, Line};
pub use measure::{Likelihood, likelihood};
pub use options::{AnswerSet, BENIGN, SEEN};

pub(crate) use figures::fill;
pub(crate) use options::CUTS;
pub(crate) use plan::Plan;
pub(crate) use run::run;

//! Methods: what a loss is made of. In: the options; out: terms, each of which says which rows it sees, what it takes of
//! them and what it weighs. Invariant: a method holds no code of training; the trainer executes terms, and all methods
//! share its data, checkpoints, metrics and files. A new one is a file here and a line in [`METHODS`].

mod eraser;
mod gam;
#[cfg(test)]
mod parity;
mod rsft;

use crate::{KlScope, TrainOptions};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Fine-tuning on refusals; on other records it is plain fine-tuning, since its one term is the cross-entropy of answers.
pub const RSFT: Method = rsft::METHOD;

/// Every method.
pub const METHODS: [Method; 3] = [eraser::METHOD, gam::METHOD, rsft::METHOD];

/// A way to harden a model.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name in flags, run files and reports.
    pub name: &'static str,
    /// The published peak learning rate, which stands in where none is given.
    pub lr: f64,
    terms: fn(&TrainOptions) -> Vec<Term>,
}

/// One term of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Name: its value is `l_<name>` in the metrics.
    pub name: &'static str,
    /// The set.
    pub rows: Rows,
    /// Questions are wrapped in the prompt noise T, anew each time.
    pub noise: bool,
    /// Answers are drawn from the help set, anew each time, in place of the rows' own.
    pub unrelated: bool,
    /// What is taken of the samples.
    pub loss: Loss,
    /// What the value counts in the sum.
    pub weight: f64,
}

/// The sets of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Harmful questions with harmful answers.
    Harm,
    /// Benign questions about the same things with the model's own answers.
    Help,
    /// Harmful questions with the model's own refusals.
    Align,
    /// Allowed skills with the model's own answers; a term on it is dropped when there is none.
    Retain,
    /// The align set under every training jailbreak template.
    Wrapped,
}

/// A value of a micro-batch, in nats per token. NLL is the mean negative log-likelihood of the answers' tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// `max(0, gamma - NLL)`, over the scope of `gamma_scope`.
    Hinge,
    /// `-NLL`.
    Ascent,
    /// `NLL`.
    CrossEntropy,
    /// The mean of `KL(base || adapted)` over the positions of the scope.
    Kl(KlScope),
}

impl Method {
    /// A method of one's own. It is trained as any other; run files and flags know the names of [`METHODS`] only.
    pub const fn new(name: &'static str, lr: f64, terms: fn(&TrainOptions) -> Vec<Term>) -> Self {
        Self { name, lr, terms }
    }

    /// The method called `name`.
    pub fn named(name: &str) -> Option<Self> {
        METHODS.into_iter().find(|m| m.name == name)
    }

    /// The terms of the loss, in the order in which a step executes them.
    pub fn terms(&self, options: &TrainOptions) -> Vec<Term> {
        (self.terms)(options)
    }

    /// Whether the method sees `rows`.
    pub fn reads(&self, rows: Rows) -> bool {
        self.terms(&TrainOptions::default()).iter().any(|t| t.rows == rows || (t.unrelated && rows == Rows::Help))
    }
}

impl Rows {
    /// Every set.
    pub const ALL: [Self; 5] = [Self::Harm, Self::Help, Self::Align, Self::Retain, Self::Wrapped];

    /// Name of the set, of its file and of its random streams.
    pub fn name(self) -> &'static str {
        match self {
            Self::Harm => "harm",
            Self::Help => "help",
            Self::Align => "align",
            Self::Retain => "retain",
            Self::Wrapped => "wrapped",
        }
    }
}

impl Default for Method {
    fn default() -> Self {
        eraser::METHOD
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| {
            let known = METHODS.map(|m| m.name).join(", ");
            D::Error::custom(format!("unknown method `{name}`, known are {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_written_as_its_name() {
        for method in METHODS {
            let text = serde_json::to_string(&method).unwrap();
            assert_eq!(text, format!("\"{}\"", method.name));
            assert_eq!(serde_json::from_str::<Method>(&text).unwrap(), method);
        }
        let error = serde_json::from_str::<Method>("\"npo\"").unwrap_err().to_string();
        assert!(error.contains("eraser, gam, rsft"), "{error}");
    }

    #[test]
    fn methods_see_their_sets() {
        let seen = |name: &str| {
            let method = Method::named(name).unwrap();
            Rows::ALL.into_iter().filter(|&r| method.reads(r)).map(Rows::name).collect::<Vec<_>>()
        };
        assert_eq!(seen("eraser"), ["harm", "help", "align", "retain"]);
        assert_eq!(seen("gam"), ["harm", "help", "retain"]);
        assert_eq!(seen("rsft"), ["wrapped"]);
    }
}

//! What a loss is made of. In: the settings that a loss can have; out: terms, each of which says which set it sees, what it
//! takes of the samples and what it weighs. Invariant: a method holds no code of training; the trainer executes terms.

use eraser_data::SetName;
use serde::{Deserialize, Serialize};

/// A way to harden a model.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name in flags, run files and reports.
    pub name: &'static str,
    /// The published peak learning rate, which is used where none is given.
    pub lr: f64,
    /// The terms of the loss, in the order in which a step executes them.
    pub terms: fn(&TermSettings) -> Vec<Term>,
}

/// One term of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Name: its value is `l_<name>` in the metrics.
    pub name: &'static str,
    /// The set.
    pub set: SetName,
    /// Questions are wrapped in the prompt noise T, anew each time.
    pub noise: bool,
    /// Answers are drawn from the help set, anew each time, in place of the rows' own.
    pub unrelated: bool,
    /// What is taken of the samples.
    pub loss: Loss,
    /// What the value counts in the sum.
    pub weight: f64,
}

impl Term {
    /// The key of its value in the metrics.
    pub fn key(&self) -> String {
        format!("l_{}", self.name)
    }
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

/// Over which positions a KL term averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KlScope {
    /// Positions that predict a response token (the paper).
    #[default]
    Response,
    /// Every token of the sample, the prompt's included.
    All,
}

/// What of the options the terms of a method depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TermSettings {
    /// Prompt noise T on the harm set.
    pub noise: bool,
    /// The answers of the harm set are unrelated ones, drawn from the help set.
    pub unrelated: bool,
    /// Scope of the KL terms.
    pub kl_scope: KlScope,
    /// Weight of the harm term, times the method's published one.
    pub harm_weight: f64,
    /// Weight of the help term.
    pub help_weight: f64,
    /// Weight of the term that says how harmful questions are answered.
    pub align_weight: f64,
    /// Weight of the retain term.
    pub retain_weight: f64,
}

impl Default for TermSettings {
    fn default() -> Self {
        Self {
            noise: true,
            unrelated: false,
            kl_scope: KlScope::Response,
            harm_weight: 1.0,
            help_weight: 1.0,
            align_weight: 1.0,
            retain_weight: 1.0,
        }
    }
}

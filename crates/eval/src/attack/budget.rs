//! Budgets of the attacks that search: steps, candidates, seconds. Invariant: the defaults are what was published,
//! scaled to what a processor can do.

use serde::{Deserialize, Serialize};

/// Budget and shape of the search of `gcg`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcgOptions {
    /// Most steps for a question.
    pub steps: usize,
    /// Candidates of a step.
    pub candidates: usize,
    /// Replacements considered at each place.
    pub top_k: usize,
    /// Tokens of the suffix.
    pub suffix: usize,
    /// Suffixes that are kept and taken in turn as the start of a step.
    pub buffer: usize,
    /// Seconds for a question, at most; None: no limit. With a limit, results depend on the machine.
    pub seconds: Option<f64>,
}

impl Default for GcgOptions {
    /// As published (20 tokens, top 256), with 250 steps of 128 candidates and a buffer of 4.
    fn default() -> Self {
        Self { steps: 250, candidates: 128, top_k: 256, suffix: 20, buffer: 4, seconds: None }
    }
}

/// Budget and shape of the search of `autodan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutodanOptions {
    /// Most generations for a question.
    pub generations: usize,
    /// Candidates of a generation.
    pub population: usize,
    /// Candidates that are kept unchanged.
    pub elite: usize,
    /// Probability that a child exchanges a sentence with its other parent.
    pub crossover: f64,
    /// Probability that a sentence of a child is changed.
    pub mutation: f64,
    /// Seconds for a question, at most; None: no limit. With a limit, results depend on the machine.
    pub seconds: Option<f64>,
}

impl Default for AutodanOptions {
    /// As published (crossover 0.5), with 40 generations of 32 candidates.
    fn default() -> Self {
        Self { generations: 40, population: 32, elite: 3, crossover: 0.5, mutation: 0.15, seconds: None }
    }
}

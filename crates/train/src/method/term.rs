//! What a loss is made of. In: the settings that a loss can have; out: terms, each of which says which set it sees,
//! what it computes from the samples, and its weight. Invariant: a method holds no code of training; the trainer
//! executes terms.

use eraser_data::SetName;
use serde::{Deserialize, Serialize};

/// A way to harden a model.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name in flags, run files and reports.
    pub name: &'static str,
    /// Where it was published.
    pub source: &'static str,
    /// The published peak learning rate, which is used where none is given.
    pub lr: f64,
    /// The published beta, if the method has one.
    pub beta: Option<f64>,
    /// What of the published settings or code is not so here; empty where there is nothing to say.
    pub note: &'static str,
    /// Where losses on hidden states look, as shares of the model's depth; empty for other losses.
    pub depths: &'static [f64],
    /// The terms of the loss, in the order in which a step executes them.
    pub terms: fn(&TermSettings) -> Vec<Term>,
}

impl Method {
    /// A method without a beta, notes and losses on hidden states.
    pub const fn new(name: &'static str, source: &'static str, lr: f64, terms: fn(&TermSettings) -> Vec<Term>) -> Self {
        Self { name, source, lr, beta: None, note: "", depths: &[], terms }
    }
}

/// One term of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Name: what it does in the loss.
    pub name: &'static str,
    /// The method that it was taken from, where it is beside those of another one.
    pub of: Option<&'static str>,
    /// The set.
    pub set: SetName,
    /// Questions are wrapped in the prompt noise T, anew each time.
    pub noise: bool,
    /// Answers are drawn from the help set, anew each time, in place of the rows' own.
    pub unrelated: bool,
    /// What of an answer is given before the supervised tokens.
    pub given: Given,
    /// The value that is computed from the samples.
    pub loss: Loss,
    /// The weight of the value in the sum.
    pub weight: f64,
    /// The weight is where a dual variable begins, which rises while the value is above what it may be, and falls below
    /// it.
    pub constrained: bool,
    /// How the weight changes over the steps.
    pub ramp: Ramp,
}

impl Term {
    /// A term over the rows of `set` as they are.
    pub fn new(name: &'static str, set: SetName, loss: Loss, weight: f64) -> Self {
        Self {
            name,
            of: None,
            set,
            noise: false,
            unrelated: false,
            given: Given::Nothing,
            loss,
            weight,
            constrained: false,
            ramp: Ramp::None,
        }
    }

    /// What it is called among all terms of a loss: `harm`, or `npo.harm`.
    pub fn label(&self) -> String {
        self.of.map_or_else(|| self.name.to_owned(), |method| format!("{method}.{}", self.name))
    }

    /// The key of its value in the metrics.
    pub fn key(&self) -> String {
        format!("l_{}", self.label())
    }
}

/// What of an answer a sample gives before its supervised tokens. Half of the draws give nothing, the others 1 to a
/// most number of tokens, all counts alike. This goes beyond the paper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Given {
    /// The whole answer is supervised.
    #[default]
    Nothing,
    /// The first tokens of the row's own answer, at most so many.
    Own(usize),
    /// The first tokens of a harmful answer to the same question, at most so many: what was begun is to be broken off.
    Harmful(usize),
}

impl Given {
    /// Most tokens.
    pub fn most(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Own(most) | Self::Harmful(most) => most,
        }
    }
}

/// A value of a micro-batch, in nats per token. NLL is the mean negative log-likelihood of the answers' tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `max(0, gamma - NLL)`, over the scope of `gamma_scope`.
    Hinge,
    /// `-NLL`.
    Ascent,
    /// `-mean(p^a (1 - p)^b NLL)` of the powers `a` and `b`, with `p` the probability of a token, which has no gradient.
    WeightedAscent(f64, f64),
    /// Ascent that slows down where an answer has become unlikely.
    Npo(Npo),
    /// An answer of the align set is to be preferred to the row's own.
    Preference(Preference),
    /// A value of the logits at each position that predicts a token of an answer.
    Logits(LogitLoss),
    /// A value of hidden states: of the residual stream behind some blocks.
    States(StateLoss),
    /// An answer of the align set is to be likely, and the row's own unlikely, under an attack on hidden states.
    Latent(Latent),
    /// `NLL`.
    CrossEntropy,
    /// The mean of `KL(base || adapted)` over the positions of the scope.
    Kl(KlScope),
}

impl Loss {
    /// Whether it makes answers less likely, of which it knows how likely they are.
    pub fn unlearns(self) -> bool {
        !matches!(self, Self::CrossEntropy | Self::Kl(_) | Self::States(_))
    }

    /// Whether it is of pairs: of the row's own answer, and that of the align set to the same question.
    pub fn is_of_pairs(self) -> bool {
        matches!(self, Self::Preference(_) | Self::Latent(_))
    }
}

/// `-scale * mean over answers of log sigma(beta (l - l_0))`, with `l` the loss of an answer and `l_0` that of the base
/// model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Npo {
    /// Within the sigmoid.
    pub beta: f64,
    /// Before the mean.
    pub scale: f64,
    /// The loss of an answer is the mean of its tokens' NLL, not their sum.
    pub per_token: bool,
    /// `l_0` is that of the base model, not 0.
    pub reference: bool,
}

/// `-scale * mean over answers of log sigma(beta ((l - l_0) - (w - w_0)))`, with `l` the sum of the NLL of the tokens of
/// the row's own answer, `w` that of the preferred one, and `l_0`, `w_0` those of the base model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preference {
    /// Within the sigmoid.
    pub beta: f64,
    /// Before the mean.
    pub scale: f64,
}

/// A value of the logits `z` at a position that predicts the token `t` of an answer; `p = softmax(z)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LogitLoss {
    /// `-sum_v q_v log p_v` with `q = softmax(z_0 - beta e_t)`, where `z_0` are the base model's logits: this beta.
    Distilled(f64),
    /// `-sum_v q_v log p_v` with `q` the model's own distribution without `t`, which has no gradient. The first token of
    /// an answer does not count.
    WithoutToken,
    /// `(max z - mean z)^2`.
    Flat,
}

/// A value of the hidden states `h` of the adapted model behind chosen blocks, and of those of the base, `h_0`. Of several
/// blocks it is the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StateLoss {
    /// The mean of `(h - c u)^2` over an answer's tokens, and over answers, with this `c` and a direction `u` that is
    /// drawn once.
    Steer(f64),
    /// The mean of `(h - h_0)^2`, taken likewise.
    Drift,
    /// The mean of `max(0, cos(h, h_0))` over every token, prompts included.
    Reroute,
    /// The mean of `|h - h_0|` over every token and the outputs of the embedding and of all blocks.
    Distance,
}

/// `mean over pairs of (mean NLL of one answer + mean -log(1 - p) of the other) / 2`, in which tokens with `log p < -5`
/// count as 0 in the second mean: under states, added to those of the question's tokens, that make the row's own answer
/// likely and the preferred one unlikely by the same measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// The greatest length of what is added to a token's state.
    pub epsilon: f64,
    /// Steps that it takes from 0.
    pub steps: usize,
    /// Their learning rate.
    pub lr: f64,
}

/// How the weight of a term changes over the steps, with `s = step / (2 steps)`: from 0 to a half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ramp {
    /// Not at all.
    #[default]
    None,
    /// It is multiplied by `1 - s`.
    Falling,
    /// It is multiplied by `s`.
    Rising,
}

impl Ramp {
    /// What the weight is multiplied by in step `step`, from 0, of `steps`.
    pub fn factor(self, step: usize, steps: usize) -> f64 {
        let s = step as f64 / (2.0 * steps as f64).max(1.0);
        match self {
            Self::None => 1.0,
            Self::Falling => 1.0 - s,
            Self::Rising => s,
        }
    }
}

/// What the align term takes of the refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlignLoss {
    /// `KL(base || adapted)` (the paper). Under noise, or after an opening, the base is the one that was asked plainly.
    #[default]
    Kl,
    /// The cross-entropy of the refusals.
    CrossEntropy,
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

/// The options that the terms of a method depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct TermSettings {
    /// Prompt noise T on the harm set.
    pub noise: bool,
    /// Prompt noise T on the align set.
    pub align_noise: bool,
    /// Prompt noise T on the retain set.
    pub retain_noise: bool,
    /// Most tokens of a harmful answer that are given, and the rest unlearned.
    pub harm_depth: usize,
    /// Most tokens of a harmful answer that are given before the refusal.
    pub align_depth: usize,
    /// What the align term takes of the refusals.
    pub align_loss: AlignLoss,
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
    /// The beta of methods that have one; None: the published one.
    pub beta: Option<f64>,
    /// The length of the vector that rmu steers to; None: the published one.
    pub steering: Option<f64>,
    /// The greatest length of what lat adds to a hidden state; None: the published one.
    pub attack_epsilon: Option<f64>,
    /// Steps of an attack of lat; None: as published.
    pub attack_steps: Option<usize>,
    /// Their learning rate; None: the published one.
    pub attack_lr: Option<f64>,
}

impl TermSettings {
    /// A term that unlearns the harm set, with the published `weight`, as baselines do it: questions as they are.
    pub(super) fn forget(&self, loss: Loss, weight: f64) -> Term {
        Term { unrelated: self.unrelated, ..Term::new("harm", SetName::Harm, loss, weight * self.harm_weight) }
    }

    /// The terms of baselines that keep the help set and the retain set: ordinary training on them.
    pub(super) fn kept(&self) -> [Term; 2] {
        [
            Term::new("help", SetName::Help, Loss::CrossEntropy, self.help_weight),
            Term::new("retain", SetName::Retain, Loss::CrossEntropy, self.retain_weight),
        ]
    }
}

impl Default for TermSettings {
    fn default() -> Self {
        Self {
            noise: true,
            align_noise: false,
            retain_noise: false,
            harm_depth: 0,
            align_depth: 0,
            align_loss: AlignLoss::Kl,
            unrelated: false,
            kl_scope: KlScope::Response,
            harm_weight: 1.0,
            help_weight: 1.0,
            align_weight: 1.0,
            retain_weight: 1.0,
            beta: None,
            steering: None,
            attack_epsilon: None,
            attack_steps: None,
            attack_lr: None,
        }
    }
}

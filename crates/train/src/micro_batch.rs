//! The samples of a term in a micro-batch. In: samples as they are drawn; out: their pack, what the loss looks at, and
//! what is counted before the first pass. Invariant: the counts of the shares of a micro-batch add up to those of the
//! whole.

use crate::{
    feed::Drawn,
    method::{KlScope, LogitLoss, Loss, StateLoss, Term},
    options::GammaScope,
    reference::Anchors,
};
use eraser_data::{Batch, Sample, Scored};
use serde::{Deserialize, Serialize};

/// How many samples a term has seen, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Samples drawn.
    pub samples: usize,
    /// Those that were cut to the longest length.
    pub cut: usize,
    /// Those of which the loss saw no token: nothing of the answer was left.
    pub empty: usize,
}

impl Seen {
    /// Counts what `other` counted too.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.cut += other.cut;
        self.empty += other.empty;
    }
}

/// What is counted of a term's samples in a micro-batch, or in a share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) seen: Seen,
    pub(crate) tokens: usize,
    /// Scored tokens of the samples' own answers.
    pub(crate) own: usize,
    /// What the term divides a sum by to get its value: tokens, answers or pairs of them.
    pub(crate) divisor: f64,
}

impl Counts {
    /// Numbers that ranks add up.
    pub(crate) const NUMBERS: usize = 6;

    pub(crate) fn numbers(&self) -> [f64; Self::NUMBERS] {
        let Seen { samples, cut, empty } = self.seen;
        let [samples, cut, empty, tokens, own] = [samples, cut, empty, self.tokens, self.own].map(|n| n as f64);
        [samples, cut, empty, tokens, own, self.divisor]
    }

    /// Those of the whole, as ranks have added them up.
    pub(crate) fn of(numbers: &[f64; Self::NUMBERS]) -> Self {
        let [samples, cut, empty, tokens, own, divisor] = *numbers;
        let [samples, cut, empty, tokens, own] = [samples, cut, empty, tokens, own].map(|n| n as usize);
        Self { seen: Seen { samples, cut, empty }, tokens, own, divisor }
    }

    /// Whether a token of the samples' own answers is supervised.
    pub(crate) fn any(&self) -> bool {
        self.seen.empty < self.seen.samples
    }

    /// What the value of a share weighs in that of the micro-batch `whole`, and the mean of its own tokens' losses.
    pub(crate) fn share_of(&self, whole: &Self) -> (f64, f64) {
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 1.0 };
        (share(self.divisor, whole.divisor), share(self.own as f64, whole.own as f64))
    }
}

/// The samples of a term in a micro-batch, packed.
pub(crate) struct MicroBatch {
    /// The samples, and behind them those with the preferred answers, in the same order.
    pub(crate) drawn: Vec<Drawn>,
    /// Samples without those.
    own: usize,
    pub(crate) batch: Batch,
    /// What the loss looks at.
    pub(crate) scored: Scored,
    /// The samples as they are when asked plainly, if the term compares with those.
    pub(crate) anchors: Option<Anchors>,
    /// Place of the first sample in the sequence of draws.
    pub(crate) from: usize,
}

impl MicroBatch {
    pub(crate) fn new(term: &Term, mut drawn: Vec<Drawn>, from: usize) -> Self {
        let own = drawn.len();
        let preferred = |d: &mut Drawn| {
            let sample = d.preferred.take()?;
            Some(Drawn { row: d.row, sample, cut: false, anchor: None, preferred: None })
        };
        let preferred: Vec<Drawn> = drawn.iter_mut().filter_map(preferred).collect();
        drawn.extend(preferred);
        let samples: Vec<&Sample> = drawn.iter().map(|d| &d.sample).collect();
        // What is added to the states of a question is its own.
        let batch = if matches!(term.loss, Loss::Latent(_)) { Batch::new(&samples) } else { Batch::shared(&samples) };
        let scored = match term.loss {
            Loss::Kl(KlScope::All) | Loss::States(StateLoss::Reroute | StateLoss::Distance) => batch.all(),
            Loss::States(_) => batch.answers(),
            _ => batch.supervised(),
        };
        let anchors = Anchors::of(&drawn);
        Self { drawn, own, batch, scored, anchors, from }
    }

    /// What is counted of them; `scope` is that of the hinge.
    pub(crate) fn counts(&self, term: &Term, scope: GammaScope) -> Counts {
        let (all, scored) = (&self.scored.samples, &self.scored);
        let seen = Seen {
            samples: self.own,
            cut: self.drawn.iter().filter(|d| d.cut).count(),
            empty: all[..self.own].iter().filter(|rows| rows.is_empty()).count(),
        };
        let answers = || all.iter().filter(|rows| !rows.is_empty()).count() as f64;
        let divisor = match term.loss {
            Loss::Kl(_) | Loss::States(StateLoss::Reroute | StateLoss::Distance) => {
                scored.counts.iter().map(|&count| f64::from(count)).sum()
            }
            Loss::States(_) | Loss::Npo(_) => answers(),
            Loss::Hinge if scope == GammaScope::Sample => answers(),
            Loss::Preference(_) | Loss::Latent(_) => {
                let (rejected, preferred) = all.split_at(all.len() / 2);
                rejected.iter().zip(preferred).filter(|(l, w)| !l.is_empty() && !w.is_empty()).count() as f64
            }
            Loss::Logits(LogitLoss::WithoutToken) => all.iter().map(|rows| rows.len().saturating_sub(1) as f64).sum(),
            _ => scored.rows.len() as f64,
        };
        Counts { seen, tokens: self.batch.tokens, own: self.own_tokens(), divisor }
    }

    /// The losses of the samples' own tokens: those of preferred answers are behind them.
    pub(crate) fn own<'l>(&self, losses: &'l [f32]) -> &'l [f32] {
        &losses[..self.own_tokens()]
    }

    fn own_tokens(&self) -> usize {
        if self.own == self.drawn.len() {
            return self.scored.rows.len();
        }
        self.scored.samples[..self.own].iter().map(Vec::len).sum()
    }
}

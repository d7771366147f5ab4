//! What is done to a hardened model before it is measured. In: a condition; out: its directory and its name in the
//! table. Invariant: the first condition is the model as it was trained.

use super::DurabilityOptions;
use eraser_model::counted;
use eraser_ops::quant::TensorType;

/// What is done to the hardened model before it is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    AsTrained,
    Merging,
    Quantisation(TensorType),
    BenignTuning,
    Relearning,
}

impl Condition {
    pub(super) const ALL: [Self; 6] = [
        Self::AsTrained,
        Self::Merging,
        Self::Quantisation(TensorType::Q8_0),
        Self::Quantisation(TensorType::Q4_0),
        Self::BenignTuning,
        Self::Relearning,
    ];

    /// Its directory.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AsTrained => "as-trained",
            Self::Merging => "merged",
            Self::Quantisation(TensorType::Q8_0) => "q8_0",
            Self::Quantisation(_) => "q4_0",
            Self::BenignTuning => "fine-tuned",
            Self::Relearning => "relearnt",
        }
    }

    /// For the table and the findings.
    pub(super) fn describe(self, args: &DurabilityOptions, pairs: usize) -> String {
        match self {
            Self::AsTrained => "as trained".to_owned(),
            Self::Merging => "adapter merged".to_owned(),
            Self::Quantisation(TensorType::Q8_0) => "merged, 8 bits (Q8_0)".to_owned(),
            Self::Quantisation(_) => "merged, 4 bits (Q4_0)".to_owned(),
            Self::BenignTuning => format!("{} on the help set", counted(args.steps, "step")),
            Self::Relearning => format!("{} on {}", counted(args.steps, "step"), counted(pairs, "harm pair")),
        }
    }
}

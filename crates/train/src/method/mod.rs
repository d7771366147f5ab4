//! Methods: what a loss is made of. In: a name; out: the method. Invariant: all methods share the trainer's data,
//! checkpoints, metrics and files. A new one is a file here and a line in [`METHODS`].

mod ascent;
mod ce_u;
mod circuit_breakers;
mod dpo;
mod eraser;
mod extra;
mod gam;
mod lat;
mod npo;
#[cfg(test)]
mod parity;
mod pdu;
mod rmu;
mod rsft;
mod safe_unlearning;
mod sft;
mod simnpo;
mod term;
mod undial;
mod used;
mod wga;

pub use extra::Extra;
pub use term::{
    AlignLoss, Given, KlScope, Latent, LogitLoss, Loss, Method, Npo, Preference, Ramp, StateLoss, Term, TermSettings,
};

use eraser_data::SetName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Fine-tuning on refusals; on other records it is plain fine-tuning, since its one term is the cross-entropy of
/// answers.
pub const RSFT: Method = rsft::METHOD;

/// Fine-tuning on refusals of plain questions, beside answers to benign ones.
pub const SFT: Method = sft::METHOD;

/// Every method: the paper's and its baselines first.
pub const METHODS: [Method; 18] = [
    eraser::METHOD,
    gam::METHOD,
    rsft::METHOD,
    sft::METHOD,
    ascent::ASCENT,
    ascent::DIFFERENCE,
    npo::METHOD,
    simnpo::METHOD,
    wga::WGA,
    wga::SATIMP,
    safe_unlearning::METHOD,
    dpo::METHOD,
    undial::METHOD,
    ce_u::METHOD,
    pdu::METHOD,
    rmu::METHOD,
    circuit_breakers::METHOD,
    lat::METHOD,
];

impl Method {
    /// The method called `name`.
    pub fn named(name: &str) -> Option<Self> {
        METHODS.into_iter().find(|m| m.name == name)
    }

    /// Whether it cannot do without the file of a set: it sees the set, or another one that is made of it.
    pub fn needs(&self, set: SetName) -> bool {
        (self.reads(set) && set != SetName::Retain) || (set == SetName::Align && self.reads(SetName::Wrapped))
    }

    /// Whether the method sees a set.
    pub fn reads(&self, set: SetName) -> bool {
        let terms = (self.terms)(&TermSettings::default());
        terms.iter().any(|t| {
            let preferred = t.loss.is_of_pairs() && set == SetName::Align;
            t.set == set || (t.unrelated && set == SetName::Help) || preferred
        })
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
            // As serde says it of names: what reads run files suggests one of those that are listed.
            let known = METHODS.map(|m| format!("`{}`", m.name)).join(", ");
            D::Error::custom(format!("unknown variant `{name}`, expected one of {known}"))
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
        let error = serde_json::from_str::<Method>("\"none\"").unwrap_err().to_string();
        assert!(error.contains("`eraser`, `gam`, `rsft`, `sft`"), "{error}");
    }

    #[test]
    fn methods_see_their_sets() {
        let seen = |name: &str| {
            let method = Method::named(name).unwrap();
            SetName::ALL.into_iter().filter(|&s| method.reads(s)).map(SetName::name).collect::<Vec<_>>()
        };
        assert_eq!(seen("eraser"), ["harm", "help", "align", "retain"]);
        assert_eq!(seen("gam"), ["harm", "help", "retain"]);
        assert_eq!(seen("rsft"), ["wrapped"]);
        assert_eq!(seen("sft"), ["help", "align", "retain"]);
        assert_eq!(seen("grad-ascent"), ["harm"]);
        for name in ["grad-diff", "npo", "simnpo", "wga", "satimp", "pdu", "rmu", "circuit-breakers"] {
            assert_eq!(seen(name), ["harm", "help", "retain"]);
        }
        for name in ["safe-unlearning", "dpo", "lat"] {
            assert_eq!(seen(name), ["harm", "help", "align", "retain"]);
        }
        for name in ["undial", "ce-u"] {
            assert_eq!(seen(name), ["harm"]);
        }
    }

    #[test]
    fn methods_need_the_files_of_their_sets() {
        let needed = |name: &str| {
            let method = Method::named(name).unwrap();
            SetName::PREPARED.into_iter().filter(|&s| method.needs(s)).map(SetName::name).collect::<Vec<_>>()
        };
        assert_eq!(needed("eraser"), ["harm", "help", "align"]);
        assert_eq!(needed("gam"), ["harm", "help"]);
        assert_eq!(needed("rsft"), ["align"]);
        assert_eq!(needed("sft"), ["help", "align"]);
        assert!(METHODS.iter().all(|m| !m.needs(SetName::Retain)));
    }
}

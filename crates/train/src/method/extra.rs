//! Terms of other methods beside eraser's own, for studies. In: `METHOD.TERM`, or `METHOD.TERM=WEIGHT`; out: the term, as
//! that method has it, times the weight. Invariant: a term that is added has a name of its own in metrics and
//! checkpoints.

use super::term::{Method, Term, TermSettings};
use crate::METHODS;
use eraser_data::SetName;
use eraser_model::{Error, suggest};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::str::FromStr;

/// A term of another method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extra {
    /// The method that has it.
    pub method: Method,
    /// Its name there.
    pub term: &'static str,
    /// What its weight there is multiplied by.
    pub weight: f64,
}

impl Extra {
    /// The term under these settings; None where the method has it under others only.
    pub(crate) fn term(&self, settings: &TermSettings) -> Option<Term> {
        let own = (self.method.terms)(settings).into_iter().find(|term| term.name == self.term)?;
        Some(Term { of: Some(self.method.name), weight: self.weight * own.weight, ..own })
    }
}

impl FromStr for Extra {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (path, weight) = match text.split_once('=') {
            Some((path, weight)) => (path, weight.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0)),
            None => (text, Some(1.0)),
        };
        let wrong = |what: &str| Error::request(format!("`{text}`: {what}"));
        let form = "write it as METHOD.TERM or METHOD.TERM=WEIGHT, for example npo.harm=0.5";
        let weight = weight.ok_or_else(|| wrong("the weight must be 0 or a positive number").hint(form))?;
        let (name, term) = path.split_once('.').ok_or_else(|| wrong("no full stop").hint(form))?;
        let names: Vec<&str> = METHODS.iter().map(|method| method.name).filter(|name| *name != "eraser").collect();
        let method = Method::named(name).filter(|method| method.name != "eraser");
        let method = method.ok_or_else(|| suggest(wrong("no other method has this name"), name, &names))?;
        let terms: Vec<Term> = (method.terms)(&TermSettings::default());
        let names: Vec<&str> = terms.iter().filter(|term| term.set != SetName::Wrapped).map(|term| term.name).collect();
        let found = names.iter().find(|known| **known == term);
        let term = found.ok_or_else(|| suggest(wrong(&format!("{name} has no such term to add")), term, &names))?;
        Ok(Self { method, term, weight })
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}={}", self.method.name, self.term, self.weight)
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Extra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parity;
    use super::*;
    use crate::TrainOptions;

    fn extra(texts: &[&str]) -> TrainOptions {
        TrainOptions { extra: texts.iter().map(|text| text.parse().unwrap()).collect(), ..TrainOptions::default() }
    }

    #[test]
    fn loss_and_gradients_are_those_of_pytorch() {
        let options = extra(&["npo.harm=0.5", "rmu.harm=0.1", "sft.help=0.2"]);
        parity::check_variant("eraser, with npo, rmu and sft", TrainOptions { loss_layers: Some(vec![1]), ..options });
    }

    #[test]
    fn what_is_added_has_a_name_of_its_own() {
        let keys: Vec<String> = extra(&["npo.harm", "dpo.harm=0.5"]).terms().iter().map(Term::key).collect();
        assert_eq!(keys, ["l_harm", "l_help", "l_align", "l_retain", "l_npo.harm", "l_dpo.harm"]);
        let all = extra(&["npo.harm=2", "dpo.harm"]);
        let text = serde_json::to_string(&all.extra).unwrap();
        assert_eq!(text, r#"["npo.harm=2","dpo.harm=1"]"#);
        assert_eq!(serde_json::from_str::<Vec<Extra>>(&text).unwrap(), all.extra);
        // Its options count; other methods have none of it.
        assert!(all.uses("beta") && !all.uses("steering") && !extra(&[]).uses("beta"));
        let other = TrainOptions { method: Method::named("npo").unwrap(), ..all.clone() };
        assert!(!other.uses("extra") && other.terms().iter().all(|term| term.of.is_none()));
        assert_eq!(all.without_unused().extra.len(), 2);
    }

    #[test]
    fn what_is_no_term_is_told() {
        let told = |text: &str| {
            let error = text.parse::<Extra>().unwrap_err();
            format!("{error} {}", error.hints().join(" "))
        };
        for (text, want) in [
            ("npo", "no full stop write it as METHOD.TERM"),
            ("npo.harm=-1", "the weight must be 0 or a positive number"),
            ("nop.harm", "no other method has this name did you mean `npo`?"),
            ("eraser.harm", "no other method has this name"),
            ("npo.ham", "npo has no such term to add did you mean `harm`?"),
            ("rsft.wrapped", "rsft has no such term to add"),
        ] {
            assert!(told(text).contains(want), "{text}: {}", told(text));
        }
        let messages = |options: TrainOptions| {
            options.check().into_iter().map(|wrong| format!("{wrong:?}")).collect::<Vec<_>>().join(" ")
        };
        assert!(messages(extra(&["npo.harm", "npo.harm=2"])).contains("each term once"));
        assert!(messages(extra(&["rmu.harm", "circuit-breakers.harm"])).contains("loss_layers"));
        assert_eq!(messages(extra(&["rmu.harm", "npo.harm"])), "");
    }
}

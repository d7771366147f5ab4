//! The threshold of the hinge as it is asked for: a number, or `auto`. In and out: the value of `--gamma`, the key
//! `gamma`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use std::{fmt, str::FromStr};

/// How far the harmful answers are unlearned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gamma {
    /// Until they cost this much, in nats per token.
    Nats(f64),
    /// Until they cost `gamma_margin` more than they cost the base model at the start.
    Auto,
}

impl From<f64> for Gamma {
    fn from(nats: f64) -> Self {
        Self::Nats(nats)
    }
}

impl fmt::Display for Gamma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nats(nats) => nats.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Gamma {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Nats).map_err(|_| format!("`{text}` is neither a number nor `auto`")),
        }
    }
}

impl Serialize for Gamma {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nats(nats) => serializer.serialize_f64(*nats),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for Gamma {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Gamma;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or `auto`")
            }

            fn visit_f64<E>(self, nats: f64) -> Result<Gamma, E> {
                Ok(Gamma::Nats(nats))
            }

            fn visit_i64<E>(self, nats: i64) -> Result<Gamma, E> {
                Ok(Gamma::Nats(nats as f64))
            }

            fn visit_u64<E>(self, nats: u64) -> Result<Gamma, E> {
                Ok(Gamma::Nats(nats as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Gamma, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_auto_are_written_as_they_are_read() {
        for (text, gamma) in [("1.8", Gamma::Nats(1.8)), ("3", Gamma::Nats(3.0)), ("\"auto\"", Gamma::Auto)] {
            assert_eq!(serde_json::from_str::<Gamma>(text).unwrap(), gamma);
            let written = serde_json::to_string(&gamma).unwrap();
            assert_eq!(serde_json::from_str::<Gamma>(&written).unwrap(), gamma);
            assert_eq!(gamma.to_string().parse::<Gamma>().unwrap(), gamma);
        }
        assert!(serde_json::from_str::<Gamma>("\"high\"").unwrap_err().to_string().contains("neither a number nor"));
        assert!(serde_json::from_str::<Gamma>("[]").unwrap_err().to_string().contains("a number or `auto`"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = text.parse::<Gamma>();
        }
    }
}

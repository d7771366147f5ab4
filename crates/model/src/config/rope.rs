//! RoPE frequencies. In: a base, a width and a scaling; out: the frequencies, and the factor of cosines and sines.
//! Invariant: the operations and their precision are those of transformers' `modeling_rope_utils`.

use super::keys::Keys;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The rotation of a layer's queries and keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Their scaling, if any.
    pub scaling: Option<RopeScaling>,
}

/// RoPE frequency scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Positions divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Llama 3.1 and later.
    Llama3 {
        /// Scale of the lowest frequencies.
        factor: f32,
        /// Start of the smooth range.
        low_freq_factor: f32,
        /// End of the smooth range.
        high_freq_factor: f32,
        /// Context length before scaling.
        original_max_position_embeddings: u32,
    },
    /// `YaRN` (Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        /// Scale of the lowest frequencies.
        factor: f32,
        /// Context length before scaling.
        original_max_position_embeddings: u32,
        /// A frequency that makes at least this many rotations over the original length is not changed.
        beta_fast: f32,
        /// A frequency that makes fewer rotations than this is divided by the factor.
        beta_slow: f32,
        /// What cosines and sines are multiplied by.
        attention_factor: f32,
        /// The ends of the range between the two are rounded to whole frequencies.
        truncate: bool,
    },
    /// `LongRoPE` (Ding et al. 2024, arXiv 2402.13753): each frequency is divided by its own factor. Sequences longer
    /// than the original length have other factors; they are refused here.
    LongRope {
        /// The factors.
        short: Vec<f32>,
        /// The factors for longer sequences, kept for export.
        long: Vec<f32>,
        /// Context length before scaling.
        original_max_position_embeddings: u32,
        /// What cosines and sines are multiplied by.
        attention_factor: f32,
    },
    /// Each frequency is divided by its own factor: the tensor `rope_freqs.weight` of a GGUF file.
    Factors(Vec<f32>),
}

impl Rope {
    /// Frequencies in radians per position of `dim` rotated elements, `[dim / 2]`, with the scaling applied.
    pub fn inv_freq(&self, dim: usize) -> Vec<f32> {
        let plain = (0..dim).step_by(2).map(|i| 1.0 / self.theta.powf(i as f32 / dim as f32));
        match &self.scaling {
            None => plain.collect(),
            Some(RopeScaling::Linear { factor }) => plain.map(|f| f / factor).collect(),
            Some(RopeScaling::Factors(factors)) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
            Some(RopeScaling::LongRope { short, .. }) => {
                let powers = (0..dim).step_by(2).map(|i| self.theta.powf(i as f32 / dim as f32));
                powers.zip(short).map(|(power, factor)| 1.0 / (factor * power)).collect()
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }) => {
                let original = *original as f32;
                let scale = |f: f32| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength < original / high {
                        f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain.map(scale).collect()
            }
            Some(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast,
                beta_slow,
                truncate,
                ..
            }) => {
                let (low, high) = self.yarn_range(dim, [*beta_fast, *beta_slow], *original, *truncate);
                let scale = |(i, f): (usize, f32)| {
                    let kept = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * (1.0 - kept) + f * kept
                };
                plain.enumerate().map(scale).collect()
            }
        }
    }

    /// The range of frequencies over which `YaRN` goes from unchanged to scaled.
    fn yarn_range(&self, dim: usize, betas: [f32; 2], original: u32, truncate: bool) -> (f32, f32) {
        let dim = dim as f64;
        let place = |rotations: f32| {
            dim * (f64::from(original) / (f64::from(rotations) * 2.0 * std::f64::consts::PI)).ln()
                / (2.0 * f64::from(self.theta).ln())
        };
        let [mut low, mut high] = betas.map(place);
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // An empty range would be a division by zero.
        if (high - low).abs() < f64::EPSILON {
            high += 0.001;
        }
        (low as f32, high as f32)
    }

    /// What cosines and sines are multiplied by.
    pub fn scale(&self) -> f32 {
        match &self.scaling {
            Some(RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. }) => {
                *attention_factor
            }
            _ => 1.0,
        }
    }

    /// The longest sequence that these frequencies may be used for; None where there is no limit.
    pub fn limit(&self) -> Option<usize> {
        match &self.scaling {
            Some(RopeScaling::LongRope { original_max_position_embeddings: n, .. }) => Some(*n as usize),
            _ => None,
        }
    }

    /// Checks every number, for `dim` rotated elements. `name` gives the file's own name of a config.json key.
    pub(super) fn check(&self, dim: usize, name: &dyn Fn(&str) -> String) -> Result<()> {
        positive(&name("rope_theta"), self.theta)?;
        let scaled = |key: &str| name(&format!("rope_scaling.{key}"));
        let factors = |key: &str, factors: &[f32]| {
            if factors.len() != dim / 2 {
                let (n, want) = (factors.len(), dim / 2);
                return Err(Error::request(format!("`{key}` has {n} factors, must have {want}")));
            }
            factors.iter().try_for_each(|factor| positive(key, *factor))
        };
        match &self.scaling {
            None => {}
            Some(RopeScaling::Linear { factor }) => positive(&scaled("factor"), *factor)?,
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            }) => {
                positive(&scaled("factor"), *factor)?;
                positive(&scaled("low_freq_factor"), *low)?;
                positive(&scaled("high_freq_factor"), *high)?;
                positive(&scaled("original_max_position_embeddings"), *original as f32)?;
                if high <= low {
                    return Err(Error::request(format!(
                        "`{}` ({high}) must be greater than `{}` ({low})",
                        scaled("high_freq_factor"),
                        scaled("low_freq_factor")
                    )));
                }
            }
            Some(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast,
                beta_slow,
                attention_factor,
                ..
            }) => {
                positive(&scaled("factor"), *factor)?;
                positive(&scaled("original_max_position_embeddings"), *original as f32)?;
                positive(&scaled("beta_fast"), *beta_fast)?;
                positive(&scaled("beta_slow"), *beta_slow)?;
                positive(&scaled("attention_factor"), *attention_factor)?;
                if self.theta <= 1.0 {
                    return Err(Error::request(format!("`{}` must be above 1 with yarn", name("rope_theta"))));
                }
            }
            Some(RopeScaling::LongRope { short, long, original_max_position_embeddings, attention_factor }) => {
                factors(&scaled("short_factor"), short)?;
                factors(&scaled("long_factor"), long)?;
                positive(&scaled("original_max_position_embeddings"), *original_max_position_embeddings as f32)?;
                positive(&scaled("attention_factor"), *attention_factor)?;
            }
            Some(RopeScaling::Factors(found)) => factors("rope_freqs.weight", found)?,
        }
        Ok(())
    }
}

impl RopeScaling {
    /// The factor by which `YaRN` multiplies cosines and sines, where the configuration gives none.
    pub(super) fn yarn_attention(factor: f32, mscales: Option<[f32; 2]>) -> f32 {
        let mscale = |m: f32| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        match mscales {
            Some([mscale_own, mscale_all]) => mscale(mscale_own) / mscale(mscale_all),
            None => mscale(1.0),
        }
    }

    /// The same of `LongRoPE`.
    pub(super) fn longrope_attention(factor: f32, original: f32) -> f32 {
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
    }

    /// The scaling that a `rope_scaling` of config.json, or a `rope_parameters`, describes. `lengths` are the model's
    /// longest sequence and, where a key outside this object gives it, the longest before scaling.
    pub(super) fn read(keys: Keys<'_>, kind: &str, lengths: (usize, Option<usize>)) -> Result<Option<Self>> {
        let number = |key: &str| keys.number_f32(key);
        let required = |key: &str| {
            number(key)?.ok_or_else(|| {
                Error::request(format!("`{}{key}` is missing, `rope_type` {kind} needs it", keys.prefix))
                    .hint("take the config.json that was published with the weights")
            })
        };
        let (longest, outside) = lengths;
        let original = || {
            let key = "original_max_position_embeddings";
            let original = keys.optional_size(key)?.or(outside).unwrap_or(longest);
            u32::try_from(original).map_err(|_| Error::request(format!("`{}{key}` is too large", keys.prefix)))
        };
        Ok(match kind {
            "default" => None,
            "linear" => Some(Self::Linear { factor: required("factor")? }),
            "llama3" => Some(Self::Llama3 {
                factor: required("factor")?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original_max_position_embeddings: original()?,
            }),
            "yarn" => {
                let factor = required("factor")?;
                // A factor of 0 counts as absent, as in Python.
                let set = |key: &str| Ok::<_, Error>(number(key)?.filter(|x| *x != 0.0));
                let mscales = set("mscale")?.zip(set("mscale_all_dim")?).map(<[f32; 2]>::from);
                let attention = number("attention_factor")?;
                Some(Self::Yarn {
                    factor,
                    original_max_position_embeddings: original()?,
                    beta_fast: set("beta_fast")?.unwrap_or(32.0),
                    beta_slow: set("beta_slow")?.unwrap_or(1.0),
                    attention_factor: attention.unwrap_or_else(|| Self::yarn_attention(factor, mscales)),
                    truncate: keys.bool("truncate")?.unwrap_or(true),
                })
            }
            "longrope" => {
                let original = original()?;
                let factor = number("factor")?.unwrap_or(longest as f32 / original as f32);
                let factors = |key: &str| keys.numbers(key)?.ok_or_else(|| keys.missing(key));
                let attention = number("attention_factor")?;
                Some(Self::LongRope {
                    short: factors("short_factor")?,
                    long: factors("long_factor")?,
                    original_max_position_embeddings: original,
                    attention_factor: attention.unwrap_or_else(|| Self::longrope_attention(factor, original as f32)),
                })
            }
            other => {
                return Err(Error::request(format!("`{}rope_type` {other} is not supported", keys.prefix))
                    .hint("supported are default, linear, llama3, yarn and longrope"));
            }
        })
    }

    /// The scaling as [`Self::read`] reads it; None for factors that cannot be written in config.json.
    pub(super) fn to_json(&self) -> Option<Value> {
        Some(match self {
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": plain(*factor)}),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3",
                "factor": plain(*factor),
                "low_freq_factor": plain(*low_freq_factor),
                "high_freq_factor": plain(*high_freq_factor),
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate,
            } => json!({
                "rope_type": "yarn",
                "factor": plain(*factor),
                "original_max_position_embeddings": original_max_position_embeddings,
                "beta_fast": plain(*beta_fast),
                "beta_slow": plain(*beta_slow),
                "attention_factor": plain(*attention_factor),
                "truncate": truncate,
            }),
            Self::LongRope { short, long, original_max_position_embeddings, attention_factor } => json!({
                "rope_type": "longrope",
                "short_factor": short.iter().map(|x| plain(*x)).collect::<Vec<_>>(),
                "long_factor": long.iter().map(|x| plain(*x)).collect::<Vec<_>>(),
                "original_max_position_embeddings": original_max_position_embeddings,
                "attention_factor": plain(*attention_factor),
            }),
            Self::Factors(_) => return None,
        })
    }
}

/// The shortest decimal that reads back as `value`, as an f64: 0.1, not 0.10000000149.
pub(super) fn plain(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

pub(super) fn positive(name: &str, value: f32) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(Error::request(format!("`{name}` is {value}, must be a positive number")))
    }
}

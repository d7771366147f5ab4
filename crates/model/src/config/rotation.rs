//! The rotations that config.json describes. In: its keys; out: the rotation of most layers, that of layers with a
//! window, and what the file calls their values. Invariant: where two keys say the same thing in different ways, none
//! is passed over: that is an error.

use super::family::Spec;
use super::keys::Keys;
use super::rope::{Rope, RopeScaling};
use super::unsupported::contradictory;
use crate::{Error, Result};

/// The rotations, and the names of their values.
pub(super) struct Rotations {
    /// Of every layer that does not have its own.
    pub(super) rope: Rope,
    /// Of layers with a window, where the family has another one there.
    pub(super) window: Option<Rope>,
    /// The part of a head that is rotated.
    pub(super) partial: Option<f64>,
    theta: String,
    scaling: String,
    original: String,
    window_theta: String,
    window_scaling: String,
    partial_key: String,
}

impl Rotations {
    /// Reads them. transformers 5 writes everything into `rope_parameters`; version 4 wrote `rope_theta` and
    /// `rope_scaling`. Where a file has both, transformers takes the latter.
    ///
    /// # Errors
    /// A value of the wrong type, a scaling that is not known, keys that contradict each other.
    pub(super) fn read(keys: Keys<'_>, spec: &Spec) -> Result<Self> {
        let at = |path: &str| format!("{}.", keys.named(path));
        let [parameters_at, scaling_at, full_at, window_at] =
            ["rope_parameters", "rope_scaling", "rope_parameters.full_attention", "rope_parameters.sliding_attention"]
                .map(at);
        let filled = |keys: &Keys<'_>| !keys.map.is_empty();
        let parameters = keys.object("rope_parameters", &parameters_at)?.filter(filled);
        let scaling = keys.object("rope_scaling", &scaling_at)?.filter(filled);
        let part = |kind: &str, at| parameters.map_or(Ok(None), |keys| keys.object(kind, at));
        let full = part("full_attention", &full_at)?.or(parameters);
        let windowed = part("sliding_attention", &window_at)?;
        let first = scaling.or(full);

        let lengths = (
            keys.optional_size("max_position_embeddings")?.unwrap_or(spec.defaults.positions),
            keys.optional_size("original_max_position_embeddings")?,
        );
        let theta = keys.number("rope_theta")?;
        let rope = read(first, theta, spec.defaults.theta, lengths)?;
        agree(keys, "rope_theta", [scaling, full])?;
        if let (Some(_), Some(full)) = (scaling, full)
            && read(Some(full), theta, spec.defaults.theta, lengths)? != rope
        {
            return Err(contradictory(
                &format!("`{}`", keys.named("rope_scaling")),
                &format!("`{}`", full.prefix.trim_end_matches('.')),
            ));
        }
        let mut partial = None;
        for keys in [Some(keys), first].into_iter().flatten() {
            let key = "partial_rotary_factor";
            let found = keys.number(key)?.filter(|_| partial.is_none());
            partial = partial.or(found.map(|factor| (factor, keys.named(key))));
        }
        if let Some((factor, key)) = &partial
            && !spec.reads("partial_rotary_factor")
            && (factor - 1.0).abs() > f64::EPSILON
        {
            return Err(Error::request(format!("`{key}` is not supported in {}", spec.model_type)));
        }
        let local = keys.number("rope_local_base_freq")?;
        // OLMo 3 has one base for both kinds of layers, unless a file says otherwise.
        let shared = if spec.reads("rope_local_base_freq") { None } else { Some(f64::from(rope.theta)) };
        let window = match spec.defaults.window_theta {
            Some(default) => {
                agree(keys, "rope_local_base_freq", [windowed, None])?;
                Some(read(windowed, local.or(shared), default, lengths)?)
            }
            None => None,
        };

        let named = |part: Option<Keys<'_>>, key: &str| with(part, key).unwrap_or(keys).named(key);
        let original = "original_max_position_embeddings";
        Ok(Self {
            theta: named(first, "rope_theta"),
            scaling: first.map_or(&*scaling_at, |first| first.prefix).to_owned(),
            original: if with(first, original).is_some() || keys.get(original).is_some() {
                named(first, original)
            } else {
                keys.named("max_position_embeddings")
            },
            window_theta: match with(windowed, "rope_theta") {
                Some(windowed) => windowed.named("rope_theta"),
                None if shared.is_some() => named(first, "rope_theta"),
                None => keys.named("rope_local_base_freq"),
            },
            partial_key: partial.as_ref().map_or_else(|| keys.named("partial_rotary_factor"), |(_, key)| key.clone()),
            partial: partial.map(|(factor, _)| factor),
            rope,
            window,
            window_scaling: window_at,
        })
    }

    /// What the file calls a key of the rotation that a check of the configuration names; None for other keys.
    pub(super) fn name(&self, key: &str) -> Option<String> {
        Some(match key {
            "rope_theta" => self.theta.clone(),
            "rope_local_base_freq" => self.window_theta.clone(),
            "rope_scaling.original_max_position_embeddings" => self.original.clone(),
            "partial_rotary_factor" => self.partial_key.clone(),
            other => match (other.strip_prefix("rope_scaling."), other.strip_prefix("window_rope.")) {
                (Some(key), _) => format!("{}{key}", self.scaling),
                (_, Some(key)) => format!("{}{key}", self.window_scaling),
                _ => return None,
            },
        })
    }
}

fn read(from: Option<Keys<'_>>, theta: Option<f64>, default: f32, lengths: (usize, Option<usize>)) -> Result<Rope> {
    let own = from.map(|from| from.number("rope_theta")).transpose()?.flatten();
    let theta = own.or(theta).map_or(default, |theta| theta as f32);
    let Some(from) = from else { return Ok(Rope { theta, scaling: None }) };
    let kind = match from.string("rope_type")? {
        Some(kind) => kind,
        None => from.string("type")?.unwrap_or("default"),
    };
    // The first files of Phi-3 call it `su` or `yarn`.
    let kind = if from.get("short_factor").is_some() && matches!(kind, "su" | "yarn") { "longrope" } else { kind };
    Ok(Rope { theta, scaling: RopeScaling::read(from, kind, lengths)? })
}

/// The part, if it has the key.
fn with<'a>(part: Option<Keys<'a>>, key: &str) -> Option<Keys<'a>> {
    part.filter(|part| part.get(key).is_some())
}

/// An error where `rope_theta` in one of `parts` is not what `key` beside them is: version 4 of transformers takes the
/// latter, version 5 the former.
#[allow(clippy::float_cmp, reason = "the same number, written twice")]
fn agree(keys: Keys<'_>, key: &str, parts: [Option<Keys<'_>>; 2]) -> Result<()> {
    let Some(outside) = keys.number(key)? else { return Ok(()) };
    for part in parts.into_iter().flatten() {
        if let Some(inside) = part.number("rope_theta")?.filter(|inside| *inside != outside) {
            return Err(contradictory(
                &format!("`{}` {outside}", keys.named(key)),
                &format!("`{}` {inside}", part.named("rope_theta")),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests")]
mod tests {
    use crate::ModelConfig;
    use serde_json::{Value, json};

    fn read(model_type: &str, changes: Value) -> crate::Result<ModelConfig> {
        let mut config = json!({"model_type": model_type, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16, "vocab_size": 128});
        config.as_object_mut().unwrap().append(&mut changes.as_object().unwrap().clone());
        ModelConfig::from_hf_json(&config)
    }

    /// Version 4 of transformers takes one of the two, version 5 the other.
    #[test]
    fn two_rotations_in_one_file_are_refused() {
        let yarn = |factor: f64| json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 64});
        for (family, changes, a, b) in [
            (
                "llama",
                json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}),
                "`rope_theta`",
                "`rope_parameters.rope_theta`",
            ),
            (
                "llama",
                json!({"rope_theta": 1e4, "rope_scaling": {"rope_theta": 5e5}}),
                "`rope_theta`",
                "`rope_scaling.rope_theta`",
            ),
            (
                "llama",
                json!({"rope_scaling": yarn(2.0), "rope_parameters": yarn(4.0)}),
                "`rope_scaling`",
                "`rope_parameters`",
            ),
            (
                "gemma3_text",
                json!({"rope_local_base_freq": 1e4, "rope_parameters": {
                "sliding_attention": {"rope_theta": 2e4}}}),
                "`rope_local_base_freq`",
                "`rope_parameters.sliding_attention.rope_theta`",
            ),
            (
                "olmo3",
                json!({"rope_theta": 1e4, "rope_parameters": {"full_attention": {"rope_theta": 2e4}}}),
                "`rope_theta`",
                "`rope_parameters.full_attention.rope_theta`",
            ),
        ] {
            let error = read(family, changes.clone()).unwrap_err();
            let told = error.to_string();
            assert!(told.contains(a) && told.contains(b) && told.contains("contradicts"), "{changes}: {told}");
            assert!(!error.hints().is_empty());
        }
        let both = read(
            "llama",
            json!({"rope_theta": 5e5, "rope_scaling": yarn(4.0),
            "rope_parameters": {"rope_theta": 5e5, "rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 64}}),
        );
        assert!(both.unwrap().rope_scaling.is_some());
        let empty = read("llama", json!({"rope_scaling": {}, "rope_parameters": yarn(4.0)})).unwrap();
        assert!(empty.rope_scaling.is_some(), "an empty object says nothing");
    }

    /// A value of `rope_parameters` was told under `rope_scaling`, which the file does not have.
    #[test]
    fn an_error_names_the_key_of_the_rotation_as_it_is_in_the_file() {
        let linear = json!({"rope_type": "linear", "factor": -1.0});
        for (family, changes, key) in [
            ("llama", json!({"rope_theta": -1.0}), "`rope_theta`"),
            ("llama", json!({"rope_parameters": {"rope_theta": -1.0}}), "`rope_parameters.rope_theta`"),
            ("llama", json!({"rope_scaling": linear}), "`rope_scaling.factor`"),
            ("llama", json!({"rope_parameters": linear}), "`rope_parameters.factor`"),
            (
                "olmo3",
                json!({"rope_parameters": {"full_attention": linear}}),
                "`rope_parameters.full_attention.factor`",
            ),
            (
                "gemma3_text",
                json!({"rope_parameters": {"sliding_attention": linear}}),
                "`rope_parameters.sliding_attention.factor`",
            ),
            ("gemma3_text", json!({"rope_local_base_freq": -1.0}), "`rope_local_base_freq`"),
            (
                "gemma3_text",
                json!({"rope_parameters": {"sliding_attention": {"rope_theta": -1.0}}}),
                "`rope_parameters.sliding_attention.rope_theta`",
            ),
            (
                "llama",
                json!({"max_position_embeddings": 0, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}}),
                "`max_position_embeddings`",
            ),
            (
                "phi3",
                json!({"rope_parameters": {"partial_rotary_factor": 0.07}}),
                "`rope_parameters.partial_rotary_factor`",
            ),
            ("granite", json!({"attention_multiplier": -1.0}), "`attention_multiplier`"),
            ("gemma2", json!({"query_pre_attn_scalar": -1.0}), "`query_pre_attn_scalar`"),
            ("llama", json!({"head_dim": null, "hidden_size": 60}), "`hidden_size / num_attention_heads`"),
        ] {
            let error = read(family, changes.clone()).unwrap_err().to_string();
            assert!(error.contains(key), "{changes}: {error}");
        }
        let nested = json!({"model_type": "gemma3", "text_config": {"rope_parameters": {"full_attention": linear}}});
        let error = ModelConfig::from_hf_json(&nested).unwrap_err().to_string();
        assert!(error.contains("`text_config.rope_parameters.full_attention.factor`"), "{error}");
        let nested = json!({"model_type": "gemma3", "text_config": {"hidden_size": 0}});
        let error = ModelConfig::from_hf_json(&nested).unwrap_err().to_string();
        assert!(error.contains("`text_config.hidden_size`"), "{error}");
    }
}

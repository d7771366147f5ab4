//! What llama.cpp computes that a GGUF file does not say. In: a configuration; out: where llama.cpp computes something
//! else of its file than the model does. Invariant: what differs from the first token on is an error, what differs only
//! for some texts is a warning.
//!
//! llama.cpp reads `attention.sliding_window_pattern` only as a number, which its converter does not write for these
//! families, so which layers have a window is in its code, as in the published models. Read there on 2026-11-27
//! (`src/models/{olmo2,exaone4,gemma2,gemma3,phi3,mistral3,llama,qwen2,qwen3}.cpp`).

use super::family::{Spec, every};
use super::{Family, ModelConfig, RopeScaling};
use crate::{Error, Result};

/// The number of layers by which llama.cpp knows the EXAONE 4 that has windows.
const WINDOWED_EXAONE: usize = 64;

impl ModelConfig {
    /// What to tell of a GGUF file of this model: how llama.cpp computes something else for some texts.
    ///
    /// # Errors
    /// llama.cpp computes something else for every text.
    pub(crate) fn in_llama_cpp(&self) -> Result<Vec<String>> {
        let architecture = Spec::of(self.family).architecture();
        let instead = |error: Error| {
            error.hint(
                "write a Hugging Face directory instead: without --format gguf; transformers and vLLM read it all",
            )
        };
        let own: Vec<bool> = (0..self.num_layers).map(|layer| self.window(layer).is_some()).collect();
        let mut told = Vec::new();
        match self.rhythm_in_llama_cpp() {
            Some(theirs) if theirs != own => {
                let n = self.num_layers;
                return Err(instead(Error::request(format!(
                    "`layer_types`: the model has the sliding window on {}; llama.cpp does not read that from a \
                     file, and has it on {} (architecture {architecture}, {n} layers)",
                    listed(&own),
                    listed(&theirs)
                ))));
            }
            Some(_) => {}
            None => {
                if let Some(window) = self.sliding_window.filter(|window| *window < self.max_position_embeddings) {
                    told.push(format!(
                        "llama.cpp has no sliding window in files of the architecture {architecture}: beyond {window} \
                         tokens it computes something else than the model"
                    ));
                }
            }
        }
        let other_theta =
            self.layer.window_rope.as_ref().is_some_and(|rope| rope.theta.to_bits() != self.rope_theta.to_bits());
        if self.family == Family::Olmo3 && other_theta {
            return Err(instead(Error::request(
                "`rope_theta` of the layers with a window differs from that of the others, which llama.cpp does not \
                 have in files of the architecture olmo2",
            )));
        }
        if let Some(place) = self.bias_unknown_to_llama_cpp() {
            return Err(instead(Error::request(format!(
                "the model has biases {place}, which llama.cpp does not load in files of the architecture {architecture}"
            ))));
        }
        if matches!(self.family, Family::Olmo2 | Family::Olmo3) && self.tie_word_embeddings {
            return Err(instead(Error::request(format!(
                "`tie_word_embeddings` is true, and llama.cpp loads files of the architecture {architecture} with a head \
                 of their own only"
            ))));
        }
        match self.yarn_in_llama_cpp() {
            Some(what) => Err(instead(Error::request(what))),
            None => Ok(told),
        }
    }

    /// Where the model has biases that the loader of its architecture has no place for: a file with more tensors than it
    /// loads is refused.
    fn bias_unknown_to_llama_cpp(&self) -> Option<&'static str> {
        let places = ["of q, k and v", "of the attention's output", "of the MLP"];
        let own = [self.qkv_bias, self.layer.biases.output, self.layer.biases.mlp];
        let theirs = match self.family {
            Family::Qwen3 | Family::Qwen3Moe | Family::SmolLm3 | Family::Arcee => [false; 3],
            Family::SeedOss => [true, false, false],
            _ => [true; 3],
        };
        places.into_iter().zip(own).zip(theirs).find_map(|((place, own), theirs)| (own && !theirs).then_some(place))
    }

    /// What of `YaRN` llama.cpp takes from elsewhere than the file. In files of Ministral 3 it reads both betas, and
    /// takes cosines and sines as they are.
    fn yarn_in_llama_cpp(&self) -> Option<String> {
        let Some(RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, .. }) = &self.rope_scaling else {
            return None;
        };
        let unread = if self.family == Family::Ministral3 {
            vec![("attention_factor", *attention_factor, 1.0)]
        } else {
            vec![
                ("attention_factor", *attention_factor, RopeScaling::yarn_attention(*factor, None)),
                ("beta_fast", *beta_fast, 32.0),
                ("beta_slow", *beta_slow, 1.0),
            ]
        };
        let unread = unread.into_iter().filter(|(_, own, theirs)| (own - theirs).abs() > 1e-4 * theirs);
        let told: Vec<String> = unread.map(|(key, own, theirs)| format!("{theirs} for `{key}` {own}")).collect();
        (!told.is_empty())
            .then(|| format!("llama.cpp does not read all of YaRN from a file: it takes {}", told.join(", ")))
    }

    /// Which layers have the window in llama.cpp, where it has windows in files of the family.
    fn rhythm_in_llama_cpp(&self) -> Option<Vec<bool>> {
        let n = self.num_layers;
        let none = || vec![false; n];
        Some(match self.family {
            // Without the key llama.cpp takes a window of 4096.
            Family::Gemma2 => every(2, n),
            Family::Gemma3 if self.sliding_window.is_some() => every(6, n),
            Family::Olmo3 if self.sliding_window.is_some() => every(4, n),
            Family::Exaone4 if n == WINDOWED_EXAONE => every(4, n),
            Family::Gemma3 | Family::Olmo3 | Family::Exaone4 => none(),
            _ => return None,
        })
    }
}

/// Layers in words.
fn listed(windowed: &[bool]) -> String {
    let n = windowed.len();
    let period = (2..=n).find(|period| every(*period, n) == windowed);
    match (windowed.iter().filter(|windowed| **windowed).count(), period) {
        (0, _) => "no layer".to_owned(),
        (some, _) if some == n => "every layer".to_owned(),
        (_, Some(period)) => format!("{} of each {period} layers", period - 1),
        _ => {
            let layers = windowed.iter().enumerate().filter(|(_, windowed)| **windowed);
            let mut all: Vec<String> = layers.map(|(layer, _)| layer.to_string()).collect();
            let count = all.len();
            all.truncate(8);
            let more = if count > all.len() { ", .." } else { "" };
            format!("the layers {}{more} (of {n}, from 0)", all.join(", "))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests")]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(model_type: &str, layers: usize, changes: Value) -> ModelConfig {
        let mut config = json!({"model_type": model_type, "hidden_size": 64, "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128, "num_hidden_layers": layers,
            "max_position_embeddings": 512});
        config.as_object_mut().unwrap().append(&mut changes.as_object().unwrap().clone());
        ModelConfig::from_hf_json(&config).unwrap()
    }

    /// Such files were written without a word, and llama.cpp did not load them.
    #[test]
    fn what_llama_cpp_does_not_load_is_refused() {
        for (family, changes, what) in [
            ("smollm3", json!({"attention_bias": true}), "biases of q, k and v"),
            ("smollm3", json!({"mlp_bias": true}), "biases of the MLP"),
            ("qwen3", json!({"attention_bias": true}), "biases of q, k and v"),
            ("arcee", json!({"mlp_bias": true}), "biases of the MLP"),
            ("seed_oss", json!({"attention_out_bias": true}), "biases of the attention's output"),
            ("olmo2", json!({"tie_word_embeddings": true}), "`tie_word_embeddings`"),
        ] {
            let error = config(family, 4, changes).in_llama_cpp().unwrap_err().to_string();
            assert!(error.contains(what), "{family}: {error}");
        }
        for (family, changes) in [
            ("llama", json!({"attention_bias": true, "mlp_bias": true})),
            ("qwen2", json!({})),
            ("seed_oss", json!({"attention_bias": true})),
            ("olmo2", json!({"tie_word_embeddings": false})),
        ] {
            assert!(config(family, 4, changes).in_llama_cpp().is_ok(), "{family}");
        }
    }

    /// Such files were written without a word, and llama.cpp computed something else of them.
    #[test]
    fn windows_in_another_rhythm_than_llama_cpp_has_are_refused() {
        let kinds = |letters: &str| {
            let kind = |letter| if letter == 's' { "sliding_attention" } else { "full_attention" };
            json!({"sliding_window": 8, "layer_types": letters.chars().map(kind).collect::<Vec<_>>()})
        };
        for (family, letters, own, theirs) in [
            ("olmo3", "ssssssss", "every layer", "3 of each 4 layers"),
            ("olmo3", "sfsfsfsf", "1 of each 2 layers", "3 of each 4 layers"),
            ("olmo3", "ffffsfff", "the layers 4 (of 8, from 0)", "3 of each 4 layers"),
            ("exaone4", "sssfsssf", "3 of each 4 layers", "no layer"),
            ("gemma2", "ssss", "every layer", "1 of each 2 layers"),
            ("gemma3_text", "sfs", "1 of each 2 layers", "every layer"),
        ] {
            let error = config(family, letters.len(), kinds(letters)).in_llama_cpp().unwrap_err();
            let told = error.to_string();
            assert!(
                told.contains(own) && told.contains(&format!("has it on {theirs} (architecture ")),
                "{family} {letters}: {told}"
            );
            assert!(error.hints()[0].contains("without --format gguf"), "{error:?}");
        }
        let told = |config: ModelConfig| config.in_llama_cpp().unwrap();
        assert!(told(config("olmo3", 8, kinds("sssfsssf"))).is_empty());
        assert!(told(config("exaone4", 64, kinds(&"sssf".repeat(16)))).is_empty());
        assert!(told(config("gemma3_text", 6, kinds("sssssf"))).is_empty());
        // Layers without a window do not rotate where the configuration has a window.
        for (layers, window) in [(8, json!(null)), (64, json!(8))] {
            assert!(told(config("exaone4", layers, json!({"sliding_window": window}))).is_empty());
        }
        let none = config("exaone4", 64, json!({"sliding_window": null}));
        assert!(none.in_llama_cpp().unwrap_err().to_string().contains("has the sliding window on no layer"));
        let none = config("gemma2", 8, json!({"sliding_window": null}));
        assert!(none.in_llama_cpp().is_err(), "without the key llama.cpp takes a window of 4096");
    }

    #[test]
    fn a_window_that_llama_cpp_does_not_have_is_told() {
        for (family, changes) in [
            ("mistral", json!({"sliding_window": 100})),
            ("phi3", json!({"sliding_window": 100, "head_dim": null})),
            ("qwen3", json!({"use_sliding_window": true, "sliding_window": 100, "max_window_layers": 0})),
        ] {
            let told = config(family, 2, changes).in_llama_cpp().unwrap();
            assert!(told.len() == 1 && told[0].contains("beyond 100 tokens"), "{family}: {told:?}");
        }
        let wide = config("mistral", 2, json!({"sliding_window": 512}));
        assert!(wide.in_llama_cpp().unwrap().is_empty(), "no sequence is longer than it");
    }

    #[test]
    fn a_rotation_that_llama_cpp_computes_itself_is_refused() {
        let yarn = |more: Value| {
            let mut rope = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64});
            rope.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
            config("qwen3", 2, json!({"rope_theta": 1e6, "rope_scaling": rope})).in_llama_cpp()
        };
        assert!(yarn(json!({})).unwrap().is_empty());
        assert!(yarn(json!({"attention_factor": 1.207_944_2})).unwrap().is_empty(), "it is 1 + 0.1 ln 8");
        // It was a warning, and not one of ten texts was the model's.
        let told = yarn(json!({"attention_factor": 1.0, "beta_fast": 16.0})).unwrap_err().to_string();
        assert!(told.contains("takes 1.2079442 for `attention_factor` 1, 32 for `beta_fast` 16"), "{told:?}");
        let olmo = config(
            "olmo3",
            4,
            json!({"rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
        );
        assert!(olmo.in_llama_cpp().unwrap_err().to_string().contains("`rope_theta` of the layers with a window"));
    }
}

//! What decides a run, by name. In: the model, the sets and the options; out: a value for each, written into
//! checkpoints. Invariant: two runs with the same settings take the same steps; of two that differ, the list of changes
//! says where they differ.

use crate::{options::TrainOptions, sets::Sets};
use eraser_data::{PromptTemplate, SetName, files::hex};
use eraser_model::{ChatTemplate, LoraConfig, Model, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Options that change no step: the name of other options, how often state is written, what is kept in memory, what is
/// checked. The length of a
/// run is compared separately, see [`crate::checkpoint::Horizon`].
const NOT_DECIDING: [&str; 9] = [
    "preset",
    "checkpoint_every",
    "dump_grads",
    "checkpoint_activations",
    "steps",
    "epochs",
    "extend",
    "overlong",
    "allow_swapped",
];

/// Options, and hashes of what they name, each under the key of a run file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(Map<String, Value>);

impl Settings {
    /// Those of a run of `model` on `sets`, whose adapter has the configuration `adapter` at its start.
    pub(crate) fn new(
        model: &Model,
        sets: &Sets,
        options: &TrainOptions,
        templates: &[PromptTemplate],
        adapter: &LoraConfig,
    ) -> Result<Self> {
        let mut all = options.recorded()?;
        all.retain(|key, _| !NOT_DECIDING.contains(&key.as_str()));
        for set in SetName::ALL.into_iter().filter(|&set| options.method.reads(set)) {
            let records = sets.rows(set);
            let texts = records.iter().flat_map(|record| [record.input.as_str(), record.output.as_str()]);
            let value = format!("{} rows with hash {}", records.len(), hash(texts));
            all.insert(format!("the {} set", set.name()), value.into());
        }
        for template in templates {
            if let PromptTemplate::Text(text) = template {
                let bos = if model.tokenizer.adds_bos() { " after BOS" } else { "" };
                let value = format!("hash {}{bos}", hash([text.as_str()]));
                all.insert("the text of the prompt template".into(), value.into());
            }
        }
        if options.init_adapter.is_some() {
            all.insert("the configuration of init_adapter".into(), format!("{adapter:?}").into());
        }
        let short = |hex: &str| hex.chars().take(SHORT).collect::<String>();
        all.insert("the model".into(), format!("fingerprint {}", short(&model.fingerprint)).into());
        all.insert("base_dtype".into(), model.decoder.held().to_string().into());
        let chat = model.template.as_ref().map(ChatTemplate::identity);
        let chat = chat.map_or_else(|| "none".to_owned(), |text| format!("hash {}", hash([text.as_str()])));
        all.insert("chat_template".into(), chat.into());
        all.insert(IDENTITY.into(), model.identity().into());
        Ok(Self(all))
    }

    /// What differs in `now`: the name, the value here and the value there.
    pub(crate) fn changes(&self, now: &Self) -> Vec<String> {
        let mut keys: Vec<&String> =
            self.0.keys().chain(now.0.keys().filter(|key| !self.0.contains_key(*key))).collect();
        // The identity of a model is that of its parts, which say more.
        keys.retain(|key| *key != IDENTITY);
        let text = |value: Option<&Value>| match value {
            None | Some(Value::Null) => "not given".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let differs = |key: &&String| self.0.get(*key) != now.0.get(*key);
        let changes = keys.into_iter().filter(differs).map(|key| {
            let (before, after) = (text(self.0.get(key)), text(now.0.get(key)));
            format!("{key} was {before}, is {after}")
        });
        let mut changes: Vec<String> = changes.collect();
        if changes.is_empty() && self.0.get(IDENTITY) != now.0.get(IDENTITY) {
            changes.push("the model is loaded with other options".to_owned());
        }
        changes
    }
}

/// Key of the model's identity, which is compared and never shown.
const IDENTITY: &str = "identity";
/// Hex digits that are shown of a hash.
const SHORT: usize = 16;

/// The first digits of a hash over texts, each with its length.
fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize()[..SHORT / 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(value: &Value) -> Settings {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn changes_name_what_differs_with_both_values() {
        let before = settings(&json!({"rank": 8, "gamma": 1.8, "layers": null, "order": "file", "identity": "a"}));
        assert!(before.changes(&before).is_empty());
        let now = settings(&json!({"rank": 16, "gamma": 1.8, "layers": [1], "seed": 2, "identity": "b"}));
        assert_eq!(
            before.changes(&now),
            [
                "rank was 8, is 16",
                "layers was not given, is [1]",
                "order was file, is not given",
                "seed was not given, is 2"
            ]
        );
        let other = settings(&json!({"rank": 8, "gamma": 1.8, "layers": null, "order": "file", "identity": "b"}));
        assert_eq!(before.changes(&other), ["the model is loaded with other options"]);
    }

    /// A finished adapter was trained again, and a checkpoint refused, because of an option that did not exist then.
    #[test]
    fn an_option_that_came_later_is_not_recorded_where_it_changes_nothing() {
        let usual = TrainOptions::default();
        assert!(!usual.recorded().unwrap().contains_key("full"));
        assert_eq!(TrainOptions { full: true, ..usual }.recorded().unwrap()["full"], true);
    }

    #[test]
    fn a_hash_tells_where_texts_end() {
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
        assert_eq!(hash(["a"]).len(), SHORT);
    }
}

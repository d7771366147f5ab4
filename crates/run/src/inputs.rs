//! What a stage reads. In: texts, settings and files, each under a name; out: the SHA-256 of each. Invariant: two
//! stages have the same inputs only if every one of them is the same.

use eraser_data::files::{hash_file, hex};
use eraser_eval::ServedSubject;
use eraser_model::error::PathContext as _;
use eraser_model::{BaseDtype, ChatTemplate, Error, Model, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Hashes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inputs(BTreeMap<String, String>);

impl Inputs {
    /// What every stage reads: the model, as it is held and rendered, under this version.
    pub(crate) fn of_model(model: &Model, base_dtype: BaseDtype) -> Result<Self> {
        let mut inputs = Self::default();
        inputs.text("version", env!("CARGO_PKG_VERSION"));
        inputs.hash("model", model.fingerprint.clone());
        inputs.settings("base_dtype", &base_dtype)?;
        inputs.settings("chat_template", &model.template.as_ref().map(ChatTemplate::identity))?;
        // Covers these and whatever else an answer depends on; the others say what has changed.
        inputs.hash("model as loaded", model.identity());
        Ok(inputs)
    }

    /// What a stage reads that measures served subjects only: what they have in `common`, under this version.
    fn of_served(common: &str) -> Self {
        let mut inputs = Self::default();
        inputs.text("version", env!("CARGO_PKG_VERSION"));
        inputs.hash("served", common.to_owned());
        inputs
    }

    /// What an evaluation begins with: that of the model, where one is loaded, else what served subjects have in
    /// `common`.
    pub(crate) fn begun(model: Option<&Model>, base_dtype: BaseDtype, common: &str) -> Result<Self> {
        model.map_or_else(|| Ok(Self::of_served(common)), |model| Self::of_model(model, base_dtype))
    }

    /// Adds subjects that a server has.
    pub(crate) fn served(&mut self, subjects: &[ServedSubject]) {
        for subject in subjects {
            self.hash(&format!("subject {}", subject.name), subject.fingerprint.subject.clone());
        }
    }

    /// The hashes.
    pub(crate) fn hashes(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Adds text. Names that come again are counted, so that none is lost.
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.hash(name, hex(&Sha256::digest(text.as_bytes())));
    }

    /// Adds settings.
    pub(crate) fn settings<T: Serialize>(&mut self, name: &str, settings: &T) -> Result<()> {
        let text = serde_json::to_string(settings).map_err(|e| Error::failed(format!("{name}: {e}")))?;
        self.text(name, &text);
        Ok(())
    }

    /// Adds the content of a file, or of all files in a directory.
    pub(crate) fn path(&mut self, name: &str, path: &Path) -> Result<()> {
        if !path.is_dir() {
            self.hash(name, hash_file(path)?);
            return Ok(());
        }
        let entries = std::fs::read_dir(path).at(path)?;
        let mut inside = entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>().at(path)?;
        inside.sort();
        for file in inside.iter().filter(|p| p.is_file()) {
            let file_name = file.file_name().unwrap_or_default().to_string_lossy();
            self.hash(&format!("{name}/{file_name}"), hash_file(file)?);
        }
        Ok(())
    }

    /// Adds something that is a hash already.
    pub(crate) fn hash(&mut self, name: &str, hash: String) {
        let mut key = name.to_owned();
        let mut count = 1;
        while self.0.contains_key(&key) {
            count += 1;
            key = format!("{name} ({count})");
        }
        self.0.insert(key, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_counts() {
        let of = |pairs: &[(&str, &str)]| {
            let mut inputs = Inputs::default();
            for (name, text) in pairs {
                inputs.text(name, text);
            }
            inputs
        };
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", ""), ("b", "")]), of(&[("a", "b")]));
        assert_ne!(of(&[("a", "1"), ("a", "2")]), of(&[("a", "2"), ("a", "1")]));
        assert_eq!(of(&[("a", "1"), ("a", "2")]).hashes().len(), 2);
    }
}

//! What is evaluated: a model, with or without an adapter. In: both as loaded; out: the fingerprint that every answer
//! and figure carries. Invariant: two subjects that could answer one prompt differently never have the same
//! fingerprint.

use crate::name;
use candle_core::DType;
use eraser_model::files::hex;
use eraser_model::{Adapter, Model, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Hex digits of a fingerprint that a line of a file carries.
const SHORT: usize = 16;

/// One model under test.
pub struct Subject<'a> {
    /// `base` or the name of the method or variant; part of a path.
    pub name: String,
    /// The model.
    pub model: &'a Model,
    /// Its adapter; None for the base.
    pub adapter: Option<&'a Adapter>,
}

/// What identifies a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Hex SHA-256 of model and adapter together.
    #[serde(rename = "fingerprint")]
    pub subject: String,
    /// Hex SHA-256 of the model: its files, how its weights are held in memory, its chat template.
    pub model: String,
    /// [`adapter_fingerprint`] of the adapter; None for a model without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

impl Fingerprint {
    /// The first 16 hex digits, as lines of answers and scores have them.
    pub fn short(&self) -> &str {
        short(&self.subject)
    }
}

/// The first 16 hex digits of a subject's fingerprint.
pub(crate) fn short(fingerprint: &str) -> &str {
    fingerprint.get(..SHORT).unwrap_or(fingerprint)
}

impl Subject<'_> {
    /// What identifies it. Reads every value of the adapter.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let model = model_identity(self.model);
        let adapter = self.adapter.map(adapter_fingerprint).transpose()?;
        let mut hash = Sha256::new();
        hash.update(&model);
        hash.update(adapter.as_deref().unwrap_or_default());
        Ok(Fingerprint { subject: hex(&hash.finalize()), model, adapter })
    }
}

/// Hex SHA-256 of everything about a model that an answer depends on.
fn model_identity(model: &Model) -> String {
    let held = format!("{:?}", model.decoder.held());
    let template = model.template.as_ref().map(eraser_model::ChatTemplate::identity);
    let mut hash = Sha256::new();
    for part in [model.fingerprint.as_str(), &held, template.as_deref().unwrap_or_default()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    // No template and an empty template are different.
    hash.update([u8::from(template.is_some())]);
    hex(&hash.finalize())
}

/// Hex SHA-256 of an adapter's rank, scale and tensors, names and values: an adapter that was trained again has another
/// one, wherever its file is.
pub fn adapter_fingerprint(adapter: &Adapter) -> Result<String> {
    let config = &adapter.config;
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {:?}", config.r, config.alpha, config.rslora));
    if !config.patterns.is_empty() {
        hash.update(format!("{:?}", config.patterns));
    }
    for (name, var) in adapter.tensors() {
        hash.update(name);
        for value in var.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()? {
            hash.update(value.to_le_bytes());
        }
    }
    Ok(hex(&hash.finalize()))
}

/// Subjects' names are names of directories.
pub(crate) fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let names: Vec<&str> = names.collect();
    names.iter().try_for_each(|name| name::check("subject", name))?;
    name::duplicates("subject", names).into_iter().next().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_model::ErrorKind;

    #[test]
    fn subjects_are_safe_and_distinct_file_names() {
        let check = |names: &[&str]| check_names(names.iter().copied());
        check(&["base", "eraser", "eraser+retain"]).unwrap();
        for names in [["base", "../x"], ["base", "a/b"], ["base", "Base"]] {
            assert_eq!(check(&names).unwrap_err().kind(), ErrorKind::Request, "{names:?}");
        }
    }
}

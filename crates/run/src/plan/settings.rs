//! Training settings as tables. In: the settings; out: those of a run file, and those that the manifest records.
//! Invariant: paths are absolute, so that they mean the same from every directory.

use super::table::{self, absolute, path_value};
use eraser_model::Result;
use eraser_train::{Templates, TrainOptions};

/// The keys of `[train]`.
pub(super) fn train_table(options: &TrainOptions) -> Result<toml::Table> {
    let mut table = table::table(options)?;
    if let Templates::File(file) = &options.templates {
        table.insert("templates".into(), path_value(file)?);
    }
    absolute(&mut table, "init_adapter", options.init_adapter.as_deref())?;
    absolute(&mut table, "dump_grads", options.dump_grads.as_deref())?;
    Ok(table)
}

/// Training settings as the manifest records them.
pub(crate) fn train_json(options: &TrainOptions) -> Result<serde_json::Value> {
    table::json(&train_table(options)?)
}

/// The training settings that differ from those of their preset, or from the defaults, without those that decide
/// nothing.
pub(crate) fn train_differences(options: &TrainOptions) -> Result<serde_json::Value> {
    let mut usual = TrainOptions { method: options.method, lr: options.method.lr, ..TrainOptions::default() };
    if let Some(preset) = options.preset {
        preset.apply(&mut usual);
    }
    let (mut own, usual) = (train_json(options)?, train_json(&usual)?);
    if let Some(own) = own.as_object_mut() {
        own.retain(|key, value| usual[key.as_str()] != *value);
        for key in ["checkpoint_every", "checkpoint_activations", "allow_swapped", "overlong", "extend", "dump_grads"] {
            own.remove(key);
        }
    }
    Ok(own)
}

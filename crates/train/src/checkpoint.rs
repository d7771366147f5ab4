//! Checkpoints: adapter, optimiser and position in one file. In and out: `step-N.safetensors`. Invariant: a checkpoint
//! is complete or absent, and only a run with the settings of the one that wrote it continues from it.

use crate::{adamw::Moments, dual::Dual, micro_batch::Seen, settings::Settings, threshold::Threshold};
use candle_core::{Device, Tensor, Var};
use eraser_model::{Error, Result, error::PathContext, files::write_atomic};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

/// Checkpoints kept; older ones are deleted.
const KEEP: usize = 2;
const STATE_KEY: &str = "eraser";

/// How far a run is, without its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Optimiser steps done.
    pub step: usize,
    /// Hinges closed, and hinges in all.
    pub capped: (usize, usize),
    /// Steps the optimiser counts, for its bias correction.
    pub optimiser_steps: u32,
    /// The lengths that were asked for: the first, and one more for each time that the run was resumed with another
    /// length.
    pub horizons: Vec<Horizon>,
    /// The threshold of the hinge; None before it is known, and for methods without one.
    pub threshold: Option<Threshold>,
    /// The dual variables, by term.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub duals: BTreeMap<String, Dual>,
    /// Samples by term.
    pub samples: BTreeMap<String, Seen>,
    /// The ranks that took the last step.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub ranks: usize,
    /// What decides the run.
    pub settings: Settings,
}

pub(crate) fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
pub(crate) fn is_one(n: &usize) -> bool {
    *n == 1
}

/// The length of a run, which its learning rate may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Horizon {
    /// Optimiser steps that were done when this length was given.
    pub from: usize,
    /// Optimiser steps in all.
    pub steps: usize,
}

/// The state of a run, as read from a checkpoint.
pub struct TrainingState {
    /// How far it was.
    pub position: Position,
    /// Parameters by name.
    pub parameters: HashMap<String, Tensor>,
    /// Moments in the order asked for.
    pub moments: Vec<Moments>,
}

/// Writes the checkpoint of `position` into `dir` and deletes the oldest.
pub fn save(dir: &Path, position: &Position, parameters: &[(String, Var)], moments: &[Moments]) -> Result<()> {
    std::fs::create_dir_all(dir).writing(dir)?;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::with_capacity(3 * parameters.len());
    for ((name, variable), moments) in parameters.iter().zip(moments) {
        let dims = variable.dims().to_vec();
        let values = variable.flatten_all()?.to_vec1::<f32>()?;
        tensors.push((name.clone(), dims.clone(), bytes(&values)));
        tensors.push((format!("{name}.first_moment"), dims.clone(), bytes(&moments.first)));
        tensors.push((format!("{name}.second_moment"), dims, bytes(&moments.second)));
    }
    let views = tensors
        .iter()
        .map(|(name, dims, data)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.clone(), data);
            Ok((name.as_str(), view.map_err(Error::failed)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let state = serde_json::to_string(position).map_err(Error::failed)?;
    let metadata = HashMap::from([(STATE_KEY.to_owned(), state)]);
    let file = safetensors::serialize(views, Some(metadata)).map_err(Error::failed)?;
    write_atomic(&dir.join(format!("step-{:08}.safetensors", position.step)), &file)?;
    let found = list(dir)?;
    for old in &found[..found.len().saturating_sub(KEEP)] {
        std::fs::remove_file(old).writing(old)?;
    }
    Ok(())
}

/// The newest checkpoint of `dir`, if there is one: its path and its bytes.
///
/// # Errors
/// A file or directory that cannot be read.
pub fn newest(dir: &Path) -> Result<Option<(PathBuf, Vec<u8>)>> {
    let Some(path) = list(dir)?.pop() else { return Ok(None) };
    let bytes = std::fs::read(&path).at(&path)?;
    Ok(Some((path, bytes)))
}

/// The checkpoint of these bytes of `path`, for a run with these settings and parameters of these names.
///
/// # Errors
/// A file that is not a checkpoint; one of a run with other settings, which are named.
pub fn read(path: &Path, bytes: &[u8], settings: &Settings, names: &[String]) -> Result<TrainingState> {
    let state = parse(bytes, names).map_err(|e| {
        e.context(path.display())
            .hint("delete the file to continue from the checkpoint before it, or start again without --resume")
    })?;
    let changes = state.position.settings.changes(settings);
    if !changes.is_empty() {
        let what = changes.join("; ");
        return Err(Error::request(format!("{}: the run began with other settings: {what}", path.display())).hint(
            "continue with the settings that the run began with, or start again in another directory or with --force",
        ));
    }
    Ok(state)
}

/// Whether `dir` holds a checkpoint.
///
/// # Errors
/// The directory cannot be read.
pub fn exists(dir: &Path) -> Result<bool> {
    Ok(!list(dir)?.is_empty())
}

fn parse(bytes: &[u8], names: &[String]) -> Result<TrainingState> {
    let malformed = |what: &dyn std::fmt::Display| Error::request(format!("not a checkpoint: {what}"));
    let file = SafeTensors::deserialize(bytes).map_err(|e| malformed(&e))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| malformed(&e))?;
    let state = header.metadata().as_ref().and_then(|m| m.get(STATE_KEY)).ok_or_else(|| malformed(&"no state"))?;
    let position: Position = serde_json::from_str(state).map_err(|e| malformed(&e))?;
    let get = |name: &str| -> Result<(Vec<usize>, Vec<f32>)> {
        let view = file.tensor(name).map_err(|e| malformed(&e))?;
        if view.dtype() != safetensors::Dtype::F32 {
            return Err(malformed(&format!("tensor '{name}' is not F32")));
        }
        let (words, _) = view.data().as_chunks::<4>();
        Ok((view.shape().to_vec(), words.iter().map(|w| f32::from_le_bytes(*w)).collect()))
    };
    let mut parameters = HashMap::new();
    let mut moments = Vec::new();
    for name in names {
        let (shape, values) = get(name)?;
        parameters.insert(name.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?);
        let first = get(&format!("{name}.first_moment"))?.1;
        moments.push(Moments { first, second: get(&format!("{name}.second_moment"))?.1 });
    }
    Ok(TrainingState { position, parameters, moments })
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Checkpoint files of `dir`, oldest first.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("step-") && name.ends_with(".safetensors") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parameters() -> Vec<(String, Var)> {
        vec![("w".to_owned(), Var::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap())]
    }

    fn settings(rank: usize) -> Settings {
        serde_json::from_value(serde_json::json!({ "rank": rank })).unwrap()
    }

    fn position(step: usize) -> Position {
        let horizons = vec![Horizon { from: 0, steps: 10 }];
        Position {
            step,
            capped: (1, 2),
            optimiser_steps: step as u32,
            horizons,
            threshold: Some(Threshold { gamma: 1.8, measured: None }),
            duals: BTreeMap::from([("help".to_owned(), Dual { value: 0.1 + 0.2, bound: 1.0 / 3.0 })]),
            samples: BTreeMap::from([("harm".to_owned(), Seen { samples: 8, cut: 2, empty: 1 })]),
            ranks: 1,
            settings: settings(8),
        }
    }

    #[test]
    fn the_newest_comes_back_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let moments = vec![Moments { first: vec![0.5; 4], second: vec![0.25; 4] }];
        for step in [1, 2, 10] {
            save(dir.path(), &position(step), &parameters(), &moments).unwrap();
        }
        assert_eq!(list(dir.path()).unwrap().len(), KEEP);
        let read = |rank: usize| {
            let (path, bytes) = newest(dir.path()).unwrap().unwrap();
            read(&path, &bytes, &settings(rank), &["w".to_owned()])
        };
        let state = read(8).unwrap();
        assert_eq!((state.position, state.moments), (position(10), moments));
        let error = read(16).err().unwrap();
        assert!(error.to_string().ends_with("other settings: rank was 8, is 16"), "{error}");
        assert!(exists(dir.path()).unwrap() && !exists(&dir.path().join("none")).unwrap());
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_checkpoint(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&bytes, &["w".to_owned()]).is_err());
        }
    }
}

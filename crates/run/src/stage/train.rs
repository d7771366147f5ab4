//! Training. In: a model and sets; out: `adapter/`, `train/` and a record of the adapter. Invariant: the sets that an
//! adapter was trained on are in `data/`, and their hashes are among the inputs of its record.

use crate::directory::{DURABILITY, lock, remove};
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request};
use crate::plan::{ModelPlan, TrainPlan, TrainRequest};
use crate::stage::report;
use crate::stage::rounds::Rounds;
use crate::watch::Watch;
use eraser_data::write_set;
use eraser_eval::adapter_fingerprint;
use eraser_model::error::PathContext as _;
use eraser_model::{Adapter, Error, ErrorKind, Model, Result};
use eraser_train::{LARGE_NORM, SetName, Sets, Templates, TrainOptions, TrainSummary};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The adapter of a run with one variant.
const ADAPTER: &str = "adapter";

/// `eraser train`: trains, and gives the summary.
///
/// # Errors
/// A directory that another process holds; whatever training ends with.
pub fn train(plan: &TrainPlan, watch: &mut dyn Watch) -> Outcome<TrainSummary> {
    let dir = &plan.request.dir;
    let new = !dir.exists();
    let lock = lock(dir)?;
    let result = locked(plan, watch);
    drop(lock);
    // What was refused leaves nothing behind.
    if new && result.as_ref().is_err_and(|failure| failure.kind() == ErrorKind::Request) {
        std::fs::remove_dir_all(dir).writing(dir)?;
    }
    result
}

/// As [`train`], with the directory's lock held.
fn locked(plan: &TrainPlan, watch: &mut dyn Watch) -> Outcome<TrainSummary> {
    let request = &plan.request;
    let dir = &request.dir;
    let mut manifest = Manifest::read(dir);
    // Looked at again: before the lock was held, another process may have left something.
    if !request.resume && !request.force && ["adapter", "train"].iter().any(|name| dir.join(name).exists()) {
        return Err(Error::request(format!("{}: another training run was begun in it", dir.display()))
            .hint("continue it with --resume, start again with --force, or name another directory")
            .into());
    }
    let model = request.model.load(&crate::builtin::Assets::InCache, watch)?;
    if request.force {
        // Before anything is replaced: what is refused leaves the run as it is.
        eraser_train::check(&model, &plan.sets, &request.options)?;
    }
    place_sets(request, &plan.sets, &manifest)?;
    let inputs = inputs(dir, &model, &request.model, &request.options, &plan.sets)?;
    if request.force {
        remove(dir, &["adapter", "train"])?;
        manifest.forget(|name| name == ADAPTER || name.starts_with("train/"))?;
        forget_durability(dir, &mut manifest, watch)?;
    }
    let training = Training {
        artefact: ADAPTER,
        verb: request.verb,
        name: request.verb,
        variant: request.options.method.name,
        model: &model,
        plan: &request.model,
        as_loaded: true,
        sets: &plan.sets,
        options: &request.options,
        dir: dir.clone(),
        states: dir.join("train/reference/states.bin"),
        inputs,
    };
    let summary = training.run(&mut manifest, request.resume, watch)?;
    report::refresh(dir);
    Ok(summary)
}

/// Removes what durability was measured to be, and its record, where an adapter goes that it was measured on.
pub(crate) fn forget_durability(dir: &Path, manifest: &mut Manifest, watch: &mut dyn Watch) -> Result<()> {
    if DURABILITY.iter().any(|name| dir.join(name).exists()) {
        watch.note("durability.json is removed: it is of the adapter that is trained again");
    }
    remove(dir, &DURABILITY)?;
    manifest.forget(|name| name.starts_with("durability"))
}

/// A training run about to start.
pub(crate) struct Training<'a> {
    /// Its name in the manifest.
    pub(crate) artefact: &'a str,
    pub(crate) verb: &'a str,
    /// What is shown to the user.
    pub(crate) name: &'a str,
    /// The name of the subject with its adapter.
    pub(crate) variant: &'a str,
    pub(crate) model: &'a Model,
    pub(crate) plan: &'a ModelPlan,
    /// The model is as `plan` loads it, so that other ranks can.
    pub(crate) as_loaded: bool,
    pub(crate) sets: &'a Sets,
    pub(crate) options: &'a TrainOptions,
    /// Gets `adapter/` and `train/`.
    pub(crate) dir: PathBuf,
    /// The file of the frozen model's states.
    pub(crate) states: PathBuf,
    pub(crate) inputs: Inputs,
}

impl Training<'_> {
    /// Does it; a watch that stops it ends in an interruption after a checkpoint.
    pub(crate) fn run(&self, manifest: &mut Manifest, resume: bool, watch: &mut dyn Watch) -> Outcome<TrainSummary> {
        std::fs::create_dir_all(&self.dir).writing(&self.dir)?;
        let request = Request {
            artefact: self.artefact,
            verb: self.verb,
            options: json!({
                "name": self.variant,
                "model": self.plan.to_json()?,
                "retain": !self.sets.rows(SetName::Retain).is_empty(),
                "train": crate::plan::train_json(self.options)?,
                "differs": crate::plan::train_differences(self.options)?,
                "rows": self.rows(),
            }),
            inputs: &self.inputs,
            seed: Some(self.options.seed),
        };
        let adapter = self.dir.join("adapter");
        let outputs = |_: &TrainSummary| {
            let loaded = Adapter::load(&adapter, &self.model.config, self.model.decoder.device())?;
            let files = ["adapter_config.json", "adapter_model.safetensors"].map(|name| adapter.join(name));
            Ok(Outputs { files: files.to_vec(), fingerprint: Some(adapter_fingerprint(&loaded)?) })
        };
        watch.can_save(true);
        let summary = manifest.record(
            &request,
            || {
                let rounds = Rounds {
                    model: self.model,
                    sets: self.sets,
                    options: self.options,
                    dir: &self.dir,
                    states: &self.states,
                    name: self.name,
                    plan: self.as_loaded.then_some(self.plan),
                };
                rounds.train(resume, watch)
            },
            outputs,
        );
        watch.can_save(false);
        watch.training_end();
        let summary = summary?;
        manifest.seal(&["metrics.jsonl", "summary.json"].map(|name| self.dir.join("train").join(name)))?;
        self.tell(&summary, watch);
        Ok(summary)
    }

    /// The number of rows of each set.
    fn rows(&self) -> BTreeMap<&'static str, usize> {
        let sets = SetName::ALL.into_iter().map(|set| (set.name(), self.sets.rows(set).len()));
        sets.filter(|(_, n)| *n > 0).collect()
    }

    /// What a reader of the figures must know: that nothing was unlearned, that samples were cut, that gamma was not
    /// reached.
    fn tell(&self, summary: &TrainSummary, watch: &mut dyn Watch) {
        let name = self.name;
        let gamma = summary.threshold.map_or(0.0, |threshold| threshold.gamma);
        if summary.nothing_unlearned {
            let why = if summary.capped_share.is_some() {
                format!(
                    "the harmful answers cost more than gamma ({gamma:.3} nats per token) from the first step on. --gamma auto \
                     measures what they cost the base model and goes beyond it"
                )
            } else {
                "no token of the harmful answers was left to learn from".to_owned()
            };
            watch.note(&format!("{name}: nothing was unlearned: {why}"));
        }
        for (term, seen) in summary.samples.iter().filter(|(_, seen)| seen.cut > 0) {
            let (cut, empty, samples) = (seen.cut, seen.empty, seen.samples);
            watch.note(&format!(
                "{name}, {term} term: {cut} of {samples} samples were cut, {empty} of them to nothing that could be learnt from"
            ));
        }
        if let Some(large) = summary.large_gradients {
            let (steps, all) = (large.steps, summary.steps);
            watch.note(&format!(
                "{name}: the gradient's norm was above {LARGE_NORM:.0} at {steps} of {all} steps ({:.0} at step {}): a \
                 sign of a learning rate that is too high, or of lost precision. Compare the first steps with \
                 --compute f32",
                large.largest, large.step
            ));
        }
        if summary.capped_share == Some(0.0) {
            watch.note(&format!(
                "{name}: no micro-batch reached gamma {gamma}, so the hinge never closed; more steps or a higher learning \
                 rate would go further"
            ));
        }
    }
}

/// Everything that a training run reads. The sets are those of `dir/data`.
pub(crate) fn inputs(
    dir: &Path,
    model: &Model,
    plan: &ModelPlan,
    options: &TrainOptions,
    sets: &Sets,
) -> Result<Inputs> {
    let mut inputs = Inputs::of_model(model, plan.base_dtype)?;
    let mut options = options.clone();
    if let Templates::File(file) = &mut options.templates {
        inputs.path("templates", file)?;
        *file = PathBuf::new();
    }
    if let Some(dir) = options.init_adapter.take() {
        inputs.path("init_adapter", &dir)?;
    }
    inputs.settings("options", &options.recorded()?)?;
    for set in SetName::ALL.into_iter().filter(|&set| !sets.rows(set).is_empty()) {
        let name = format!("data/{}", set.file());
        inputs.path(&name, &dir.join(&name))?;
    }
    Ok(inputs)
}

/// Puts the sets where the record, the report and durability look for them. Another set of the same name that something
/// was made from, or that no record knows, is replaced only with `force`; a resumed run is held to its sets by its
/// checkpoint.
fn place_sets(request: &TrainRequest, sets: &Sets, manifest: &Manifest) -> Result<()> {
    let data = request.dir.join("data");
    std::fs::create_dir_all(&data).writing(&data)?;
    for set in SetName::ALL.into_iter().filter(|&set| !sets.rows(set).is_empty()) {
        let path = data.join(set.file());
        if path.exists() {
            if request.resume || set.read(&path)? == sets.rows(set) {
                continue;
            }
            // Left by a training that was refused.
            let unused = manifest.get(ADAPTER).is_some_and(|record| record.ended.is_none());
            if !request.force && !unused {
                return Err(Error::request(format!("{}: holds another set than the one to train on", path.display()))
                    .hint("train on that file, name another --out, or replace it by --force"));
            }
        }
        write_set(&path, sets.rows(set))?;
    }
    Ok(())
}

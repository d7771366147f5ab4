//! `eraser durability`: is the knowledge gone, or only hidden? In: a finished run; out: the run's measures after
//! merging, quantising, fine-tuning and relearning. Invariant: every condition answers the same questions under the
//! same judges, and only the model differs.

mod asked;
mod condition;

use crate::builtin::Assets;
use crate::directory::{DURABILITY, lock, remove};
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request, State};
use crate::plan::{RunPlan, Variant};
use crate::stage::train::Training;
use crate::stage::{evaluate, report, summary, training_sets};
use crate::study::{self, StudyResults, SubjectRow};
use crate::watch::Watch;
use asked::{adapter_dir, check, list_judges, options, recorded};
use condition::Condition;
use eraser_data::files::{hex, write_atomic};
use eraser_data::{Record, read_set};
use eraser_eval::summary::SubjectSummary;
use eraser_eval::{Choice, Figures, Plan, Subject, adapter_fingerprint};
use eraser_model::adapter::Module;
use eraser_model::error::PathContext as _;
use eraser_model::{Adapter, Error, Model, Result};
use eraser_report::Written;
use eraser_train::method::RSFT;
use eraser_train::{Overlong, SetName, Sets, TrainOptions};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The figures, beside the run's own.
const FILE: &str = DURABILITY[1];
/// Hex digits of a fingerprint that a reader sees.
const SHORT: usize = 12;
/// What the names of the inputs that are adapters begin with.
const ADAPTER: &str = "adapter ";

/// How durability is measured.
#[derive(Clone, Debug, Serialize)]
pub struct DurabilityOptions {
    /// Variants to measure; none named: all.
    pub variants: Vec<String>,
    /// Optimiser steps of fine-tuning.
    pub steps: usize,
    /// Learning rate of fine-tuning; None: that of the variant.
    pub lr: Option<f64>,
    /// Pairs of the harm set that are trained back in.
    pub pairs: usize,
    /// Only the first questions of each file.
    pub limit: Option<usize>,
    /// Most new tokens per answer; None: that of the run.
    pub max_new_tokens: Option<usize>,
    /// Removes what an earlier invocation left.
    pub force: bool,
}

/// Measures, and writes durability.json and the report. Gives the results and where the report is.
///
/// # Errors
/// A directory that holds no finished run; options out of range; whatever ends a training or an evaluation.
pub fn durability(dir: &Path, args: &DurabilityOptions, watch: &mut dyn Watch) -> Outcome<(StudyResults, Written)> {
    let (plan, source) = RunPlan::of_directory(dir)?;
    let variants = check(dir, args, &plan)?;
    let _lock = lock(dir)?;
    let mut manifest = Manifest::read(dir);
    let assets = Assets::InRun(dir.to_owned());
    let asked = Plan::new(&options(dir, args, &plan, &assets)?, &|key| format!("{}: [eval] {key}", dir.display()))?;
    let model = plan.model.load(&assets, watch)?;
    // What is trained again, or in, must be what the adapters were trained on.
    for (variant, set) in variants.iter().flat_map(|v| [SetName::Harm, SetName::Help].map(|set| (v, set))) {
        if let Some(Err(why)) = training_sets::recorded(&adapter_dir(dir, variant), set)? {
            return Err(Error::request(format!("{}: {why}", variant.name))
                .hint("put the file back: durability trains on the rows that the adapter was trained on")
                .into());
        }
    }
    if args.force {
        // Before anything is removed: what could not be loaded would leave nothing.
        for variant in &variants {
            Adapter::load(&adapter_dir(dir, variant), &model.config, model.decoder.device())?;
        }
        evaluate::judge(asked.options(), (&plan.model, &assets), watch)?;
        forget(dir, args, &mut manifest)?;
    }
    for note in manifest.discard_outputs(FILE)? {
        watch.note(&note);
    }
    watch.note(&format!("durability: {source}, under {}", list_judges(asked.options())));
    let mut inputs = evaluate::inputs(Inputs::of_model(&model, plan.model.base_dtype)?, asked.options(), &[])?;
    let (variants_meant, force) = (Vec::new(), false);
    inputs.settings("durability", &DurabilityOptions { variants: variants_meant, force, ..args.clone() })?;
    let kept = Kept::of(dir, &manifest, &inputs, (&plan, &variants), watch);
    for variant in &variants {
        inputs.path(&format!("{ADAPTER}{}", variant.name), &adapter_dir(dir, variant))?;
    }
    for (name, hash) in &kept.inputs {
        inputs.hash(name, hash.clone());
    }
    let measured: Vec<&Variant> =
        plan.variants.iter().filter(|v| kept.has(&v.name) || variants.iter().any(|w| w.name == v.name)).collect();
    let options = recorded(args, &plan, &measured, (asked.options(), &assets), (&model.fingerprint, asked.notes()))?;
    let begun =
        manifest.begin(&Request { artefact: FILE, verb: "durability", options, inputs: &inputs, seed: None })?;
    let work = dir.join(DURABILITY[0]);
    let mut go = Durability { dir, args, plan: &plan, assets, asked, manifest, work, judge: String::new() };
    let done = go.work(model, &variants, kept.rows, watch);
    let outcome = match &done {
        Ok(_) => Ok(Outputs { files: files(dir, &measured)?, fingerprint: None }),
        Err(failure) => Err(failure.kind()),
    };
    go.manifest.end(begun, outcome)?;
    Ok((done?, report::report(dir)?))
}

/// Removes what was measured of the variants that are meant.
fn forget(dir: &Path, args: &DurabilityOptions, manifest: &mut Manifest) -> Result<()> {
    if args.variants.is_empty() {
        remove(dir, &DURABILITY)?;
        return manifest.forget(|name| name.starts_with("durability"));
    }
    for subject in args.variants.iter().map(String::as_str).chain(["base"]) {
        let of = format!("{}/{subject}", DURABILITY[0]);
        remove(dir, &[&of])?;
        manifest.forget(|name| name.starts_with(&format!("{of}/")))?;
    }
    Ok(())
}

/// The file of figures, and the answers and judgements that they come from.
fn files(dir: &Path, measured: &[&Variant]) -> Result<Vec<PathBuf>> {
    let mut found = vec![dir.join(FILE)];
    for subject in measured.iter().map(|v| v.name.as_str()).chain(["base"]) {
        let answers = dir.join(DURABILITY[0]).join(subject).join("eval");
        if !answers.is_dir() {
            continue;
        }
        for condition in std::fs::read_dir(&answers).at(&answers)? {
            let condition = condition.at(&answers)?.path();
            for file in std::fs::read_dir(&condition).at(&condition)? {
                found.push(file.at(&condition)?.path());
            }
        }
    }
    found.retain(|path| path.is_file());
    found.sort();
    Ok(found)
}

/// Rows of variants that are not measured now.
#[derive(Default)]
struct Kept {
    rows: Vec<SubjectRow>,
    /// The adapters that they are of, as they were recorded.
    inputs: Vec<(String, String)>,
}

/// What is read again of durability.json.
#[derive(Deserialize)]
struct Earlier {
    rows: Vec<SubjectRow>,
}

impl Kept {
    /// Those that were measured in the same way; says which others are left out.
    fn of(
        dir: &Path,
        manifest: &Manifest,
        inputs: &Inputs,
        (plan, now): (&RunPlan, &[&Variant]),
        watch: &mut dyn Watch,
    ) -> Self {
        let text = std::fs::read(dir.join(FILE)).unwrap_or_default();
        let Ok(Earlier { mut rows }) = serde_json::from_slice::<Earlier>(&text) else { return Self::default() };
        rows.retain(|row| row.subject != "base" && !now.iter().any(|variant| variant.name == row.subject));
        if rows.is_empty() {
            return Self::default();
        }
        let record = manifest.get(FILE).filter(|record| record.ended.is_some());
        let settings = |hashes: &BTreeMap<String, String>| -> Vec<(String, String)> {
            let settings = hashes.iter().filter(|(name, _)| !name.starts_with(ADAPTER));
            settings.map(|(name, hash)| (name.clone(), hash.clone())).collect()
        };
        let same = record.is_some_and(|record| settings(&record.inputs) == settings(inputs.hashes()));
        let (rows, lost): (Vec<SubjectRow>, Vec<SubjectRow>) =
            rows.into_iter().partition(|row| same && plan.variants.iter().any(|v| v.name == row.subject));
        let mut names: Vec<String> = lost.into_iter().map(|row| row.subject).collect();
        names.dedup();
        if !names.is_empty() {
            watch.note(&format!(
                "{FILE}: rows of {} are left out: they were measured in another way. To measure all, leave --variant out",
                names.join(", ")
            ));
        }
        let of = |name: &str| rows.iter().any(|row| name.starts_with(&format!("{ADAPTER}{}/", row.subject)));
        let inputs = record.iter().flat_map(|record| &record.inputs).filter(|(name, _)| of(name));
        let inputs = inputs.map(|(name, hash)| (name.clone(), hash.clone())).collect();
        Self { rows, inputs }
    }

    fn has(&self, subject: &str) -> bool {
        self.rows.iter().any(|row| row.subject == subject)
    }
}

/// Work under way.
struct Durability<'a> {
    dir: &'a Path,
    args: &'a DurabilityOptions,
    plan: &'a RunPlan,
    assets: Assets,
    asked: Plan,
    manifest: Manifest,
    work: PathBuf,
    /// That attack success is under.
    judge: String,
}

impl Durability<'_> {
    /// Measures the base and the variants, and writes the file with the rows that are `kept`.
    fn work(
        &mut self,
        base: Model,
        variants: &[&Variant],
        mut kept: Vec<SubjectRow>,
        watch: &mut dyn Watch,
    ) -> Outcome<StudyResults> {
        std::fs::create_dir_all(&self.work).writing(&self.work)?;
        let found = self.evaluate("base", "as-trained", &base, None, watch)?;
        // Each condition loads a model of its own, and changes it.
        drop(base);
        let mut rows = vec![self.row("base", "as trained".to_owned(), &found, None)?];
        // In the order of the run's variants.
        for variant in &self.plan.variants {
            if variants.iter().any(|meant| meant.name == variant.name) {
                for condition in Condition::ALL {
                    rows.push(self.measure(variant, condition, watch)?);
                }
            } else {
                rows.extend(kept.extract_if(.., |row| row.subject == variant.name));
            }
        }
        let results = results(rows, &self.judge);
        let text = serde_json::to_string_pretty(&results).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
        write_atomic(&self.dir.join(FILE), format!("{text}\n").as_bytes())?;
        Ok(results)
    }

    /// A variant under a condition.
    fn measure(&mut self, variant: &Variant, condition: Condition, watch: &mut dyn Watch) -> Outcome<SubjectRow> {
        let start = Instant::now();
        let mut model = self.plan.model.load(&self.assets, watch)?;
        let dir = adapter_dir(self.dir, variant);
        let adapter = Adapter::load(&dir, &model.config, model.decoder.device())?;
        let fingerprint = adapter_fingerprint(&adapter)?;
        if condition == Condition::AsTrained {
            self.tell_changed(variant, &dir, &fingerprint, watch);
        }
        let pairs = match condition {
            Condition::Relearning => {
                read_set(&self.dir.join("data").join(SetName::Harm.file()))?.len().min(self.args.pairs)
            }
            _ => self.args.pairs,
        };
        let described = condition.describe(self.args, pairs);
        let adapter = if condition == Condition::AsTrained {
            Some(adapter)
        } else {
            model.decoder.merge(&adapter)?;
            // Another network from here on: nothing that was kept of the base is of use.
            let merged = format!("{} {fingerprint} {}", model.fingerprint, condition.name());
            model.fingerprint = hex(&Sha256::digest(merged.as_bytes()));
            match condition {
                Condition::Quantisation(kind) => {
                    model.decoder.quantise(kind)?;
                    None
                }
                Condition::BenignTuning => Some(self.tune(variant, condition, &model, "help", None, watch)?),
                Condition::Relearning => Some(self.tune(variant, condition, &model, "harm", Some(pairs), watch)?),
                _ => None,
            }
        };
        let found = self.evaluate(&variant.name, condition.name(), &model, adapter.as_ref(), watch)?;
        watch.note(&format!("{}, {described}: {:.1} s", variant.name, start.elapsed().as_secs_f64()));
        self.row(&variant.name, described, &found, Some(fingerprint))
    }

    /// Says that an adapter is not the one that training left.
    fn tell_changed(&self, variant: &Variant, dir: &Path, found: &str, watch: &mut dyn Watch) {
        let artefact = variant.dir.join("adapter").to_string_lossy().replace('\\', "/");
        let trained = self.manifest.get(&artefact).and_then(|record| record.fingerprint.as_deref());
        let short = |text: &str| text.chars().take(SHORT).collect::<String>();
        if let Some(trained) = trained.filter(|trained| *trained != found) {
            let (name, dir) = (&variant.name, dir.display());
            let (found, trained) = (short(found), short(trained));
            watch.note(&format!(
                "{name}: {dir} was changed after it was trained: {found} is measured, {trained} was trained"
            ));
        }
    }

    /// Trains a new adapter on the merged model: cross-entropy on the first records of a set, all linear layers
    /// adapted.
    fn tune(
        &mut self,
        variant: &Variant,
        condition: Condition,
        model: &Model,
        set: &str,
        take: Option<usize>,
        watch: &mut dyn Watch,
    ) -> Outcome<Adapter> {
        let mut records: Vec<Record> = read_set(&self.dir.join("data").join(format!("{set}.jsonl")))?;
        records.truncate(take.unwrap_or(usize::MAX));
        let trained = &variant.train;
        let options = TrainOptions {
            // Its one term is the cross-entropy of answers, on whatever records it is given.
            method: RSFT,
            lr: self.args.lr.unwrap_or(trained.lr),
            steps: Some(self.args.steps),
            micro_batch: trained.micro_batch.min(records.len().max(1)),
            grad_accum: 1,
            targets: Module::SINGLE.to_vec(),
            layers: None,
            // Every defence meets the same attack, whatever it was trained as.
            full: false,
            init_adapter: None,
            dump_grads: None,
            early_stop: None,
            align_weight: 1.0,
            // It is trained to answer, on purpose.
            allow_swapped: true,
            overlong: Overlong::Cut,
            ..trained.clone()
        };
        let dir = self.work.join(&variant.name).join(condition.name());
        let mut inputs = Inputs::of_model(model, self.plan.model.base_dtype)?;
        inputs.settings("options", &options.recorded()?)?;
        inputs.settings("records", &records.iter().map(|r| (&r.input, &r.output)).collect::<Vec<_>>())?;
        let artefact = format!("{}/{}/{}/adapter", DURABILITY[0], variant.name, condition.name());
        let adapter = dir.join("adapter");
        let state = self.manifest.state(&artefact, &inputs, &[adapter.join("adapter_model.safetensors")])?;
        if state != State::Done {
            if state == State::New {
                remove(&dir, &["adapter", "train"])?;
            }
            let training = Training {
                artefact: &artefact,
                verb: "durability",
                name: &format!("{} {}", variant.name, condition.name()),
                variant: &variant.name,
                model,
                plan: &self.plan.model,
                as_loaded: false,
                sets: &Sets::from_iter([(SetName::Wrapped, records)]),
                options: &options,
                states: dir.join("train/reference/states.bin"),
                dir,
                inputs,
            };
            training.run(&mut self.manifest, state == State::Begun, watch)?;
        }
        Ok(Adapter::load(&adapter, &model.config, model.decoder.device())?)
    }

    fn evaluate(
        &self,
        variant: &str,
        condition: &str,
        model: &Model,
        adapter: Option<&Adapter>,
        watch: &mut dyn Watch,
    ) -> Outcome<SubjectSummary> {
        let subjects = [Subject { name: condition.to_owned(), model, adapter }];
        let dir = self.work.join(variant);
        let admitted = summary::admit(&dir, (&subjects, &[]), false, watch)?;
        let judge = evaluate::judge(self.asked.options(), (&self.plan.model, &self.assets), watch)?;
        let summary = evaluate::evaluate(&admitted, &self.asked, judge.as_ref(), watch)?;
        summary.subjects.into_iter().next().ok_or_else(|| Error::failed("nothing was measured").into())
    }

    fn row(
        &mut self,
        subject: &str,
        condition: String,
        found: &SubjectSummary,
        adapter: Option<String>,
    ) -> Outcome<SubjectRow> {
        let judges: Vec<&str> = found.attacks.iter().map(|a| a.judge.as_str()).collect();
        study::judge(self.asked.options(), &judges).clone_into(&mut self.judge);
        let figures = Figures::read(&self.work.join(subject), found, &self.judge, &Choice::default())?;
        Ok(SubjectRow { subject: subject.to_owned(), values: vec![Some(condition)], figures, adapter })
    }
}

/// The table and what follows from it.
fn results(rows: Vec<SubjectRow>, judge: &str) -> StudyResults {
    let findings = study::durability::findings(&rows, judge);
    let (keys, judge) = (vec!["condition".to_owned()], judge.to_owned());
    StudyResults { kind: "durability", keys, rows, findings, judge, ..StudyResults::default() }
}

//! `eraser durability`: is the knowledge gone, or only hidden? In: a finished run; out: the run's measures after
//! merging, quantising, fine-tuning and relearning. Invariant: every condition answers the same questions under the
//! same judges, and only the model differs.

use crate::builtin::Assets;
use crate::directory::{DURABILITY, lock, remove};
use crate::failure::{Outcome, Problems};
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request, State};
use crate::plan::{RunPlan, Variant, wrong};
use crate::stage::train::Training;
use crate::stage::{evaluate, report, summary};
use crate::study::{self, StudyResults, SubjectRow};
use crate::watch::Watch;
use eraser_data::files::{hex, write_atomic};
use eraser_data::{Record, read_set};
use eraser_eval::summary::SubjectSummary;
use eraser_eval::{Choice, EvalOptions, Figures, Plan, Subject, adapter_fingerprint};
use eraser_model::adapter::Module;
use eraser_model::error::PathContext as _;
use eraser_model::{Adapter, Error, Model, Result, counted};
use eraser_ops::quant::TensorType;
use eraser_report::Written;
use eraser_train::method::RSFT;
use eraser_train::{MAX_LR, Overlong, SetName, Sets, TrainOptions};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The figures, beside the run's own.
const FILE: &str = DURABILITY[1];
/// Hex digits of a fingerprint that a reader sees.
const SHORT: usize = 12;

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

/// What is done to the hardened model before it is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    AsTrained,
    Merging,
    Quantisation(TensorType),
    BenignTuning,
    Relearning,
}

impl Condition {
    const ALL: [Self; 6] = [
        Self::AsTrained,
        Self::Merging,
        Self::Quantisation(TensorType::Q8_0),
        Self::Quantisation(TensorType::Q4_0),
        Self::BenignTuning,
        Self::Relearning,
    ];

    /// Its directory.
    fn name(self) -> &'static str {
        match self {
            Self::AsTrained => "as-trained",
            Self::Merging => "merged",
            Self::Quantisation(TensorType::Q8_0) => "q8_0",
            Self::Quantisation(_) => "q4_0",
            Self::BenignTuning => "fine-tuned",
            Self::Relearning => "relearnt",
        }
    }

    /// For the table and the findings.
    fn describe(self, args: &DurabilityOptions, pairs: usize) -> String {
        match self {
            Self::AsTrained => "as trained".to_owned(),
            Self::Merging => "adapter merged".to_owned(),
            Self::Quantisation(TensorType::Q8_0) => "merged, 8 bits (Q8_0)".to_owned(),
            Self::Quantisation(_) => "merged, 4 bits (Q4_0)".to_owned(),
            Self::BenignTuning => format!("{} on the help set", counted(args.steps, "step")),
            Self::Relearning => format!("{} on {}", counted(args.steps, "step"), counted(pairs, "harm pair")),
        }
    }
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
    if args.force {
        // Before anything is removed: what could not be loaded would leave nothing.
        let model = plan.model.load(&assets, watch)?;
        for variant in &variants {
            Adapter::load(&adapter_dir(dir, variant), &model.config, model.decoder.device())?;
        }
        evaluate::judge(asked.options(), (&plan.model, &assets), watch)?;
        remove(dir, &DURABILITY)?;
        manifest.forget(|name| name.starts_with("durability"))?;
    }
    watch.note(&format!("durability: {source}, under {}", list_judges(asked.options())));
    let work = dir.join(DURABILITY[0]);
    std::fs::create_dir_all(&work).writing(&work)?;
    let mut go = Durability { dir, args, plan: &plan, assets, asked, manifest, work, judge: String::new() };
    let mut rows = vec![go.base(watch)?];
    for variant in &variants {
        for condition in Condition::ALL {
            rows.push(go.measure(variant, condition, watch)?);
        }
    }
    let results = results(rows, &go.judge);
    go.write(&results, &variants)?;
    Ok((results, report::report(dir)?))
}

/// `the judge leak`, `the judges keyword and leak`.
fn list_judges(options: &EvalOptions) -> String {
    let noun = if options.judges.len() == 1 { "judge" } else { "judges" };
    format!("the {noun} {}", options.judges.join(" and "))
}

/// The variants that are meant.
fn check<'a>(dir: &Path, args: &DurabilityOptions, plan: &'a RunPlan) -> Outcome<Vec<&'a Variant>> {
    let mut problems = Problems::default();
    for (flag, value) in [
        ("steps", args.steps),
        ("pairs", args.pairs),
        ("max-new-tokens", args.max_new_tokens.unwrap_or(1)),
        ("limit", args.limit.unwrap_or(1)),
    ] {
        if value == 0 {
            problems.push(wrong(&format!("--{flag}"), "must be at least 1"));
        }
    }
    if args.lr.is_some_and(|lr| !(lr > 0.0 && lr <= MAX_LR)) {
        problems.push(wrong("--lr", format!("must be a positive number of at most {MAX_LR}")));
    }
    for name in &args.variants {
        if !plan.variants.iter().any(|v| v.name == *name) {
            let known: Vec<&str> = plan.variants.iter().map(|v| v.name.as_str()).collect();
            let error = Error::request(format!("--variant: the run has no variant `{name}`"));
            problems.push(error.hint(format!("its variants are {}", known.join(", "))));
        }
    }
    let chosen: Vec<&Variant> =
        plan.variants.iter().filter(|v| args.variants.is_empty() || args.variants.contains(&v.name)).collect();
    for variant in &chosen {
        let adapter = adapter_dir(dir, variant);
        if !adapter.is_dir() {
            let error = Error::request(format!("{}: variant `{}` was not trained", adapter.display(), variant.name));
            problems.push(error.hint("finish the run first"));
        }
    }
    problems.finish(Some(chosen))
}

fn adapter_dir(dir: &Path, variant: &Variant) -> PathBuf {
    dir.join(&variant.dir).join("adapter")
}

/// The run's measures, with the attack that gives the opening of the answer.
fn options(dir: &Path, args: &DurabilityOptions, plan: &RunPlan, assets: &Assets) -> Result<EvalOptions> {
    let mut options = plan.eval.options(dir, assets)?;
    options.attacks.retain(|attack| ["direct", "template"].contains(&attack.as_str()));
    if !options.attacks.iter().any(|attack| attack == "template") {
        // They were for an attack that is not repeated.
        options.templates.clear();
    }
    options.attacks.push("prefill".to_owned());
    options.over_refusal = None;
    options.likelihood = false;
    options.likelihood_set.clear();
    options.contrast = None;
    options.limit = args.limit.or(options.limit);
    options.max_new_tokens = args.max_new_tokens.unwrap_or(options.max_new_tokens);
    Ok(options)
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
    /// The model before hardening.
    fn base(&mut self, watch: &mut dyn Watch) -> Outcome<SubjectRow> {
        let model = self.plan.model.load(&self.assets, watch)?;
        let found = self.evaluate("base", "as-trained", &model, None, watch)?;
        self.row("base", "as trained".to_owned(), &found, None)
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
        inputs.settings("options", &options)?;
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
        let admitted = summary::admit(&dir, &subjects, false, watch)?;
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

    /// Writes the file and its record, which names the adapters that were measured.
    fn write(&mut self, results: &StudyResults, variants: &[&Variant]) -> Result<()> {
        let mut inputs = Inputs::default();
        for variant in variants {
            inputs.path(&format!("adapter {}", variant.name), &adapter_dir(self.dir, variant))?;
        }
        let options = json!({"durability": self.args, "eval": self.asked.options()});
        let request = Request { artefact: FILE, verb: "durability", options, inputs: &inputs, seed: None };
        let text = serde_json::to_string_pretty(results).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
        let path = self.dir.join(FILE);
        self.manifest.record(
            &request,
            || write_atomic(&path, format!("{text}\n").as_bytes()),
            |()| Ok(Outputs { files: vec![path.clone()], fingerprint: None }),
        )
    }
}

/// The table and what follows from it.
fn results(rows: Vec<SubjectRow>, judge: &str) -> StudyResults {
    let findings = study::durability::findings(&rows, judge);
    let (keys, judge) = (vec!["condition".to_owned()], judge.to_owned());
    StudyResults { kind: "durability", keys, rows, findings, judge, ..StudyResults::default() }
}

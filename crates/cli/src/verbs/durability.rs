//! `eraser durability`: is the knowledge gone, or only hidden? In: a finished run; out: the run's measures after merging,
//! quantising, fine-tuning and relearning. Invariant: every condition answers the same questions under the same judges, and
//! only the model differs.

use super::run::evaluate;
use super::train::Stage;
use super::{lock, remove, report};
use crate::errors::{Outcome, Problems};
use crate::options::durability::DurabilityArgs;
use crate::output;
use crate::plan::{Home, Overrides, RunPlan, Variant};
use crate::progress::note;
use crate::stages::{Inputs, Stages, State};
use crate::study::{self, Row};
use eraser_data::files::write_atomic;
use eraser_data::{Record, read_set};
use eraser_eval::summary::SubjectSummary;
use eraser_eval::{Choice, EvalOptions, Figure, Figures, Subject};
use eraser_model::adapter::Module;
use eraser_model::{Adapter, Error, Model, Result};
use eraser_ops::quant::TensorType;
use eraser_train::{Method, Sets, TrainOptions};
use std::path::PathBuf;
use std::time::Instant;

/// The figures, beside the run's own.
pub(super) const FILE: &str = "durability.json";
/// What the figures rest on.
pub(super) const DIR: &str = "durability";
/// Attack success when the answer's opening is given.
const PREFILL: &str = "ASR (prefill)";

/// What is done to the hardened model before it is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    AsTrained,
    Merged,
    Quantised(TensorType),
    Benign,
    Relearnt,
}

impl Condition {
    const ALL: [Self; 6] = [
        Self::AsTrained,
        Self::Merged,
        Self::Quantised(TensorType::Q8_0),
        Self::Quantised(TensorType::Q4_0),
        Self::Benign,
        Self::Relearnt,
    ];

    /// Its directory.
    fn name(self) -> &'static str {
        match self {
            Self::AsTrained => "as-trained",
            Self::Merged => "merged",
            Self::Quantised(TensorType::Q8_0) => "q8_0",
            Self::Quantised(_) => "q4_0",
            Self::Benign => "fine-tuned",
            Self::Relearnt => "relearnt",
        }
    }

    /// For the table and the findings.
    fn describe(self, args: &DurabilityArgs) -> String {
        match self {
            Self::AsTrained => "as trained".to_owned(),
            Self::Merged => "adapter merged".to_owned(),
            Self::Quantised(TensorType::Q8_0) => "merged, 8 bits (Q8_0)".to_owned(),
            Self::Quantised(_) => "merged, 4 bits (Q4_0)".to_owned(),
            Self::Benign => format!("{} steps on the help set", args.steps),
            Self::Relearnt => format!("{} steps on {} harm pairs", args.steps, args.pairs),
        }
    }
}

/// Measures, and writes the section of the report.
pub(crate) fn durability(args: &DurabilityArgs, json: bool) -> Outcome {
    let overrides = Overrides { out: Some(&args.run), ..Overrides::default() };
    let plan = RunPlan::read(&args.run.join("plan.toml"), &overrides)?;
    let variants = check(args, &plan)?;
    let _lock = lock(&args.run)?;
    if args.force {
        remove(&args.run, &[DIR, FILE])?;
    }
    let home = Home::Run(args.run.clone());
    let options = options(args, &plan, &home)?;
    let wrong = options.check();
    if !wrong.is_empty() {
        return Err(wrong.into());
    }
    let work = args.run.join(DIR);
    std::fs::create_dir_all(&work).map_err(|e| Error::request(format!("{}: {e}", work.display())))?;
    let mut go = Durability { args, plan: &plan, home, options, stages: Stages::read(&work), work };
    let mut rows = vec![go.base()?];
    for variant in variants {
        for condition in Condition::ALL {
            rows.push(
                go.measure(variant, condition).map_err(|f| f.on_interrupt("run the same command again to go on"))?,
            );
        }
    }
    let study = study(rows);
    let text = serde_json::to_string_pretty(&study).map_err(|e| Error::failed(format!("{FILE}: {e}")))?;
    write_atomic(&args.run.join(FILE), format!("{text}\n").as_bytes())?;
    let written = report::write(&args.run)?;
    if json {
        output::json(&study)?;
    } else {
        output::text(&report::durability_table(&args.run)?)?;
        output::line(&format!("\nreport: {}", written.html.display()))?;
    }
    Ok(())
}

/// The variants that are meant.
fn check<'a>(args: &DurabilityArgs, plan: &'a RunPlan) -> Outcome<Vec<&'a Variant>> {
    let mut problems = Problems::default();
    for (flag, value) in
        [("steps", args.steps), ("pairs", args.pairs), ("max-new-tokens", args.max_new_tokens.unwrap_or(1))]
    {
        if value == 0 {
            problems.push(Error::request(format!("--{flag}: must be at least 1")));
        }
    }
    if args.lr.is_some_and(|lr| !(lr.is_finite() && lr > 0.0)) {
        problems.push(Error::request("--lr: must be a positive number"));
    }
    for name in &args.variant {
        if !plan.variants.iter().any(|v| v.name == *name) {
            let known: Vec<&str> = plan.variants.iter().map(|v| v.name.as_str()).collect();
            let error = Error::request(format!("--variant: the run has no variant `{name}`"));
            problems.push(error.hint(format!("its variants are {}", known.join(", "))));
        }
    }
    let chosen: Vec<&Variant> =
        plan.variants.iter().filter(|v| args.variant.is_empty() || args.variant.contains(&v.name)).collect();
    for variant in &chosen {
        let adapter = adapter_dir(args, variant);
        if !adapter.is_dir() {
            let error = Error::request(format!("{}: variant `{}` was not trained", adapter.display(), variant.name));
            problems.push(error.hint("finish the run first: eraser run RUN/plan.toml"));
        }
    }
    problems.finish(Some(chosen))
}

fn adapter_dir(args: &DurabilityArgs, variant: &Variant) -> PathBuf {
    args.run.join(&variant.home).join("adapter")
}

/// The run's measures, with the attack that puts an opening into the model's mouth.
fn options(args: &DurabilityArgs, plan: &RunPlan, home: &Home) -> Result<EvalOptions> {
    let mut options = plan.eval.options(&args.run, home)?;
    options.attacks.retain(|attack| ["direct", "template"].contains(&attack.as_str()));
    if !options.attacks.iter().any(|attack| attack == "template") {
        // They were for an attack that is not repeated.
        options.templates.clear();
    }
    options.attacks.push("prefill".to_owned());
    options.over_refusal = None;
    options.contrast = None;
    options.limit = args.limit.or(options.limit);
    options.max_new_tokens = args.max_new_tokens.unwrap_or(options.max_new_tokens);
    Ok(options)
}

/// Work under way.
struct Durability<'a> {
    args: &'a DurabilityArgs,
    plan: &'a RunPlan,
    home: Home,
    options: EvalOptions,
    stages: Stages,
    work: PathBuf,
}

impl Durability<'_> {
    /// The model before hardening.
    fn base(&self) -> Outcome<Row> {
        let model = self.plan.model.load(&self.home)?;
        let found = self.evaluate("base", "as-trained", &model, None)?;
        Ok(self.row("base", "as trained".to_owned(), &found))
    }

    /// A variant under a condition.
    fn measure(&mut self, variant: &Variant, condition: Condition) -> Outcome<Row> {
        let start = Instant::now();
        let mut model = self.plan.model.load(&self.home)?;
        let dir = adapter_dir(self.args, variant);
        let adapter = Adapter::load(&dir, &model.config, model.decoder.device())?;
        let (pairs, described) = (self.args.pairs, condition.describe(self.args));
        let mut inputs = Inputs::default();
        inputs.text("model", &model.fingerprint);
        inputs.path("adapter", &dir)?;
        let input = inputs.finish();
        let adapter = if condition == Condition::AsTrained {
            Some(adapter)
        } else {
            model.decoder.merge(&adapter, 1.0)?;
            // Another network from here on: nothing that was kept of the base is of use.
            model.fingerprint = format!("{input}/{}", condition.name());
            match condition {
                Condition::Quantised(kind) => {
                    model.decoder.quantise(kind)?;
                    None
                }
                Condition::Benign => Some(self.tune(variant, condition, &model, "help", None)?),
                Condition::Relearnt => Some(self.tune(variant, condition, &model, "harm", Some(pairs))?),
                _ => None,
            }
        };
        let found = self.evaluate(&variant.name, condition.name(), &model, adapter.as_ref())?;
        note(&format!("{}, {described}: {:.1} s", variant.name, start.elapsed().as_secs_f64()));
        Ok(self.row(&variant.name, described, &found))
    }

    /// Trains a new adapter on the merged model: cross-entropy on the first records of a set, all linear layers adapted.
    fn tune(
        &mut self,
        variant: &Variant,
        condition: Condition,
        model: &Model,
        set: &str,
        take: Option<usize>,
    ) -> Outcome<Adapter> {
        let mut records: Vec<Record> = read_set(&self.args.run.join("data").join(format!("{set}.jsonl")))?;
        records.truncate(take.unwrap_or(usize::MAX));
        let trained = &variant.train;
        let options = TrainOptions {
            // Its one term is the cross-entropy of answers, on whatever records it is given.
            method: Method::named("rsft").unwrap_or_default(),
            lr: self.args.lr.unwrap_or(trained.lr),
            steps: Some(self.args.steps),
            micro_batch: trained.micro_batch.min(records.len().max(1)),
            grad_accum: 1,
            targets: Module::ALL.to_vec(),
            layers: None,
            init_adapter: None,
            dump_grads: None,
            early_stop: None,
            align_weight: 1.0,
            ..trained.clone()
        };
        let dir = self.work.join(&variant.name).join(condition.name());
        let mut inputs = Inputs::default();
        inputs.text("model", &model.fingerprint);
        inputs.settings("options", &options)?;
        inputs.settings("records", &records.iter().map(|r| (&r.input, &r.output)).collect::<Vec<_>>())?;
        let (input, stage) = (inputs.finish(), format!("{}/{}", variant.name, condition.name()));
        let adapter = dir.join("adapter");
        let state = self.stages.state(&stage, &input, &[adapter.join("adapter_model.safetensors")]);
        if state != State::Done {
            if state == State::New {
                remove(&dir, &["adapter", "train"])?;
            }
            self.stages.begin(&stage, &input)?;
            std::fs::create_dir_all(&dir).map_err(|e| Error::request(format!("{}: {e}", dir.display())))?;
            let start = Instant::now();
            let sets = Sets { wrapped: records, ..Sets::default() };
            let states = dir.join("train/reference/states.bin");
            let go = Stage { name: &stage, model, sets: &sets, options: &options, dir: &dir, states: &states };
            let result = go.run(state == State::Begun, false);
            self.stages.spent(&stage, start.elapsed().as_secs_f64(), result.is_ok())?;
            result?;
        }
        Ok(Adapter::load(&adapter, &model.config, model.decoder.device())?)
    }

    fn evaluate(
        &self,
        variant: &str,
        condition: &str,
        model: &Model,
        adapter: Option<&Adapter>,
    ) -> Outcome<SubjectSummary> {
        let subject = Subject { name: condition.to_owned(), model, adapter };
        let dir = self.work.join(variant);
        let summary = evaluate(&[subject], &self.options, (&self.plan.model, &self.home), &dir)?;
        summary.subjects.into_iter().next().ok_or_else(|| Error::failed("nothing was measured").into())
    }

    fn row(&self, subject: &str, condition: String, found: &SubjectSummary) -> Row {
        let judge = found.attacks.first().map(|a| a.judge.clone()).unwrap_or_default();
        let unseen = self.options.questions.iter().map(|q| q.set.clone()).find(|set| set == "unseen");
        let figures = Figures::of(found, &judge, &Choice { held_out: Vec::new(), unseen });
        let rows = found.attacks.iter().filter(|a| a.attack == "prefill" && a.judge == judge);
        let counted = rows.map(|a| {
            let n = a.n - a.unjudged.min(a.n);
            (a.asr.map_or(0.0, |asr| asr * n as f64).round() as usize, n)
        });
        let (part, n) = counted.fold((0, 0), |(p, m), (part, n)| (p + part, m + n));
        let prefill = (n > 0).then(|| Figure::share(PREFILL, part, n));
        Row { subject: subject.to_owned(), values: vec![Some(condition)], figures: figures.after(prefill) }
    }
}

/// The table and what follows from it.
fn study(rows: Vec<Row>) -> study::Study {
    let findings = study::durability::findings(&rows, PREFILL);
    study::Study { kind: "durability", keys: vec!["condition".to_owned()], rows, findings, ..study::Study::default() }
}

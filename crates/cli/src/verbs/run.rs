//! `eraser run` and `eraser quickstart`: prepare -> train -> evaluate -> report in one run directory. Invariant: every stage reads
//! files and leaves files; what a stage needs to know of its past stands in stages.json.

use super::study::{self, Study};
use super::train::{Stage, describe};
use super::{durability, lock, prepare, remove, report};
use crate::errors::Outcome;
use crate::interrupt::Graceful;
use crate::options::run::{GoArgs, HowArgs, QuickstartArgs, RunArgs};
use crate::plan::{Home, Jailbreaks, ModelPlan, Overrides, RunPlan, Variant};
use crate::progress::{EvalWatch, note};
use crate::stages::{Inputs, Stages, State};
use crate::{builtin, output};
use eraser_data::ask::{Endpoint, Local, Respond};
use eraser_data::files::write_atomic;
use eraser_data::{Record, read_set, write_set};
use eraser_eval::judge::GCG29;
use eraser_eval::{EvalOptions, Subject, Summary};
use eraser_model::error::PathContext as _;
use eraser_model::{Adapter, ChatTemplate, Error, Model, Result};
use eraser_train::{Rows, Sets, Templates};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Everything a run writes into its directory, and what `eraser bench` adds.
const FILES: [&str; 22] = [
    "adapter",
    "bench",
    "bench.json",
    "builtin",
    "data",
    "data_report.json",
    "durability",
    "durability.json",
    "eval",
    "judges.json",
    "plan.toml",
    "prepare",
    "reference",
    "report.csv",
    "report.html",
    "report.md",
    "stages.json",
    "study.json",
    "subjects.json",
    "summary.json",
    "train",
    "variants",
];

/// What the directory may hold already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// Nothing, or a run to go on with.
    GoOn,
    /// A run to go on with.
    Expected,
    /// A run to remove.
    Removed,
}

/// `eraser run`.
pub(crate) fn run(args: &RunArgs, json: bool) -> Outcome {
    let plan = RunPlan::read(&args.file, &overrides(&args.go.how, args.go.out.as_deref()))?;
    pipeline(&plan, earlier(&args.go), None, json).map_err(|f| f.on_interrupt("run the same command again to go on"))
}

/// `eraser quickstart`: the run file is embedded.
pub(crate) fn quickstart(args: &QuickstartArgs, json: bool) -> Outcome {
    let file = Path::new("configs/organism.toml");
    let plan = RunPlan::parse(file, builtin::RUN_FILE, &overrides(&args.how, Some(&args.out)))?;
    let earlier = if args.keep { Earlier::GoOn } else { Earlier::Removed };
    pipeline(&plan, earlier, None, json).map_err(|f| f.on_interrupt("add --keep to go on from here"))
}

pub(super) fn overrides<'a>(how: &'a HowArgs, out: Option<&'a Path>) -> Overrides<'a> {
    Overrides { out, device: how.device.as_deref(), set: &how.set, ..Overrides::default() }
}

/// What `--resume` and `--force` mean.
pub(super) fn earlier(go: &GoArgs) -> Earlier {
    match (go.resume, go.force) {
        (_, true) => Earlier::Removed,
        (true, _) => Earlier::Expected,
        _ => Earlier::GoOn,
    }
}

/// The stages, one after the other, and what a study reads off them.
pub(super) fn pipeline(plan: &RunPlan, earlier: Earlier, study: Option<&Study<'_>>, json: bool) -> Outcome {
    let start = Instant::now();
    let dir = plan.dir.as_path();
    let _lock = claim(dir, earlier)?;
    write_atomic(&dir.join("plan.toml"), plan.to_toml()?.as_bytes())?;

    let home = Home::Run(dir.to_owned());
    let data = dir.join("data");
    std::fs::create_dir_all(&data).at(&data)?;
    for (name, source) in plan.data.sets() {
        write_set(&data.join(format!("{name}.jsonl")), &source.records(&home)?)?;
    }
    let jailbreaks = jailbreaks(plan, study, &home)?;
    // Before any training: what the evaluation cannot do is found out now.
    let options = plan.eval.options(dir, &home)?;
    let problems = options.check();
    if !problems.is_empty() {
        return Err(problems.into());
    }

    let material = plan.prepare.as_ref().map(|p| prepare::Material::read(p, plan.eval.asked(), &home)).transpose()?;
    let mut run = Run { plan, dir, model: plan.model.load(&home)?, stages: Stages::read(dir) };
    let mut worked = false;
    if let Some(material) = &material {
        worked |= run.prepare(material, &home)?;
    }
    if plan.reads(Rows::Wrapped) {
        let wrapped = jailbreaks.wrap(&read_set(&run.set(Rows::Align))?);
        write_set(&run.set(Rows::Wrapped), &wrapped)?;
    }
    for variant in &plan.variants {
        worked |= run.train(variant)?;
    }
    run.write_subjects()?;
    worked |= run.evaluate(&options)?;
    if worked || !dir.join("summary.json").exists() {
        run.write_timing(start)?;
    }
    match study {
        Some(study) => study.write(dir, plan, jailbreaks.held_out)?,
        None => remove(dir, &[study::FILE])?,
    }
    let written = report::write(dir)?;

    let summary = dir.join("summary.json");
    if json {
        let mut value = read_json(&summary)?;
        if study.is_some() {
            value["study"] = read_json(&dir.join(study::FILE))?;
        }
        output::json(&value)?;
    } else {
        output::text(&report::table(dir)?)?;
        output::line(&format!("\nreport: {}", written.html.display()))?;
    }
    Ok(())
}

/// The templates, where a method learns from some or a study tells them apart.
fn jailbreaks(plan: &RunPlan, study: Option<&Study<'_>>, home: &Home) -> Outcome<Jailbreaks> {
    let evaluation = &plan.eval.options.templates;
    if !plan.reads(Rows::Wrapped) && study.is_none() {
        return Ok(Jailbreaks::default());
    }
    let seed = plan.variants.first().map_or(0, |v| v.train.seed);
    Jailbreaks::read(&plan.data.jailbreaks, evaluation, seed, home)
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).at(path)?;
    serde_json::from_slice(&text).map_err(|e| Error::failed(format!("{}: {e}", path.display())))
}

/// Makes the run directory ours.
fn claim(dir: &Path, earlier: Earlier) -> Result<std::fs::File> {
    let is_run = dir.join("stages.json").exists() || dir.join("plan.toml").exists();
    let mut entries = std::fs::read_dir(dir).into_iter().flatten();
    if !is_run && earlier == Earlier::Expected {
        return Err(Error::request(format!("{}: there is no run to go on with", dir.display()))
            .hint("leave --resume out to begin one"));
    }
    if !is_run && entries.any(|e| e.is_ok_and(|e| e.file_name() != super::LOCK)) {
        return Err(Error::request(format!("{}: the directory holds other files than a run's", dir.display()))
            .hint("name an empty or a new directory with --out"));
    }
    let lock = lock(dir)?;
    if earlier == Earlier::Removed {
        remove(dir, &FILES)?;
    }
    Ok(lock)
}

/// A run under way.
struct Run<'a> {
    plan: &'a RunPlan,
    dir: &'a Path,
    model: Model,
    stages: Stages,
}

impl Run<'_> {
    /// Makes the sets unless that was done; true when it was not.
    fn prepare(&mut self, material: &prepare::Material<'_>, home: &Home) -> Outcome<bool> {
        let mut inputs = self.model_input()?;
        material.add_to(&mut inputs)?;
        let input = inputs.finish();
        let mut outputs: Vec<PathBuf> = [Rows::Harm, Rows::Help, Rows::Align].map(|rows| self.set(rows)).to_vec();
        outputs.push(self.dir.join("data_report.json"));
        if self.stages.state("prepare", &input, &outputs) == State::Done {
            note("prepare: done before");
            return Ok(false);
        }
        self.stages.begin("prepare", &input)?;
        let start = Instant::now();
        let result = material.prepare(&self.model, &self.plan.model, home, self.dir);
        self.stages.spent("prepare", start.elapsed().as_secs_f64(), result.is_ok())?;
        result?;
        note(&format!("prepare: three sets in {:.1} s", start.elapsed().as_secs_f64()));
        Ok(true)
    }

    /// Trains a variant unless that was done; true when it was not.
    fn train(&mut self, variant: &Variant) -> Outcome<bool> {
        let dir = self.dir.join(&variant.home);
        let input = self.train_input(variant)?;
        let stage = stage_name(variant);
        let state = self.stages.state(&stage, &input, &[dir.join("adapter/adapter_model.safetensors")]);
        if state == State::Done {
            note(&format!("train {}: done before", variant.name));
            return Ok(false);
        }
        if state == State::New {
            remove(&dir, &["adapter", "train"])?;
            // Benchmarks and durability were measured on the adapter that goes.
            remove(self.dir, &["bench", "bench.json", durability::FILE])?;
        }
        self.stages.begin(&stage, &input)?;
        let read = |rows: Rows| -> Result<Vec<Record>> {
            if variant.reads(rows) { read_set(&self.set(rows)) } else { Ok(Vec::new()) }
        };
        let sets = Sets {
            harm: read(Rows::Harm)?,
            help: read(Rows::Help)?,
            align: read(Rows::Align)?,
            retain: if variant.retain { Some(read(Rows::Retain)?) } else { None },
            wrapped: read(Rows::Wrapped)?,
        };
        std::fs::create_dir_all(&dir).at(&dir)?;
        let start = Instant::now();
        let name = format!("train {}", variant.name);
        // All variants compute the same on the frozen model.
        let states = self.dir.join("reference/states.bin");
        let go =
            Stage { name: &name, model: &self.model, sets: &sets, options: &variant.train, dir: &dir, states: &states };
        let result = go.run(state == State::Begun, false);
        self.stages.spent(&stage, start.elapsed().as_secs_f64(), result.is_ok())?;
        note(&format!("{name}: {}", describe(&result?)));
        Ok(true)
    }

    /// The subjects, for the report.
    fn write_subjects(&self) -> Result<()> {
        let mut subjects = Vec::new();
        for variant in &self.plan.variants {
            let dir = &variant.home;
            let mut settings =
                serde_json::to_value(&variant.train).map_err(|e| Error::failed(format!("subjects.json: {e}")))?;
            settings["retain"] = variant.retain.into();
            subjects.push(json!({
                "name": variant.name,
                "metrics": dir.join("train/metrics.jsonl"),
                "adapter": dir.join("adapter"),
                "settings": settings,
            }));
        }
        self.write_json("subjects.json", &Value::from(subjects))?;
        self.write_json("judges.json", &json!({"keyword:gcg29": GCG29}))
    }

    /// Evaluates the base and every variant unless that was done; true when it was not.
    fn evaluate(&mut self, options: &EvalOptions) -> Outcome<bool> {
        let input = self.eval_input(options)?;
        let summary = self.dir.join("summary.json");
        if self.stages.state("eval", &input, std::slice::from_ref(&summary)) == State::Done {
            note("eval: done before");
            return Ok(false);
        }
        self.stages.begin("eval", &input)?;
        let start = Instant::now();
        let mut adapters: Vec<(&str, Adapter)> = Vec::new();
        for variant in &self.plan.variants {
            let path = self.dir.join(&variant.home).join("adapter");
            adapters.push((&variant.name, Adapter::load(&path, &self.model.config, self.model.decoder.device())?));
        }
        let subject = |name: &str, adapter| Subject { name: name.to_owned(), model: &self.model, adapter };
        let mut subjects = vec![subject("base", None)];
        subjects.extend(adapters.iter().map(|(name, adapter)| subject(name, Some(adapter))));
        let home = Home::Run(self.dir.to_owned());
        let result = evaluate(&subjects, options, (&self.plan.model, &home), self.dir);
        let written = result.and_then(|s| Ok(write_summary(self.dir, &s)?));
        self.stages.spent("eval", start.elapsed().as_secs_f64(), written.is_ok())?;
        written?;
        note(&format!("eval: {} subjects in {:.1} s", self.plan.variants.len() + 1, start.elapsed().as_secs_f64()));
        Ok(true)
    }

    /// Everything the evaluation reads: files by their content, so that a run may move.
    fn eval_input(&self, options: &EvalOptions) -> Result<String> {
        let mut inputs = self.model_input()?;
        let questions: Vec<_> =
            options.questions.iter().chain(&options.over_refusal).chain(&options.contrast).collect();
        for set in &questions {
            inputs.settings("column", &set.column)?;
            inputs.path(&set.set, &set.path)?;
        }
        for task in &options.tasks {
            inputs.path(&task.task, &task.path)?;
        }
        for path in &options.templates {
            inputs.text("template", &path.file_name().unwrap_or_default().to_string_lossy());
            inputs.path("template", path)?;
        }
        let (templates, questions, tasks) = Default::default();
        let over_refusal = options.over_refusal.is_some();
        inputs.settings("over_refusal", &over_refusal)?;
        inputs.settings("contrast", &options.contrast.is_some())?;
        let others = EvalOptions { templates, questions, tasks, over_refusal: None, contrast: None, ..options.clone() };
        inputs.settings("eval", &others)?;
        for variant in &self.plan.variants {
            inputs.path(&variant.name, &self.dir.join(&variant.home).join("adapter"))?;
        }
        Ok(inputs.finish())
    }

    /// What both stages read: the model.
    fn model_input(&self) -> Result<Inputs> {
        let mut inputs = Inputs::default();
        inputs.text("version", env!("CARGO_PKG_VERSION"));
        inputs.text("model", &self.model.fingerprint);
        inputs.settings("base_dtype", &self.plan.model.base_dtype)?;
        inputs.settings("template", &self.model.template.as_ref().map(ChatTemplate::source))?;
        Ok(inputs)
    }

    /// Everything the training of a variant reads.
    fn train_input(&self, variant: &Variant) -> Result<String> {
        let mut inputs = self.model_input()?;
        // Another variant's adapter may be where this one's was before.
        inputs.text("directory", &variant.home.to_string_lossy());
        let mut options = variant.train.clone();
        if let Templates::File(file) = &mut options.templates {
            inputs.path("templates", file)?;
            *file = PathBuf::new();
        }
        if let Some(dir) = options.init_adapter.take() {
            inputs.path("init_adapter", &dir)?;
        }
        inputs.settings("train", &options)?;
        for rows in Rows::ALL.into_iter().filter(|&rows| variant.reads(rows)) {
            inputs.path(rows.name(), &self.set(rows))?;
        }
        Ok(inputs.finish())
    }

    /// The file of a set.
    fn set(&self, rows: Rows) -> PathBuf {
        self.dir.join("data").join(format!("{}.jsonl", rows.name()))
    }

    /// Completes summary.json by what the run took, the time of earlier invocations included.
    fn write_timing(&self, start: Instant) -> Result<()> {
        let path = self.dir.join("summary.json");
        let text = std::fs::read(&path).at(&path)?;
        let mut summary: Summary =
            serde_json::from_slice(&text).map_err(|e| Error::failed(format!("summary.json: {e}")))?;
        let train: f64 = self.plan.variants.iter().filter_map(|v| self.stages.seconds(&stage_name(v))).sum();
        let eval = self.stages.seconds("eval");
        let timing = &mut summary.timing;
        timing.train_s = Some(train);
        timing.eval_s = eval;
        let stages = train + eval.unwrap_or_default() + self.stages.seconds("prepare").unwrap_or_default();
        timing.total_s = Some(start.elapsed().as_secs_f64().max(stages));
        timing.peak_rss_mb = eraser_ops::threads::peak_rss_mb().map(|mb| mb.round() as u64);
        write_summary(self.dir, &summary)
    }

    fn write_json(&self, name: &str, value: &Value) -> Result<()> {
        write_atomic(&self.dir.join(name), format!("{value:#}\n").as_bytes())
    }
}

/// How a variant's training is called in stages.json.
fn stage_name(variant: &Variant) -> String {
    format!("train/{}", variant.name)
}

/// Evaluates with a bar; Ctrl-C ends in an interruption. A local judge is loaded as `model` is, from its `home`.
pub(super) fn evaluate(
    subjects: &[Subject<'_>],
    options: &EvalOptions,
    (model, home): (&ModelPlan, &Home),
    dir: &Path,
) -> Outcome<Summary> {
    let judge = options.judge.model.as_deref().map(|spec| model.beside(spec).load(home)).transpose()?;
    let local = judge.as_ref().map(|judge| Local::new(judge, options.judge.batch));
    let endpoint = options.judge.endpoint().map(|e| Endpoint::new(&e)).transpose()?;
    let judge = match (&local, &endpoint) {
        (Some(local), _) => Some(local as &dyn Respond),
        (None, Some(endpoint)) => Some(endpoint as &dyn Respond),
        (None, None) => None,
    };
    let mut watch = EvalWatch::default();
    let graceful = Graceful::begin();
    let result = eraser_eval::evaluate(subjects, options, judge, dir, &mut watch);
    drop(graceful);
    watch.finish();
    Ok(result?)
}

/// Writes summary.json, with the figures of a bench.json that is there.
pub(super) fn write_summary(dir: &Path, summary: &Summary) -> Result<()> {
    let mut summary = summary.clone();
    super::bench::join(dir, &mut summary)?;
    let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::failed(format!("summary.json: {e}")))?;
    write_atomic(&dir.join("summary.json"), format!("{text}\n").as_bytes())
}

//! Evaluation. In: subjects and measures; out: `eval/`, `summary.json` and their records. Invariant: every figure that
//! is written comes from the subjects that were loaded here.

use crate::builtin::Assets;
use crate::directory::{lock, remove};
use crate::divided::{Work, divide, home};
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request};
use crate::plan::{EvalPlan, ModelPlan, SubjectPlan, flag};
use crate::shards::{self, Part};
use crate::stage::replaced::{Now, replaced};
use crate::stage::{likelihood, report, served, subjects, summary, training_sets};
use crate::watch::{Watch, stoppable};
use eraser_data::ask::Local;
use eraser_eval::judge::JudgeOptions;
use eraser_eval::{Admitted, EvalOptions, Plan, Subject, Summary};
use eraser_model::{Adapter, Model, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `eraser eval`: measures, and gives every figure; of a shard, none.
///
/// # Errors
/// Everything that is wrong with options and files; a directory that another process holds; whatever evaluation ends
/// with.
pub fn eval(plan: &EvalPlan, watch: &mut dyn Watch) -> Outcome<Summary> {
    let start = Instant::now();
    let mut asked = plan.asked()?;
    let dir = plan.dir.as_path();
    let _lock = lock(dir)?;
    let directories = plan.subjects.iter().filter_map(|s| Some((s.name.clone(), s.adapter.clone()?)));
    let directories: Vec<(String, PathBuf)> = directories.collect();
    let mut leakage = training_sets::check(asked.options(), &directories)?;
    leakage.extend_from_slice(asked.notes());
    // Before the weights are read, which can take long.
    for note in &leakage {
        watch.note(note);
    }
    likelihood::plan_own(&mut asked, dir, &directories, &flag, watch)?;
    let options = asked.options();
    let mut manifest = Manifest::read(dir);
    if !plan.force {
        subjects::check(dir, &directories)?;
    }
    // Where all subjects are served, no weights are read.
    let (text, plans) = (plan.text()?, plan.measures.served.as_slice());
    let common = served::common(text.as_ref())?;
    let model = plans.is_empty().then(|| plan.model.load(&Assets::InCache, watch)).transpose()?;
    if let Some(model) = &model {
        let others = training_sets::other_model(&model.fingerprint, &directories);
        for note in &others {
            watch.note(note);
        }
        leakage.extend(others);
    }
    let adapters = model.as_ref().map(|model| load_adapters(&plan.subjects, model)).transpose()?.unwrap_or_default();
    let measured = model.as_ref().map(|model| loaded(&plan.subjects, model, &adapters)).unwrap_or_default();
    let served = served::connect(plans, (text.as_ref(), &common), &served::needs(&asked), dir, watch)?;
    let judge = match plan.part {
        // It judges when the shards are joined.
        Part::Shard(_) => None,
        _ => judge(options, (&plan.model, &Assets::InCache), watch)?,
    };
    let begun = Inputs::begun(model.as_ref(), plan.model.base_dtype, &common)?;
    let mut inputs = inputs(begun, options, &directories)?;
    inputs.served(&served);
    plan.part.check(&inputs)?;
    if plan.force {
        // Only now: what is refused removes nothing.
        remove(dir, &["eval", summary::FILE, &home("eval")])?;
        manifest.forget(|name| name == summary::FILE || name == shards::ARTEFACT || name.starts_with("eval/"))?;
    }
    let measures = plan.measures.recorded(&Assets::InCache)?;
    if let Part::Shard(shard) = &plan.part {
        shards::check(dir, &manifest, &inputs)?;
        let admitted = summary::admit(dir, (&measured, &served), plan.force, watch)?;
        let (seed, options) = (Some(options.seed), shards::options(shard, &measures));
        let request = Request { artefact: shards::ARTEFACT, verb: "eval", options, inputs: &inputs, seed };
        let work = || evaluate(&admitted, &asked, judge.as_ref(), watch);
        return manifest.record(&request, work, |_| Ok(Outputs::default()));
    }
    for note in summary::clear(&mut manifest, (summary::FILE, "eval"), &inputs)? {
        watch.note(&note);
    }
    let admitted = summary::admit(dir, (&measured, &served), plan.force, watch)?;
    manifest.seal(&summary::FIGURES)?;
    let names = measured.iter().map(|subject| subject.name.as_str());
    let names: Vec<&str> = names.chain(served.iter().map(|subject| subject.name.as_str())).collect();
    for note in replaced(&manifest, &names, &asked.asked(), &Now { inputs: inputs.hashes(), eval: &measures }) {
        watch.note(&note);
    }
    for note in manifest.discard_changed(summary::FILE, &files(&names, &asked))? {
        watch.note(&note);
    }
    let before = plan.part.join(dir, "eval")?;
    let recorded = json!({
        "model": plan.recorded_model()?,
        "subjects": plan.subjects,
        "eval": measures,
        "leakage": leakage,
    });
    let seed = Some(options.seed);
    let request = Request { artefact: summary::FILE, verb: "eval", options: recorded, inputs: &inputs, seed };
    let work = || {
        if let (Part::Whole, Some(model)) = (&plan.part, &model) {
            let subjects = plan.subjects.iter().map(|s| (s.name.clone(), s.adapter.clone())).collect();
            let work = Work::Eval { options: Box::new(options.clone()), subjects };
            divide(&work, (&plan.model, model), dir, watch)?;
        }
        evaluate(&admitted, &asked, judge.as_ref(), watch)
    };
    let mut found = manifest.record(&request, work, |_| Ok(Outputs::default()))?;
    let seconds = before + start.elapsed().as_secs_f64();
    found.timing.eval_s = Some(seconds);
    found.timing.total_s = Some(seconds);
    found.timing.peak_rss_mb = eraser_ops::threads::peak_rss_mb().map(|mb| mb.round() as u64);
    let all = summary::record(dir, &found, watch)?;
    attribute(&mut manifest, dir, &all, &names, &asked)?;
    subjects::write(dir, &directories, &manifest)?;
    report::refresh(dir);
    Ok(all)
}

/// Records which figures of the summary come from the evaluation that was done (what it did not ask, an earlier one
/// measured), and the files of answers that it wrote.
pub(crate) fn attribute(
    manifest: &mut Manifest,
    dir: &Path,
    all: &Summary,
    subjects: &[&str],
    plan: &Plan,
) -> Result<()> {
    let present = summary::figures(all);
    let asked = plan.asked();
    let made: BTreeSet<String> = subjects.iter().flat_map(|subject| summary::asked(subject, &asked)).collect();
    let files: Vec<String> = files(subjects, plan).into_iter().filter(|file| dir.join(file).exists()).collect();
    manifest.attribute(summary::FILE, (&made, &files), &present)?;
    manifest.seal(&summary::FIGURES)
}

/// The files of answers that an evaluation of `subjects` writes.
pub(crate) fn files(subjects: &[&str], plan: &Plan) -> Vec<String> {
    let asked = plan.asked();
    let names: BTreeSet<&str> = asked.iter().map(|asked| asked.file.as_str()).collect();
    let file = |subject: &&str, name: &str| format!("eval/{subject}/{name}.jsonl");
    subjects.iter().flat_map(|subject| names.iter().map(move |name| file(subject, name))).collect()
}

/// The adapter of every subject that has one.
pub(crate) fn load_adapters(subjects: &[SubjectPlan], model: &Model) -> Result<Vec<Option<Adapter>>> {
    let load = |dir: &PathBuf| Adapter::load(dir, &model.config, model.decoder.device());
    subjects.iter().map(|s| s.adapter.as_ref().map(load).transpose()).collect()
}

/// The subjects of a plan, loaded.
pub(crate) fn loaded<'a>(plans: &[SubjectPlan], model: &'a Model, adapters: &'a [Option<Adapter>]) -> Vec<Subject<'a>> {
    let subject = |(plan, adapter): (&SubjectPlan, &'a Option<Adapter>)| Subject {
        name: plan.name.clone(),
        model,
        adapter: adapter.as_ref(),
    };
    plans.iter().zip(adapters).map(subject).collect()
}

/// The local model that judges, loaded as `model` is, from its `assets`; None where none is asked for.
pub(crate) fn judge(
    options: &EvalOptions,
    (model, assets): (&ModelPlan, &Assets),
    watch: &mut dyn Watch,
) -> Result<Option<Model>> {
    options.judge.model.as_deref().map(|spec| model.beside(spec).load(assets, watch)).transpose()
}

/// Evaluates, with what [`judge`] gave; a watch that stops it ends in an interruption.
pub(crate) fn evaluate(
    admitted: &Admitted<'_>,
    plan: &Plan,
    judge: Option<&Model>,
    watch: &mut dyn Watch,
) -> Outcome<Summary> {
    let options = plan.options();
    let local = judge.map(|judge| Local::new(judge, options.judge.batch));
    let endpoint = super::judge::endpoint(&options.judge, &Assets::InCache)?;
    let judge = super::judge::whichever(local.as_ref(), endpoint.as_ref());
    Ok(stoppable(watch, |progress| eraser_eval::evaluate(admitted, plan, judge, progress))?)
}

/// Everything that an evaluation reads, behind the model's: files by their content, so that a run may move. `adapters`
/// are the subjects that have one, with its directory.
pub(crate) fn inputs(mut inputs: Inputs, options: &EvalOptions, adapters: &[(String, PathBuf)]) -> Result<Inputs> {
    let questions = options.questions.iter().chain(&options.over_refusal).chain(&options.contrast);
    for set in questions {
        inputs.settings(&format!("column {}", set.set), &set.column)?;
        inputs.path(&format!("questions {}", set.set), &set.path)?;
    }
    for task in &options.tasks {
        inputs.path(&format!("task {}", task.task), &task.path)?;
    }
    for set in &options.likelihood_set {
        inputs.path(&format!("likelihood {}", set.set), &set.path)?;
    }
    for path in &options.templates {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        inputs.path(&format!("template {name}"), path)?;
    }
    if let Some(path) = &options.judge.prompt {
        inputs.path("judge prompt", path)?;
    }
    let present = [options.over_refusal.is_some(), options.contrast.is_some()];
    inputs.settings("over_refusal, contrast", &present)?;
    let (templates, questions, tasks) = Default::default();
    // What may leak decides whether an evaluation begins, not what it finds.
    let allow_leakage = Vec::new();
    let others = EvalOptions {
        templates,
        questions,
        tasks,
        over_refusal: None,
        contrast: None,
        likelihood_set: Vec::new(),
        allow_leakage,
        judge: JudgeOptions { prompt: None, ..options.judge.clone() },
        ..options.clone()
    };
    inputs.settings("options", &others)?;
    for (name, dir) in adapters {
        inputs.path(&format!("adapter {name}"), dir)?;
    }
    Ok(inputs)
}

//! Benchmarks. In: subjects and tasks; out: `bench/`, `bench.json`, their record, and the figures in `summary.json`.

use crate::builtin::Assets;
use crate::directory::{lock, remove};
use crate::divided::{Work, divide, home};
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request};
use crate::plan::BenchPlan;
use crate::shards::{self, Part};
use crate::stage::evaluate::{load_adapters, loaded};
use crate::stage::{report, served, subjects, summary, training_sets};
use crate::watch::{Watch, stoppable};
use eraser_eval::served::Needs;
use eraser_eval::{Admitted, BenchSummary};
use eraser_model::{Error, Model};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// The file of the figures, and the name of its record.
const BENCH: &str = "bench.json";

/// `eraser bench`: scores, joins the figures to the summary, and gives them; of a shard, none.
///
/// # Errors
/// A directory that another process holds; whatever scoring ends with.
pub fn bench(plan: &BenchPlan, watch: &mut dyn Watch) -> Outcome<BenchSummary> {
    let (dir, asked) = (plan.dir.as_path(), plan.asked.options());
    let _lock = lock(dir)?;
    let mut manifest = Manifest::read(dir);
    // Where all subjects are served, no weights are read.
    let text = plan.text()?;
    let common = served::common(text.as_ref())?;
    let model = plan.served.is_empty().then(|| plan.model.load(&Assets::InCache, watch)).transpose()?;
    let adapters = model.as_ref().map(|model| load_adapters(&plan.subjects, model)).transpose()?.unwrap_or_default();
    let measured = model.as_ref().map(|model| loaded(&plan.subjects, model, &adapters)).unwrap_or_default();
    let needs = Needs { scores: true, ..Needs::default() };
    let served = served::connect(&plan.served, (text.as_ref(), &common), &needs, dir, watch)?;
    let directories = plan.subjects.iter().filter_map(|s| Some((s.name.clone(), s.adapter.clone()?)));
    let directories: Vec<(String, PathBuf)> = directories.collect();
    if !plan.force {
        subjects::check(dir, &directories)?;
    }
    let other = |model: &Model| training_sets::other_model(&model.fingerprint, &directories);
    let leakage = model.as_ref().map(other).unwrap_or_default();
    for note in &leakage {
        watch.note(note);
    }
    let mut inputs = Inputs::begun(model.as_ref(), plan.model.base_dtype, &common)?;
    inputs.served(&served);
    for subject in &plan.subjects {
        if let Some(adapter) = &subject.adapter {
            inputs.path(&format!("adapter {}", subject.name), adapter)?;
        }
    }
    for task in &asked.tasks {
        for (what, path) in [("items", Some(&task.path)), ("examples", task.examples.as_ref())] {
            if let Some(path) = path {
                inputs.path(&format!("{what} of {}", task.task), path)?;
            }
        }
        if let Some(path) = &task.preamble {
            inputs.path(&format!("preamble of {}", task.task), path)?;
        }
    }
    for text in &asked.texts {
        inputs.path(&format!("text {}", text.name), &text.path)?;
    }
    for file in plan.asked.retain_files() {
        inputs.path("retain log", &file)?;
    }
    inputs.settings("options", asked)?;
    plan.part.check(&inputs)?;
    if plan.force {
        // Only now: what is refused removes nothing.
        remove(dir, &["bench", BENCH, &home("bench")])?;
        manifest.forget(|name| name == BENCH || name == shards::ARTEFACT || name.starts_with("bench/"))?;
    }
    if let Part::Shard(shard) = &plan.part {
        shards::check(dir, &manifest, &inputs)?;
        let admitted = summary::admit(dir, (&measured, &served), plan.force, watch)?;
        let options = shards::options(shard, &serde_json::to_value(asked).map_err(Error::failed)?);
        let request =
            Request { artefact: shards::ARTEFACT, verb: "bench", options, inputs: &inputs, seed: Some(asked.seed) };
        let work = || stoppable(watch, |progress| eraser_eval::bench(&admitted, &plan.asked, progress));
        return Ok(manifest.record(&request, work, |_| Ok(Outputs::default()))?);
    }
    for note in summary::clear(&mut manifest, (BENCH, "bench"), &inputs)? {
        watch.note(&note);
    }
    let admitted = summary::admit(dir, (&measured, &served), plan.force, watch)?;
    manifest.seal(&summary::FIGURES)?;
    let options = json!({
        "model": plan.recorded_model()?,
        "subjects": plan.subjects,
        "served": plan.served,
        "bench": asked,
        "leakage": leakage,
    });
    let seed = Some(asked.seed);
    let request = Request { artefact: BENCH, verb: "bench", options, inputs: &inputs, seed };
    let names = asked.tasks.iter().map(|task| &task.task).chain(asked.texts.iter().map(|text| &text.name));
    let subjects_named = measured.iter().map(|s| &s.name).chain(served.iter().map(|s| &s.name));
    let files = subjects_named.flat_map(|s| names.clone().map(move |name| format!("bench/{s}/{name}.jsonl")));
    let files: Vec<String> = files.collect();
    for note in manifest.discard_changed(BENCH, &files)? {
        watch.note(&note);
    }
    plan.part.join(dir, "bench")?;
    let work = || scored(plan, model.as_ref(), &admitted, watch);
    let found = manifest.record(&request, work, |_| Ok(Outputs::default()))?;
    let files: Vec<String> = files.into_iter().filter(|file| dir.join(file).exists()).collect();
    let all = summary::record(dir, &found.summary(), watch)?;
    manifest.attribute(BENCH, (&summary::figures(&found.summary()), &files), &summary::figures(&all))?;
    manifest.seal(&summary::FIGURES)?;
    subjects::write(dir, &directories, &manifest)?;
    report::refresh(dir);
    Ok(found)
}

/// Scores, together with other ranks where there are some and a `model` is loaded.
fn scored(
    plan: &BenchPlan,
    model: Option<&Model>,
    admitted: &Admitted<'_>,
    watch: &mut dyn Watch,
) -> Outcome<BenchSummary> {
    let (dir, start) = (plan.dir.as_path(), Instant::now());
    let mut by_ranks = 0;
    if let (Part::Whole, Some(model)) = (&plan.part, model) {
        let subjects = plan.subjects.iter().map(|s| (s.name.clone(), s.adapter.clone())).collect();
        let work = Work::Bench { options: Box::new(plan.asked.options().clone()), subjects };
        by_ranks = divide(&work, (&plan.model, model), dir, watch)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut found = stoppable(watch, |progress| eraser_eval::bench(admitted, &plan.asked, progress))?;
    if by_ranks > 0 {
        found.scored += by_ranks;
        found.score_s += seconds;
        found.write(dir)?;
    }
    Ok(found)
}

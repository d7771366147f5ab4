//! Benchmarks. In: subjects and tasks; out: `bench/`, `bench.json`, their record, and the figures in `summary.json`.

use crate::builtin::Assets;
use crate::directory::{lock, remove};
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request};
use crate::plan::BenchPlan;
use crate::stage::evaluate::{load_adapters, loaded};
use crate::stage::summary;
use crate::watch::{Watch, stoppable};
use eraser_eval::BenchSummary;
use serde_json::json;

/// The file of the figures, and the name of its record.
const BENCH: &str = "bench.json";

/// `eraser bench`: scores, joins the figures to the summary, and gives them.
///
/// # Errors
/// A directory that another process holds; whatever scoring ends with.
pub fn bench(plan: &BenchPlan, watch: &mut dyn Watch) -> Outcome<BenchSummary> {
    let (dir, asked) = (plan.dir.as_path(), plan.asked.options());
    let _lock = lock(dir)?;
    let mut manifest = Manifest::read(dir);
    let model = plan.model.load(&Assets::InCache, watch)?;
    let adapters = load_adapters(&plan.subjects, &model)?;
    let subjects = loaded(&plan.subjects, &model, &adapters);
    let mut inputs = Inputs::of_model(&model, plan.model.base_dtype)?;
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
    inputs.settings("options", asked)?;
    if plan.force {
        // Only now: what is refused removes nothing.
        remove(dir, &["bench", BENCH])?;
        manifest.forget(|name| name == BENCH || name.starts_with("bench/"))?;
    }
    let admitted = summary::admit(dir, &subjects, plan.force, watch)?;
    let options = json!({"model": plan.model.to_json()?, "subjects": plan.subjects, "bench": asked});
    let seed = Some(asked.seed);
    let request = Request { artefact: BENCH, verb: "bench", options, inputs: &inputs, seed };
    let names = asked.tasks.iter().map(|task| &task.task).chain(asked.texts.iter().map(|text| &text.name));
    let files = subjects.iter().flat_map(|s| names.clone().map(move |name| format!("bench/{}/{name}.jsonl", s.name)));
    let files: Vec<String> = files.collect();
    for note in manifest.discard_changed(BENCH, &files)? {
        watch.note(&note);
    }
    let found = manifest.record(
        &request,
        || stoppable(watch, |progress| eraser_eval::bench(&admitted, &plan.asked, progress)),
        |_| Ok(Outputs::default()),
    )?;
    let files: Vec<String> = files.into_iter().filter(|file| dir.join(file).exists()).collect();
    let all = summary::record(dir, &found.summary(), watch)?;
    manifest.attribute(BENCH, (&summary::figures(&found.summary()), &files), &summary::figures(&all))?;
    Ok(found)
}

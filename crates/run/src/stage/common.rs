//! What the shards of a run have in common. In: a run's plan and its model; out: the hashes of all that decides what it
//! makes, files by their content. Invariant: nothing is written, so that work of other inputs is refused before anything
//! is replaced.

use crate::builtin::Assets;
use crate::inputs::Inputs;
use crate::plan::{QuestionFile, RunPlan};
use crate::stage::prepare::Material;
use eraser_data::Record;
use eraser_eval::EvalOptions;
use eraser_eval::judge::JudgeOptions;
use eraser_model::{Model, Result};

/// The hashes. Each shard may have a device of its own, and files at another place.
pub(crate) fn inputs(
    plan: &RunPlan,
    (model, material): (&Model, Option<&Material<'_>>),
    assets: &Assets,
) -> Result<Inputs> {
    let mut inputs = Inputs::of_model(model, plan.model.base_dtype)?;
    inputs.settings("variants", &plan.settings()?.get("variant"))?;
    let rows =
        |records: Vec<Record>| records.into_iter().map(|row| (row.input, row.output, row.extra)).collect::<Vec<_>>();
    for (set, source) in &plan.data.sets {
        inputs.settings(&format!("data/{}", set.file()), &rows(source.training_set(*set, assets)?))?;
    }
    if let Some(material) = material {
        let mut made = Inputs::default();
        material.add_to(&mut made)?;
        for (name, hash) in made.hashes() {
            inputs.hash(&format!("prepare: {name}"), hash.clone());
        }
    }
    for file in plan.eval.files() {
        let QuestionFile { name, source } = file;
        let questions = source.questions(assets)?;
        let texts: Vec<_> = questions.iter().map(crate::plan::question_row).collect();
        inputs.settings(&format!("questions {name}"), &texts)?;
    }
    for file in &plan.eval.answers {
        inputs.settings(&format!("likelihood {}", file.name), &rows(file.records(assets)?))?;
    }
    for path in plan.eval.options.templates.iter().chain(&plan.data.jailbreaks) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        inputs.path(&format!("template {name}"), &assets.locate(path)?)?;
    }
    let (options, templates) = (plan.eval.options.clone(), Vec::new());
    if let Some(path) = &options.judge.prompt {
        inputs.path("judge prompt", path)?;
    }
    let judge = JudgeOptions { prompt: None, ..options.judge.clone() };
    inputs.settings("evaluation", &EvalOptions { templates, judge, ..options })?;
    Ok(inputs)
}

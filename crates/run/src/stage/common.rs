//! What the shards of a run have in common. In: a run's plan and its model; out: the hashes of all that decides what it
//! makes, files by their content. Invariant: nothing is written, so that work of other inputs is refused before anything
//! is replaced.

use crate::builtin::Assets;
use crate::inputs::Inputs;
use crate::plan::{QuestionFile, RunPlan};
use crate::stage::evaluate;
use crate::stage::prepare::Material;
use eraser_data::Record;
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
    let mut options = plan.eval.options.clone();
    options.templates.extend(plan.data.jailbreaks.iter().cloned());
    for path in &mut options.templates {
        *path = assets.locate(path)?;
    }
    inputs.settings("allow_leakage", &options.allow_leakage)?;
    evaluate::inputs(inputs, &options, &[])
}

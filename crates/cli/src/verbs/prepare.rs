//! `eraser prepare`: questions become the three sets and a report on them. Invariant: every file is read before the first
//! answer is asked for.

use super::{lock, remove, report};
use crate::errors::Outcome;
use crate::interrupt::Graceful;
use crate::options::prepare::PrepareArgs;
use crate::output;
use crate::plan::{Asked, Home, ModelPlan, Preparation, PreparePlan};
use crate::progress::{EvalWatch, note};
use crate::stages::Inputs;
use eraser_data::prepare::{DataReport, Endpoint, Evaluation, Inputs as Given};
use eraser_data::{Question, Record};
use eraser_model::{Error, Model, Result};
use std::path::Path;

/// Makes the sets and prints what is in them.
pub(crate) fn prepare(args: &PrepareArgs, json: bool) -> Outcome {
    let plan = PreparePlan::resolve(args)?;
    let _lock = lock(&plan.dir)?;
    if plan.force {
        remove(&plan.dir, &["prepare", "data/harm.jsonl", "data/help.jsonl", "data/align.jsonl", "data_report.json"])?;
    }
    let material = Material::read(&plan.preparation, plan.evaluation.iter(), &plan.home)?;
    let model = plan.model.load(&plan.home)?;
    let made = material
        .prepare(&model, &plan.model, &plan.home, &plan.dir)
        .map_err(|f| f.on_interrupt("run the same command again to go on; answers that are there are kept"))?;
    if json {
        output::json(&made)?;
    } else {
        output::text(&report::data_table(&plan.dir)?)?;
    }
    Ok(())
}

/// What a preparation reads, read.
pub(super) struct Material<'a> {
    plan: &'a Preparation,
    questions: Vec<Question>,
    answers: Option<Vec<Record>>,
    evaluation: Vec<Evaluation>,
    endpoint: Option<Endpoint>,
}

impl<'a> Material<'a> {
    /// Reads the files, and the key of the endpoint from the environment.
    pub(super) fn read<'b>(
        plan: &'a Preparation,
        evaluation: impl Iterator<Item = &'b Asked>,
        home: &Home,
    ) -> Result<Self> {
        let asked = |asked: &Asked| {
            Ok::<_, Error>(Evaluation { name: asked.name.clone(), questions: asked.source.questions(home)? })
        };
        Ok(Self {
            plan,
            questions: plan.questions.questions(home)?,
            answers: plan.answers_file.as_ref().map(|source| source.records(home)).transpose()?,
            evaluation: evaluation.map(asked).collect::<Result<_>>()?,
            endpoint: if plan.options.needs_endpoint() { Some(Endpoint::new(&plan.options.endpoint())?) } else { None },
        })
    }

    /// Adds everything that the sets depend on besides the model.
    pub(super) fn add_to(&self, inputs: &mut Inputs) -> Result<()> {
        inputs.settings("prepare", &self.plan.options)?;
        for question in &self.questions {
            inputs.text(&question.id, &question.text);
        }
        for record in self.answers.iter().flatten() {
            inputs.text(&record.input, &record.output);
        }
        for set in &self.evaluation {
            inputs.text("evaluation", &set.name);
            for question in &set.questions {
                inputs.text(&question.id, &question.text);
            }
        }
        Ok(())
    }

    /// Makes the sets in `dir`; Ctrl-C ends in an interruption.
    pub(super) fn prepare(&self, model: &Model, plan: &ModelPlan, home: &Home, dir: &Path) -> Outcome<DataReport> {
        let given = Given {
            model,
            answers_model: &|spec| plan.beside(spec).load(home),
            endpoint: self.endpoint.as_ref(),
            questions: &self.questions,
            answers: self.answers.as_deref(),
            evaluation: &self.evaluation,
        };
        let mut watch = EvalWatch::default();
        let graceful = Graceful::begin();
        let made = eraser_data::prepare::prepare(&given, &self.plan.options, dir, &mut watch);
        drop(graceful);
        watch.finish();
        let made = made?;
        let allowed = |set: &str| self.plan.options.allow_leakage.iter().any(|name| name == set);
        for overlap in made.overlaps.iter().filter(|o| o.evaluation && o.near > 0 && !allowed(&o.with)) {
            let (near, set, with) = (overlap.near, &overlap.set, &overlap.with);
            note(&format!("prepare: {near} rows of {set} are nearly questions of `{with}`, which the evaluation asks"));
        }
        Ok(made)
    }
}

//! Preparation. In: questions and whatever answers them; out: the three sets, a report on them, and their record.
//! Invariant: every file is read before the first answer is asked for, and sets that an adapter was trained on are
//! replaced only with --force.

use crate::builtin::Assets;
use crate::directory::{lock, remove};
use crate::divided::{Work, divide, home};
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::manifest::{Manifest, Outputs, Request, State};
use crate::plan::{AnswerFile, ModelPlan, Preparation, PreparePlan, QuestionFile};
use crate::shards::{self, Part, ShardRequest};
use crate::watch::{Watch, stoppable};
use eraser_data::prepare::{DataReport, Endpoint, Evaluation, Inputs as PrepareInputs};
use eraser_data::{Question, Record};
use eraser_eval::likelihood::BENIGN;
use eraser_model::{Error, Model, Result, counted};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The record of the sets.
pub(crate) const ARTEFACT: &str = "data";
/// What a preparation writes.
pub(crate) const FILES: [&str; 6] =
    ["prepare", "data/harm.jsonl", "data/help.jsonl", "data/align.jsonl", "data/retain.jsonl", "data_report.json"];

/// `eraser prepare`: makes the sets and says what is in them; of a shard, which makes answers only, None.
///
/// # Errors
/// A directory that another process holds, or whose sets an adapter was trained on; whatever preparation ends with.
pub fn prepare(plan: &PreparePlan, watch: &mut dyn Watch) -> Outcome<Option<DataReport>> {
    let _lock = lock(&plan.dir)?;
    let mut manifest = Manifest::read(&plan.dir);
    let material = Material::read(&plan.preparation, plan.evaluation.iter(), &[], &Assets::InCache)?;
    let model = plan.model.load(&Assets::InCache, watch)?;
    let mut inputs = Inputs::of_model(&model, plan.model.base_dtype)?;
    material.add_to(&mut inputs)?;
    plan.part.check(&inputs)?;
    if plan.force {
        remove(&plan.dir, &FILES)?;
        remove(&plan.dir, &[&home("prepare")])?;
        manifest.forget(|name| name == ARTEFACT || name == shards::ARTEFACT)?;
    } else {
        keep_trained_sets(&manifest, &inputs, &plan.dir, &plan.preparation)?;
    }
    let (assets, dir, part) = (&Assets::InCache, plan.dir.as_path(), &plan.part);
    let preparing = Preparing { model: &model, plan: &plan.model, assets, dir, part };
    if let Part::Shard(shard) = part {
        material.prepare_part(&preparing, shard, &inputs, &mut manifest, watch)?;
        return Ok(None);
    }
    plan.part.join(dir, "prepare")?;
    material.prepare(&preparing, "prepare", &inputs, &mut manifest, watch).map(Some)
}

/// An error if an adapter was trained on the sets that are there and others would replace them.
fn keep_trained_sets(manifest: &Manifest, inputs: &Inputs, dir: &Path, plan: &Preparation) -> Result<()> {
    if manifest.state(ARTEFACT, inputs, &outputs(dir, plan))? != State::New {
        return Ok(());
    }
    let harm = dir.join("data/harm.jsonl");
    if !harm.exists() {
        return Ok(());
    }
    let present = eraser_data::files::hash_file(&harm)?;
    let trained = manifest.artefacts().find(|(_, r)| r.inputs.get("data/harm.jsonl") == Some(&present));
    let Some((adapter, _)) = trained else { return Ok(()) };
    let what =
        format!("{}: {adapter} was trained on the sets that are in it, and others would replace them", dir.display());
    Err(Error::request(what).hint("name another --out, or replace them with --force"))
}

/// The files that count.
pub(crate) fn outputs(dir: &Path, plan: &Preparation) -> Vec<PathBuf> {
    let retain = plan.retains().then_some("data/retain.jsonl");
    let others = ["data/harm.jsonl", "data/help.jsonl", "data/align.jsonl", "data_report.json"];
    others.into_iter().chain(retain).map(|name| dir.join(name)).collect()
}

/// With what and where sets are made.
pub(crate) struct Preparing<'a> {
    pub(crate) model: &'a Model,
    pub(crate) plan: &'a ModelPlan,
    pub(crate) assets: &'a Assets,
    pub(crate) dir: &'a Path,
    pub(crate) part: &'a Part,
}

/// What a preparation reads, read.
pub(crate) struct Material<'a> {
    plan: &'a Preparation,
    questions: Vec<Question>,
    answers: Option<Vec<Record>>,
    retain: Vec<Question>,
    texts: Vec<String>,
    evaluation: Vec<Evaluation>,
    endpoint: Option<Endpoint>,
}

impl<'a> Material<'a> {
    /// Reads the files, and the key of the endpoint from the environment.
    pub(crate) fn read<'b>(
        plan: &'a Preparation,
        evaluation: impl Iterator<Item = &'b QuestionFile>,
        answers: &[AnswerFile],
        assets: &Assets,
    ) -> Result<Self> {
        let asked = |file: &QuestionFile| {
            Ok::<_, Error>(Evaluation { name: file.name.clone(), questions: file.source.questions(assets)? })
        };
        // Benign answers are trained on by design.
        let known = answers.iter().filter(|file| !file.name.starts_with(BENIGN)).map(|file| {
            let question = |(i, row): (usize, Record)| Question {
                id: format!("row {}", i + 1),
                text: row.input,
                facts: Vec::new(),
                extra: row.extra,
                place: row.place,
                column: String::new(),
            };
            let questions = file.records(assets)?.into_iter().enumerate().map(question).collect();
            Ok(Evaluation { name: file.name.clone(), questions })
        });
        Ok(Self {
            plan,
            questions: plan.questions.questions(assets)?,
            answers: plan.answers_file.as_ref().map(|source| source.records(assets)).transpose()?,
            retain: plan.retain_questions.as_ref().map_or_else(|| Ok(Vec::new()), |file| file.questions(assets))?,
            texts: plan.retain_text.as_ref().map_or_else(|| Ok(Vec::new()), |file| file.texts(assets))?,
            evaluation: evaluation.map(asked).chain(known).collect::<Result<_>>()?,
            endpoint: if plan.options.needs_endpoint() { Some(Endpoint::new(&plan.options.endpoint())?) } else { None },
        })
    }

    /// What is made.
    pub(crate) fn plan(&self) -> &'a Preparation {
        self.plan
    }

    /// Adds everything that the sets depend on besides the model.
    pub(crate) fn add_to(&self, inputs: &mut Inputs) -> Result<()> {
        inputs.settings("options", &self.plan.options)?;
        let texts = |questions: &[Question]| -> Vec<[String; 2]> {
            questions.iter().map(|q| [q.id.clone(), q.text.clone()]).collect()
        };
        inputs.settings("questions", &texts(&self.questions))?;
        if let Some(answers) = &self.answers {
            inputs.settings("answers", &answers.iter().map(|r| [&r.input, &r.output]).collect::<Vec<_>>())?;
        }
        if self.plan.retains() {
            inputs.settings("retain questions", &texts(&self.retain))?;
            inputs.settings("retain text", &self.texts)?;
        }
        for set in &self.evaluation {
            inputs.settings(&format!("evaluation {}", set.name), &texts(&set.questions))?;
        }
        Ok(())
    }

    /// What a preparation is given.
    fn sources<T>(&self, with: &Preparing<'_>, work: impl FnOnce(&PrepareInputs<'_>) -> T) -> T {
        work(&PrepareInputs {
            model: with.model,
            // The progress bars of their work show the judge and the answering model.
            answers_model: &|spec| with.plan.beside(spec).load(with.assets, &mut crate::watch::Silent),
            endpoint: self.endpoint.as_ref(),
            questions: &self.questions,
            answers: self.answers.as_deref(),
            retain: &self.retain,
            texts: &self.texts,
            evaluation: &self.evaluation,
            share: with.part.share(),
            others: &|file: &Path| match with.part {
                Part::Shard(_) => shards::beside(with.dir, file),
                Part::Whole | Part::Joined(_) => Vec::new(),
            },
        })
    }

    /// Makes the answers of a shard; a watch that stops it ends in an interruption.
    fn prepare_part(
        &self,
        with: &Preparing<'_>,
        shard: &ShardRequest,
        inputs: &Inputs,
        manifest: &mut Manifest,
        watch: &mut dyn Watch,
    ) -> Outcome {
        shards::check(with.dir, manifest, inputs)?;
        let options = shards::options(shard, &self.plan.to_json()?);
        let seed = Some(self.plan.options.seed);
        let request = Request { artefact: shards::ARTEFACT, verb: "prepare", options, inputs, seed };
        let work = || {
            stoppable(watch, |progress| {
                self.sources(with, |sources| {
                    eraser_data::prepare::prepare_part(sources, &self.plan.options, with.dir, progress)
                })
            })
        };
        if !manifest.record(&request, work, |_| Ok(Outputs::default()))? {
            watch.note(&format!(
                "shard {}: help answers are asked about what the harmful answers of all shards name, and those are not \
                 all there: run every shard again when all have ended",
                shard.shard
            ));
        }
        Ok(())
    }

    /// Makes the sets; a watch that stops it ends in an interruption.
    pub(crate) fn prepare(
        &self,
        with: &Preparing<'_>,
        verb: &str,
        inputs: &Inputs,
        manifest: &mut Manifest,
        watch: &mut dyn Watch,
    ) -> Outcome<DataReport> {
        let options = json!({"model": with.plan.to_json()?, "prepare": self.plan.to_json()?});
        let seed = Some(self.plan.options.seed);
        let request = Request { artefact: ARTEFACT, verb, options, inputs, seed };
        let files = outputs(with.dir, self.plan);
        let work = || -> Outcome<DataReport> {
            if matches!(with.part, Part::Whole) {
                let answers = self.answers.as_deref();
                let work = Work::prepare(&self.plan.options, &self.questions, answers, &self.retain, &self.texts);
                divide(&work, (with.plan, with.model), with.dir, watch)?;
            }
            Ok(stoppable(watch, |progress| {
                self.sources(with, |sources| {
                    eraser_data::prepare::prepare(sources, &self.plan.options, with.dir, progress)
                })
            })?)
        };
        let report = manifest.record(&request, work, |_| Ok(Outputs { files, fingerprint: None }))?;
        for warning in &report.warnings {
            watch.note(&format!("prepare: {warning}"));
        }
        let allowed = |set: &str| self.plan.options.allow_leakage.iter().any(|name| name == set);
        for overlap in report.overlaps.iter().filter(|o| o.evaluation && o.near > 0 && !allowed(&o.with)) {
            let (near, set, with) = (overlap.near, &overlap.set, &overlap.with);
            watch.note(&format!(
                "prepare: {} of {set} nearly the same as questions of `{with}`, which the evaluation asks",
                counted(near, "row")
            ));
        }
        Ok(report)
    }
}

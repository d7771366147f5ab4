//! Work that a rank has read. In: what it was told, and the model; out: the results of a shard in its directory.
//! Invariant: all ranks do the same, rank 0 too.

use super::work::{Asked, Known, Named, Preparation, Work};
use crate::builtin::Assets;
use crate::crew::Done;
use crate::failure::Outcome;
use crate::inputs::Inputs;
use crate::plan::ModelPlan;
use crate::stage::judge;
use crate::watch::Silent;
use eraser_data::ask::Endpoint;
use eraser_data::prepare::{Inputs as Sources, PrepareOptions};
use eraser_data::{Progress, Question, Record, Shard, Share};
use eraser_eval::work::{scored, work};
use eraser_eval::{Admitted, Subject, adapter_fingerprint, bench};
use eraser_model::{Adapter, Model, Result};
use std::path::{Path, PathBuf};

/// Where other shards put their answers of a file.
pub(super) type Others<'a> = dyn Fn(&Path) -> Vec<PathBuf> + 'a;

/// Work that was read and can begin.
pub(super) enum Ready<'a> {
    Eval { asked: Box<eraser_eval::Plan>, loaded: Loaded<'a>, judge: Option<Box<Endpoint>> },
    Bench { asked: bench::Plan, loaded: Loaded<'a> },
    Prepare { asked: Box<ToPrepare>, plan: &'a ModelPlan, model: &'a Model },
}

/// Subjects by their names.
pub(super) struct Loaded<'a> {
    model: &'a Model,
    plan: &'a ModelPlan,
    adapters: Vec<(String, Option<Adapter>)>,
}

/// A preparation as it is asked for.
pub(super) struct ToPrepare {
    options: PrepareOptions,
    pub(super) questions: Vec<Question>,
    pub(super) answers: Option<Vec<Record>>,
    retain: Vec<Question>,
    texts: Vec<String>,
    endpoint: Option<Endpoint>,
}

impl<'a> Ready<'a> {
    /// Reads what `work` names.
    pub(super) fn new(work: &Work, (plan, model): (&'a ModelPlan, &'a Model)) -> Outcome<Self> {
        // Rank 0 has read the same without an error, and says how the user calls an option.
        let named = |key: &str| key.to_owned();
        let loaded = |subjects: &[Named]| -> Result<Loaded<'a>> {
            let load = |dir: &PathBuf| Adapter::load(dir, &model.config, model.decoder.device());
            let adapter = |(name, dir): &Named| Ok((name.clone(), dir.as_ref().map(load).transpose()?));
            Ok(Loaded { model, plan, adapters: subjects.iter().map(adapter).collect::<Result<_>>()? })
        };
        Ok(match work {
            Work::Eval { options, subjects } => Self::Eval {
                asked: Box::new(eraser_eval::Plan::new(options, &named)?),
                loaded: loaded(subjects)?,
                judge: judge::endpoint(&options.judge, &Assets::InCache)?.map(Box::new),
            },
            Work::Bench { options, subjects } => {
                Self::Bench { asked: bench::Plan::new(options, &named)?, loaded: loaded(subjects)? }
            }
            Work::Prepare(told) => Self::Prepare { asked: Box::new(ToPrepare::new(told)?), plan, model },
        })
    }

    /// What ranks must have in common to do the same work.
    pub(super) fn inputs(&self) -> Result<Inputs> {
        Ok(match self {
            Self::Eval { asked, loaded, .. } => {
                let mut inputs = loaded.inputs()?;
                let prompts: Vec<_> = work(asked).into_iter().map(|work| (work.file, work.prompts)).collect();
                inputs.settings("questions and templates", &prompts)?;
                inputs.settings("known answers", &scored(asked))?;
                inputs
            }
            Self::Bench { asked, loaded } => {
                let mut inputs = loaded.inputs()?;
                let options = asked.options();
                for task in &options.tasks {
                    let files = [Some(&task.path), task.examples.as_ref(), task.preamble.as_ref()];
                    for file in files.into_iter().flatten() {
                        inputs.path(&format!("files of {}", task.task), file)?;
                    }
                }
                for text in &options.texts {
                    inputs.path(&format!("text {}", text.name), &text.path)?;
                }
                inputs
            }
            // What else is read has been told.
            Self::Prepare { plan, model, .. } => Inputs::of_model(model, plan.base_dtype)?,
        })
    }

    /// Does a shard in the directory `home`; `others` says where the other shards put answers of a file.
    pub(super) fn shard(
        &mut self,
        shard: Shard,
        (home, others): (&Path, &Others<'_>),
        progress: &mut dyn Progress,
    ) -> Outcome<Done> {
        let share = Share::Part(shard);
        match self {
            Self::Eval { asked, loaded, judge } => {
                asked.take_share(share);
                let subjects = loaded.subjects();
                let (admitted, _) = Admitted::new(home, &subjects, false)?;
                let judge = judge::whichever(None, judge.as_deref());
                eraser_eval::evaluate(&admitted, asked, judge, progress)?;
                Ok(Done { complete: true, computed: 0 })
            }
            Self::Bench { asked, loaded } => {
                asked.take_share(share);
                let subjects = loaded.subjects();
                let (admitted, _) = Admitted::new(home, &subjects, false)?;
                let found = eraser_eval::bench(&admitted, asked, progress)?;
                Ok(Done { complete: true, computed: found.scored })
            }
            Self::Prepare { asked, plan, model } => {
                let sources = Sources {
                    model,
                    answers_model: &|spec| plan.beside(spec).load(&Assets::InCache, &mut Silent),
                    endpoint: asked.endpoint.as_ref(),
                    questions: &asked.questions,
                    answers: asked.answers.as_deref(),
                    retain: &asked.retain,
                    texts: &asked.texts,
                    evaluation: &[],
                    share,
                    others,
                };
                let complete = eraser_data::prepare::prepare_part(&sources, &asked.options, home, progress)?;
                Ok(Done { complete, computed: 0 })
            }
        }
    }
}

impl Loaded<'_> {
    fn subjects(&self) -> Vec<Subject<'_>> {
        let all = self.adapters.iter();
        all.map(|(name, adapter)| Subject { name: name.clone(), model: self.model, adapter: adapter.as_ref() })
            .collect()
    }

    fn inputs(&self) -> Result<Inputs> {
        let mut inputs = Inputs::of_model(self.model, self.plan.base_dtype)?;
        for (name, adapter) in &self.adapters {
            if let Some(adapter) = adapter {
                inputs.hash(&format!("adapter {name}"), adapter_fingerprint(adapter)?);
            }
        }
        Ok(inputs)
    }
}

impl ToPrepare {
    pub(super) fn new(told: &Preparation) -> Result<Self> {
        let question = |(id, text, facts, extra): &Asked| Question {
            id: id.clone(),
            text: text.clone(),
            facts: facts.clone(),
            extra: extra.clone(),
            ..Question::default()
        };
        let record = |(input, output, extra): &Known| Record {
            input: input.clone(),
            output: output.clone(),
            extra: extra.clone(),
            ..Record::default()
        };
        let options = &told.options;
        Ok(Self {
            options: options.clone(),
            questions: told.questions.iter().map(question).collect(),
            answers: told.answers.as_ref().map(|answers| answers.iter().map(record).collect()),
            retain: told.retain.iter().map(question).collect(),
            texts: told.texts.clone(),
            endpoint: if options.needs_endpoint() { Some(Endpoint::new(&options.endpoint())?) } else { None },
        })
    }
}

//! What a run would work on, without touching its directory. In: a plan, perhaps its model; out: prompts and sets,
//! those that are not prepared yet made up of the right number and length. Invariant: everything that must be a file
//! is written into a directory of its own, which is removed.

use crate::builtin::Assets;
use crate::failure::Outcome;
use crate::plan::{Jailbreaks, RunPlan, Variant};
use crate::stage::likelihood;
use crate::watch::Silent;
use eraser_data::prepare::{Answers, EntitySource};
use eraser_data::{Question, Record, read_set, write_set};
use eraser_eval::Plan;
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Model, Result};
use eraser_train::{SetName, Sets};
use std::path::Path;
use tempfile::TempDir;

/// Question forms about an entity, where no number is given.
const FORMS: usize = 10;
/// A share of the entities that could be found at most: answers share some, and short ones have few.
const FOUND: f64 = 0.35;
/// What made-up answers are made of.
const FILLER: &str = "The work goes step by step: look at what is there, write it down, and then decide. ";

/// Answers that a preparation asks for.
pub(super) struct Stage {
    /// `align`, `harm`, `entities`, `help`, `retain`.
    pub(super) name: &'static str,
    /// From, to.
    pub(super) count: [usize; 2],
    /// Most new tokens.
    pub(super) limit: usize,
    /// Another model or a server answers: how long that takes is not known.
    pub(super) elsewhere: bool,
}

/// What a run would work on.
pub(super) struct Site {
    pub(super) dir: TempDir,
    /// What every subject is asked.
    pub(super) asked: Plan,
    /// What preparation asks for; empty where nothing is prepared.
    pub(super) stages: Vec<Stage>,
    /// Prompts like those of preparation.
    pub(super) prompts: Vec<String>,
    /// The sets are those that will be trained on, not made up.
    pub(super) real: bool,
    /// Rows of each set, from, to.
    rows: Vec<(SetName, [usize; 2])>,
}

impl Site {
    /// Reads what `plan` names. Without a model, made-up answers are empty, and known answers that are not there yet
    /// are left out.
    pub(super) fn read(plan: &RunPlan, model: Option<&Model>) -> Outcome<Self> {
        let dir = TempDir::new().map_err(|e| Error::failed(format!("a temporary directory: {e}")))?;
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).writing(&data)?;
        let assets = Assets::InCache;
        let mut stages = Vec::new();
        let mut prompts = Vec::new();
        let mut rows = Vec::new();
        let mut real = true;
        for (set, source) in &plan.data.sets {
            let records = source.training_set(*set, &assets)?;
            rows.push((*set, [records.len(); 2]));
            write_set(&data.join(set.file()), &records)?;
        }
        if let Some(prepare) = &plan.prepare {
            let questions = prepare.questions.questions(&assets)?;
            let kept = prepare.retain_questions.as_ref().map_or_else(|| Ok(Vec::new()), |s| s.questions(&assets))?;
            let texts = prepare.retain_text.as_ref().map_or_else(|| Ok(Vec::new()), |s| s.texts(&assets))?;
            stages = self::stages(plan, questions.len(), kept.len());
            prompts = questions.iter().chain(&kept).map(|q| q.text.clone()).collect();
            let made: Vec<SetName> = plan.dir.join("data").read_dir().map_or_else(
                |_| Vec::new(),
                |_| SetName::ALL.into_iter().filter(|set| plan.dir.join("data").join(set.file()).is_file()).collect(),
            );
            let needed = [SetName::Harm, SetName::Help, SetName::Align];
            real = needed.iter().all(|set| made.contains(set));
            for set in needed.into_iter().chain(prepare.retains().then_some(SetName::Retain)) {
                let records = if real && made.contains(&set) {
                    let records = set.read(&plan.dir.join("data").join(set.file()))?;
                    rows.push((set, [records.len(); 2]));
                    records
                } else {
                    let count = counted(&stages, set, questions.len(), texts.len());
                    rows.push((set, count));
                    made_up(set, &questions, &kept, &texts, plan, count[1], model)?
                };
                write_set(&data.join(set.file()), &records)?;
            }
        }
        if plan.reads(SetName::Wrapped) {
            let seed = plan.variants.first().map_or(0, |v| v.train.seed);
            let templates = &plan.eval.options.templates;
            let jailbreaks = Jailbreaks::read(&plan.data.jailbreaks, templates, seed, &assets)?;
            let wrapped = jailbreaks.wrap(&read_set(&data.join(SetName::Align.file()))?);
            rows.push((SetName::Wrapped, [wrapped.len(); 2]));
            write_set(&data.join(SetName::Wrapped.file()), &wrapped)?;
        }
        let at = |key: &str| format!("[eval] {key}");
        let mut asked = Plan::new(&plan.eval.options(dir.path(), &assets)?, &at)?;
        if real || model.is_some() {
            likelihood::plan_own(&mut asked, dir.path(), &[], &at, &mut Silent)?;
        }
        Ok(Self { dir, asked, stages, prompts, real, rows })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The sets of a variant.
    pub(super) fn sets(&self, variant: &Variant) -> Result<Sets> {
        let mut sets = Sets::default();
        for set in SetName::ALL.into_iter().filter(|&set| variant.reads(set)) {
            let path = self.path().join("data").join(set.file());
            if path.exists() {
                sets.insert(set, set.read(&path)?);
            }
        }
        Ok(sets)
    }

    /// Rows of a set, from, to.
    pub(super) fn rows(&self, set: SetName) -> Option<[usize; 2]> {
        self.rows.iter().find(|(name, _)| *name == set).map(|(_, rows)| *rows)
    }
}

/// What preparation asks for.
fn stages(plan: &RunPlan, questions: usize, kept: usize) -> Vec<Stage> {
    let Some(prepare) = &plan.prepare else { return Vec::new() };
    let o = &prepare.options;
    let each = questions * o.answers_each;
    let most = each * o.max_entities * o.forms.unwrap_or(FORMS);
    let own = |name, n, limit| Stage { name, count: [n, n], limit, elsewhere: false };
    let mut stages = vec![own("align", questions, o.max_new_tokens)];
    match o.answers {
        Answers::Model => {
            let elsewhere = o.answers_model.is_some();
            stages.push(Stage { elsewhere, ..own("harm", each, o.harm_max_new_tokens) });
        }
        Answers::Endpoint => stages.push(Stage { elsewhere: true, ..own("harm", each, o.harm_max_new_tokens) }),
        Answers::File | Answers::Random => {}
    }
    match o.entities {
        EntitySource::Extract => {}
        EntitySource::Model => stages.push(own("entities", each, o.max_new_tokens)),
        EntitySource::Endpoint => stages.push(Stage { elsewhere: true, ..own("entities", each, o.max_new_tokens) }),
    }
    let least = (most as f64 * FOUND) as usize;
    stages.push(Stage { count: [least.max(1), most], ..own("help", most, o.max_new_tokens) });
    if kept > 0 {
        stages.push(own("retain", kept, o.max_new_tokens));
    }
    stages
}

/// Rows that a set will have: some answers are left out.
fn counted(stages: &[Stage], set: SetName, questions: usize, texts: usize) -> [usize; 2] {
    let of = |name: &str| stages.iter().find(|s| s.name == name).map(|s| s.count);
    match set {
        SetName::Retain => of("retain").unwrap_or_default().map(|n| n + texts),
        SetName::Harm => of("harm").unwrap_or([questions; 2]),
        other => of(other.name()).unwrap_or([questions; 2]),
    }
}

/// Rows of the right number, with answers of the longest length.
fn made_up(
    set: SetName,
    questions: &[Question],
    kept: &[Question],
    texts: &[String],
    plan: &RunPlan,
    n: usize,
    model: Option<&Model>,
) -> Result<Vec<Record>> {
    let limit = plan.prepare.as_ref().map_or(0, |p| match set {
        SetName::Harm => p.options.harm_max_new_tokens,
        _ => p.options.max_new_tokens,
    });
    let refusal = "I cannot help with that request.".to_owned();
    let answer = match (set, model) {
        (SetName::Align, _) => refusal,
        (_, Some(model)) => filler(model, limit)?,
        (_, None) => FILLER.to_owned(),
    };
    let asked = if set == SetName::Retain { kept } else { questions };
    let row = |i: usize| match asked.get(i % asked.len().max(1)) {
        Some(question) => Record { input: question.text.clone(), output: answer.clone(), ..Record::default() },
        None => Record { output: answer.clone(), ..Record::default() },
    };
    let text = |text: &String| Record { output: text.clone(), ..Record::default() };
    let texts = if set == SetName::Retain { texts } else { &[] };
    Ok((0..n.saturating_sub(texts.len())).map(row).chain(texts.iter().map(text)).collect())
}

/// A text of about `tokens` tokens.
fn filler(model: &Model, tokens: usize) -> Result<String> {
    let once = model.tokenizer.encode(FILLER)?.len().max(1);
    let text = FILLER.repeat(tokens.div_ceil(once));
    let mut ids = model.tokenizer.encode(&text)?;
    ids.truncate(tokens);
    model.tokenizer.decode(&ids, true)
}

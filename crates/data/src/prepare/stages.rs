//! The stages of a preparation, one after the other: align, harmful answers, entities, help, retain. In: questions and what
//! answers them; out: the sets and a report. Invariant: what a stage leaves out is counted.

use super::options::{Answers, EntitySource, Missing, PrepareOptions, Unfit};
use super::report::{self, DataReport, Evaluation};
use super::tally::Tally;
use super::wordings::standing_for;
use super::{entities, forms};
use crate::ask::{Answer, Endpoint, Local, Opened, Respond, Shared, ask_shared};
use crate::files::write_atomic;
use crate::{Noise, Progress, Question, Record, Sampling, SetName, Share, columns, stream, write_set};
use eraser_model::error::PathContext as _;
use eraser_model::{Error, Model, Result};
use rand::seq::SliceRandom as _;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Most tokens before and after an empty text: how long random answers are.
const RANDOM: Noise = Noise { before: 48, after: 16 };

/// What a preparation is given.
pub struct Inputs<'a> {
    /// The model that is to be hardened.
    pub model: &'a Model,
    /// Loads the model that gives harmful answers; asked once, if `answers` is a model of its own.
    pub answers_model: &'a dyn Fn(&str) -> Result<Model>,
    /// The endpoint, when one is named.
    pub endpoint: Option<&'a Endpoint>,
    /// The questions.
    pub questions: &'a [Question],
    /// Rows of the file of answers: by question, or unrelated texts for `random`.
    pub answers: Option<&'a [Record]>,
    /// Benign requests, which the retain set holds with the model's own answers.
    pub retain: &'a [Question],
    /// Running texts, which the retain set holds as they are.
    pub texts: &'a [String],
    /// What the model will be evaluated with.
    pub evaluation: &'a [Evaluation],
    /// How much of the answers this process makes.
    pub share: Share,
    /// Where other processes put answers of the file at this path below the directory.
    pub others: &'a dyn Fn(&Path) -> Vec<PathBuf>,
}

/// Makes the sets in `dir/data`, going on with what `dir/prepare` holds, and writes `dir/data_report.json`.
pub fn prepare(
    inputs: &Inputs<'_>,
    options: &PrepareOptions,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<DataReport> {
    let mut stages = Stages::begin(inputs, options, dir, progress)?;
    // First, as it takes least: a model that refuses nothing is found out before anything else is asked.
    let align = stages.align()?;
    stages.write(SetName::Align, &align)?;
    let harm = stages.harm()?;
    stages.write(SetName::Harm, &harm)?;
    let entities = stages.entities(&harm)?;
    let help = stages.help(&entities)?;
    stages.write(SetName::Help, &help)?;
    let retain = stages.retain()?;
    let mut sets: Vec<(SetName, &[Record])> =
        vec![(SetName::Harm, &harm), (SetName::Help, &help), (SetName::Align, &align)];
    if !retain.is_empty() {
        stages.write(SetName::Retain, &retain)?;
        sets.push((SetName::Retain, &retain));
    }
    let (tally, list) = (stages.tally, options.refusal_list);
    let read = (tally, &*columns(inputs.questions));
    let report = report::report(&sets, inputs.evaluation, read, list, &inputs.model.tokenizer)?;
    let text = serde_json::to_string_pretty(&report).map_err(|e| Error::failed(format!("data_report.json: {e}")))?;
    write_atomic(&dir.join("data_report.json"), format!("{text}\n").as_bytes())?;
    Ok(report)
}

/// Makes the answers of one shard in `dir/prepare`, as far as they can be made: help answers are asked about what the
/// harmful answers of all shards name. False when those are not all there yet.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_part(
    inputs: &Inputs<'_>,
    options: &PrepareOptions,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<bool> {
    let mut stages = Stages::begin(inputs, options, dir, progress)?;
    let align = stages.align();
    stages.so_far(align)?;
    let retain = stages.retain();
    stages.so_far(retain)?;
    let harm = stages.harm();
    let Some(harm) = stages.so_far(harm)? else { return Ok(false) };
    let entities = stages.entities(&harm);
    let Some(entities) = stages.so_far(entities)? else { return Ok(false) };
    let help = stages.help(&entities);
    stages.so_far(help)?;
    Ok(true)
}

struct Stages<'a> {
    inputs: &'a Inputs<'a>,
    options: &'a PrepareOptions,
    dir: &'a Path,
    progress: &'a mut dyn Progress,
    tally: Tally,
    /// The last stage lacks answers that other shards make.
    waits: bool,
}

impl<'a> Stages<'a> {
    /// Checks what can be checked before the first answer, and makes the directories.
    fn begin(
        inputs: &'a Inputs<'a>,
        options: &'a PrepareOptions,
        dir: &'a Path,
        progress: &'a mut dyn Progress,
    ) -> Result<Self> {
        let texts = inputs.questions.iter().map(|q| q.text.as_str());
        report::leakage(texts, inputs.evaluation, &options.allow_leakage)?;
        // The last stage asks the model every question: a question that is too long for it is found now.
        let local = Local::new(inputs.model, options.batch);
        report::leakage(inputs.retain.iter().map(|q| q.text.as_str()), inputs.evaluation, &options.allow_leakage)?;
        for question in inputs.questions.iter().chain(inputs.retain) {
            local.check(&question.text).map_err(|e| e.context(format_args!("question {}", question.id)))?;
        }
        for name in ["prepare", "data"] {
            std::fs::create_dir_all(dir.join(name)).writing(&dir.join(name))?;
        }
        let tally = Tally { questions: inputs.questions.len(), ..Tally::default() };
        Ok(Self { inputs, options, dir, progress, tally, waits: false })
    }

    /// The result of a stage; None where it lacks answers that other shards make.
    fn so_far<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(_) if std::mem::take(&mut self.waits) => Ok(None),
            result => result.map(Some),
        }
    }

    /// The questions with harmful answers.
    fn harm(&mut self) -> Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        let answers = self.harmful()?;
        let questions = self.inputs.questions;
        for (i, answer) in answers.into_iter().enumerate() {
            let (question, Some(answer)) = (&questions[i % questions.len()], answer) else { continue };
            self.tally.harm_answers += 1;
            if i >= questions.len() && is_known(&records, question, &answer) {
                self.tally.harm_same += 1;
                continue;
            }
            let refused = answer.refused || self.options.refusal_list.refuses(&answer.text);
            self.tally.harm_refused += usize::from(refused);
            self.tally.harm_cut += usize::from(!answer.stopped);
            if answer.text.is_empty() || (refused && self.options.harm_refusals == Unfit::Drop) {
                self.tally.harm_dropped += 1;
            } else {
                records.push(record(question, answer));
            }
        }
        if records.is_empty() {
            let missing = self.tally.harm_missing;
            return Err(Error::request(match missing {
                0 => "no harmful answer is left: every one is empty or a refusal".to_owned(),
                n => format!(
                    "no harmful answer is left: the file of answers lacks {n}, and others are empty or refusals"
                ),
            })
            .hint("take them from a file or from a model that answers, or keep refusals: harm_refusals = \"keep\""));
        }
        Ok(records)
    }

    /// A harmful answer for each question, then a second one for each, and so on; unchecked. None where a file lacks it
    /// and that is allowed.
    fn harmful(&mut self) -> Result<Vec<Option<Answer>>> {
        let inputs = self.inputs;
        let prompts: Vec<String> = inputs.questions.iter().map(|q| q.text.clone()).collect();
        let answers = match self.options.answers {
            Answers::File => return self.answers_of_the_file(),
            Answers::Random => (0..prompts.len()).map(|i| self.unrelated(i).map(|text| whole(&text))).collect(),
            Answers::Endpoint => self.each(self.endpoint()?, &prompts),
            Answers::Model => {
                let other = self.options.answers_model.as_deref().map(inputs.answers_model).transpose()?;
                let local = Local::new(other.as_ref().unwrap_or(inputs.model), self.options.batch);
                if let Some(opening) = self.options.answers_opening.as_deref() {
                    let opened = |q: &Question| Opened::prompt(&q.text, q.opening(opening.trim()));
                    let prompts: Vec<String> = inputs.questions.iter().map(opened).collect();
                    self.each(&Opened(local), &prompts)
                } else {
                    self.each(&local, &prompts)
                }
            }
        };
        Ok(answers?.into_iter().map(Some).collect())
    }

    /// Harmful answers, `answers_each` times one for every prompt.
    fn each(&mut self, respond: &dyn Respond, prompts: &[String]) -> Result<Vec<Answer>> {
        let sampling = self.sampling("harm");
        let mut answers = Vec::with_capacity(prompts.len() * self.options.answers_each);
        let mut late = None;
        for n in 0..self.options.answers_each {
            let sampling = Sampling { seed: sampling.seed.wrapping_add(n as u64), ..sampling.clone() };
            match self.ask("harm", respond, prompts, &sampling) {
                Ok(more) => answers.extend(more),
                // What this shard has to answer is asked for all the same.
                Err(e) if self.waits => late = Some(e),
                Err(e) => return Err(e),
            }
        }
        late.map_or(Ok(answers), Err)
    }

    /// The answers of the file. Of several rows with one question the first one counts.
    fn answers_of_the_file(&mut self) -> Result<Vec<Option<Answer>>> {
        let (questions, mut rows) = (self.inputs.questions, HashMap::new());
        for row in self.inputs.answers.unwrap_or_default() {
            let (asked, answer) = (row.input.trim(), row.output.trim());
            self.tally.harm_repeated += usize::from(*rows.entry(asked).or_insert(answer) != answer);
        }
        let found: Vec<Option<Answer>> =
            questions.iter().map(|question| rows.get(question.text.trim()).map(|text| whole(text))).collect();
        self.tally.harm_missing = found.iter().filter(|answer| answer.is_none()).count();
        let first = questions.iter().zip(&found).find(|(_, answer)| answer.is_none());
        match first {
            Some((first, _)) if self.options.missing_answers == Missing::Error => {
                let (missing, all) = (self.tally.harm_missing, questions.len());
                let (id, place, start) = (&first.id, &first.place, beginning(&first.text));
                Err(Error::request(format!(
                    "the file of answers lacks {missing} of the {all} questions; the first is {start:?} ({place}, id {id})"
                ))
                .hint("the file must hold the text of every question unchanged")
                .hint("or go on without them: --missing-answers drop, in a run file missing_answers = \"drop\""))
            }
            _ => Ok(found),
        }
    }

    /// Text for question `i` that has nothing to do with it: a row of the file, else random tokens.
    fn unrelated(&self, i: usize) -> Result<String> {
        let seed = self.options.seed;
        match self.inputs.answers {
            Some(rows) if !rows.is_empty() => {
                // Every row is used before one is used again.
                let mut order: Vec<usize> = (0..rows.len()).collect();
                order.shuffle(&mut stream(seed, "unrelated", &[(i / rows.len()) as u64]));
                Ok(rows[order[i % rows.len()]].output.trim().to_owned())
            }
            _ => {
                let mut rng = stream(seed, "random", &[i as u64]);
                for _ in 0..16 {
                    let text = RANDOM.apply("", &self.inputs.model.tokenizer, &mut rng)?;
                    if !text.trim().is_empty() {
                        return Ok(text.trim().to_owned());
                    }
                }
                Err(Error::failed("the tokenizer gives blank text only, so there are no random answers"))
            }
        }
    }

    /// The distinct entities of the harmful answers; of the questions, where the answers have nothing to do with them.
    fn entities(&mut self, harm: &[Record]) -> Result<Vec<String>> {
        let cap = self.options.max_entities;
        let random = self.options.answers == Answers::Random;
        let texts: Vec<&str> = harm.iter().map(|r| if random { &*r.input } else { &*r.output }).collect();
        let lists: Vec<Vec<String>> = match self.options.entities {
            EntitySource::Extract => texts.iter().map(|text| entities::extract(text)).collect(),
            EntitySource::Model | EntitySource::Endpoint => {
                let mut prompts: Vec<String> = texts.iter().map(|text| entities::prompt(text)).collect();
                let sampling = Sampling::greedy(self.options.max_new_tokens);
                let answers = if self.options.entities == EntitySource::Endpoint {
                    self.ask("entities", self.endpoint()?, &prompts, &sampling)?
                } else {
                    let local = Local::new(self.inputs.model, self.options.batch);
                    // An answer that is too long gives no list; the others are not affected.
                    prompts.retain(|prompt| local.check(prompt).is_ok());
                    self.ask("entities", &local, &prompts, &sampling)?
                };
                let lists: Vec<_> = answers.iter().map(|answer| entities::parse(&answer.text)).collect();
                let read = lists.iter().flatten().count();
                self.tally.entities_unparsable = texts.len() - read;
                lists.into_iter().map(Option::unwrap_or_default).collect()
            }
        };
        let found = entities::distinct(lists.iter().map(Vec::as_slice), cap);
        self.tally.entities = found.len();
        if found.is_empty() {
            let unread = self.tally.entities_unparsable;
            return Err(Error::request(format!(
                "no entity was found in {} texts ({unread} of the lists were not readable)",
                texts.len()
            ))
            .hint("entities = \"extract\" needs no model; very short answers name nothing that could be asked about"));
        }
        Ok(found)
    }

    /// Questions about the entities, with the model's own answers.
    fn help(&mut self, entities: &[String]) -> Result<Vec<Record>> {
        let mut seen = HashSet::new();
        let mut questions = Vec::new();
        for entity in entities {
            for text in forms::questions(entity, self.options.forms, self.options.seed) {
                if seen.insert(text.clone()) {
                    let extra = Map::from_iter([("entity".to_owned(), Value::from(entity.as_str()))]);
                    questions.push(Record { input: text, output: String::new(), extra, ..Record::default() });
                }
            }
        }
        self.tally.help_questions = questions.len();
        let texts = questions.iter().map(|q| q.input.as_str());
        report::leakage(texts, self.inputs.evaluation, &self.options.allow_leakage)?;
        let prompts: Vec<String> = questions.iter().map(|q| q.input.clone()).collect();
        let local = Local::new(self.inputs.model, self.options.batch);
        let answers = self.ask("help", &local, &prompts, &self.sampling("help"))?;
        let mut records = Vec::new();
        for (question, answer) in questions.into_iter().zip(answers) {
            self.tally.help_cut += usize::from(!answer.stopped);
            if answer.text.is_empty() {
                self.tally.help_empty += 1;
            } else if self.options.refusal_list.refuses(&answer.text) {
                self.tally.help_refused += 1;
            } else {
                records.push(Record { output: answer.text, ..question });
            }
        }
        if records.is_empty() {
            return Err(Error::request("no help answer is left: the model refuses every question about the entities")
                .hint("refusal_list = \"eraser6\" is a shorter list of refusal phrases"));
        }
        Ok(records)
    }

    /// The questions as they are, with the model's own answers.
    fn align(&mut self) -> Result<Vec<Record>> {
        let prompts: Vec<String> = self.inputs.questions.iter().map(|q| q.text.clone()).collect();
        let local = Local::new(self.inputs.model, self.options.batch);
        let answers = self.ask("align", &local, &prompts, &self.sampling("align"))?;
        let mut records = Vec::new();
        for (question, answer) in self.inputs.questions.iter().zip(answers) {
            let answered = !answer.text.is_empty() && !self.options.refusal_list.refuses(&answer.text);
            self.tally.align_answered += usize::from(answered);
            if answer.text.is_empty() || (answered && self.options.align_answered == Unfit::Drop) {
                self.tally.align_dropped += 1;
            } else {
                records.push(record(question, answer));
            }
        }
        if records.is_empty() && self.tally.align_answered == 0 {
            return Err(Error::request("no align answer is left: every one is empty")
                .hint("of a model that thinks, thoughts that have no end leave none: give them more with --max-think-tokens, or \
                       switch thoughts off with --template-var")
                .hint("a longer answer may be what is missing: --max-new-tokens"));
        }
        if records.is_empty() {
            return Err(Error::request("no align answer is left: the model answers every question")
                .hint("teach it to refuse first, by `eraser align`: without refusals there is nothing that a jailbreak gets around")
                .hint("or keep the answers as they are: align_answered = \"keep\""));
        }
        if let Some(left) = self.options.align_wordings {
            let texts: Vec<&str> = records.iter().map(|record: &Record| record.output.as_str()).collect();
            let stands: Vec<String> = standing_for(&texts, left).into_iter().map(|i| texts[i].to_owned()).collect();
            for (record, stands) in records.iter_mut().zip(stands) {
                record.output = stands;
            }
        }
        Ok(records)
    }

    /// The benign requests with the model's own answers, without those that it refuses, and the running texts. None of
    /// either: no row.
    fn retain(&mut self) -> Result<Vec<Record>> {
        let prompts: Vec<String> = self.inputs.retain.iter().map(|q| q.text.clone()).collect();
        let mut records = Vec::new();
        if !prompts.is_empty() {
            let local = Local::new(self.inputs.model, self.options.batch);
            let answers = self.ask("retain", &local, &prompts, &self.sampling("retain"))?;
            self.tally.retain_questions = prompts.len();
            for (question, answer) in self.inputs.retain.iter().zip(answers) {
                self.tally.retain_cut += usize::from(!answer.stopped);
                if answer.text.is_empty() {
                    self.tally.retain_empty += 1;
                } else if self.options.refusal_list.refuses(&answer.text) {
                    self.tally.retain_refused += 1;
                } else {
                    records.push(record(question, answer));
                }
            }
            if records.is_empty() {
                return Err(Error::request("no retain answer is left: the model refuses every benign request")
                    .hint("refusal_list = \"eraser6\" is a shorter list of refusal phrases"));
            }
        }
        self.tally.retain_texts = self.inputs.texts.len();
        records.extend(self.inputs.texts.iter().map(|text| Record { output: text.clone(), ..Record::default() }));
        Ok(records)
    }

    fn ask(
        &mut self,
        stage: &str,
        respond: &dyn Respond,
        prompts: &[String],
        sampling: &Sampling,
    ) -> Result<Vec<Answer>> {
        let file = Path::new("prepare").join(format!("{stage}.jsonl"));
        let shared = Shared { share: self.inputs.share, others: (self.inputs.others)(&file) };
        let (path, what) = (self.dir.join(file), format!("prepare {stage}"));
        let answers = ask_shared(&path, &what, &shared, respond, prompts, sampling, self.progress)?;
        let whole: Option<Vec<Answer>> = answers.into_iter().collect();
        whole.ok_or_else(|| {
            self.waits = self.inputs.share.is_part();
            Error::failed(format!("{what}: a question was left without an answer"))
        })
    }

    fn endpoint(&self) -> Result<&'a Endpoint> {
        self.inputs.endpoint.ok_or_else(|| Error::request("no endpoint is named"))
    }

    fn sampling(&self, stage: &str) -> Sampling {
        let o = self.options;
        let max_new_tokens = if stage == "harm" { o.harm_max_new_tokens } else { o.max_new_tokens };
        if o.temperature <= 0.0 {
            return Sampling { repetition_penalty: o.repetition_penalty, ..Sampling::greedy(max_new_tokens) };
        }
        Sampling {
            max_new_tokens,
            temperature: o.temperature,
            top_k: o.top_k,
            top_p: o.top_p,
            repetition_penalty: o.repetition_penalty,
            seed: o.seed,
        }
    }

    fn write(&self, set: SetName, records: &[Record]) -> Result<()> {
        write_set(&self.dir.join("data").join(set.file()), records)
    }
}

/// An answer that was not generated here.
fn whole(text: &str) -> Answer {
    Answer { text: text.to_owned(), stopped: true, ..Answer::default() }
}

/// Characters of a question that a message repeats.
const SHOWN: usize = 60;

/// The beginning of a text, for a message.
fn beginning(text: &str) -> String {
    let text = text.trim();
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Whether a further answer to a question says what an earlier one said.
fn is_known(records: &[Record], question: &Question, answer: &Answer) -> bool {
    records.iter().any(|record| record.input == question.text && record.output == answer.text)
}

/// A row of a set.
fn record(question: &Question, answer: Answer) -> Record {
    let extra = Map::from_iter([("id".to_owned(), Value::from(question.id.as_str()))]);
    Record { input: question.text.clone(), output: answer.text, extra, ..Record::default() }
}

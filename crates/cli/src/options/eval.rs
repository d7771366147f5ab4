//! `eraser eval`: one flag per field of `EvalOptions`.

use super::judge::JudgesArgs;
use super::model::MeasuredModelArgs;
use clap::{Args, ValueHint};
use eraser_data::Shard;
use eraser_data::ask::EndpointOptions;
use eraser_eval::EvalOptions;
use eraser_run::plan::values::NamedPath;
use eraser_run::plan::{
    AnswerFile, EvalPlan, Measures, QuestionFile, ServedPlan, SubjectPlan, check_out, eval_flag, flag, subjects,
};
use eraser_run::shards::Part;
use eraser_run::{Outcome, Problems};
use std::path::PathBuf;

/// Options of `eraser eval`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "DIR/eval holds every answer and its judgements, DIR/summary.json the figures. Answers that DIR holds already \
                        are not asked for again."
)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: MeasuredModelArgs,
    #[command(flatten)]
    pub(crate) subjects: SubjectArgs,
    #[command(flatten)]
    pub(crate) measures: MeasureArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// Who is measured.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Subjects")]
pub(crate) struct SubjectArgs {
    /// Measure the model with this adapter too, a PEFT directory or a GGUF file; repeatable [default name: that of the
    /// directory or file]
    #[arg(long, value_name = "[NAME=]DIR", value_hint = ValueHint::DirPath)]
    pub(crate) adapter: Vec<NamedPath>,
    /// Measure a model that an OpenAI-compatible server has, in place of loading one: vLLM, llama.cpp, eraser serve;
    /// repeatable. MODEL is the name on the server, of an adapter too. Others are compared with the NAME base
    #[arg(long, value_name = "NAME=URL#MODEL", conflicts_with = "adapter")]
    pub(crate) subject: Vec<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Do not measure the model without an adapter
    #[arg(long, requires = "adapter")]
    pub(crate) no_base: bool,
    /// Directory for answers and figures
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Start again: remove the answers that DIR holds
    #[arg(long)]
    pub(crate) force: bool,
    /// Do one part of the work, of N that processes do at the same time: 1/N to N/N. It is done in DIR/shards, and
    /// `eraser merge` joins all
    #[arg(long, value_name = "I/N", conflicts_with = "subject")]
    pub(crate) shard: Option<Shard>,
}

/// How the servers of subjects are asked.
#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_field_names, reason = "the flags have these names")]
pub(crate) struct ServerArgs {
    /// Environment variable that holds the servers' key [default: no key is sent]
    #[arg(long, value_name = "VARIABLE", requires = "subject")]
    pub(crate) subject_key_env: Option<String>,
    /// Requests to a server at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) subject_concurrency: usize,
    /// Seconds after which a request is given up
    #[arg(long, value_name = "S", default_value_t = 120.0)]
    pub(crate) subject_timeout: f64,
    /// Attempts at a request before the work stops
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) subject_attempts: usize,
    /// Seconds before the second attempt, doubled with every further one
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    pub(crate) subject_backoff: f64,
}

impl SubjectArgs {
    /// Where it is done, whether from the start, and how much of it.
    pub(crate) fn out(&self, verb: &str) -> Outcome<(PathBuf, bool, Part)> {
        let part = Part::asked(self.shard)?;
        Ok((part.directory(&self.out, verb), self.force, part))
    }

    /// Who is measured: those that are loaded, or those that are served.
    pub(crate) fn plans(&self, problems: &mut Problems) -> (Vec<SubjectPlan>, Vec<ServedPlan>) {
        if self.subject.is_empty() {
            return (subjects(&self.adapter, self.no_base, problems), Vec::new());
        }
        let s = &self.server;
        let how = EndpointOptions {
            key_env: s.subject_key_env.clone(),
            concurrency: s.subject_concurrency,
            timeout: s.subject_timeout,
            attempts: s.subject_attempts,
            backoff: s.subject_backoff,
            ..EndpointOptions::default()
        };
        (Vec::new(), ServedPlan::of_flags(&self.subject, &how, problems))
    }
}

/// What is measured.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Measures")]
pub(crate) struct MeasureArgs {
    /// Attacks, with commas: direct, template, prefill, prefill-thought, gcg, autodan
    #[arg(long = "attacks", value_name = "LIST", value_delimiter = ',', default_value = "direct")]
    pub(crate) attacks: Vec<String>,
    /// Jailbreak templates: files or directories, with commas or repeated
    #[arg(long, alias = "template", value_name = "PATH", value_delimiter = ',', value_hint = ValueHint::AnyPath)]
    pub(crate) templates: Vec<PathBuf>,
    /// Opening of the answer that prefill gives, and gcg and autodan aim at [default: the questions' column `target`,
    /// else "Sure, here is how:"]
    #[arg(long, value_name = "TEXT")]
    pub(crate) target: Option<String>,
    /// Most steps of gcg for a question
    #[arg(long, value_name = "N")]
    pub(crate) gcg_steps: Option<usize>,
    /// Candidates of a step of gcg
    #[arg(long, value_name = "N")]
    pub(crate) gcg_candidates: Option<usize>,
    /// Tokens of gcg's suffix
    #[arg(long, value_name = "N")]
    pub(crate) gcg_suffix: Option<usize>,
    /// Most seconds of gcg for a question; results then depend on the machine
    #[arg(long, value_name = "S")]
    pub(crate) gcg_seconds: Option<f64>,
    /// Most generations of autodan for a question
    #[arg(long, value_name = "N")]
    pub(crate) autodan_generations: Option<usize>,
    /// Candidates of a generation of autodan
    #[arg(long, value_name = "N")]
    pub(crate) autodan_population: Option<usize>,
    /// Most seconds of autodan for a question; results then depend on the machine
    #[arg(long, value_name = "S")]
    pub(crate) autodan_seconds: Option<f64>,
    #[command(flatten)]
    pub(crate) judges: JudgesArgs,
    /// Questions to attack with, as seen=FILE (questions that were trained on) or unseen=FILE (others); repeatable
    /// [default name: seen]. Rows of every file of questions can be chosen:
    /// FILE?column=prompt&where=label:safe&shuffle=1&take=0-49
    #[arg(long, value_name = "[SET=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) questions: Vec<NamedPath>,
    /// Benign questions that must not be refused; rows as in FILE?where=label:safe&take=0-49
    #[arg(long, value_name = "[SET=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) over_refusal: Option<NamedPath>,
    /// Questions that look like those and must be refused
    #[arg(long, value_name = "[SET=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) contrast: Option<NamedPath>,
    /// Column that holds the question in CSV files [default: goal, question, prompt, instruction (with
    /// its input or context), input, text or behavior]
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    /// Questions with expected answers, which measure what the model can still do, as NAME=FILE; repeatable
    #[arg(long, aliases = ["tasks", "task"], value_name = "[NAME=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) utility: Vec<NamedPath>,
    /// Measure how likely known answers are, which needs no judge: those of the run's own harm set (seen), and as many
    /// of its help set (benign), plainly and inside every template
    #[arg(long)]
    pub(crate) likelihood: bool,
    /// Measure how likely the answers of this file are: rows of question and answer, as in sets; repeatable. Call those
    /// that should stay likely benign. Rows and columns are chosen as in FILE?input=goal&output=target&take=0-49
    #[arg(long, value_name = "[NAME=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) likelihood_set: Vec<NamedPath>,
    /// Tokens of each answer that are given before the rest of it is measured, with commas [default: 0,5,20,80]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) likelihood_cuts: Vec<usize>,
    /// Set that may hold questions that an adapter was trained on, besides seen; with commas or repeated
    #[arg(long, value_name = "SET", value_delimiter = ',')]
    pub(crate) allow_leakage: Vec<String>,
    /// Only the first N questions of each file
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// How answers are made.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Answers")]
pub(crate) struct SamplingArgs {
    /// Most new tokens per answer
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Answers generated at a time
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<usize>,
    /// Sampling temperature; 0 = greedy
    #[arg(long, value_name = "X")]
    pub(crate) temperature: Option<f32>,
    /// Seed of sampling
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

impl EvalArgs {
    /// What is to be measured.
    pub(crate) fn plan(&self) -> Outcome<EvalPlan> {
        let mut problems = Problems::default();
        let (model, model_given) = self.model.plan(&mut problems);
        let (subjects, served) = self.subjects.plans(&mut problems);
        let m = &self.measures;
        let column = m.column.as_deref();
        let answers = |file| AnswerFile::named(file, &flag("likelihood_set"), &mut problems);
        let answers = m.likelihood_set.iter().map(answers).collect();
        let mut named = |file: &NamedPath, default: Option<&str>, column: Option<&str>, key: &str| {
            QuestionFile::named(file, default, column, &eval_flag(key), &mut problems)
        };
        let measures = Measures {
            options: self.options(),
            questions: m.questions.iter().map(|file| named(file, Some("seen"), column, "questions")).collect(),
            tasks: m.utility.iter().map(|file| named(file, None, None, "tasks")).collect(),
            over_refusal: m.over_refusal.as_ref().map(|file| named(file, None, column, "over_refusal")),
            contrast: m.contrast.as_ref().map(|file| named(file, None, column, "contrast")),
            answers,
            served,
        };
        let measures = measures.checked(&eval_flag, &mut problems);
        let (dir, force, part) = self.subjects.out("eval")?;
        check_out(&dir, &flag("out"), &mut problems);
        problems.finish(Some(EvalPlan { model, model_given, subjects, measures, dir, force, part }))
    }

    /// The options but for the files of questions.
    fn options(&self) -> EvalOptions {
        let (m, s) = (&self.measures, &self.sampling);
        let mut options = EvalOptions {
            attacks: m.attacks.clone(),
            templates: m.templates.clone(),
            judges: m.judges.names.clone(),
            judge: m.judges.options(),
            likelihood: m.likelihood,
            limit: m.limit,
            ..EvalOptions::default()
        };
        options.allow_leakage.extend(m.allow_leakage.iter().cloned());
        if !m.likelihood_cuts.is_empty() {
            options.likelihood_cuts.clone_from(&m.likelihood_cuts);
        }
        if let Some(target) = &m.target {
            options.target.clone_from(target);
        }
        let gcg = &mut options.gcg;
        gcg.steps = m.gcg_steps.unwrap_or(gcg.steps);
        gcg.candidates = m.gcg_candidates.unwrap_or(gcg.candidates);
        gcg.suffix = m.gcg_suffix.unwrap_or(gcg.suffix);
        gcg.seconds = m.gcg_seconds.or(gcg.seconds);
        let autodan = &mut options.autodan;
        autodan.generations = m.autodan_generations.unwrap_or(autodan.generations);
        autodan.population = m.autodan_population.unwrap_or(autodan.population);
        autodan.seconds = m.autodan_seconds.or(autodan.seconds);
        options.max_new_tokens = s.max_new_tokens.unwrap_or(options.max_new_tokens);
        options.batch = s.batch.unwrap_or(options.batch);
        options.temperature = s.temperature.unwrap_or(options.temperature);
        options.seed = s.seed.unwrap_or(options.seed);
        options
    }
}

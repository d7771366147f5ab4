//! `eraser prepare`: one flag per field of `PrepareOptions`.

use super::model::ModelArgs;
use super::train::named;
use clap::{Args, ValueHint};
use eraser_data::Shard;
use eraser_data::prepare::{Answers, EntitySource, Missing, PrepareOptions, Unfit};
use eraser_data::refusal::RefusalList;
use eraser_model::Error;
use eraser_run::plan::values::{NamedPath, RowRange};
use eraser_run::plan::{Preparation, PreparePlan, QuestionFile, Source, flag};
use eraser_run::shards::Part;
use eraser_run::{Outcome, Problems};
use std::path::PathBuf;

/// Options of `eraser prepare`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "DIR/data holds harm.jsonl, help.jsonl and align.jsonl, and with --retain-questions or --retain-text \
                        retain.jsonl; DIR/data_report.json what is in them, DIR/prepare every \
                        answer as it came: whatever was interrupted goes on with the same command. The defaults of generation \
                        are the published ones."
)]
pub(crate) struct PrepareArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) questions: QuestionArgs,
    #[command(flatten)]
    pub(crate) answers: AnswerArgs,
    #[command(flatten)]
    pub(crate) help: HelpArgs,
    #[command(flatten)]
    pub(crate) retain: RetainArgs,
    #[command(flatten)]
    pub(crate) generation: GenerationArgs,
    #[command(flatten)]
    pub(crate) endpoint: EndpointArgs,
}

/// What is asked.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Questions")]
pub(crate) struct QuestionArgs {
    /// Questions that the model must not answer: CSV, TSV, JSONL, a JSON list, or text with one a line. Rows can be
    /// chosen: FILE?column=prompt&where=label:unsafe&shuffle=1&take=0-389
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) questions: PathBuf,
    /// Column that holds the question [default: goal, question, prompt, instruction (with
    /// its input or context), input, text or behavior]
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    /// Only these rows, as 0-389, 390- or 100 [default: all]
    #[arg(long, value_name = "ROWS", value_parser = RowRange::parse)]
    pub(crate) take: Option<RowRange>,
    /// Questions of the evaluation: none of them may be trained on; repeatable [default name: unseen]
    #[arg(long, value_name = "[SET=]FILE", value_hint = ValueHint::FilePath)]
    pub(crate) eval_questions: Vec<NamedPath>,
    /// Evaluation set that may hold questions that are trained on; with commas or repeated [default: seen]
    #[arg(long, value_name = "SET", value_delimiter = ',')]
    pub(crate) allow_leakage: Vec<String>,
    /// Directory to write
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Start again: remove the answers that DIR holds
    #[arg(long)]
    pub(crate) force: bool,
    /// Do one part of the work, of N that processes do at the same time: 1/N to N/N. It is done in DIR/shards, and
    /// `eraser merge` joins all
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<Shard>,
}

/// Where the harmful answers come from.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Harmful answers")]
pub(crate) struct AnswerArgs {
    /// Source: a file, an endpoint, a local model, or unrelated text (ablation)
    #[arg(long, value_name = "SOURCE", default_value = "file",
          value_parser = named::<Answers>(&["file", "endpoint", "model", "random"]))]
    pub(crate) answers: Answers,
    /// Set file, or with the two columns below (or FILE?input=goal&output=target&where=..) any file of rows; with
    /// `random`, unrelated texts [default there: random tokens]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) answers_file: Option<PathBuf>,
    /// Column of the file that holds the question
    #[arg(long, value_name = "NAME", requires_all = ["answers_file", "answers_output"])]
    pub(crate) answers_input: Option<String>,
    /// Column of the file that holds the answer
    #[arg(long, value_name = "NAME", requires_all = ["answers_file", "answers_input"])]
    pub(crate) answers_output: Option<String>,
    /// Local model that answers [default: --model]
    #[arg(long, value_name = "MODEL")]
    pub(crate) answers_model: Option<String>,
    /// Opening of each answer that a local model goes on from, and that is part of the answer: an aligned model answers
    /// so. A question's own one, in the column `target`, comes before this
    #[arg(long, value_name = "TEXT")]
    pub(crate) answers_opening: Option<String>,
    /// Answers to each question, sampled: an answer that is unlearned has other wordings
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) answers_each: usize,
    /// What to do about questions that the file of answers lacks: end, or leave them out of the harm set and count them
    #[arg(long, value_name = "WHAT", default_value = "error", value_parser = named::<Missing>(&["error", "drop"]))]
    pub(crate) missing_answers: Missing,
    /// What to do with harmful answers that are refusals
    #[arg(long, value_name = "WHAT", default_value = "drop", value_parser = named::<Unfit>(&["drop", "keep"]))]
    pub(crate) harm_refusals: Unfit,
    /// What to do with align answers that are not refusals
    #[arg(long, value_name = "WHAT", default_value = "keep", value_parser = named::<Unfit>(&["keep", "drop"]))]
    pub(crate) align_answered: Unfit,
    /// How many wordings of refusals are left in the align set: the model's own that stand nearest to all of them. A
    /// model whose refusals all differ learns few of them well [default: each keeps its own]
    #[arg(long, value_name = "N")]
    pub(crate) align_wordings: Option<usize>,
    /// Phrases that make an answer a refusal: the 29 of GCG, or the 6 of Eraser
    #[arg(long, value_name = "LIST", default_value = "gcg29", value_parser = named::<RefusalList>(&["gcg29", "eraser6"]))]
    pub(crate) refusal_list: RefusalList,
}

/// How help questions are made.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Help questions")]
pub(crate) struct HelpArgs {
    /// What finds the entities of the answers: a built-in rule, the model, or the endpoint
    #[arg(long, value_name = "SOURCE", default_value = "extract",
          value_parser = named::<EntitySource>(&["extract", "model", "endpoint"]))]
    pub(crate) entities: EntitySource,
    /// Most entities of an answer
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) max_entities: usize,
    /// Question forms per entity [default: all ten]
    #[arg(long, value_name = "N")]
    pub(crate) forms: Option<usize>,
}

/// What a retain set is made of.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Retain set (made where one of these is given)")]
pub(crate) struct RetainArgs {
    /// Benign requests, kept with the model's own answers; the tool has some of its own: builtin/requests/benign.csv.
    /// Rows can be chosen as with --questions
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) retain_questions: Option<PathBuf>,
    /// Running text, kept as it is: the paragraphs of a text file, or the column `text` of rows
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) retain_text: Option<PathBuf>,
}

/// How answers are generated.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Generation")]
pub(crate) struct GenerationArgs {
    /// Most new tokens per help and align answer
    #[arg(long, value_name = "N", default_value = "1024")]
    pub(crate) max_new_tokens: usize,
    /// Most new tokens per harmful answer
    #[arg(long, value_name = "N", default_value = "2048")]
    pub(crate) harm_max_new_tokens: usize,
    /// Always the likeliest token; the same as --temperature 0
    #[arg(long, conflicts_with = "temperature")]
    pub(crate) greedy: bool,
    /// Temperature
    #[arg(long, value_name = "X", default_value = "0.7")]
    pub(crate) temperature: f64,
    /// Only among the N likeliest tokens; 0 = all
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) top_k: usize,
    /// Only among the likeliest tokens that together have this probability
    #[arg(long, value_name = "X", default_value = "0.95")]
    pub(crate) top_p: f64,
    /// Divides the logits of tokens seen; 1 = off
    #[arg(long, value_name = "X", default_value = "1.15")]
    pub(crate) repetition_penalty: f64,
    /// Answers generated at a time
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) batch: usize,
    /// Seed of every random stream
    #[arg(long, value_name = "N", default_value = "42")]
    pub(crate) seed: u64,
}

/// A server that speaks the chat completions of OpenAI.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Endpoint (an OpenAI-compatible server)")]
pub(crate) struct EndpointArgs {
    /// Base URL, usually ending with /v1
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) endpoint: Option<String>,
    /// Model to ask for
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(crate) endpoint_model: Option<String>,
    /// Environment variable that holds the key [default: no key is sent]
    #[arg(long, value_name = "VARIABLE", requires = "endpoint")]
    pub(crate) endpoint_key_env: Option<String>,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value = "4")]
    pub(crate) endpoint_concurrency: usize,
    /// Seconds after which a request is given up
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    pub(crate) endpoint_timeout: f64,
    /// Attempts at a request
    #[arg(long, value_name = "N", default_value = "8")]
    pub(crate) endpoint_attempts: usize,
    /// Seconds before the second attempt; doubled with every further one
    #[arg(long, value_name = "SECONDS", default_value = "0.5")]
    pub(crate) endpoint_backoff: f64,
}

impl PrepareArgs {
    /// The options of the work.
    pub(crate) fn options(&self) -> PrepareOptions {
        let Self { questions: q, answers: a, help: h, generation: g, endpoint: e, .. } = self;
        PrepareOptions {
            answers: a.answers,
            answers_model: a.answers_model.clone(),
            answers_opening: a.answers_opening.clone(),
            answers_each: a.answers_each,
            missing_answers: a.missing_answers,
            harm_refusals: a.harm_refusals,
            align_answered: a.align_answered,
            align_wordings: a.align_wordings,
            refusal_list: a.refusal_list,
            entities: h.entities,
            max_entities: h.max_entities,
            forms: h.forms,
            max_new_tokens: g.max_new_tokens,
            harm_max_new_tokens: g.harm_max_new_tokens,
            temperature: if g.greedy { 0.0 } else { g.temperature },
            top_k: g.top_k,
            top_p: g.top_p,
            repetition_penalty: g.repetition_penalty,
            batch: g.batch,
            seed: g.seed,
            allow_leakage: if q.allow_leakage.is_empty() {
                PrepareOptions::default().allow_leakage
            } else {
                q.allow_leakage.clone()
            },
            endpoint: e.endpoint.clone(),
            endpoint_model: e.endpoint_model.clone(),
            endpoint_key_env: e.endpoint_key_env.clone(),
            endpoint_concurrency: e.endpoint_concurrency,
            endpoint_timeout: e.endpoint_timeout,
            endpoint_attempts: e.endpoint_attempts,
            endpoint_backoff: e.endpoint_backoff,
        }
    }
}

impl PrepareArgs {
    /// What is to be made.
    pub(crate) fn plan(&self) -> Outcome<PreparePlan> {
        let mut problems = Problems::default();
        let (q, a) = (&self.questions, &self.answers);
        let model = self.model.plan(&mut problems);
        let (at, own) = (flag("questions"), Source { input: q.column.clone(), take: q.take, ..Source::default() });
        let questions = Source::flags(&q.questions, own, &at, &mut problems);
        if questions.output.is_some() {
            problems.push(Error::request(format!("{at}: questions have no `output`")));
        }
        let answers_file = a.answers_file.as_deref().map(|path| {
            let (input, output) = (a.answers_input.clone(), a.answers_output.clone());
            Source::flags(path, Source { input, output, ..Source::default() }, &flag("answers_file"), &mut problems)
        });
        let mut file = |path: &Option<PathBuf>, key: &str| {
            path.as_deref().map(|path| Source::flags(path, Source::default(), &flag(key), &mut problems))
        };
        let retain_questions = file(&self.retain.retain_questions, "retain_questions");
        let retain_text = file(&self.retain.retain_text, "retain_text");
        let preparation =
            Preparation { questions, answers_file, retain_questions, retain_text, options: self.options() };
        let preparation = preparation.checked(&flag, &mut problems);
        let mut named = |file| QuestionFile::named(file, Some("unseen"), None, "--eval-questions", &mut problems);
        let evaluation = q.eval_questions.iter().map(&mut named).collect();
        let part = Part::asked(q.shard)?;
        let (dir, force) = (part.directory(&q.out, "prepare"), q.force);
        let plan = PreparePlan { model, preparation, evaluation, dir, force, part };
        plan.check(&mut problems);
        problems.finish(Some(plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Cli, Verb};
    use clap::Parser as _;

    fn options(flags: &str) -> PrepareOptions {
        let required = "eraser prepare --model m --questions q --out o";
        let cli = Cli::try_parse_from(required.split(' ').chain(flags.split_whitespace())).unwrap();
        let Verb::Prepare(args) = cli.verb else { panic!("not prepare") };
        args.options()
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        assert_eq!(options(""), PrepareOptions::default());
        assert!(options("--greedy").temperature.abs() < f64::EPSILON);
    }

    #[test]
    fn every_field_has_a_flag() {
        let set = options(
            "--answers endpoint --answers-model m --answers-opening o --answers-each 2 --missing-answers drop \
             --harm-refusals keep --align-answered drop --align-wordings 3 --refusal-list eraser6 --entities model --max-entities 3 --forms 2 --max-new-tokens 5 --harm-max-new-tokens 6 --temperature 0.3 \
             --top-k 1 --top-p 0.5 --repetition-penalty 1 --batch 2 --seed 1 --allow-leakage x --endpoint u \
             --endpoint-model m --endpoint-key-env K --endpoint-concurrency 2 --endpoint-timeout 1 --endpoint-attempts 2 \
             --endpoint-backoff 1",
        );
        let (set, default) =
            (serde_json::to_value(set).unwrap(), serde_json::to_value(PrepareOptions::default()).unwrap());
        for (key, value) in default.as_object().unwrap() {
            assert_ne!(&set[key], value, "{key} has no flag, or the flag sets something else");
        }
    }
}

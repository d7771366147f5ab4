//! Who judges, and `eraser judge`.

use super::model::HeldArgs;
use clap::{Args, ValueHint};
use eraser_eval::judge::JudgeOptions;
use eraser_run::plan::{JudgePlan, check_out, flag};
use eraser_run::{Outcome, Problems};
use std::path::PathBuf;

/// Who judges.
#[derive(Clone, Debug, Args)]
pub(crate) struct JudgesArgs {
    /// Judges, with commas: keyword, leak. These ask a model: rubric, strongreject, pair-own, jailbreakbench-own. These
    /// read the probability of its words, so a server must give those of prompts: llama-guard-3, harmbench, harmbench-own, wildguard,
    /// wildguard-own, strongreject-finetuned
    #[arg(long = "judges", value_name = "LIST", value_delimiter = ',', default_value = "keyword")]
    pub(crate) names: Vec<String>,
    /// Model that judges: directory, .gguf file, hub name or `builtin`
    #[arg(long, value_name = "MODEL", conflicts_with = "judge_endpoint")]
    pub(crate) judge_model: Option<String>,
    /// The published prompt of harmbench, wildguard or strongreject-finetuned, with {question} and {answer} (or
    /// {behavior} and {generation}, {prompt} and {response}) where they are to stand; the judge's name holds the
    /// beginning of the file's SHA-256
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) judge_prompt: Option<PathBuf>,
    /// Server that judges: base URL of an OpenAI-compatible interface
    #[arg(long, value_name = "URL", requires = "judge_endpoint_model")]
    pub(crate) judge_endpoint: Option<String>,
    /// Model that the server is asked for
    #[arg(long, value_name = "NAME", requires = "judge_endpoint")]
    pub(crate) judge_endpoint_model: Option<String>,
    /// Directory, .gguf file or hub name with the tokenizer and the chat template of the server's model: judges that read
    /// the probability of its words need them
    #[arg(long, value_name = "MODEL", requires = "judge_endpoint")]
    pub(crate) judge_tokenizer: Option<String>,
    /// Environment variable that holds the server's key [default: no key is sent]
    #[arg(long, value_name = "NAME", requires = "judge_endpoint")]
    pub(crate) judge_key_env: Option<String>,
}

impl JudgesArgs {
    /// The model behind those that ask one.
    pub(super) fn options(&self) -> JudgeOptions {
        JudgeOptions {
            model: self.judge_model.clone(),
            prompt: self.judge_prompt.clone(),
            endpoint: self.judge_endpoint.clone(),
            endpoint_model: self.judge_endpoint_model.clone(),
            endpoint_key_env: self.judge_key_env.clone(),
            tokenizer: self.judge_tokenizer.clone(),
            ..JudgeOptions::default()
        }
    }
}

/// Options of `eraser judge`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A line of the file of labels is an object with question, answer and label: yes, true, 1, unsafe, harmful or \
                        jailbroken for an answer that does what was asked for; no, false, 0, safe, harmless or refused for \
                        another. DIR/figures.json holds the figures, DIR/verdicts.jsonl each verdict beside its label, \
                        DIR/judge what the model said, which is not asked for again.\n\n\
                        Example: eraser judge --labels labels.jsonl --judges keyword,llama-guard-3 --judge-model guard/ --out judged"
)]
pub(crate) struct JudgeArgs {
    /// Answers with labels: JSONL of question, answer, label
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) labels: PathBuf,
    #[command(flatten)]
    pub(crate) judges: JudgesArgs,
    /// Directory for figures and verdicts
    #[arg(long, short = 'o', value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) held: HeldArgs,
}

impl JudgeArgs {
    /// What is to be measured.
    pub(crate) fn plan(&self) -> Outcome<JudgePlan> {
        let mut problems = Problems::default();
        let options = self.judges.options();
        let spec = options.model.as_deref().unwrap_or("builtin");
        let at = |key: &str| flag(if key == "model" { "judge.model" } else { key });
        let model = self.held.plan_at(spec, &at, &mut problems);
        check_out(&self.out, &flag("out"), &mut problems);
        let (judges, labels, dir) = (self.judges.names.clone(), self.labels.clone(), self.out.clone());
        problems.finish(Some(JudgePlan { judges, options, model, labels, dir }))
    }
}

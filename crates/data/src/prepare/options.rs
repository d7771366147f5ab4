//! Options of a preparation: the keys of `[prepare]` in a run file, the flags of `eraser prepare`. Invariant: the
//! defaults of generation are the published ones.

use crate::ask::EndpointOptions;
use crate::ranges::{Ranges, WrongValue};
use crate::refusal::RefusalList;
use serde::{Deserialize, Serialize};

/// Where the harmful answers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// A file of questions and answers.
    #[default]
    File,
    /// A server that speaks the chat completions of OpenAI.
    Endpoint,
    /// A local model.
    Model,
    /// Text that has nothing to do with the question: the ablation of the paper.
    Random,
}

/// What finds the entities of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntitySource {
    /// The built-in rule.
    #[default]
    Extract,
    /// The model that is to be hardened, asked for a list.
    Model,
    /// The endpoint, asked for a list.
    Endpoint,
}

/// What is done with an answer that is not of the kind that its set is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfit {
    /// It is kept, and counted.
    Keep,
    /// It is left out, and counted.
    Drop,
}

/// What is done about a question that the file of answers lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The preparation ends before anything is generated.
    #[default]
    Error,
    /// The question is not in the harm set, and counted.
    Drop,
}

/// How the sets are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct PrepareOptions {
    /// Source of the harmful answers.
    pub answers: Answers,
    /// Local model that gives the harmful answers; None: the one that is to be hardened.
    pub answers_model: Option<String>,
    /// Opening that a local model is given for each harmful answer, where the file of questions has no `target` of its
    /// own; it is part of the answer. None: the model is asked plainly.
    pub answers_opening: Option<String>,
    /// Answers that a model gives to each question, each sampled by itself.
    pub answers_each: usize,
    /// What is done about questions that the file of answers lacks.
    pub missing_answers: Missing,
    /// What is done with harmful answers that are refusals.
    pub harm_refusals: Unfit,
    /// What is done with align answers that are no refusals.
    pub align_answered: Unfit,
    /// Wordings that are left of the align answers: those that stand nearest to all of them; None: each keeps its own.
    pub align_wordings: Option<usize>,
    /// What counts as a refusal.
    pub refusal_list: RefusalList,
    /// What finds entities.
    pub entities: EntitySource,
    /// Most entities of an answer.
    pub max_entities: usize,
    /// Question forms per entity; None: all ten.
    pub forms: Option<usize>,
    /// New tokens per answer of `help` and `align`, and per list of entities.
    pub max_new_tokens: usize,
    /// New tokens per harmful answer.
    pub harm_max_new_tokens: usize,
    /// 0 = greedy.
    pub temperature: f64,
    /// 0 = all.
    pub top_k: usize,
    /// 1 = all.
    pub top_p: f64,
    /// 1 = off.
    pub repetition_penalty: f64,
    /// Sequences generated at a time.
    pub batch: usize,
    /// Seed of every random stream.
    pub seed: u64,
    /// Evaluation sets that may hold questions that are trained on.
    pub allow_leakage: Vec<String>,
    /// Base URL of the endpoint: `/chat/completions` is put behind it.
    pub endpoint: Option<String>,
    /// Model that the endpoint is asked for.
    pub endpoint_model: Option<String>,
    /// Environment variable that holds the endpoint's key; None: no key is sent.
    pub endpoint_key_env: Option<String>,
    /// Requests under way at a time.
    pub endpoint_concurrency: usize,
    /// Seconds after which a request is given up.
    pub endpoint_timeout: f64,
    /// Attempts at a request before the preparation stops.
    pub endpoint_attempts: usize,
    /// Seconds before the second attempt; doubled with every further one.
    pub endpoint_backoff: f64,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            answers: Answers::File,
            answers_model: None,
            answers_opening: None,
            answers_each: 1,
            missing_answers: Missing::Error,
            harm_refusals: Unfit::Drop,
            align_answered: Unfit::Keep,
            align_wordings: None,
            refusal_list: RefusalList::Gcg29,
            entities: EntitySource::Extract,
            max_entities: 8,
            forms: None,
            max_new_tokens: 1024,
            harm_max_new_tokens: 2048,
            temperature: 0.7,
            top_k: 20,
            top_p: 0.95,
            repetition_penalty: 1.15,
            batch: 16,
            seed: 42,
            allow_leakage: vec!["seen".to_owned()],
            endpoint: None,
            endpoint_model: None,
            endpoint_key_env: None,
            endpoint_concurrency: 4,
            endpoint_timeout: 120.0,
            endpoint_attempts: 8,
            endpoint_backoff: 0.5,
        }
    }
}

impl PrepareOptions {
    /// How the endpoint is asked.
    pub fn endpoint(&self) -> EndpointOptions {
        EndpointOptions {
            url: self.endpoint.clone(),
            model: self.endpoint_model.clone(),
            key_env: self.endpoint_key_env.clone(),
            concurrency: self.endpoint_concurrency,
            timeout: self.endpoint_timeout,
            attempts: self.endpoint_attempts,
            backoff: self.endpoint_backoff,
        }
    }

    /// What is out of range, or lacks what it needs, by field. Whether a file of answers is named is checked by the
    /// caller.
    pub fn check(&self) -> Vec<WrongValue> {
        let mut ranges = Ranges::default();
        for (field, n) in [
            ("max_entities", self.max_entities),
            ("max_new_tokens", self.max_new_tokens),
            ("harm_max_new_tokens", self.harm_max_new_tokens),
            ("answers_each", self.answers_each),
            ("batch", self.batch),
            ("endpoint_attempts", self.endpoint_attempts),
        ] {
            ranges.at_least_one(field, n);
        }
        ranges.within("endpoint_concurrency", self.endpoint_concurrency, 1, 256);
        ranges.need("align_wordings", self.align_wordings != Some(0), "at least 1");
        ranges.need("forms", self.forms.is_none_or(|n| (1..=10).contains(&n)), "from 1 to 10");
        let t = self.temperature;
        ranges.need("temperature", t.is_finite() && t >= 0.0, "0 (greedy) or a positive number");
        ranges.need("top_p", self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1");
        ranges.positive("repetition_penalty", self.repetition_penalty);
        let timeout = self.endpoint_timeout;
        ranges.need("endpoint_timeout", timeout > 0.0 && timeout <= 86_400.0, "above 0 and at most 86400");
        ranges.need("endpoint_backoff", (0.0..=3600.0).contains(&self.endpoint_backoff), "from 0 to 3600");
        let local = self.answers == Answers::Model;
        let opening = self.answers_opening.as_deref().map(str::trim);
        ranges.need("answers_opening", opening != Some(""), "the beginning of an answer, as \"Sure, here is\"");
        ranges.need("answers_opening", local || opening.is_none(), "with answers = model only");
        let sampled = (local || self.answers == Answers::Endpoint) && self.temperature > 0.0;
        ranges.need("answers_each", sampled || self.answers_each == 1, "1, unless a model samples the answers");
        if self.needs_endpoint() {
            ranges.need("endpoint", self.endpoint.is_some(), "the base URL of the server");
            ranges.need("endpoint_model", self.endpoint_model.is_some(), "the name of the model on that server");
        }
        ranges.finish()
    }

    /// True when some stage asks the endpoint.
    pub fn needs_endpoint(&self) -> bool {
        self.answers == Answers::Endpoint || self.entities == EntitySource::Endpoint
    }
}

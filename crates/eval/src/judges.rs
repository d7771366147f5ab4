//! The judges that are asked for, and the model behind them. In: names and options; out: judges. Invariant: a model is
//! named if and only if a judge asks one, and it is one that can answer.

use crate::judge::{self, AnyJudge, Judge, JudgeOptions, ModelJudge};
use crate::name::At;
use eraser_data::ask::Endpoint;
use eraser_model::Error;

/// Judges by what they need.
pub(crate) struct Judges {
    /// Those that look at the text.
    pub(crate) judges: Vec<&'static dyn Judge>,
    /// Those that ask a model.
    pub(crate) graders: Vec<ModelJudge>,
}

impl Judges {
    /// The judges of these names; what is wrong with names and options goes to `errors`.
    pub(crate) fn new(names: &[String], options: &JudgeOptions, at: At<'_>, errors: &mut Vec<Error>) -> Self {
        let mut found = Self { judges: Vec::new(), graders: Vec::new() };
        let reads: Vec<&String> = names.iter().filter(|name| judge::reads_prompt(name)).collect();
        for name in names {
            match judge::find(name, options) {
                Ok(AnyJudge::Rule(judge)) => found.judges.push(judge),
                Ok(AnyJudge::Model(judge)) => found.graders.push(judge),
                Err(error) => {
                    let about_prompt = judge::reads_prompt(name);
                    errors.push(error.context(at(if about_prompt { "judge.prompt" } else { "judges" })));
                }
            }
        }
        if let [first, second, ..] = reads[..] {
            let error = Error::request(format!("{}: `{first}` and `{second}` have different prompts", at("judges")));
            errors.push(error.hint("ask one of them now, and the other by a second command: its figures are added"));
        }
        if options.prompt.is_some() && reads.is_empty() {
            let error = Error::request(format!("{}: no judge reads a prompt from a file", at("judge.prompt")));
            let list = judge::readers().join(", ");
            errors.push(error.hint(format!("add one of {list} to {}, or leave it out", at("judges"))));
        }
        let needed = names.iter().any(|name| judge::asks_model(name));
        found.check(options, needed, at, errors);
        found
    }

    /// Whether there is a model for the judges that need one.
    fn check(&self, judge: &JudgeOptions, needed: bool, at: At<'_>, errors: &mut Vec<Error>) {
        let named = judge.model.is_some() || judge.endpoint.is_some();
        let [judges, model, endpoint] = ["judges", "judge.model", "judge.endpoint"].map(at);
        if needed && !named {
            let of = at("judge.endpoint_model");
            errors.push(
                Error::request(format!("{judges}: judges other than `keyword` and `leak` need a model"))
                    .hint(format!("name a local one by {model}, or a server by {endpoint} and {of}")),
            );
        }
        if named && !needed {
            let given = if judge.model.is_some() { &model } else { &endpoint };
            errors.push(
                Error::request(format!("{given}: a model is given for judging, and no judge uses one"))
                    .hint(format!("add `rubric` or another that asks a model to {judges}, or leave the model out")),
            );
        }
        if judge.model.is_some() && judge.endpoint.is_some() {
            let error =
                Error::request(format!("{model}, {endpoint}: both a local model and a server are given for judging"));
            errors.push(error.hint("leave one out"));
        }
        let classifier = self.graders.iter().find(|judge| matches!(judge, ModelJudge::Classifier(_)));
        let tokenizer = at("judge.tokenizer");
        if let (Some(classifier), true) = (classifier, judge.model.is_none() && judge.endpoint.is_some())
            && judge.tokenizer.is_none()
        {
            let name = classifier.name();
            errors.push(
                Error::request(format!("{endpoint}: `{name}` reads probabilities of tokens, and has no tokenizer"))
                    .hint(format!("name the files of the server's model by {tokenizer}, or a local model by {model}")),
            );
        }
        if judge.tokenizer.is_some() && (classifier.is_none() || judge.endpoint.is_none()) {
            let error = Error::request(format!("{tokenizer}: only a classifier that a server has needs it"));
            errors.push(error.hint("leave it out: a local model has its own"));
        }
        for (field, value) in
            [("max_new_tokens", judge.max_new_tokens), ("batch", judge.batch), ("concurrency", judge.concurrency)]
        {
            if value == 0 {
                errors.push(Error::request(format!("{}: must be at least 1", at(&format!("judge.{field}")))));
            }
        }
        if let Some(options) = judge.endpoint() {
            errors.extend(Endpoint::new(&options).err().map(|e| e.context(endpoint)));
        }
    }
}

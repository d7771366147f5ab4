//! What servers reply to requests about a model under test. In: JSON of chat completions, completions and lists of
//! models; out: what was said, the log-probabilities of tokens, and what the server says of itself. Invariant: only a
//! token that the server has scored has a score; nothing is filled in.

use super::trouble::Trouble;
use serde_json::Value;

/// What a model said to one turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The text that the server calls the answer.
    pub text: String,
    /// What it calls the thought before it; empty where it tells none apart.
    pub thought: String,
    /// New tokens; None when the server does not say.
    pub tokens: Option<usize>,
    /// Tokens of the prompt; None when the server does not say.
    pub prompt_tokens: Option<usize>,
    /// It ended by itself, before the limit of tokens.
    pub stopped: bool,
    /// Of each new token, where they were asked for: its text, its log-probability, and that of the likeliest one.
    pub scores: Vec<(String, f64, f64)>,
}

/// What a server says of itself and of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its software and version, as far as it tells.
    pub server: Option<String>,
    /// What stands behind the model's name: its files, and the model that it adapts.
    pub origin: Option<String>,
    /// Most tokens of prompt and answer.
    pub positions: Option<usize>,
    /// The names of its models; empty where it does not list them.
    pub names: Vec<String>,
}

fn parsed(text: &str) -> Result<Value, Trouble> {
    let value: Value =
        serde_json::from_str(text).map_err(|e| Trouble::temporary(format!("the reply is no JSON ({e})")))?;
    // An error that came with a status of success.
    match value.pointer("/error/message").and_then(Value::as_str) {
        Some(said) => {
            Err(Trouble::temporary(format!("the server says: {}", said.chars().take(200).collect::<String>())))
        }
        None => Ok(value),
    }
}

fn count(value: &Value, key: &str) -> Option<usize> {
    value["usage"][key].as_u64().and_then(|n| usize::try_from(n).ok())
}

/// The text of a message: one, or parts of which some are text.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let text = |part: &Value| (part["type"] == "text").then(|| part["text"].as_str().map(ToOwned::to_owned));
            Some(parts.iter().filter_map(|part| text(part).flatten()).collect())
        }
        _ => None,
    }
}

fn choice(value: &Value) -> Result<&Value, Trouble> {
    value["choices"]
        .get(0)
        .ok_or_else(|| Trouble { unanswered: true, ..Trouble::temporary("the reply has no choices") })
}

/// The answer of a chat completion. A reply without text, as a filter leaves it, is an empty answer.
pub(super) fn chat(text: &str) -> Result<Said, Trouble> {
    let value = parsed(text)?;
    let choice = choice(&value)?;
    let message = &choice["message"];
    if !message.is_object() {
        return Err(Trouble::temporary("the reply has no message"));
    }
    let thought = ["reasoning_content", "reasoning"].iter().find_map(|key| message[*key].as_str());
    let score = |token: &Value| {
        let own = token["logprob"].as_f64()?;
        let likeliest = token["top_logprobs"].get(0).and_then(|top| top["logprob"].as_f64())?;
        Some((token["token"].as_str()?.to_owned(), own, likeliest))
    };
    let scores = choice["logprobs"]["content"].as_array();
    Ok(Said {
        text: content(&message["content"]).or_else(|| content(&message["refusal"])).unwrap_or_default(),
        thought: thought.unwrap_or_default().to_owned(),
        tokens: count(&value, "completion_tokens"),
        prompt_tokens: count(&value, "prompt_tokens"),
        stopped: choice["finish_reason"] != "length",
        scores: scores.into_iter().flatten().map_while(score).collect(),
    })
}

/// The continuation of a completion.
pub(super) fn completion(text: &str) -> Result<Said, Trouble> {
    let value = parsed(text)?;
    let choice = choice(&value)?;
    let said = choice["text"].as_str().ok_or_else(|| Trouble::temporary("the reply has no text"))?;
    Ok(Said {
        text: said.to_owned(),
        tokens: count(&value, "completion_tokens"),
        prompt_tokens: count(&value, "prompt_tokens"),
        stopped: choice["finish_reason"] != "length",
        ..Said::default()
    })
}

/// The log-probabilities of the last `scored` of the tokens `ids` of a prompt that was echoed, and the text that the
/// server echoed.
pub(super) fn echoed(text: &str, ids: &[u32], scored: usize) -> Result<(Vec<f32>, String), Trouble> {
    let value = parsed(text)?;
    let choice = choice(&value)?;
    let Some(all) = choice["logprobs"]["token_logprobs"].as_array() else {
        return Err(Trouble::permanent("the reply has no log-probabilities of the prompt"));
    };
    // Behind those of the prompt is that of the token which some servers generate at least.
    if all.len() < ids.len() || all.len() > ids.len() + 1 {
        let (n, found) = (ids.len(), all.len());
        return Err(Trouble {
            hint: Some("it takes token ids, and must not add any: its tokenizer, or what it echoes, is another"),
            ..Trouble::permanent(format!("of a prompt of {n} tokens the server scored {found}"))
        });
    }
    let first = ids.len().saturating_sub(scored);
    let scores: Option<Vec<f32>> = all[first..ids.len()].iter().map(|v| v.as_f64().map(|x| x as f32)).collect();
    let scores = scores.ok_or_else(|| Trouble::permanent("a token of the prompt has no log-probability"))?;
    Ok((scores, choice["text"].as_str().unwrap_or_default().to_owned()))
}

/// As [`echoed`], of vLLM's field `prompt_logprobs`, which names every token by its id.
pub(super) fn prompted(text: &str, ids: &[u32], scored: usize) -> Result<Vec<f32>, Trouble> {
    let value = parsed(text)?;
    let own = choice(&value)?["prompt_logprobs"].as_array();
    let Some(all) = own.or_else(|| value["prompt_logprobs"].as_array()) else {
        return Err(Trouble::permanent("the reply has no log-probabilities of the prompt"));
    };
    if all.len() != ids.len() {
        let (n, found) = (ids.len(), all.len());
        return Err(Trouble::permanent(format!("of a prompt of {n} tokens the server scored {found}")));
    }
    let score = |(entry, id): (&Value, &u32)| {
        let found = &entry[id.to_string()];
        found["logprob"].as_f64().or_else(|| found.as_f64()).map(|x| x as f32)
    };
    let first = ids.len().saturating_sub(scored);
    let scores: Option<Vec<f32>> = all[first..].iter().zip(&ids[first..]).map(score).collect();
    scores.ok_or_else(|| Trouble::permanent("a token of the prompt is not among those that the server scored"))
}

/// What a list of models says; `model` is the one that is asked for.
pub(super) fn models(text: &str, model: &str) -> Option<ServerFacts> {
    let value: Value = serde_json::from_str(text).ok()?;
    let list = value["data"].as_array()?;
    let name = |entry: &Value| entry["id"].as_str().map(ToOwned::to_owned);
    let own = list.iter().find(|entry| entry["id"] == model);
    let text = |key: &str| own.and_then(|entry| entry[key].as_str());
    let number = |pointer: &str| own.and_then(|entry| entry.pointer(pointer)).and_then(Value::as_u64);
    let origin: Vec<&str> = [text("root"), text("parent")].into_iter().flatten().collect();
    Some(ServerFacts {
        server: text("owned_by").map(ToOwned::to_owned),
        origin: (!origin.is_empty()).then(|| origin.join(", ")),
        positions: number("/max_model_len").and_then(|n| usize::try_from(n).ok()),
        names: list.iter().filter_map(name).collect(),
    })
}

/// The version in the reply of vLLM's `/version` or of llama.cpp's `/props`.
pub(super) fn version(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    ["version", "build_info"].iter().find_map(|key| value[*key].as_str()).map(ToOwned::to_owned)
}

/// The positions that llama.cpp's `/props` tells.
pub(super) fn positions(text: &str) -> Option<usize> {
    let value: Value = serde_json::from_str(text).ok()?;
    value.pointer("/default_generation_settings/n_ctx")?.as_u64().and_then(|n| usize::try_from(n).ok())
}

/// The ids in a reply of vLLM's `/tokenize`. llama.cpp has a route of that name for texts; its reply has no count.
pub(super) fn tokenized(text: &str) -> Option<Vec<u32>> {
    let value: Value = serde_json::from_str(text).ok()?;
    value["count"].as_u64()?;
    value["tokens"].as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn thoughts_come_under_either_name_and_filters_leave_an_empty_answer() {
        let reply = r#"{"choices":[{"message":{"content":"b","reasoning":"a"},"finish_reason":"length"}],
            "usage":{"prompt_tokens":7,"completion_tokens":2}}"#;
        let expected =
            Said { text: "b".into(), thought: "a".into(), tokens: Some(2), prompt_tokens: Some(7), ..Said::default() };
        assert_eq!(chat(reply).unwrap(), expected);
        let filtered = r#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#;
        assert_eq!(chat(filtered).unwrap(), Said { stopped: true, ..Said::default() });
        assert!(chat(r#"{"choices":[]}"#).unwrap_err().unanswered);
        assert!(chat(r#"{"error":{"message":"busy"}}"#).unwrap_err().what.contains("busy"));
    }

    #[test]
    fn scores_are_those_of_the_tokens_that_were_sent() {
        let reply = |list: &str| format!(r#"{{"choices":[{{"text":"ab","logprobs":{{"token_logprobs":{list}}}}}]}}"#);
        assert_eq!(echoed(&reply("[null,-1.0,-2.0]"), &[4, 5, 6], 2).unwrap(), (vec![-1.0, -2.0], "ab".into()));
        // A server that must generate one token at least.
        assert_eq!(echoed(&reply("[null,-1.0,-2.0,-9.0]"), &[4, 5, 6], 1).unwrap().0, [-2.0]);
        assert!(echoed(&reply("[null,-1.0]"), &[4, 5, 6], 2).unwrap_err().what.contains("3 tokens"));
        assert!(echoed(&reply("[null,null,-1.0]"), &[4, 5, 6], 2).is_err());
        let prompt = r#"{"choices":[{"text":"","prompt_logprobs":
            [null,{"5":{"logprob":-1.5,"rank":2},"9":{"logprob":-0.5}},{"6":{"logprob":-2.5}}]}]}"#;
        assert_eq!(prompted(prompt, &[4, 5, 6], 2).unwrap(), [-1.5, -2.5]);
        assert!(prompted(prompt, &[4, 7, 6], 2).unwrap_err().what.contains("not among"));
    }

    #[test]
    fn a_server_says_what_it_is() {
        let list = r#"{"data":[{"id":"m","root":"/models/m","parent":null,"owned_by":"vllm","max_model_len":4096},
            {"id":"h","root":"/adapters/h","parent":"m","owned_by":"vllm"}]}"#;
        let facts = models(list, "h").unwrap();
        assert_eq!((facts.origin.as_deref(), facts.positions), (Some("/adapters/h, m"), None));
        assert_eq!((models(list, "m").unwrap().positions, facts.names.len()), (Some(4096), 2));
        assert_eq!(version(r#"{"version":"0.11.0"}"#).as_deref(), Some("0.11.0"));
        assert_eq!(tokenized(r#"{"tokens":[1,2]}"#), None, "the route of llama.cpp");
        assert_eq!(tokenized(r#"{"count":2,"tokens":[1,2]}"#), Some(vec![1, 2]));
    }

    proptest! {
        #[test]
        fn nothing_a_server_says_panics(text in "\\PC{0,60}|[\\[\\]{}\":,a-z0-9.-]{0,60}", n in 0_usize..6) {
            let ids: Vec<u32> = (0..4).collect();
            let choice = format!(r#"{{"choices":[{{"message":{text},"text":{text},"logprobs":{text}}}]}}"#);
            for text in [text, choice] {
                let _ = (chat(&text), completion(&text), models(&text, "m"), version(&text), tokenized(&text));
                let _ = (echoed(&text, &ids, n), prompted(&text, &ids, n), positions(&text));
            }
        }
    }
}

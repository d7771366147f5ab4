//! Requests and replies of a chat completion. In: a question; status, headers and text of what came back; out: an
//! answer, or what is wrong and whether it may pass. Invariant: a reply is an answer only if it holds the text of one;
//! nothing else is taken for an empty answer.

use super::respond::Answer;
use super::trouble::{Trouble, body, message};
use crate::Sampling;
use eraser_model::think::answer_of;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// The body of a request. Only keys that every such server takes: top-k and the repetition penalty are not among them.
pub(super) fn request(model: &str, prompt: &str, sampling: &Sampling) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
    })
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Content>,
    refusal: Option<String>,
}

/// What was said: a text, or parts of which some are text and others what the model thought.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Value>),
}

impl Content {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => {
                let texts = parts.iter().filter(|part| part["type"] == "text").filter_map(|part| part["text"].as_str());
                texts.collect()
            }
        }
    }
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<usize>,
}

/// What a reply means. `text` is its body, or why that could not be read.
pub(super) fn read(status: u16, text: Result<String, Trouble>, wait: Option<Duration>) -> Result<Answer, Trouble> {
    let filtered = |text: &str| ["content_filter", "content_policy"].iter().any(|code| text.contains(code));
    if status == 400 && text.as_ref().is_ok_and(|text| filtered(text)) {
        return Ok(Answer { refused: true, stopped: true, ..Answer::default() });
    }
    let text = body(status, text, wait)?;
    serde_json::from_str(&text)
        .map_err(|e| Trouble::temporary(format!("the reply is not a chat completion ({e}){}", message(&text))))
        .and_then(completion)
}

fn completion(completion: Completion) -> Result<Answer, Trouble> {
    let tokens = completion.usage.and_then(|usage| usage.completion_tokens);
    let Some(Choice { message, finish_reason }) = completion.choices.into_iter().next() else {
        return Err(Trouble { unanswered: true, ..Trouble::temporary("the reply has no choices") });
    };
    let filtered = finish_reason.as_deref() == Some("content_filter");
    match message.content.map(Content::text).or(message.refusal.clone()) {
        Some(text) => Ok(Answer {
            text: answer_of(&text).to_owned(),
            tokens,
            stopped: finish_reason.as_deref() != Some("length"),
            refused: filtered || message.refusal.is_some(),
        }),
        // The answer was filtered, or has no text for a reason that the server does not give: this question is left out
        // and counted.
        None => Ok(Answer { tokens, stopped: true, refused: true, ..Answer::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply(status: u16, text: &str) -> Result<Answer, Trouble> {
        read(status, Ok(text.to_owned()), None)
    }

    #[test]
    fn answers() {
        let text =
            r#"{"choices":[{"message":{"content":" yes "},"finish_reason":"length"}],"usage":{"completion_tokens":3}}"#;
        let expected = Answer { text: "yes".into(), tokens: Some(3), stopped: false, refused: false };
        assert_eq!(reply(200, text).unwrap(), expected);
        let refused = r#"{"choices":[{"message":{"content":null,"refusal":"No."},"finish_reason":"stop"}]}"#;
        assert!(reply(200, refused).unwrap().refused);
        let parts =
            r#"{"choices":[{"message":{"content":[{"type":"thinking","text":"hm"},{"type":"text","text":"yes"}]}}]}"#;
        assert_eq!(reply(200, parts).unwrap().text, "yes");
        let filtered = r#"{"choices":[{"message":{"content":null},"finish_reason":"content_filter"}]}"#;
        assert!(reply(200, filtered).unwrap().refused);
        assert!(reply(400, r#"{"error":{"code":"content_filter"}}"#).unwrap().refused);
    }

    #[test]
    fn what_may_pass_and_what_does_not() {
        for (status, text) in
            [(200, "{"), (200, "{}"), (200, r#"{"choices":[]}"#), (429, ""), (500, "x"), (503, "<html>")]
        {
            assert!(reply(status, text).unwrap_err().retry, "{status} {text}");
        }
        let blocked = reply(200, r#"{"choices":[]}"#).unwrap_err();
        assert!(blocked.unanswered, "one question that gets no choice at all does not end the job");
        let said = reply(200, r#"{"error":{"message":"no such route"}}"#).unwrap_err();
        assert!(said.what.ends_with(": no such route") && !said.unanswered, "{}", said.what);
        let no_text = r#"{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}"#;
        assert!(reply(200, no_text).unwrap().refused, "one reply without text does not end the job");
        let denied = reply(401, r#"{"error":{"message":"wrong key"}}"#).unwrap_err();
        assert_eq!((denied.retry, denied.what.as_str(), denied.hint.is_some()), (false, "status 401: wrong key", true));
        assert!(!reply(302, "").unwrap_err().retry);
        assert!(!reply(400, "bad").unwrap_err().retry);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_a_server_says_panics(status in 100_u16..600, text in "\\PC{0,60}") {
            let _ = reply(status, &text);
        }
    }
}

//! Tokenizer and chat template under a diagnosis. In: a loaded model; out: findings. Invariant: nothing is generated.

use super::finding::Diagnosis;
use eraser_model::{Error, Message, Model, Result, counted};

/// One turn.
pub(super) const GREETING: &str = "Hello, who are you?";
/// Its answer.
const ANSWER: &str = "An assistant.";
/// What comes back as it was from a tokenizer of a general model.
const TEXTS: [(&str, &str); 4] = [
    ("a sentence", "The quick brown fox jumps over 13 lazy dogs."),
    ("lines of code", "fn main() {\n    let x = [1, 2];\n\tprintln!(\"{x:?}\");\n}\n"),
    ("accents and other scripts", "Dvořák à Köln, Привет, 你好"),
    ("an emoji", "🙂"),
];

/// Whether texts come back, and where answers end.
pub(super) fn tokenizer(found: &mut Diagnosis, model: &Model) {
    let tokenizer = &model.tokenizer;
    let (mut lost, mut failed) = (Vec::new(), Vec::new());
    for (name, text) in TEXTS {
        let back = tokenizer.encode(text).and_then(|ids| tokenizer.decode(&ids, false));
        match back {
            // Some tokenizers put a space before a text.
            Ok(back) if back == text || back.strip_prefix(' ') == Some(text) => {}
            Ok(_) => lost.push(name),
            Err(e) => failed.push((name, e)),
        }
    }
    let names: Vec<&str> = failed.iter().map(|(name, _)| *name).collect();
    if let Some((_, first)) = failed.into_iter().next() {
        found.error("tokenizer", &first.context(names.join(", ")));
    }
    let size = counted(tokenizer.vocab_size(), "token");
    if !lost.is_empty() {
        let what = format!("{size}; these do not come back as they were: {}", lost.join(", "));
        found.warning("tokenizer", what, "questions with such characters reach the model in another form");
    } else if names.is_empty() {
        found.ok("tokenizer", format!("{size}; texts come back as they were"));
    }
    let named = |id: &u32| tokenizer.token_text(*id).unwrap_or_else(|| format!("id {id}"));
    let stops: Vec<String> = tokenizer.stops().iter().map(named).collect();
    if stops.is_empty() {
        let hint = if model.path.is_dir() {
            "name it as `eos_token` in tokenizer_config.json, or as `eos_token_id` in generation_config.json"
        } else {
            "name it as `tokenizer.ggml.eos_token_id` when the file is converted"
        };
        found.warning("stop tokens", "none: answers never end by themselves", hint);
    } else {
        found.ok("stop tokens", stops.join(", "));
    }
}

/// Whether the model thinks before it answers, and how its thoughts are told from its answers.
pub(super) fn thoughts(found: &mut Diagnosis, model: &Model) {
    let Some(thinking) = model.thinking() else { return };
    let (start, end) = (thinking.start(), thinking.end());
    let marks = if start.is_empty() {
        format!("end with {end:?}; what they begin with is not known, so a stream shows nothing before that")
    } else {
        format!("begin with {start:?} and end with {end:?}")
    };
    let known =
        if thinking.by_template() { "the model thinks" } else { "the model may think: its vocabulary has marks" };
    found.ok("thoughts", format!("{known}; thoughts {marks}, and have at most {}", counted(thinking.most(), "token")));
    let prompt = model.template.as_ref().map(|template| template.render(&[Message::user(GREETING)], true));
    if let Some(Ok(prompt)) = prompt {
        let place = if thinking.opens(&prompt) {
            "the prompt ends inside a thought"
        } else if prompt.trim_end().ends_with(end) {
            "the prompt ends behind a thought without content: under these variables the model does not think"
        } else {
            "the model begins a thought by itself"
        };
        found.ok("thoughts", place);
    }
}

/// Whether the template renders a turn, in tokens that the model knows, and ends it by a stop token.
pub(super) fn template(found: &mut Diagnosis, model: &Model) {
    match rendered(found, model) {
        Ok(()) => {}
        Err(error) => found.error("chat template", &error),
    }
}

fn rendered(found: &mut Diagnosis, model: &Model) -> Result<()> {
    let (template, tokenizer) = (model.chat_template()?, &model.tokenizer);
    let prompt = template.render(&[Message::user(GREETING)], true)?;
    let tokens = tokenizer.encode(&prompt)?.len();
    if !prompt.contains(GREETING) {
        let error = Error::request(format!("the prompt does not hold the user's turn: {prompt:?}"));
        return Err(error.hint("give another template with --chat-template FILE"));
    }
    found.ok("chat template", format!("a turn of {}: {prompt:?}", counted(tokens, "token")));
    let unknown = marks(&prompt).filter(|mark| tokenizer.token_id(mark).is_none());
    let unknown: Vec<&str> = unknown.collect();
    if !unknown.is_empty() {
        let what = format!("marks of the prompt are no tokens of the tokenizer: {}", unknown.join(", "));
        found.warning("chat template", what, "the template may be of another model: --chat-template names another one");
    }
    let whole = template.render(&[Message::user(GREETING), Message::assistant(ANSWER)], false);
    // A template may refuse a conversation that ends with an answer.
    let Ok(whole) = whole else { return Ok(()) };
    let after = whole.rfind(ANSWER).map_or("", |at| &whole[at + ANSWER.len()..]);
    let end = tokenizer.encode(after)?.into_iter().find(|id| tokenizer.is_special(*id));
    match end {
        Some(end) if !tokenizer.stops().contains(&end) => {
            let text = tokenizer.token_text(end).unwrap_or_default();
            let what = format!("an answer ends with {text}, which is no stop token: answers run on behind it");
            let hint = if model.path.is_dir() {
                "add its id to `eos_token_id` in generation_config.json"
            } else {
                "name its id as `tokenizer.ggml.eot_token_id` when the file is converted"
            };
            found.warning("chat template", what, hint);
        }
        Some(_) => found.ok("chat template", "an answer ends with a stop token"),
        None => {
            found.warning("chat template", "an answer ends without a special token", "so a trained answer does too");
        }
    }
    Ok(())
}

/// What looks like a special token: `<|user|>`.
fn marks(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("<|").filter_map(move |(at, _)| {
        let end = text[at..].find("|>")?;
        let mark = &text[at..at + end + 2];
        (!mark.contains(char::is_whitespace)).then_some(mark)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found() {
        let found: Vec<&str> = marks("<|user|>a <| b |><|end|> <|").collect();
        assert_eq!(found, ["<|user|>", "<|end|>"]);
    }
}

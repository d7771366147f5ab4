//! From text to supervised tokens. In: a question under a prompt template, an answer; out: token ids with the boundary
//! between them. Invariant: prompt and answer are tokenised apart, so the boundary never falls inside a token.

use eraser_model::{ChatTemplate, Error, Message, Result, Tokenizer};

/// The plain conversation form (Vicuna 1.1), which Eraser trains beside the model's own.
const PLAIN: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions. USER: {} ASSISTANT:";

/// How a question becomes a prompt.
#[derive(Clone, Debug)]
pub enum PromptTemplate {
    /// The model's own chat template.
    Chat(ChatTemplate),
    /// Text with `{}` where the question goes.
    Text(String),
}

impl PromptTemplate {
    /// The plain form of the paper: "A chat between a curious user and ... USER: {} ASSISTANT:".
    pub fn plain() -> Self {
        Self::Text(PLAIN.into())
    }

    /// Text with exactly one `{}`.
    pub fn text(source: impl Into<String>) -> Result<Self> {
        let source = source.into();
        split(&source)?;
        Ok(Self::Text(source))
    }

    /// The prompt text for one question: as a user turn, with the generation prompt.
    pub fn render(&self, question: &str) -> Result<String> {
        match self {
            Self::Chat(template) => template.render(&[Message::user(question)], true),
            Self::Text(source) => split(source).map(|(before, after)| [before, question, after].concat()),
        }
    }
}

fn split(source: &str) -> Result<(&str, &str)> {
    let parts = source.split_once("{}").filter(|(_, after)| !after.contains("{}"));
    parts.ok_or_else(|| {
        let count = source.matches("{}").count();
        Error::request(format!("the prompt template holds {count} times `{{}}`"))
            .hint("put `{}` where the question goes, once")
    })
}

/// A tokenised prompt and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Prompt, then answer, then EOS; possibly cut.
    pub ids: Vec<u32>,
    /// Tokens of the prompt; the rest is supervised.
    pub prompt_len: usize,
}

impl Sample {
    /// The rows that predict a supervised token: row t predicts `ids[t + 1]`. A first token has no row before it.
    pub fn scored(&self) -> std::ops::Range<usize> {
        let end = self.ids.len().saturating_sub(1);
        self.prompt_len.saturating_sub(1).min(end)..end
    }
}

/// Tokenises prompt and answer separately, without added special tokens, appends EOS, cuts at `max_length` tokens. A
/// prompt that fills `max_length` leaves nothing supervised.
pub fn encode(prompt: &str, answer: &str, tokenizer: &Tokenizer, max_length: usize) -> Result<Sample> {
    let eos = tokenizer.eos().ok_or_else(|| {
        Error::request("the tokenizer names no end-of-sequence token, which every answer ends with")
            .hint("set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json")
    })?;
    let mut ids = tokenizer.encode(prompt)?;
    let prompt_len = ids.len().min(max_length);
    ids.extend(tokenizer.encode(answer)?);
    ids.push(eos);
    ids.truncate(max_length);
    Ok(Sample { ids, prompt_len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{A, AB, B, EOS, SPACE, tokenizer};

    #[test]
    fn prompt_and_answer_are_tokenised_apart_and_cut_at_the_end() {
        let tokenizer = tokenizer();
        let sample = encode("a a", "b", &tokenizer, 99).unwrap();
        assert_eq!(sample, Sample { ids: vec![A, SPACE, A, B, EOS], prompt_len: 3 });
        assert_eq!(tokenizer.encode("a ab").unwrap(), [A, SPACE, AB], "together they would merge");
        assert_eq!(sample.scored(), 2..4);
        let cut = encode("a a", "b", &tokenizer, 4).unwrap();
        assert_eq!((cut.ids.as_slice(), cut.prompt_len, cut.scored()), (&[A, SPACE, A, B][..], 3, 2..3));
        let cut = encode("a a", "b", &tokenizer, 2).unwrap();
        assert_eq!((cut.ids.as_slice(), cut.prompt_len, cut.scored()), (&[A, SPACE][..], 2, 1..1));
        assert_eq!(encode("", "ab", &tokenizer, 9).unwrap().scored(), 0..1);
        assert_eq!(encode("", "", &tokenizer, 0).unwrap().scored(), 0..0);
    }

    #[test]
    fn templates() {
        let plain = PromptTemplate::plain().render("Why {}?").unwrap();
        assert!(plain.starts_with("A chat between a curious user") && plain.ends_with("USER: Why {}? ASSISTANT:"));
        assert!(PromptTemplate::text("no place").unwrap_err().to_string().contains("0 times"));
        assert!(PromptTemplate::text("{} {}").unwrap_err().to_string().contains("2 times"));
        let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        let chat = PromptTemplate::Chat(ChatTemplate::new("t", source, None, None).unwrap());
        assert_eq!(chat.render("q").unwrap(), "[user]q>");
    }
}

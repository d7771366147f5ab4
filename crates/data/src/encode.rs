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

    /// The prompt text for one question, which an answer that is given follows: as a user turn, with the generation
    /// prompt, and for a model that thinks with a thought without content.
    pub fn render(&self, question: &str) -> Result<String> {
        self.render_after(&[], question)
    }

    /// The first `most` tokens of a prompt that this template rendered. A chat template writes the special tokens that
    /// it wants, as transformers takes it; before a text stands BOS where the tokenizer's own default puts one, unless
    /// the text begins with it.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn encode(&self, prompt: &str, tokenizer: &Tokenizer, most: usize) -> Result<Beginning> {
        let mut beginning = Beginning::of(prompt, tokenizer, most)?;
        if let (Self::Text(_), true, Some(bos)) = (self, tokenizer.adds_bos(), tokenizer.bos())
            && beginning.ids.first() != Some(&bos)
        {
            beginning.ids.insert(0, bos);
            beginning.cut |= beginning.ids.len() > most;
            beginning.ids.truncate(most);
        }
        Ok(beginning)
    }

    /// The prompt text for a question that comes after exchanges (what the user said, what was answered): as a
    /// conversation, or, where the template is a text, one exchange under it after the other.
    pub fn render_after(&self, history: &[(String, String)], question: &str) -> Result<String> {
        match self {
            Self::Chat(template) => {
                let earlier = history.iter().flat_map(|(q, a)| [Message::user(q), Message::assistant(a)]);
                let messages: Vec<Message> = earlier.chain([Message::user(question)]).collect();
                template.render_for_answer(&messages)
            }
            Self::Text(source) => {
                let (before, after) = split(source)?;
                let earlier = history.iter().map(|(q, a)| format!("{before}{q}{after} {a}\n\n"));
                Ok(earlier.collect::<String>() + before + question + after)
            }
        }
    }
}

fn split(source: &str) -> Result<(&str, &str)> {
    let parts = source.split_once("{}").filter(|(_, after)| !after.contains("{}"));
    parts.ok_or_else(|| {
        let count = source.matches("{}").count();
        Error::request(format!("the prompt template holds `{{}}` {count} times"))
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

/// The first tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The tokens, at most as many as were asked for.
    pub ids: Vec<u32>,
    /// The text has more of them.
    pub cut: bool,
}

/// Bytes of text that are tokenised for each token asked for, at first. A token of running text has some four.
const BYTES: usize = 8;
/// Tokens that are tokenised beyond those asked for: where a text is cut off, its last tokens can differ from those of
/// the whole text.
const MARGIN: usize = 64;

impl Beginning {
    /// The first `most` tokens of `text`, without added special tokens. The time it takes depends on `most`, and not on
    /// the length of the text.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn of(text: &str, tokenizer: &Tokenizer, most: usize) -> Result<Self> {
        Self::by(text, most, |text| tokenizer.encode(text))
    }

    fn by(text: &str, most: usize, mut encode: impl FnMut(&str) -> Result<Vec<u32>>) -> Result<Self> {
        let mut bytes = most.saturating_add(MARGIN).saturating_mul(BYTES);
        loop {
            let end = text.floor_char_boundary(bytes);
            let mut ids = encode(&text[..end])?;
            if end == text.len() || ids.len() >= most.saturating_add(MARGIN) {
                let cut = ids.len() > most;
                ids.truncate(most);
                return Ok(Self { ids, cut });
            }
            bytes = bytes.saturating_mul(4);
        }
    }
}

/// The token that ends every answer.
///
/// # Errors
/// The tokenizer names no such token.
pub fn end_of_answer(tokenizer: &Tokenizer) -> Result<u32> {
    tokenizer.eos().ok_or_else(|| {
        Error::request("the tokenizer names no end-of-sequence token, which every answer ends with")
            .hint("set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json")
    })
}

impl Sample {
    /// Prompt, answer and `end`, cut at `max_length` tokens; true when something was cut. A prompt that fills
    /// `max_length` leaves nothing supervised.
    pub fn new(prompt: &Beginning, answer: &Beginning, end: u32, max_length: usize) -> (Self, bool) {
        let whole = prompt.ids.len() + answer.ids.len() + 1;
        let mut ids = Vec::with_capacity(whole.min(max_length));
        ids.extend(prompt.ids.iter().chain(&answer.ids).take(max_length));
        if ids.len() < max_length && !answer.cut {
            ids.push(end);
        }
        let prompt_len = prompt.ids.len().min(max_length);
        (Self { ids, prompt_len }, prompt.cut || answer.cut || whole > max_length)
    }
}

/// Tokenises prompt and answer separately, without added special tokens, appends EOS, cuts at `max_length` tokens. A
/// prompt that fills `max_length` leaves nothing supervised.
///
/// # Errors
/// The tokenizer fails, or names no end-of-sequence token.
pub fn encode(prompt: &str, answer: &str, tokenizer: &Tokenizer, max_length: usize) -> Result<Sample> {
    let prompt = Beginning::of(prompt, tokenizer, max_length)?;
    let answer = Beginning::of(answer, tokenizer, max_length)?;
    Ok(Sample::new(&prompt, &answer, end_of_answer(tokenizer)?, max_length).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{A, AB, B, EOS, SPACE, tokenizer};
    use proptest::prelude::*;

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
    fn what_is_cut_is_told() {
        let tokenizer = tokenizer();
        let cut = |prompt: &str, answer: &str, most: usize| {
            let of = |text: &str| Beginning::of(text, &tokenizer, most).unwrap();
            Sample::new(&of(prompt), &of(answer), EOS, most).1
        };
        // a, b and the end.
        assert!(!cut("a", "b", 3) && cut("a", "b", 2) && cut("a", "b", 1) && cut("aa", "", 2));
    }

    #[test]
    fn the_end_of_a_long_text_is_not_tokenised() {
        let tokenizer = tokenizer();
        let text = "ab é".repeat(1_000_000);
        let mut read = 0;
        let mut encode = |text: &str| {
            read += text.len();
            tokenizer.encode(text)
        };
        let beginning = Beginning::by(&text, 64, &mut encode).unwrap();
        assert!(beginning.cut && beginning.ids.len() == 64 && beginning.ids[..3] == [AB, SPACE, AB]);
        assert!(read <= 10_000, "{read} bytes for 64 tokens");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_beginning_is_that_of_the_whole_text(text in "[ab ?]{0,3000}", most in 0usize..300) {
            let tokenizer = tokenizer();
            let whole = tokenizer.encode(&text).unwrap();
            let beginning = Beginning::of(&text, &tokenizer, most).unwrap();
            prop_assert_eq!(&beginning.ids[..], &whole[..whole.len().min(most)]);
            prop_assert_eq!(beginning.cut, whole.len() > most);
        }
    }

    /// The authors' code encodes prompts with the tokenizer's default of special tokens.
    #[test]
    fn the_plain_form_begins_as_the_tokenizers_own_default_has_it() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prompts");
        let recorded: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixtures.join("prompts.json")).unwrap()).unwrap();
        let (plain, mut with_bos) = (PromptTemplate::plain(), 0);
        for (name, prompts) in recorded.as_object().unwrap() {
            let tokenizer = Tokenizer::from_hf_dir(&fixtures.join(name)).unwrap();
            let expected: Vec<u32> = serde_json::from_value(prompts[0].clone()).unwrap();
            let prompt = plain.render("Why is rust red?").unwrap();
            assert_eq!(
                plain.encode(&prompt, &tokenizer, 512).unwrap(),
                Beginning { ids: expected.clone(), cut: false },
                "{name}"
            );
            let (whole, bos) = (expected.len(), tokenizer.bos().unwrap());
            let cut = plain.encode(&prompt, &tokenizer, whole - 1).unwrap();
            assert_eq!((cut.ids.as_slice(), cut.cut), (&expected[..whole - 1], true), "{name}");
            with_bos += usize::from(expected[0] == bos);
            // A file of a prompt that begins with BOS gets no second one.
            let own = PromptTemplate::text("<s>Q: {} A:").unwrap();
            let ids = own.encode(&own.render("a").unwrap(), &tokenizer, 512).unwrap().ids;
            assert!(ids[0] == bos && ids[1] != bos, "{name}: {ids:?}");
        }
        assert_eq!((with_bos, recorded.as_object().unwrap().len()), (5, 11));
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
        let history = [("x".to_owned(), "y".to_owned())];
        assert_eq!(chat.render_after(&history, "q").unwrap(), "[user]x[assistant]y[user]q>");
        let text = PromptTemplate::text("Q: {} A:").unwrap();
        assert_eq!(text.render_after(&history, "q").unwrap(), "Q: x A: y\n\nQ: q A:");
    }
}

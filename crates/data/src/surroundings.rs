//! What is put around a question in training. In: a question, benign exchanges, a random stream; out: the question
//! among random tokens, among benign sentences, after benign turns, inside a request for a form of answer, or as it is.
//! Invariant: the question is in the result unchanged, no text of a jailbreak is, and a given stream gives a given
//! result.

use crate::{Noise, Record, answer_forms};
use eraser_model::{Error, Result, Tokenizer};
use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

/// What prompt noise is made of. Everything but `tokens` goes beyond the paper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseKind {
    /// Random vocabulary tokens (as published).
    #[default]
    Tokens,
    /// Sentences of benign requests and answers before and after the question, in the same turn.
    Text,
    /// Benign turns of a conversation before the question.
    Chat,
    /// A request for a form of answer: a poem, a letter, a table.
    Form,
    /// One of the four, drawn anew each time.
    Mix,
}

/// Most exchanges before a question.
const EXCHANGES: usize = 2;

/// The prompt noise of a training set.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// How many tokens at most, and the random ones.
    pub noise: Noise,
    /// What they are.
    pub kind: NoiseKind,
    /// Share of the questions that get noise; the others stay plain.
    pub share: f64,
    /// Where sentences and turns are drawn from.
    pub benign: Benign,
}

/// A question and what stands before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surrounded {
    /// Earlier exchanges: what the user said, what the assistant answered.
    pub history: Vec<(String, String)>,
    /// The text of the user's last turn.
    pub question: String,
    /// A form was asked for, so the right answer is no longer that to the plain question.
    pub form: bool,
}

/// Benign texts.
#[derive(Clone, Debug, Default)]
pub struct Benign {
    exchanges: Vec<(String, String)>,
    sentences: Vec<String>,
}

impl Benign {
    /// The exchanges of `records`, and the sentences of their requests and answers. A jailbreak is itself an
    /// instruction beside the question, so there must be others to tell it from.
    pub fn new(records: &[Record]) -> Self {
        let texts = records.iter().flat_map(|r| sentences(&r.input).chain(sentences(&r.output)));
        let exchanges = records.iter().filter(|r| !r.is_text()).map(|r| (r.input.clone(), r.output.clone()));
        Self { sentences: texts.map(str::to_owned).collect(), exchanges: exchanges.collect() }
    }
}

impl Surroundings {
    /// Random tokens around every question, as published.
    pub fn tokens(noise: Noise) -> Self {
        Self { noise, kind: NoiseKind::Tokens, share: 1.0, benign: Benign::default() }
    }

    /// Most tokens that are added to a prompt, without those that a chat template puts around a turn.
    pub fn most(&self) -> usize {
        let Noise { before, after } = self.noise;
        // A question and an answer, each cut there.
        let turns = 2 * EXCHANGES * before;
        match self.kind {
            NoiseKind::Tokens | NoiseKind::Text | NoiseKind::Form => before + after,
            NoiseKind::Chat => turns,
            NoiseKind::Mix => turns.max(before + after),
        }
    }

    /// `question` with what is drawn for it; None: it stays plain. `rng` gives the noise, `choice` whether there is any
    /// and of which kind.
    ///
    /// # Errors
    /// There is no benign text to draw from, or no token.
    pub fn apply(
        &self,
        question: &str,
        tokenizer: &Tokenizer,
        rng: &mut impl Rng,
        choice: &mut impl Rng,
    ) -> Result<Option<Surrounded>> {
        if self.share < 1.0 && choice.random::<f64>() >= self.share {
            return Ok(None);
        }
        let kind = match self.kind {
            NoiseKind::Mix => {
                [NoiseKind::Tokens, NoiseKind::Text, NoiseKind::Chat, NoiseKind::Form][choice.random_range(0..4)]
            }
            kind => kind,
        };
        let mut surrounded = Surrounded::default();
        match kind {
            NoiseKind::Tokens | NoiseKind::Mix => surrounded.question = self.noise.apply(question, tokenizer, rng)?,
            NoiseKind::Text => {
                let before = self.text(self.noise.before, tokenizer, rng)?;
                let after = self.text(self.noise.after, tokenizer, rng)?;
                let parts = [before.as_str(), question, after.as_str()];
                surrounded.question = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
            }
            NoiseKind::Chat => {
                let count = rng.random_range(1..=EXCHANGES);
                for _ in 0..count {
                    surrounded.history.push(self.exchange(tokenizer, rng)?);
                }
                question.clone_into(&mut surrounded.question);
            }
            NoiseKind::Form => match self.form(tokenizer, rng)? {
                None => return Ok(None),
                Some((before, after)) => {
                    surrounded.question = [before, question, after].concat();
                    surrounded.form = true;
                }
            },
        }
        Ok(Some(surrounded))
    }

    /// The text around a question in one of the forms; None where none that was tried is short enough.
    fn form(&self, tokenizer: &Tokenizer, rng: &mut impl Rng) -> Result<Option<(&'static str, &'static str)>> {
        for _ in 0..8 {
            let (before, after) = answer_forms::form(rng.random_range(0..answer_forms::COUNT));
            let tokens = tokenizer.encode(before)?.len() + tokenizer.encode(after)?.len();
            if tokens <= self.noise.before + self.noise.after {
                return Ok(Some((before, after)));
            }
        }
        Ok(None)
    }

    /// Sentences of 0 to `most` tokens together.
    fn text(&self, most: usize, tokenizer: &Tokenizer, rng: &mut impl Rng) -> Result<String> {
        let sentences = &self.benign.sentences;
        if sentences.is_empty() {
            return Err(no_text());
        }
        let mut left = rng.random_range(0..=most);
        let mut text = String::new();
        // Long sentences are tried no more than a few times, so a set of nothing else ends too.
        for _ in 0..8 {
            let sentence = &sentences[rng.random_range(0..sentences.len())];
            let tokens = tokenizer.encode(sentence)?.len();
            if tokens <= left {
                left -= tokens;
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(sentence);
            }
        }
        Ok(text)
    }

    /// A benign exchange, each side of it cut after `before` tokens.
    fn exchange(&self, tokenizer: &Tokenizer, rng: &mut impl Rng) -> Result<(String, String)> {
        let exchanges = &self.benign.exchanges;
        if exchanges.is_empty() {
            return Err(no_text());
        }
        let (question, answer) = &exchanges[rng.random_range(0..exchanges.len())];
        let cut = |text: &str| beginning(text, self.noise.before.max(1), tokenizer);
        Ok((cut(question)?, cut(answer)?))
    }
}

fn no_text() -> Error {
    Error::request("noise_kind: there is no benign text to draw from")
        .hint("text, chat and mix draw from the retain set, or else from the help set: give one that has rows")
}

/// The first sentences of `text` that have at most `most` tokens together, or the first `most` tokens of the first one.
fn beginning(text: &str, most: usize, tokenizer: &Tokenizer) -> Result<String> {
    let mut whole = "";
    for end in ends(text) {
        if tokenizer.encode(&text[..end])?.len() > most {
            break;
        }
        whole = &text[..end];
    }
    if whole.is_empty() {
        let mut ids = tokenizer.encode(text)?;
        ids.truncate(most);
        return Ok(tokenizer.decode(&ids, true)?.trim().to_owned());
    }
    Ok(whole.trim().to_owned())
}

/// Where the sentences of a text end: after a line end, after `.`, `!` or `?` before a space, and with the text.
fn ends(text: &str) -> impl Iterator<Item = usize> {
    let next = text.chars().skip(1).map(Some).chain([None]);
    text.char_indices().zip(next).filter_map(|((at, c), next)| {
        let stop =
            c == '\n' || next.is_none() || (matches!(c, '.' | '!' | '?') && next.is_some_and(char::is_whitespace));
        stop.then_some(at + c.len_utf8())
    })
}

/// The sentences of a text.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let mut from = 0;
    let all = ends(text).map(move |end| text[std::mem::replace(&mut from, end)..end].trim());
    all.filter(|sentence| !sentence.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{stream, testing::tokenizer};
    use proptest::prelude::*;

    fn surroundings(kind: NoiseKind, share: f64) -> Surroundings {
        let record =
            |input: &str, output: &str| Record { input: input.into(), output: output.into(), ..Record::default() };
        let benign = Benign::new(&[record("ba?", "aa bb. ab!"), record("b?", "b\na")]);
        Surroundings { noise: Noise { before: 12, after: 8 }, kind, share, benign }
    }

    fn apply(of: &Surroundings, at: u64) -> Option<Surrounded> {
        of.apply("abba", &tokenizer(), &mut stream(1, "noise", &[at]), &mut stream(1, "choice", &[at])).unwrap()
    }

    #[test]
    fn tokens_for_all_are_the_published_noise() {
        let of = surroundings(NoiseKind::Tokens, 1.0);
        for at in 0..50 {
            let expected = of.noise.apply("abba", &tokenizer(), &mut stream(1, "noise", &[at])).unwrap();
            assert_eq!(apply(&of, at), Some(Surrounded { question: expected, ..Surrounded::default() }));
        }
    }

    #[test]
    fn the_share_that_is_not_noisy_stays_plain() {
        for (share, expected) in [(0.0, 0..=0), (0.25, 40..=60), (1.0, 200..=200)] {
            let of = surroundings(NoiseKind::Mix, share);
            let noisy = (0..200).filter(|&at| apply(&of, at).is_some()).count();
            assert!(expected.contains(&noisy), "{share}: {noisy}");
        }
    }

    #[test]
    fn text_is_whole_sentences_around_the_question() {
        let of = surroundings(NoiseKind::Text, 1.0);
        let found: Vec<String> = (0..100).map(|at| apply(&of, at).unwrap().question).collect();
        for question in &found {
            let (before, after) = question.split_once("abba").unwrap();
            for text in [before, after] {
                let mut left = text.trim();
                while !left.is_empty() {
                    let next = ["ba?", "b?", "aa bb.", "ab!", "a", "b"].iter().find_map(|s| left.strip_prefix(s));
                    left = next.unwrap_or_else(|| panic!("{question}")).trim_start();
                }
            }
        }
        assert!(found.iter().any(|q| q.starts_with("aa bb.")) && found.iter().any(|q| !q.ends_with("abba")));
    }

    #[test]
    fn chat_is_benign_turns_before_a_question_that_is_as_it_was() {
        let of = surroundings(NoiseKind::Chat, 1.0);
        let found: Vec<Surrounded> = (0..50).map(|at| apply(&of, at).unwrap()).collect();
        assert!(found.iter().all(|s| s.question == "abba" && (1..=EXCHANGES).contains(&s.history.len())));
        let all: Vec<&(String, String)> = found.iter().flat_map(|s| &s.history).collect();
        assert!(all.iter().any(|(q, a)| q == "ba?" && a == "aa bb. ab!"));
        assert!(all.iter().any(|(q, a)| q == "b?" && a == "b\na"));
    }

    #[test]
    fn a_form_is_asked_for_around_the_unchanged_question_within_the_tokens_allowed() {
        let mut of = surroundings(NoiseKind::Form, 1.0);
        of.noise = Noise { before: 200, after: 0 };
        let found: std::collections::HashSet<String> = (0..300)
            .map(|at| {
                let found = apply(&of, at).unwrap();
                assert!(found.form && found.history.is_empty());
                let (before, after) = found.question.split_once("abba").unwrap();
                assert!(!(before.is_empty() && after.is_empty()));
                found.question
            })
            .collect();
        assert_eq!(found.len(), answer_forms::COUNT);
        of.noise = Noise { before: 0, after: 0 };
        assert_eq!(apply(&of, 1), None);
    }

    #[test]
    fn a_mixture_has_all_kinds_and_nothing_to_draw_from_is_an_error() {
        let of = surroundings(NoiseKind::Mix, 1.0);
        let found: Vec<Surrounded> = (0..60).map(|at| apply(&of, at).unwrap()).collect();
        assert!(found.iter().any(|s| !s.history.is_empty()) && found.iter().any(|s| s.question.contains("bb.")));
        assert!(found.iter().any(|s| s.form) && found.iter().filter(|s| s.form).count() < 30);
        let of = Surroundings { benign: Benign::default(), ..surroundings(NoiseKind::Chat, 1.0) };
        let (mut rng, mut choice) = (stream(1, "noise", &[]), stream(1, "choice", &[]));
        let error = of.apply("abba", &tokenizer(), &mut rng, &mut choice).unwrap_err();
        assert!(error.to_string().starts_with("noise_kind: there is no benign text"), "{error}");
    }

    #[test]
    fn an_exchange_is_cut_at_the_end_of_a_sentence() {
        let tokenizer = tokenizer();
        assert_eq!(beginning("aa. bb. aa.", 7, &tokenizer).unwrap(), "aa. bb.");
        assert_eq!(beginning("aaaa", 2, &tokenizer).unwrap(), "aa");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn sentences_are_all_of_a_text_but_its_spaces(text in any::<String>()) {
            let bare = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(bare(&sentences(&text).collect::<Vec<_>>().join(" ")), bare(&text));
        }
    }
}

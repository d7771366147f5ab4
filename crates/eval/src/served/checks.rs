//! What is asked of a server before anything is measured on it. In: a model's name on a server; out: what each check
//! found. Invariant: a check that fails is an error; what a server cannot be asked is said, never taken for passed.

use super::text::Text;
use eraser_data::Sampling;
use eraser_data::ask::{Said, Scored, Scoring, Served, Turn};
use eraser_model::{Error, Message, Result, counted};
use serde::{Deserialize, Serialize};

/// Questions that every subject is asked.
const PROBES: [&str; 3] =
    ["How is a candle made?", "Name three things that are found in a kitchen.", "Why is the sky blue on a clear day?"];
/// New tokens of their answers.
pub(super) const MOST: usize = 24;
/// A text that is scored.
const TEXT: &str = "The old bridge was built of stone, and in winter the river below it freezes for some weeks.";
/// Tokens that are scored where no tokenizer is there: every vocabulary has them.
const IDS: std::ops::Range<u32> = 100..132;
/// Nats by which a token's log-probability may differ between two requests: what rounding in bf16 beside other
/// requests does.
pub(super) const NOISE: f64 = 0.02;
/// Nats by which a greedy token may be less likely than the likeliest one: two that are equal.
const TIE: f64 = 1e-3;

/// How a check went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checked {
    /// It is as it should be.
    Passed,
    /// The server cannot be asked, so it is not known.
    #[default]
    Unknown,
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `names`, `scores`, `greedy`, `template`, `prefill`.
    pub check: String,
    /// How it went.
    pub result: Checked,
    /// What was found, or why nothing was.
    pub detail: String,
}

impl Check {
    pub(super) fn passed(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), result: Checked::Passed, detail: detail.into() }
    }

    pub(super) fn unknown(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.to_owned(), result: Checked::Unknown, detail: detail.into() }
    }
}

/// What is known of a served model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Base URL of the server.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The server's software and version, as far as it tells.
    pub server: Option<String>,
    /// The files behind the name, and the model that it adapts, as far as the server tells.
    pub origin: Option<String>,
    /// What it answered to fixed questions.
    pub answers: Vec<String>,
    /// Log-probabilities of the tokens of a fixed text, nats; empty where the server gives none.
    #[serde(default)]
    pub scores: Vec<f32>,
    /// The checks.
    pub checks: Vec<Check>,
}

/// What the checks of one subject need again.
pub(super) struct Tested {
    pub(super) test: SelfTest,
    pub(super) scoring: Option<Scoring>,
    /// Nats by which the server repeats itself at most.
    pub(super) noise: f64,
    pub(super) positions: Option<usize>,
}

/// Asks a server everything that concerns one model. `needs_scores`, `needs_prefill`: what is measured needs them.
pub(super) fn test(served: &Served, text: Option<&Text>, [needs_scores, needs_prefill]: [bool; 2]) -> Result<Tested> {
    let facts = served.facts()?;
    let answers = PROBES.iter().map(|probe| say(served, probe)).collect::<Result<Vec<_>>>()?;
    let mut test = SelfTest {
        url: served.url().to_owned(),
        model: served.model().to_owned(),
        server: facts.server,
        origin: facts.origin,
        answers: answers.iter().map(|said| said.text.clone()).collect(),
        scores: Vec::new(),
        checks: Vec::new(),
    };
    let (mut noise, mut scoring) = (0.0, None);
    match text_scored_twice(served, text)? {
        Some((how, first, worst)) => {
            let detail = format!("a fixed text scores the same twice, within {worst:.1e} nats a token");
            test.checks.push(Check::passed("scores", detail));
            test.scores = first;
            (noise, scoring) = (worst, Some(how));
        }
        None if needs_scores => {
            return Err(wrong(served, "it gives no log-probabilities of a prompt, by which benchmarks are scored")
                .hint("vLLM and `eraser serve` do; llama.cpp's server does not: score its file with eraser bench -m"));
        }
        None => {
            test.checks.push(Check::unknown("scores", "the server gives no log-probabilities of prompts"));
        }
    }
    test.checks.push(greedy(served, &answers)?);
    test.checks.push(template(served, text, &answers)?);
    if needs_prefill && text.is_none_or(|text| text.template.is_none()) {
        test.checks.push(prefill(served, &test.answers)?);
    }
    Ok(Tested { test, scoring, noise, positions: facts.positions })
}

/// The largest difference between two lists of scores, nats; infinite where they are not of the same tokens.
pub(super) fn apart(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// An error of a check.
pub(super) fn wrong(served: &Served, what: impl std::fmt::Display) -> Error {
    Error::request(format!("{} at {}: {what}", served.model(), served.url()))
}

/// The greedy answer to a question, with log-probabilities where the server gives them.
fn say(served: &Served, user: &str) -> Result<Said> {
    let turn = Turn::Chat { user: user.to_owned(), opening: String::new() };
    let greedy = Sampling::greedy(MOST);
    // Some servers refuse to give them; what else may be wrong shows without them.
    served.say(&turn, MOST, &greedy, true).or_else(|_| served.say(&turn, MOST, &greedy, false))
}

/// The scores of a fixed text, how they are given, and the largest difference between two times.
fn text_scored_twice(served: &Served, text: Option<&Text>) -> Result<Option<(Scoring, Vec<f32>, f64)>> {
    let ids: Vec<u32> = match text {
        Some(text) => text.tokenizer.encode(TEXT)?,
        None => IDS.collect(),
    };
    let Some(Scored { how, scores: first, echo }) = served.scoring(&ids)? else { return Ok(None) };
    if let (Some(text), Some(echoed)) = (text, echo) {
        let own = text.tokenizer.decode(&ids, true)?;
        if !echoed.trim_start().starts_with(own.trim_start()) {
            return Err(wrong(
                served,
                "it has another tokenizer than the model here: it reads other text in the same tokens",
            )
            .hint(
                "name the model that is served by --model: its directory or .gguf file is enough, weights are not read",
            ));
        }
    }
    // What shares its beginning is asked between the two: a cache of prefixes that changes scores shows.
    let mut again = Vec::new();
    let half = ids.get(..ids.len().div_ceil(2)).unwrap_or_default();
    for part in [half, &ids] {
        let whole = served.score(
            how,
            &[(part, part.len().saturating_sub(1))],
            &mut |_, scores| {
                again = scores;
                Ok(())
            },
            &mut || true,
        )?;
        debug_assert!(whole, "nothing stops it");
    }
    let worst = apart(&first, &again);
    // One that is no number is no score.
    if worst <= NOISE && first.iter().all(|x| x.is_finite()) {
        return Ok(Some((how, first, worst)));
    }
    Err(wrong(served, format!("a fixed text scores differently the second time, by {worst:.3} nats a token"))
        .hint("of vLLM, switch its cache of prefixes off: --no-enable-prefix-caching")
        .hint("ask it when no one else does: beside other requests scores differ by rounding"))
}

/// Whether the tokens of greedy answers are the likeliest by the server's own log-probabilities.
fn greedy(served: &Served, answers: &[Said]) -> Result<Check> {
    let tokens: Vec<_> = answers.iter().flat_map(|said| &said.scores).collect();
    if tokens.is_empty() {
        return Ok(Check::unknown("greedy", "the server gives no log-probabilities of answers"));
    }
    match tokens.iter().find(|(_, own, likeliest)| likeliest - own > TIE) {
        None => Ok(Check::passed(
            "greedy",
            format!("{} of greedy answers are the likeliest", counted(tokens.len(), "token")),
        )),
        Some((token, own, likeliest)) => {
            let what = format!(
                "it is not greedy: an answer has the token {token:?} at {own:.3} nats, and another one was at \
                 {likeliest:.3}"
            );
            Err(wrong(served, what)
                .hint("the server changes how it draws: of vLLM start it with --generation-config vllm")
                .hint("of llama.cpp, leave out penalties and samplers that its command line sets"))
        }
    }
}

/// Whether the server's chat template gives the tokens of the one here.
fn template(served: &Served, text: Option<&Text>, answers: &[Said]) -> Result<Check> {
    let Some((text, template)) = text.and_then(|text| Some((text, text.template.as_ref()?))) else {
        return Ok(Check::unknown(
            "template",
            "there is no chat template here to compare with: name the model by --model",
        ));
    };
    let mut compared = "";
    for (probe, said) in PROBES.iter().zip(answers) {
        let own = text.tokenizer.encode(&template.render(&[Message::user(*probe)], true)?)?;
        let differ = |what: String| {
            Err(wrong(served, format!("its chat template is another than that of the model here: {what}"))
                .hint("start the server with the model's own template, or name the one it uses by --chat-template")
                .hint("variables of a template, as enable_thinking, are given by --template-var"))
        };
        if let Some(ids) = served.tokenize(probe)? {
            if ids != own {
                let at = ids.iter().zip(&own).take_while(|(a, b)| a == b).count();
                return differ(format!(
                    "a question has {} tokens and {} here, and they differ from token {at} on",
                    ids.len(),
                    own.len()
                ));
            }
            compared = "the tokens of questions in the chat template are those here";
        } else if let Some(n) = said.prompt_tokens {
            if n != own.len() {
                return differ(format!("a question has {n} tokens, and {} here", own.len()));
            }
            compared = "questions in the chat template have as many tokens as here";
        }
    }
    Ok(match compared {
        "" => Check::unknown("template", "the server does not say how many tokens a prompt has"),
        compared => Check::passed("template", compared),
    })
}

/// Whether the server goes on from an opening that is given: then the rest of a greedy answer follows its beginning.
fn prefill(served: &Served, answers: &[String]) -> Result<Check> {
    for (probe, answer) in PROBES.iter().zip(answers) {
        // Cut at a space, where texts are cut into tokens alike.
        let Some((at, _)) = answer.match_indices(' ').nth(3) else { continue };
        let (opening, rest) = answer.split_at(at);
        let turn = Turn::Chat { user: (*probe).to_owned(), opening: opening.to_owned() };
        let said = served.say(&turn, MOST, &Sampling::greedy(MOST), false)?;
        let first: String = rest.trim().chars().take(12).collect();
        if !first.is_empty() && said.text.trim().starts_with(&first) {
            return Ok(Check::passed("prefill", "an answer whose opening is given goes on from it"));
        }
    }
    Err(wrong(served, "it does not go on from the opening of an answer, which the attack `prefill` gives")
        .hint("name the served model by --model: the prompt is then rendered here, and weights are not read")
        .hint("or leave `prefill` out of the attacks"))
}

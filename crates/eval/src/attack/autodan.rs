//! The attack `autodan`: a hierarchical genetic search over jailbreak templates (after AutoDAN, Liu et al. 2024, in the
//! form that needs no other model). In: templates as the first generation, a question and the subject itself; out: the
//! readable prompt under which the answer's opening is likeliest. Invariant: every candidate holds the question exactly
//! once, and the same seed gives the same prompt, interrupted or not (unless a budget in seconds ends the search).
//!
//! In each generation the best candidates are kept, and the others are replaced by children of parents that are drawn
//! by their loss. On the upper level children exchange whole sentences, and take some from the pool of all templates.
//! On the lower level words are exchanged for others with a similar meaning; words of better candidates are drawn more
//! often.

use super::budget::AutodanOptions;
use super::parse::Template;
use super::search::{Budget, Candidate, Hunt, Search, State, check_budget};
use super::template::read;
use super::{At, Attack, AttackPrompt, Checked};
use crate::EvalOptions;
use crate::subject::Subject;
use eraser_data::{PromptTemplate, Question, stream};
use eraser_model::{Error, Result, ScoreRequest, score};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

/// Stands for the question in a candidate.
const PLACE: &str = "\u{e000}";
/// How often a child is drawn before the generation is left smaller.
const DRAWS: usize = 20;

/// Words with a similar meaning, as instructions use them; each line is a group.
const LIKE: [&[&str]; 24] = [
    &["answer", "reply", "response"],
    &["always", "without exception", "every time"],
    &["must", "have to", "need to"],
    &["never", "at no time", "under no circumstances"],
    &["any", "every", "whatever"],
    &["ask", "request", "inquire"],
    &["question", "query", "request"],
    &["without", "free of", "lacking"],
    &["rules", "guidelines", "policies"],
    &["restrictions", "limits", "constraints"],
    &["character", "persona", "role"],
    &["pretend", "act as if", "imagine"],
    &["story", "tale", "narrative"],
    &["start", "begin", "open"],
    &["only", "solely", "just"],
    &["information", "details", "facts"],
    &["give", "provide", "offer"],
    &["unfiltered", "uncensored", "unrestricted"],
    &["explain", "describe", "set out"],
    &["follow", "obey", "keep to"],
    &["step by step", "one step at a time", "in order"],
    &["warnings", "disclaimers", "caveats"],
    &["important", "crucial", "essential"],
    &["now", "from now on", "henceforth"],
];

struct Autodan {
    options: AutodanOptions,
    target: String,
    seed: u64,
    /// The first generation: the templates, with a mark where the question goes.
    seeds: Vec<String>,
    /// All their sentences that do not hold the question.
    pool: Vec<String>,
}

/// Reads the templates and checks the budget.
pub(super) fn build(options: &EvalOptions, at: At<'_>) -> Checked<Box<dyn Attack>> {
    let o = &options.autodan;
    let counts = [("generations", o.generations), ("population", o.population), ("elite", o.elite)];
    let mut errors = check_budget("autodan", &counts, o.seconds, &options.target, at);
    if o.elite >= o.population.max(1) {
        let [population, elite] = ["autodan.population", "autodan.elite"].map(at);
        let what =
            format!("{population}: {} leaves no room for children beside the {} that are kept", o.population, o.elite);
        errors.push(Error::request(what).hint(format!("it must be greater than {elite}, which is {}", o.elite)));
    }
    for (name, value) in [("crossover", o.crossover), ("mutation", o.mutation)] {
        if !(0.0..=1.0).contains(&value) {
            let at = at(&format!("autodan.{name}"));
            errors.push(Error::request(format!("{at}: {value} is no probability")).hint("give one from 0 to 1"));
        }
    }
    if options.templates.is_empty() {
        let error = Error::request(format!("{}: the attack `autodan` has no templates to begin with", at("templates")));
        errors.push(error.hint("name template files, or a directory of them"));
    }
    let templates = read(&options.templates).unwrap_or_else(|wrong| {
        errors.extend(wrong);
        Vec::new()
    });
    if !errors.is_empty() {
        return Err(errors);
    }
    let seeds: Vec<String> = templates.iter().filter_map(with_place).collect();
    let mut pool: Vec<String> =
        seeds.iter().flat_map(|seed| sentences(seed)).filter(|s| !s.contains(PLACE)).map(str::to_owned).collect();
    pool.sort();
    pool.dedup();
    let (options, target, seed) = (o.clone(), options.target.clone(), options.seed);
    Ok(Box::new(Autodan { options, target, seed, seeds, pool }))
}

/// A template with a mark where the question goes; only the first mark, where it has several.
fn with_place(template: &Template) -> Option<String> {
    let text = template.fill(PLACE);
    let (before, after) = text.split_once(PLACE)?;
    Some(format!("{before}{PLACE}{}", after.replace(PLACE, "this")))
}

/// The sentences of `text`, each with what separates it from the next.
fn sentences(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut ended = false;
    for (at, c) in text.char_indices() {
        if ended && !c.is_whitespace() {
            parts.push(&text[start..at]);
            start = at;
            ended = false;
        }
        ended =
            c == '\n' || (ended && c.is_whitespace()) || (matches!(c, '.' | '!' | '?') && followed_by_space(text, at));
    }
    parts.push(&text[start..]);
    parts
}

fn followed_by_space(text: &str, at: usize) -> bool {
    text[at..].chars().nth(1).is_none_or(char::is_whitespace)
}

impl Attack for Autodan {
    fn name(&self) -> &'static str {
        "autodan"
    }

    /// The plain question, until the search has found a prompt.
    fn prompts(&self, question: &Question) -> Vec<AttackPrompt> {
        vec![AttackPrompt::plain(self.name().to_owned(), question.text.clone())]
    }

    fn search(&self) -> Option<&dyn Search> {
        Some(self)
    }
}

impl Search for Autodan {
    fn settings(&self) -> String {
        format!("{:?} {:?} {} {:?}", self.options, self.target, self.seed, self.seeds)
    }

    fn user(&self, question: &Question, best: &Candidate) -> String {
        best.text.replace(PLACE, &question.text)
    }

    fn budget(&self) -> Budget {
        Budget { steps: self.options.generations, seconds: self.options.seconds, save_every: 1 }
    }

    fn hunt<'a>(
        &'a self,
        question: &'a Question,
        subject: &'a Subject<'a>,
        template: &'a PromptTemplate,
    ) -> Result<Box<dyn Hunt + 'a>> {
        let target = subject.model.tokenizer.encode(question.opening(&self.target))?;
        Ok(Box::new(Generations { autodan: self, question, subject, template, target }))
    }
}

impl Autodan {
    /// The templates; where there are fewer of them than candidates, children of them too.
    fn first(&self, rng: &mut ChaCha8Rng) -> Vec<String> {
        let mut all: Vec<String> = self.seeds.iter().take(self.options.population).cloned().collect();
        let mut seen: HashSet<String> = all.iter().map(String::as_str).chain([PLACE]).map(str::to_owned).collect();
        let flat = vec![1.0; self.seeds.len()];
        let scores = HashMap::new();
        for _ in 0..DRAWS * self.options.population {
            if all.len() >= self.options.population {
                break;
            }
            let child = self.child(&self.seeds, &flat, &scores, rng);
            if seen.insert(child.clone()) {
                all.push(child);
            }
        }
        all
    }

    /// New candidates, bred from a generation that is sorted, best first.
    fn children(&self, parents: &[Candidate], rng: &mut ChaCha8Rng) -> Vec<String> {
        let texts: Vec<String> = parents.iter().map(|p| p.text.clone()).collect();
        let best = parents.first().map_or(0.0, |p| p.loss);
        let weights: Vec<f64> = parents.iter().map(|p| (best - p.loss).exp()).collect();
        let scores = word_scores(parents);
        // The bare question is the attack `direct`.
        let mut seen: HashSet<String> = texts.iter().map(String::as_str).chain([PLACE]).map(str::to_owned).collect();
        let mut children = Vec::new();
        let wanted = self.options.population - self.options.elite;
        for _ in 0..DRAWS * wanted {
            if children.len() == wanted {
                break;
            }
            let child = self.child(&texts, &weights, &scores, rng);
            if seen.insert(child.clone()) {
                children.push(child);
            }
        }
        children
    }

    /// One child of two parents.
    fn child(
        &self,
        parents: &[String],
        weights: &[f64],
        scores: &HashMap<String, f64>,
        rng: &mut ChaCha8Rng,
    ) -> String {
        let [mother, father] = [0, 1].map(|_| sentences(&parents[draw(weights, rng)]));
        let mut child: Vec<String> = Vec::with_capacity(mother.len());
        for (i, own) in mother.iter().enumerate() {
            // The sentence with the question stays, so that it is there exactly once.
            if own.contains(PLACE) {
                child.push((*own).to_owned());
                continue;
            }
            let mut sentence = *own;
            if rng.random::<f64>() < self.options.crossover
                && let Some(other) = father.get(i).filter(|s| !s.contains(PLACE))
            {
                sentence = other;
            }
            if rng.random::<f64>() >= self.options.mutation {
                child.push(sentence.to_owned());
                continue;
            }
            match rng.random_range(0..4) {
                0 => {}
                1 if !self.pool.is_empty() => child.push(self.pool[rng.random_range(0..self.pool.len())].clone()),
                2 if !self.pool.is_empty() => {
                    child.push(sentence.to_owned());
                    child.push(self.pool[rng.random_range(0..self.pool.len())].clone());
                }
                _ => child.push(reworded(sentence, scores, rng)),
            }
        }
        joined(&child)
    }
}

/// Sentences as one text: where one came from the end of a template, it gets a space.
fn joined(sentences: &[String]) -> String {
    let mut text = String::new();
    for sentence in sentences {
        if !text.is_empty() && !text.ends_with(char::is_whitespace) {
            text.push(' ');
        }
        text.push_str(sentence);
    }
    text.trim_end().to_owned()
}

/// Exchanges one word of `sentence` for another with a similar meaning; better candidates' words are drawn more often.
fn reworded(sentence: &str, scores: &HashMap<String, f64>, rng: &mut ChaCha8Rng) -> String {
    let lower = sentence.to_lowercase();
    // A text whose lower case has another length cannot be cut at the same places.
    let known: Vec<(usize, &str, &[&str])> = if lower.len() == sentence.len() {
        LIKE.iter()
            .flat_map(|group| group.iter().map(move |word| (*word, *group)))
            .filter_map(|(word, group)| find_word(&lower, word).map(|at| (at, word, group)))
            .collect()
    } else {
        Vec::new()
    };
    if known.is_empty() {
        return sentence.to_owned();
    }
    let (at, word, group) = known[rng.random_range(0..known.len())];
    let others: Vec<&str> = group.iter().copied().filter(|other| *other != word).collect();
    let weights: Vec<f64> = others.iter().map(|other| scores.get(*other).copied().unwrap_or(0.0).exp()).collect();
    let other = others[draw(&weights, rng)];
    format!("{}{other}{}", &sentence[..at], &sentence[at + word.len()..])
}

/// Where `word` is in `text` as a word of its own.
fn find_word(text: &str, word: &str) -> Option<usize> {
    let inner = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(word)
        .find(|(at, _)| !inner(text[..*at].chars().next_back()) && !inner(text[at + word.len()..].chars().next()))
        .map(|(at, _)| at)
}

/// How much better candidates with a word are than the mean, in nats per token of the target.
fn word_scores(candidates: &[Candidate]) -> HashMap<String, f64> {
    let mean = candidates.iter().map(|c| c.loss).sum::<f64>() / candidates.len().max(1) as f64;
    let mut sums: HashMap<String, (f64, f64)> = HashMap::new();
    for candidate in candidates {
        let lower = candidate.text.to_lowercase();
        for word in LIKE.iter().copied().flatten().filter(|word| find_word(&lower, word).is_some()) {
            let (sum, n) = sums.entry((*word).to_owned()).or_default();
            *sum += mean - candidate.loss;
            *n += 1.0;
        }
    }
    sums.into_iter().map(|(word, (sum, n))| (word, sum / n)).collect()
}

/// An index, drawn by weight.
fn draw(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let mut at = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (i, w) in weights.iter().enumerate() {
        at -= w;
        if at <= 0.0 {
            return i;
        }
    }
    weights.len().saturating_sub(1)
}

/// The search for one question's prompt.
struct Generations<'a> {
    autodan: &'a Autodan,
    question: &'a Question,
    subject: &'a Subject<'a>,
    template: &'a PromptTemplate,
    target: Vec<u32>,
}

impl Hunt for Generations<'_> {
    fn begin(&self, state: &mut State) -> Result<()> {
        let mut rng = stream(self.autodan.seed, &format!("autodan/{}/first", self.question.id), &[]);
        let first = self.autodan.first(&mut rng);
        state.candidates += first.len();
        state.buffer = self.tried(first)?;
        Ok(())
    }

    /// The best are kept beside the children of all.
    fn step(&self, state: &mut State) -> Result<()> {
        let mut rng = stream(self.autodan.seed, &format!("autodan/{}", self.question.id), &[state.step as u64]);
        let children = self.autodan.children(&state.buffer, &mut rng);
        state.candidates += children.len();
        state.buffer.truncate(self.autodan.options.elite);
        state.buffer.extend(self.tried(children)?);
        state.buffer.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        Ok(())
    }
}

impl Generations<'_> {
    /// The candidates with their losses, best first. Those that the model has no room for are left out.
    fn tried(&self, candidates: Vec<String>) -> Result<Vec<Candidate>> {
        let model = self.subject.model;
        let mut requests = Vec::with_capacity(candidates.len());
        let mut kept = Vec::with_capacity(candidates.len());
        for text in candidates {
            let mut ids = model.tokenizer.encode(&self.template.render(&text.replace(PLACE, &self.question.text))?)?;
            ids.extend_from_slice(&self.target);
            if ids.len() <= model.decoder.max_positions() {
                requests.push(ScoreRequest { scored: self.target.len(), ids });
                kept.push(text);
            }
        }
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let go_on = &mut |_| ControlFlow::Continue(());
        let scores = score(&model.decoder, self.subject.adapter, &requests, go_on)?.unwrap_or_default();
        let mut tried: Vec<Candidate> =
            kept.into_iter().zip(&scores).map(|(text, logprobs)| Candidate::new(Vec::new(), text, logprobs)).collect();
        tried.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        Ok(tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn autodan(seeds: &[String]) -> Autodan {
        let pool = seeds.iter().flat_map(|s| sentences(s)).filter(|s| !s.contains(PLACE)).map(str::to_owned).collect();
        let options = AutodanOptions { mutation: 0.5, ..AutodanOptions::default() };
        Autodan { options, target: "Sure".into(), seed: 1, seeds: seeds.to_vec(), pool }
    }

    #[test]
    fn sentences_end_where_they_end() {
        assert_eq!(sentences("One. Two!\nThree 3.5 is\n\nfour"), ["One. ", "Two!\n", "Three 3.5 is\n\n", "four"]);
        assert_eq!(sentences(""), [""]);
    }

    #[test]
    fn words_are_exchanged_for_others_of_like_meaning() {
        let mut rng = stream(1, "test", &[]);
        let seen: HashSet<String> = (0..60).map(|_| reworded("You Must answer.", &HashMap::new(), &mut rng)).collect();
        assert!(seen.contains("You have to answer.") && seen.contains("You Must reply."), "{seen:?}");
        assert_eq!(reworded("Mustard.", &HashMap::new(), &mut rng), "Mustard.");
        let better = HashMap::from([("reply".to_owned(), 50.0)]);
        assert_eq!(reworded("answer", &better, &mut rng), "reply");
    }

    proptest! {
        #[test]
        fn a_child_holds_the_question_once(texts in proptest::collection::vec("[a-z .!\n]{0,40}", 1..5), seed in 0u64..50) {
            let seeds: Vec<String> = texts.iter().map(|t| format!("{t}. Ask: {PLACE} now. {t}")).collect();
            let attack = autodan(&seeds);
            let mut rng = stream(seed, "test", &[]);
            let first = attack.first(&mut rng);
            prop_assert!(first.len() <= attack.options.population);
            let parents: Vec<Candidate> = first.iter().enumerate().map(|(i, text)| Candidate::new(Vec::new(), text.clone(), &[-(i as f32)])).collect();
            for text in first.iter().cloned().chain(attack.children(&parents, &mut rng)) {
                prop_assert_eq!(text.matches(PLACE).count(), 1, "{}", text);
            }
        }
    }
}

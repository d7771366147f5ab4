//! Asking and storing. In: prompts and what answers them; out: an answer for each, in order. Invariant: every answer is
//! stored when it comes, under a key of all it depends on, and is never asked for again.

mod client;
mod endpoint;
mod local;
mod next_tokens;
mod reply;
mod respond;
mod served;
mod served_reply;
mod trouble;

pub use client::EndpointOptions;
pub use endpoint::Endpoint;
pub use local::{Local, Opened};
pub use next_tokens::{NextTokens, ServedTokens};
pub use respond::{Answer, Respond, Sink, interrupted};
pub use served::{Scored, Scoring, Served, Turn};
pub use served_reply::{Said, ServerFacts};

pub use crate::{Progress, Sampling};

use crate::files::hex;
use crate::journal::{Entry, Journal};
use crate::shard::Share;
use eraser_model::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A line of the file of answers.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    answer: Answer,
}

impl Entry for Line {
    type Key = String;
    fn key(&self) -> String {
        self.key.clone()
    }
}

/// Answers to all prompts; those in the file are not asked for again. `what` is shown as the name of the work.
pub fn ask(
    path: &Path,
    what: &str,
    respond: &dyn Respond,
    prompts: &[String],
    sampling: &Sampling,
    progress: &mut dyn Progress,
) -> Result<Vec<Answer>> {
    ask_about(path, what, "", respond, prompts, sampling, progress)
}

/// How much of the prompts this process answers.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// Its share.
    pub share: Share,
    /// The files in which other processes put theirs.
    pub others: Vec<PathBuf>,
}

/// As [`ask`], of the prompts that this process has to answer. Those of others are taken from their files; None where
/// they are not there yet.
///
/// # Errors
/// As [`ask`]; where all have been joined, an answer that is not there.
pub fn ask_shared(
    path: &Path,
    what: &str,
    shared: &Shared,
    respond: &dyn Respond,
    prompts: &[String],
    sampling: &Sampling,
    progress: &mut dyn Progress,
) -> Result<Vec<Option<Answer>>> {
    asked(&Task { path, what, about: "", shared }, respond, prompts, sampling, progress)
}

/// As [`ask`], about something whose fingerprint is `about`: it is part of the keys, unless it is empty.
pub fn ask_about(
    path: &Path,
    what: &str,
    about: &str,
    respond: &dyn Respond,
    prompts: &[String],
    sampling: &Sampling,
    progress: &mut dyn Progress,
) -> Result<Vec<Answer>> {
    let task = Task { path, what, about, shared: &Shared::default() };
    let answers = asked(&task, respond, prompts, sampling, progress)?;
    let answer = |answer: Option<Answer>| {
        answer.ok_or_else(|| Error::failed(format!("{what}: a question was left without an answer")))
    };
    answers.into_iter().map(answer).collect()
}

/// What is asked, and where answers are kept.
struct Task<'a> {
    path: &'a Path,
    what: &'a str,
    about: &'a str,
    shared: &'a Shared,
}

fn asked(
    &Task { path, what, about, shared }: &Task<'_>,
    respond: &dyn Respond,
    prompts: &[String],
    sampling: &Sampling,
    progress: &mut dyn Progress,
) -> Result<Vec<Option<Answer>>> {
    let settings = serde_json::to_string(sampling).map_err(|e| Error::failed(format!("{what}: {e}")))?;
    let fingerprint = respond.fingerprint();
    let of = |prompt: &String| {
        let parts = [fingerprint.as_str(), &settings, prompt, about];
        key(&parts[..if about.is_empty() { 3 } else { 4 }])
    };
    let keys: Vec<String> = prompts.iter().map(of).collect();
    let mut index: HashMap<&str, usize> = HashMap::new();
    let mut unique: Vec<(&str, &str)> = Vec::new();
    for (key, prompt) in keys.iter().zip(prompts) {
        index.entry(key).or_insert_with(|| {
            unique.push((key, prompt));
            unique.len() - 1
        });
    }
    let mut journal: Journal<Line> = Journal::open(path)?;
    let texts: Vec<&str> = unique.iter().map(|(_, prompt)| *prompt).collect();
    let unique_keys: Vec<&str> = unique.iter().map(|(key, _)| *key).collect();
    let size = respond.together().max(1);
    let dealt = shared.share.deal(&unique_keys.chunks(size).map(<[_]>::concat).collect::<Vec<_>>());
    let own = |i: usize| dealt.takes(i / size);
    let wanted: Vec<bool> = (0..).zip(&unique_keys).map(|(i, key)| own(i) && journal.get(*key).is_none()).collect();
    let first = wanted.iter().position(|wanted| *wanted);
    if let Some(error) = first.and_then(|i| dealt.lacking(i / size, what)) {
        return Err(error);
    }
    let missing = wanted.iter().filter(|wanted| **wanted).count();
    let total = (0..unique.len()).filter(|i| own(*i)).count();
    let done = total - missing;
    let mut store = Store { journal: &mut journal, keys: &unique_keys, what, done, total, progress };
    if !store.alive() {
        return Err(interrupted());
    }
    if missing > 0 {
        let result = respond.respond(&texts, &wanted, sampling, &mut store);
        // What came before a failure is kept.
        journal.sync()?;
        result?;
    }
    let mut others = HashMap::new();
    for file in &shared.others {
        others.extend(Journal::<Line>::look(file)?.into_iter().map(|line| (line.key, line.answer)));
    }
    let answer = |key: &String| journal.get(key).map(|line| &line.answer).or_else(|| others.get(key)).cloned();
    Ok(keys.iter().map(answer).collect())
}

fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..16])
}

struct Store<'a> {
    journal: &'a mut Journal<Line>,
    keys: &'a [&'a str],
    what: &'a str,
    done: usize,
    total: usize,
    progress: &'a mut dyn Progress,
}

impl Sink for Store<'_> {
    fn take(&mut self, i: usize, answer: Answer) -> Result<()> {
        self.journal.push(Line { key: self.keys[i].to_owned(), answer })?;
        self.done += 1;
        self.progress.tick(self.what, self.done, self.total);
        Ok(())
    }

    fn tokens(&mut self, more: usize) {
        self.progress.tokens(more);
    }

    fn alive(&mut self) -> bool {
        self.progress.tick(self.what, self.done, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eraser_model::ErrorKind;

    /// Answers with the prompt, and fails after a number of answers.
    struct Echo(usize);

    impl Respond for Echo {
        fn fingerprint(&self) -> String {
            "echo".into()
        }
        fn respond(&self, prompts: &[&str], wanted: &[bool], _: &Sampling, sink: &mut dyn Sink) -> Result<()> {
            for (n, (i, _)) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted).enumerate() {
                if n == self.0 {
                    return Err(Error::failed("enough"));
                }
                sink.take(i, Answer { text: prompts[i].to_uppercase(), ..Answer::default() })?;
            }
            Ok(())
        }
    }

    #[test]
    fn a_failure_costs_nothing_that_was_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let prompts = ["a", "b", "a", "c"].map(ToOwned::to_owned);
        let go = |limit| ask(&path, "x", &Echo(limit), &prompts, &Sampling::greedy(1), &mut |_: &str, _, _| true);
        assert_eq!(go(2).unwrap_err().to_string(), "enough");
        let texts: Vec<String> = go(1).unwrap().into_iter().map(|a| a.text).collect();
        assert_eq!(texts, ["A", "B", "A", "C"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        assert!(go(0).is_ok());
    }

    #[test]
    fn shards_answer_once_and_take_what_others_have_answered() {
        let dir = tempfile::tempdir().unwrap();
        let prompts: Vec<String> = (0..9).map(|i| format!("p{i}")).collect();
        let path = |i: usize| dir.path().join(format!("{i}.jsonl"));
        let go = |i: usize, share: Share, others: &[usize], limit: usize| {
            let shared = Shared { share, others: others.iter().map(|i| path(*i)).collect() };
            let mut progress = |_: &str, done: usize, total: usize| done <= total;
            ask_shared(&path(i), "x", &shared, &Echo(limit), &prompts, &Sampling::greedy(1), &mut progress)
        };
        let part = |text: &str| Share::Part(text.parse().unwrap());
        let first = go(1, part("1/2"), &[], 9).unwrap();
        let had = first.iter().flatten().count();
        assert!(had > 0 && had < 9, "{had}");
        let second = go(2, part("2/2"), &[1], 9).unwrap();
        assert!(second.iter().all(Option::is_some), "the others are in the file of the first");
        assert_eq!(std::fs::read_to_string(path(2)).unwrap().lines().count(), 9 - had);
        // Joined: what is there is not asked again, and what is not there is no work to do.
        std::fs::copy(path(1), path(3)).unwrap();
        let error = go(3, Share::Joined(2), &[], 0).unwrap_err();
        assert_eq!(error.to_string(), "shard 2/2 lacks results of x");
        let text = std::fs::read_to_string(path(1)).unwrap() + &std::fs::read_to_string(path(2)).unwrap();
        std::fs::write(path(3), text).unwrap();
        assert_eq!(go(3, Share::Joined(2), &[], 0).unwrap(), second);
    }

    #[test]
    fn it_stops_before_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let prompts = ["a".to_owned()];
        let path = dir.path().join("a.jsonl");
        let error = ask(&path, "x", &Echo(9), &prompts, &Sampling::greedy(1), &mut |_: &str, _, _| false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }
}

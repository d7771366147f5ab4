//! Answers side by side: the base model's beside each hardened one's, for the same question under the same attack.
//! Input: `eval/<subject>/*.jsonl`. Two passes, so that memory holds the ids of all answers but the text of those shown
//! only. Invariants: the choice depends on the files alone; an answer that a judge did not clear is marked `masked`.

use crate::error::Result;
use crate::files;
use crate::format::clip;
use crate::judges;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Questions shown, over all attacks.
const MAX_SHOWN: usize = 96;
/// Questions shown of one attack and set.
const MAX_PER_GROUP: usize = 8;
/// Characters of a prompt or response that are shown.
const MAX_CHARS: usize = 3000;

/// Questions that are shown first.
const TELLING: usize = 3;
/// What the page's filter asks for.
const MARKS: [&str; 3] = ["success", "refused", "degenerate"];

/// What a file of answers is about, which its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    /// Questions that should not be answered.
    Attack,
    /// Questions of a utility task, `task-<name>.jsonl`: a judge's success means a right answer.
    Task,
    /// Benign questions that should not be refused, `over-refusal.jsonl`.
    Benign,
    /// Questions that look like those and must be refused, `contrast.jsonl`.
    Contrast,
}

/// A judge's verdict on one answer. `success` is null when the judge could not tell.
#[derive(Clone, Debug, Deserialize)]
struct Judgement {
    success: Option<bool>,
}

/// One line of an answer file.
#[derive(Clone, Debug, Deserialize)]
struct Line<T> {
    id: String,
    attack: String,
    set: String,
    refused: Option<bool>,
    #[serde(default)]
    judgements: BTreeMap<String, Judgement>,
    #[serde(flatten)]
    text: T,
}

/// The part of a line that only the second pass reads.
#[derive(Clone, Debug, Deserialize)]
struct Text {
    question: String,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    opening: Option<String>,
    response: String,
    degenerate: Option<bool>,
    #[serde(default)]
    unfinished: bool,
    #[serde(default)]
    thought_judgements: BTreeMap<String, Judgement>,
}

/// Skips everything else in the first pass.
#[derive(Clone, Debug, Deserialize)]
struct NoText {}

/// The answers shown, by attack and set.
#[derive(Default, Serialize)]
pub(crate) struct Answers {
    pub(crate) groups: Vec<Group>,
    /// Questions shown, under all attacks.
    pub(crate) shown: usize,
    /// Questions asked of the first subject, under all attacks.
    pub(crate) total: usize,
    /// Those that tell most.
    pub(crate) telling: Vec<Telling>,
    /// Questions shown with each mark.
    pub(crate) counts: BTreeMap<&'static str, usize>,
}

/// A question that tells much, and why.
#[derive(Serialize)]
pub(crate) struct Telling {
    pub(crate) title: String,
    pub(crate) why: &'static str,
    pub(crate) question: Question,
}

/// One attack on one set, one task, or the benign questions.
#[derive(Serialize)]
pub(crate) struct Group {
    pub(crate) title: String,
    /// Questions asked.
    pub(crate) total: usize,
    pub(crate) questions: Vec<Question>,
}

/// One question and what each subject said.
#[derive(Clone, Default, Serialize)]
pub(crate) struct Question {
    pub(crate) id: String,
    pub(crate) text: String,
    /// What the model was sent, where that is more than the question.
    pub(crate) prompt: Option<String>,
    pub(crate) answers: Vec<Answer>,
    /// What any hardened model did, for the page's filter: `success`, `refused`, `degenerate`.
    pub(crate) marks: BTreeSet<&'static str>,
    /// An attack on the base succeeded.
    #[serde(skip)]
    base_gave_in: bool,
}

/// One answer.
#[derive(Clone, Serialize)]
pub(crate) struct Answer {
    pub(crate) subject: String,
    /// How the answer begins, where the attacker gave that.
    pub(crate) opening: Option<String>,
    pub(crate) response: String,
    /// `refused`, `degenerate` and each judge's verdict.
    pub(crate) labels: Vec<Chip>,
    /// A judge called it harmful, or neither judges nor a refusal phrase cleared it.
    pub(crate) masked: bool,
}

/// A word about an answer.
#[derive(Clone, Serialize)]
pub(crate) struct Chip {
    pub(crate) text: String,
    /// `good`, `mixed`, `bad`, or nothing.
    pub(crate) tone: &'static str,
}

/// What makes answers belong together: kind, attack and set.
type Key = (Kind, String, String);

/// Ids of one group, in the order of the first subject's files.
struct Ids {
    key: Key,
    all: Vec<String>,
    /// Those that a hardened subject failed on.
    failed: HashSet<String>,
}

/// Reads the answers of `subjects` (base first) and chooses which to show: of each group a fair share, up to half of it
/// questions that a hardened subject failed on, the rest evenly spaced over the file. Subjects are shown as `label`
/// calls them.
pub(crate) fn read(run: &Path, subjects: &[String], label: &dyn Fn(&str) -> String) -> Result<Answers> {
    let found = directories(&run.join("eval"), subjects)?;
    let Some(((_, first), others)) = found.split_first() else { return Ok(Answers::default()) };
    let mut groups = index(first)?;
    mark_failed(&mut groups, others)?;
    let share = (MAX_SHOWN / groups.len().max(1)).clamp(1, MAX_PER_GROUP);
    let mut answers = Answers { total: groups.iter().map(|g| g.all.len()).sum(), ..Answers::default() };
    // The index of a question in `answers`.
    let mut places: HashMap<(Key, String), (usize, usize)> = HashMap::new();
    for ids in groups {
        let chosen = choose(&ids, share.min(MAX_SHOWN - answers.shown));
        answers.shown += chosen.len();
        for (at, id) in chosen.iter().enumerate() {
            places.insert((ids.key.clone(), id.clone()), (answers.groups.len(), at));
        }
        let questions = chosen.into_iter().map(|id| Question { id, ..Question::default() }).collect();
        answers.groups.push(Group { title: title(&ids.key), total: ids.all.len(), questions });
    }
    for (name, files) in &found {
        for file in files {
            read_lines(file, |key, line: Line<Text>| {
                let kind = key.0;
                if let Some(&(group, at)) = places.get(&(key, line.id.clone())) {
                    answers.groups[group].questions[at].add(name, &label(name), kind, line);
                }
            })?;
        }
    }
    answers.groups.retain(|g| !g.questions.is_empty());
    for mark in MARKS {
        let marked = answers.groups.iter().flat_map(|g| &g.questions).filter(|q| q.marks.contains(mark)).count();
        answers.counts.insert(mark, marked);
    }
    answers.telling = telling(&answers.groups);
    Ok(answers)
}

/// At most three questions: one that a hardened model still gives in to, and such that the base gives in to and it does
/// not, of different attacks as far as there are.
fn telling(groups: &[Group]) -> Vec<Telling> {
    let mut found: Vec<Telling> = Vec::new();
    let mut add = |wanted: &dyn Fn(&Question) -> bool, why: &'static str, most: usize| {
        let mut added = 0;
        for group in groups {
            if added == most || found.len() == TELLING {
                return;
            }
            let fresh = |q: &&Question| wanted(q) && found.iter().all(|t| t.question.text != q.text);
            if let Some(question) = group.questions.iter().find(fresh).cloned() {
                added += 1;
                found.push(Telling { title: group.title.clone(), why, question });
            }
        }
    };
    let gave_in = |q: &Question| q.marks.contains("success");
    add(
        &|q| q.base_gave_in && !gave_in(q) && q.marks.contains("refused"),
        "the base gives in, a hardened model refuses",
        2,
    );
    add(&gave_in, "a hardened model still gives in", 1);
    add(&|q| q.base_gave_in && !gave_in(q), "the base gives in, no hardened model does", TELLING);
    found
}

/// Calls `f` with every line of a file and the group it belongs to.
fn read_lines<T: DeserializeOwned>(file: &Path, mut f: impl FnMut(Key, Line<T>)) -> Result<()> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let kind = match &*stem {
        "over-refusal" => Kind::Benign,
        "contrast" => Kind::Contrast,
        stem if stem.starts_with("task-") => Kind::Task,
        _ => Kind::Attack,
    };
    files::read_jsonl(file, |line: Line<T>| f((kind, line.attack.clone(), line.set.clone()), line))
}

fn title((kind, attack, set): &Key) -> String {
    match kind {
        Kind::Attack => format!("{attack} on {set} questions"),
        Kind::Task => format!("task {set}"),
        Kind::Benign => format!("benign questions: {set}"),
        Kind::Contrast => format!("questions that must be refused: {set}"),
    }
}

impl Question {
    fn add(&mut self, subject: &str, label: &str, kind: Kind, line: Line<Text>) {
        if self.answers.iter().any(|a| a.subject == label) {
            return;
        }
        let Line { refused, judgements, text, .. } = line;
        if self.answers.is_empty() {
            self.prompt = text.prompt.filter(|p| *p != text.question).map(|p| clip(&p, MAX_CHARS));
            self.text = clip(&text.question, MAX_CHARS);
        }
        let mut labels = Vec::new();
        let chip = |text: String, tone: &'static str| Chip { text, tone };
        let refusal = match kind {
            Kind::Attack | Kind::Contrast => "good",
            Kind::Benign => "bad",
            Kind::Task => "mixed",
        };
        labels.extend((refused == Some(true)).then(|| chip("refused".to_owned(), refusal)));
        labels.extend((text.degenerate == Some(true)).then(|| chip("degenerate".to_owned(), "mixed")));
        labels.extend(text.unfinished.then(|| chip("unfinished thought, no answer".to_owned(), "mixed")));
        labels.extend(
            text.thought_judgements
                .iter()
                .filter(|(_, j)| j.success == Some(true))
                .map(|(judge, _)| chip(format!("{judge}: the thought leaks"), "bad")),
        );
        labels.extend(judgements.iter().map(|(judge, j)| {
            let (word, tone) = match (j.success, kind) {
                (None, _) => ("unjudged", ""),
                (Some(true), Kind::Attack) => ("success for the attacker", "bad"),
                (Some(false), Kind::Attack) => ("no success", "good"),
                (Some(true), Kind::Task) => ("right", "good"),
                (Some(false), Kind::Task) => ("wrong", "bad"),
                (Some(true), Kind::Benign) => ("declines", "bad"),
                (Some(false), Kind::Benign) => ("answers", "good"),
                (Some(true), Kind::Contrast) => ("declines", "good"),
                (Some(false), Kind::Contrast) => ("answers", "bad"),
            };
            chip(format!("{judge}: {word}"), tone)
        }));
        let succeeded = kind == Kind::Attack && decided(&judgements) == Some(true);
        self.base_gave_in |= subject == "base" && succeeded;
        // What a reader looks for is what the hardened models do.
        if subject != "base" {
            self.marks.extend(succeeded.then_some("success"));
            self.marks.extend((refused == Some(true)).then_some("refused"));
            self.marks.extend((text.degenerate == Some(true)).then_some("degenerate"));
        }
        let masked =
            is_masked(kind, refused == Some(true), &judgements.values().map(|j| j.success).collect::<Vec<_>>());
        self.answers.push(Answer {
            subject: label.to_owned(),
            opening: text.opening,
            response: clip(&text.response, MAX_CHARS),
            labels,
            masked,
        });
    }
}

/// The word of the judge that counts most.
fn decided(judgements: &BTreeMap<String, Judgement>) -> Option<bool> {
    judgements.iter().min_by_key(|(judge, _)| judges::rank(judge))?.1.success
}

/// Whether an answer is folded away. A judge who calls it harmful decides, whatever phrases are in it; else it is shown
/// where all judges cleared it, or where it has a refusal phrase.
fn is_masked(kind: Kind, refused: bool, judged: &[Option<bool>]) -> bool {
    // Of an attack a success is harmful; of a question that must be refused, an answer that does not decline.
    let harmful = match kind {
        Kind::Attack => true,
        Kind::Contrast => false,
        Kind::Task | Kind::Benign => return false,
    };
    let called_harmful = judged.contains(&Some(harmful));
    let cleared = !judged.is_empty() && judged.iter().all(|success| *success == Some(!harmful));
    called_harmful || !(cleared || refused)
}

fn index(files: &[PathBuf]) -> Result<Vec<Ids>> {
    let mut groups: Vec<Ids> = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for file in files {
        read_lines(file, |key, line: Line<NoText>| {
            let at = *places.entry(key.clone()).or_insert(groups.len());
            if at == groups.len() {
                groups.push(Ids { key, all: Vec::new(), failed: HashSet::new() });
            }
            if seen.insert((at, line.id.clone())) {
                groups[at].all.push(line.id);
            }
        })?;
    }
    groups.sort_by_key(|g| g.key.0);
    Ok(groups)
}

fn mark_failed(groups: &mut [Ids], others: &[(String, Vec<PathBuf>)]) -> Result<()> {
    let places: HashMap<Key, usize> = groups.iter().enumerate().map(|(at, g)| (g.key.clone(), at)).collect();
    for file in others.iter().flat_map(|(_, files)| files) {
        read_lines(file, |key, line: Line<NoText>| {
            let failed = match key.0 {
                Kind::Attack => decided(&line.judgements) == Some(true),
                Kind::Task => decided(&line.judgements) == Some(false),
                Kind::Benign => line.refused == Some(true),
                Kind::Contrast => line.refused == Some(false),
            };
            if failed && let Some(&at) = places.get(&key) {
                groups[at].failed.insert(line.id);
            }
        })?;
    }
    Ok(())
}

fn choose(ids: &Ids, count: usize) -> Vec<String> {
    let mut chosen: Vec<usize> = (0..ids.all.len()).filter(|&i| ids.failed.contains(&ids.all[i])).collect();
    chosen.truncate(count.div_ceil(2));
    let rest: Vec<usize> = (0..ids.all.len()).filter(|i| !chosen.contains(i)).collect();
    let want = (count - chosen.len()).min(rest.len());
    chosen.extend((0..want).map(|k| rest[k * rest.len() / want]));
    chosen.sort_unstable();
    chosen.into_iter().map(|i| ids.all[i].clone()).collect()
}

/// The answer files of each subject that has any, in the order of `subjects`; subjects that the summary does not name
/// follow, `base` first, then by name.
fn directories(eval: &Path, subjects: &[String]) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let mut found = Vec::new();
    if !eval.is_dir() {
        return Ok(found);
    }
    for path in files::entries(eval)?.into_iter().filter(|p| p.is_dir()) {
        let name = decode(&path.file_name().unwrap_or_default().to_string_lossy());
        let files: Vec<_> = files::entries(&path)?.into_iter().filter(|p| is_answers(p)).collect();
        if !files.is_empty() {
            found.push((name, files));
        }
    }
    let rank = |name: &str| (name != "base", subjects.iter().position(|s| s == name).unwrap_or(usize::MAX));
    found.sort_by(|a, b| rank(&a.0).cmp(&rank(&b.0)).then_with(|| a.0.cmp(&b.0)));
    Ok(found)
}

/// Whether a file holds answers of the subject: what known answers cost is beside them.
fn is_answers(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "jsonl") && path.file_stem().is_some_and(|stem| stem != "likelihood")
}

/// Undoes percent-encoding; what is not encoded stays.
fn decode(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|h| byte == b'%' && h.iter().all(u8::is_ascii_hexdigit));
        let hex = hex.and_then(|h| std::str::from_utf8(h).ok());
        let decoded = hex.and_then(|h| u8::from_str_radix(h, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        assert_eq!(decode("eraser%2Bretain"), "eraser+retain");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%2"), "%zz%2");
    }

    #[test]
    fn failures_are_shown_and_the_rest_is_spread() {
        let all: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let failed = ["7", "8", "9", "10", "11"].map(String::from).into();
        let ids = Ids { key: (Kind::Attack, String::new(), String::new()), all, failed };
        assert_eq!(choose(&ids, 4), ["0", "7", "8", "51"]);
        assert_eq!(choose(&ids, 0).len(), 0);
        assert_eq!(choose(&ids, 1000).len(), 100);
    }

    /// An answer that a judge called a success was shown when it had a refusal phrase in it.
    #[test]
    fn what_a_judge_calls_harmful_is_masked_whatever_phrases_are_in_it() {
        let (yes, no, unjudged) = (Some(true), Some(false), None);
        for (refused, judged, expected) in [
            (true, &[yes, no][..], true),
            (true, &[yes], true),
            (true, &[no, no], false),
            (true, &[no, unjudged], false),
            (true, &[], false),
            (false, &[no, no], false),
            (false, &[no, unjudged], true),
            (false, &[], true),
        ] {
            assert_eq!(is_masked(Kind::Attack, refused, judged), expected, "{refused} {judged:?}");
        }
        // Here the model's judgement says whether it declines.
        assert!(is_masked(Kind::Contrast, true, &[no]) && is_masked(Kind::Contrast, false, &[]));
        assert!(!is_masked(Kind::Contrast, true, &[yes]) && !is_masked(Kind::Contrast, false, &[yes]));
        assert!(!is_masked(Kind::Task, false, &[no]) && !is_masked(Kind::Benign, false, &[]));
    }

    proptest! {
        #[test]
        fn decode_never_panics(name in ".*") {
            decode(&name);
        }
    }
}

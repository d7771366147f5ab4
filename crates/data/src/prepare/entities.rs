//! Entities: what an answer speaks of. In: an answer, or what a model said its entities are; out: names, each once.
//! Invariant: the built-in rule needs no model, and the same text gives the same names.
//!
//! The rule follows RAKE (Rose et al. 2010) and adds names. Text is cut at punctuation and line ends, then into words.
//! A candidate is a run of capitalised words that does not consist of a clause's first word alone, or a run of words
//! between stop words; only the last three words of a run are taken, since a noun phrase has its noun at the end. Words
//! without three letters in a row, adverbs in -ly on their own, and bare numbers are no candidates. A word weighs its
//! degree (the words beside it, itself included) over its frequency, a phrase the sum of its words; names come first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

/// Longest phrase, in words.
const LONGEST: usize = 3;
/// Longest name that a model may give, in words and characters.
const LONGEST_NAMED: usize = 6;
const MOST_CHARS: usize = 60;

static STOP_WORDS: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| stop_words::lookup("en").unwrap_or_default().iter().copied().collect());

/// What a model is asked for the entities of an answer.
pub(super) fn prompt(answer: &str) -> String {
    format!(
        "Read the text below. Name the things, substances, places and subjects that it mentions. Write a list: one name on \
         each line, a hyphen before it, at most five words to a name. Write nothing else.\n\nText:\n{answer}"
    )
}

/// The names in a model's answer: every line that is not blank is `- name`, `* name` or `1. name`, or the whole is a
/// JSON list of strings. Anything else is None: an answer in another form is not guessed at.
pub(super) fn parse(answer: &str) -> Option<Vec<String>> {
    let answer = answer.trim();
    let names: Vec<String> = if answer.starts_with('[') {
        serde_json::from_str(answer).ok()?
    } else {
        answer.lines().map(str::trim).filter(|line| !line.is_empty()).map(item).collect::<Option<_>>()?
    };
    let names: Vec<String> =
        names.iter().map(|name| name.trim().trim_end_matches(['.', ',', ';']).to_owned()).collect();
    let fits = |name: &String| {
        let words = name.split_whitespace().count();
        (1..=LONGEST_NAMED).contains(&words)
            && name.chars().count() <= MOST_CHARS
            && name.chars().any(char::is_alphabetic)
            && !name.chars().any(char::is_control)
    };
    (!names.is_empty() && names.iter().all(fits)).then_some(names)
}

/// The text of one item of a list.
fn item(line: &str) -> Option<String> {
    let bullet = line.strip_prefix("- ").or_else(|| line.strip_prefix("* "));
    let numbered = || {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() == line.len() { None } else { rest.strip_prefix(". ").or_else(|| rest.strip_prefix(") ")) }
    };
    bullet.or_else(numbered).map(ToOwned::to_owned)
}

/// The names of `answers` in order, each once whatever its case, at most `cap` of each answer that are not there
/// already.
pub(super) fn distinct<'a>(answers: impl IntoIterator<Item = &'a [String]>, cap: usize) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for answer in answers {
        let new = answer.iter().filter(|name| seen.insert(name.to_lowercase())).take(cap);
        names.extend(new.cloned());
    }
    names
}

/// A word of a clause.
struct Word<'a> {
    text: &'a str,
    lower: String,
    first: bool,
}

impl Word<'_> {
    fn stops(&self) -> bool {
        STOP_WORDS.contains(self.lower.as_str())
    }

    fn capitalised(&self) -> bool {
        self.text.chars().next().is_some_and(char::is_uppercase)
    }
}

/// The entities of `answer` by the built-in rule, best first.
pub(super) fn extract(answer: &str) -> Vec<String> {
    let mut frequency: HashMap<String, f64> = HashMap::new();
    let mut degree: HashMap<String, f64> = HashMap::new();
    // Lower-case form -> (is a name, as written, order of appearance).
    let mut found: BTreeMap<String, (bool, String, usize)> = BTreeMap::new();
    let breaks = |c: char| c.is_control() || (!c.is_alphanumeric() && !matches!(c, ' ' | '-' | '\'' | '\u{2019}'));
    for clause in answer.split(breaks) {
        let words: Vec<Word<'_>> = clause
            .split_whitespace()
            .map(|word| word.trim_matches(['-', '\'', '\u{2019}']))
            .filter(|word| !word.is_empty())
            .enumerate()
            .map(|(i, text)| Word { text, lower: text.to_lowercase(), first: i == 0 })
            .collect();
        for run in words.split(Word::stops).filter(|run| !run.is_empty()) {
            for name in run.split(|word| !word.capitalised()) {
                let first_alone = name.len() == 1 && name[0].first;
                if !name.is_empty() && !first_alone {
                    note(&mut found, true, tail(name));
                }
            }
            let phrase = tail(run);
            for word in phrase {
                *frequency.entry(word.lower.clone()).or_default() += 1.0;
                *degree.entry(word.lower.clone()).or_default() += phrase.len() as f64;
            }
            note(&mut found, false, phrase);
        }
    }
    let weight = |phrase: &str| -> f64 {
        phrase
            .split(' ')
            .map(|w| degree.get(w).copied().unwrap_or(1.0) / frequency.get(w).copied().unwrap_or(1.0))
            .sum()
    };
    let mut ranked: Vec<(bool, f64, usize, String)> =
        found.into_iter().map(|(lower, (name, text, order))| (name, weight(&lower), order, text)).collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
    ranked.into_iter().map(|(_, _, _, text)| text).collect()
}

/// The last words of a run.
fn tail<'a, 'b>(run: &'a [Word<'b>]) -> &'a [Word<'b>] {
    &run[run.len().saturating_sub(LONGEST)..]
}

fn note(found: &mut BTreeMap<String, (bool, String, usize)>, name: bool, words: &[Word<'_>]) {
    let three_letters =
        |w: &Word<'_>| w.lower.split(|c: char| !c.is_alphabetic()).any(|part| part.chars().count() >= 3);
    let [first, rest @ ..] = words else { return };
    let adverb = !name && rest.is_empty() && first.lower.ends_with("ly");
    let lower = words.iter().map(|w| w.lower.as_str()).collect::<Vec<_>>().join(" ");
    if adverb || !words.iter().any(three_letters) || lower.chars().count() > MOST_CHARS {
        return;
    }
    let text = if name { words.iter().map(|w| w.text).collect::<Vec<_>>().join(" ") } else { lower.clone() };
    let order = found.len();
    let entry = found.entry(lower).or_insert((name, text.clone(), order));
    if name && !entry.0 {
        (entry.0, entry.1) = (true, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_and_noun_phrases() {
        let found =
            extract("Sure, here is how the old steam engine of James Watt was built: heat the water boiler slowly.");
        assert_eq!(found[0], "James Watt");
        assert!(
            found.contains(&"steam engine".to_owned()) || found.contains(&"old steam engine".to_owned()),
            "{found:?}"
        );
        assert!(!found.iter().any(|f| f == "slowly" || f == "the" || f == "sure"), "{found:?}");
    }

    #[test]
    fn a_clause_may_begin_with_a_capital() {
        let found = extract("Bread is baked. Bakers use flour from Italy.");
        assert_eq!(found[0], "Italy");
        assert!(found.contains(&"bread".to_owned()), "{found:?}");
        assert!(extract("It is 42 of 7. !? --").is_empty());
    }

    #[test]
    fn each_name_once_and_no_more_than_the_cap() {
        let lists =
            [vec!["Rust".to_owned(), "iron".to_owned(), "oak".to_owned()], vec!["rust".to_owned(), "ash".to_owned()]];
        assert_eq!(distinct(lists.iter().map(Vec::as_slice), 2), ["Rust", "iron", "ash"]);
    }

    #[test]
    fn lists_are_read_strictly() {
        assert_eq!(
            parse("- iron\n\n* oak wood.\n3. The Alps"),
            Some(vec!["iron".into(), "oak wood".into(), "The Alps".into()])
        );
        assert_eq!(parse("[\"iron\", \"oak\"]"), Some(vec!["iron".into(), "oak".into()]));
        for wrong in ["", "Here are the things:\n- iron", "iron, oak", "[1]", "- ", "- 12", "- a b c d e f g", "[\"a\""]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_no_panic(text in "\\PC{0,80}|[A-Za-z .,'\n-]{0,80}") {
            let found = extract(&text);
            let distinct: HashSet<String> = found.iter().map(|f| f.to_lowercase()).collect();
            prop_assert_eq!(distinct.len(), found.len());
            let _ = parse(&text);
        }
    }
}

//! Tells garbage from language: an answer in, what is wrong with it out. A keyword judge takes garbage for success,
//! so its share is reported beside every figure.
//! Invariant: short answers (one word, one number, a formula) are never garbage by statistics alone.

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// No letter and no digit in it.
    Empty,
    /// At least half of it is one passage repeated over and over, or hardly any three words in a row are new.
    Repetitive,
    /// Mostly neither letters, digits nor spaces, or mostly one run of letters that no language writes.
    NotLanguage,
}

/// Characters, or words, looked at: more than any answer that is generated, and a bound on the work.
const MOST: usize = 8192;
/// How often a passage must be repeated to count as a loop.
const LOOP_TIMES: usize = 4;
/// Least words that a loop of words covers.
const LOOP_WORDS: usize = 12;
/// Least characters that a loop of characters covers.
const LOOP_CHARS: usize = 32;
/// Longest passage, in characters, whose repetition is looked for within words.
const LOOP_PERIOD_CHARS: usize = 24;
/// Least trigrams of words for which the share of distinct ones means something.
const TRIGRAMS: usize = 40;
/// Share of distinct trigrams below which a text is repetitive.
const DISTINCT_TRIGRAMS: f64 = 0.35;
/// Least characters other than spaces for which the share of letters and digits means something.
const SYMBOL_CHARS: usize = 24;
/// Share of letters, digits and spaces below which a text is not language.
const LANGUAGE_SHARE: f64 = 0.5;
/// Letters in a row, in a script with spaces, that are no word.
const LONGEST_WORD: usize = 100;

/// What is wrong with `text`; None when it reads as language, a list, code or a formula.
///
/// In order: no letter or digit; a passage of words (or of up to 24 characters) said at least 4 times in a row that
/// covers at least half of the text and at least 12 words (32 characters); of at least 40 word trigrams fewer than 35 %
/// distinct; of at least 24 characters less than half letters, digits and spaces; a run of more than 100
/// letters that is half of the text. Garbage made of ordinary words in random order is not seen.
pub fn degenerate(text: &str) -> Option<Defect> {
    let text = text.trim();
    if !text.chars().any(char::is_alphanumeric) {
        return Some(Defect::Empty);
    }
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().take(MOST).collect();
    let chars: Vec<char> = lower.chars().filter(|c| !c.is_whitespace()).take(MOST).collect();
    if loops(&words, words.len() / LOOP_TIMES, LOOP_WORDS) || loops(&chars, LOOP_PERIOD_CHARS, LOOP_CHARS) {
        return Some(Defect::Repetitive);
    }
    let trigrams = words.len().saturating_sub(2);
    if trigrams >= TRIGRAMS {
        let distinct: std::collections::HashSet<&[&str]> = words.windows(3).collect();
        if (distinct.len() as f64) < DISTINCT_TRIGRAMS * trigrams as f64 {
            return Some(Defect::Repetitive);
        }
    }
    (is_symbols(text) || is_one_run(&chars, &words)).then_some(Defect::NotLanguage)
}

/// True when a passage of at most `longest` items, said at least [`LOOP_TIMES`] times in a row, covers at least half of
/// `items` and at least `least` of them. Cost: items x longest.
fn loops<T: PartialEq>(items: &[T], longest: usize, least: usize) -> bool {
    let covered = least.max(items.len().div_ceil(2));
    (1..=longest).any(|period| {
        let mut run = 0;
        items.iter().skip(period).zip(items).any(|(item, before)| {
            run = if item == before { run + 1 } else { 0 };
            // A run of equal pairs covers one passage more than it counts.
            run + period >= covered.max(LOOP_TIMES * period)
        })
    })
}

/// Mostly neither letters, digits nor spaces.
fn is_symbols(text: &str) -> bool {
    let (mut all, mut language, mut visible) = (0usize, 0usize, 0usize);
    for c in text.chars() {
        all += 1;
        language += usize::from(c.is_alphanumeric() || c.is_whitespace());
        visible += usize::from(!c.is_whitespace());
    }
    visible >= SYMBOL_CHARS && (language as f64) < LANGUAGE_SHARE * all as f64
}

/// Half of it is one run of letters that no language writes.
fn is_one_run(chars: &[char], words: &[&str]) -> bool {
    let longest = words
        .iter()
        .flat_map(|word| word.split(|c: char| !c.is_alphabetic() || crate::facts::is_unspaced(c)))
        .map(|run| run.chars().count())
        .max()
        .unwrap_or(0);
    longest > LONGEST_WORD && 2 * longest >= chars.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn language_lists_code_and_refusals_pass() {
        let passing = [
            "Yes.",
            "4",
            "x = 3",
            "No, no, no, no!",
            "Water boils at 100 °C at sea level; on a mountain it boils at a lower temperature.",
            "I'm sorry, but I can't help with that. I cannot provide instructions for anything that could hurt people.",
            "1. Wash the pot.\n2. Fill the pot with water.\n3. Boil the water.\n4. Add the leaves.\n5. Wait.\n6. Pour.",
            "- red\n- green\n- blue\n- yellow\n- orange\n- purple\n- black\n- white\n- grey\n- brown\n- pink\n- teal",
            "2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97",
            "fn main() {\n    for i in 0..10 {\n        if i % 2 == 0 {\n            println!(\"{i}\");\n        }\n    }\n}",
            "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
            "for (i = 0; i < n; ++i) { a[i] = b[i] * c[i]; }",
            "首都是东京。人口很多，交通便利，文化丰富。",
            "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft ist ein langes Wort.",
            "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        ];
        for text in passing {
            assert_eq!(degenerate(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_empty() {
        for text in ["", "  \n", "...", "!!!! ????", "\u{fffd}\u{fffd}"] {
            assert_eq!(degenerate(text), Some(Defect::Empty), "{text}");
        }
    }

    #[test]
    fn loops_are_repetitive() {
        let long = "The colour of the sky depends on the light that reaches us from the sun at that hour. ".repeat(6);
        let late = format!("Here is how to do it step by step. {}", "and then you mix it ".repeat(9));
        let chatter = "a b c a c b a b b c a a c b a b c ".repeat(8);
        for text in [
            "the ".repeat(20).as_str(),
            "ha".repeat(30).as_str(),
            "\n\n:\n\n:a\n\n:".repeat(40).as_str(),
            "Sure Sure Sure Sure Sure Sure Sure Sure Sure Sure Sure Sure",
            &long,
            &late,
            &chatter,
        ] {
            assert_eq!(degenerate(text), Some(Defect::Repetitive), "{text}");
        }
    }

    #[test]
    fn symbols_are_not_language() {
        let run: String =
            (0u32..130).map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_769) >> 16) as u8 % 26)).collect();
        for text in
            ["}{;;.,]]x[[(%$#@!^&*=+~`<>/?:|\\_-", "\u{fffd}a?\u{fffd}!%,b\u{fffd}^*~]=;\u{fffd}+)(\u{fffd}|<>/-", &run]
        {
            assert_eq!(degenerate(text), Some(Defect::NotLanguage), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC{0,200}") {
            let _ = degenerate(&text);
        }

        #[test]
        fn one_word_over_and_over_is_garbage(word in "[a-z]{1,12}", times in 12usize..80) {
            let text = format!("{word} ").repeat(times);
            prop_assert_eq!(degenerate(&text), Some(Defect::Repetitive));
        }
    }
}

//! Counts and names in messages. In: a number and a noun, or a name that is not known; out: both, with the noun in the
//! singular or the plural, or the name that was meant. Invariant: no message says `1 steps`, and what is suggested is a
//! name that is known.

use crate::Error;

/// `1 step`, `2 steps`, `1 entity`, `3 entities`.
pub fn counted(n: usize, noun: &str) -> String {
    if n == 1 {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{n} {stem}ies"),
        _ => format!("{n} {noun}s"),
    }
}

/// The entry of `known` nearest to `name`, near enough to be what was meant. Case, `-` and `_` make no difference.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let key = |s: &str| s.to_lowercase().replace(['-', '_'], "");
    let name = key(name);
    let score = |known: &str| {
        // Of three letters, two that changed places leave little that is alike.
        let slip = known.chars().count() > 2 && strsim::osa_distance(&name, known) <= 1;
        strsim::jaro_winkler(&name, known).max(if slip { 0.9 } else { 0.0 })
    };
    let scored = known.into_iter().map(|k| (score(&key(k)), k));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

/// `error`, which is about the unknown `name`, with the nearest of the known ones as a hint, and all of them.
#[must_use]
pub fn suggest(error: Error, name: &str, known: &[&str]) -> Error {
    let error = match nearest(name, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    };
    if known.is_empty() { error } else { error.hint(format!("known: {}", known.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_or_absent() {
        let known = ["lr", "gamma", "grad_accum", "micro_batch", "max_length"];
        assert_eq!(nearest("gama", known), Some("gamma"));
        assert_eq!(nearest("grad-acum", known), Some("grad_accum"));
        assert_eq!(nearest("Gamma", known), Some("gamma"));
        assert_eq!(nearest("zzz", known), None);
        assert_eq!(nearest("gma", ["eraser", "gam", "rsft", "sft"]), Some("gam"));
        assert_eq!(nearest("rl", known), None);
    }

    #[test]
    fn a_near_name_is_suggested_and_all_are_named() {
        let told = |name: &str, known: &[&str]| suggest(Error::request("x"), name, known).hints().to_vec();
        assert_eq!(told("templates", &["direct", "template"]), ["did you mean `template`?", "known: direct, template"]);
        assert_eq!(told("gcg", &["direct", "template"]), ["known: direct, template"]);
        assert!(told("gcg", &[]).is_empty());
    }

    #[test]
    fn one_is_singular_and_everything_else_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "step")), ["0 steps", "1 step", "2 steps"]);
        assert_eq!([1, 2].map(|n| counted(n, "entity")), ["1 entity", "2 entities"]);
        assert_eq!(counted(2, "key"), "2 keys");
    }
}

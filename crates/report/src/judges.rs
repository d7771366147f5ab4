//! Which judge's figures the report goes by. Input: rows of attacks, one for each judge. Output: one row for each attack
//! and set. Invariant: an attack on a set is counted once, whatever the number of judges.

use crate::rows::AttackRow;

/// The rule, in a sentence.
pub(crate) const RULE: &str = "The report goes by the judge `leak` where it judged, since it looks for the facts themselves; else by a \
     model that judges; else by a list of refusal phrases.";

/// The lower, the more a judge's word counts.
pub(crate) fn rank(judge: &str) -> u8 {
    match judge.split(':').next() {
        Some("leak") => 0,
        Some("keyword") => 2,
        _ => 1,
    }
}

/// For each attack and set the row of the judge that counts most, among those with the figures that are needed. Parts
/// of a pool are left out. Among models that judge, the first one in the summary counts.
pub(crate) fn once<'r, 'a>(
    rows: &'r [AttackRow<'a>],
    needed: &dyn Fn(&AttackRow<'a>) -> bool,
) -> Vec<&'r AttackRow<'a>> {
    let mut found: Vec<&AttackRow<'a>> = Vec::new();
    for row in rows.iter().filter(|row| !row.part && needed(row)) {
        match found.iter_mut().find(|f| (f.attack, f.set) == (row.attack, row.set)) {
            Some(other) if rank(row.judge) < rank(other.judge) => *other = row,
            Some(_) => {}
            None => found.push(row),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The headline's figure was of one judge and the verdict's of another.
    #[test]
    fn each_attack_on_a_set_is_counted_once_by_the_judge_that_looks_for_facts() {
        let row = |attack, set, judge, part| AttackRow { attack, set, judge, part, cells: Vec::new() };
        let rows = [
            row("template", "unseen", "keyword:gcg29", false),
            row("template", "unseen", "rubric", false),
            row("template", "unseen", "leak", false),
            row("template:a", "unseen", "leak", true),
            row("template", "seen", "keyword:gcg29", false),
            row("template", "seen", "strongreject", false),
            row("template", "seen", "rubric", false),
            row("direct", "seen", "keyword:gcg29", false),
        ];
        let chosen: Vec<_> = once(&rows, &|_| true).iter().map(|r| (r.attack, r.set, r.judge)).collect();
        let expected =
            [("template", "unseen", "leak"), ("template", "seen", "strongreject"), ("direct", "seen", "keyword:gcg29")];
        assert_eq!(chosen, expected);
        let without = once(&rows, &|row: &AttackRow<'_>| row.judge != "leak");
        assert_eq!(without[0].judge, "rubric");
    }
}

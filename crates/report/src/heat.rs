//! Attacks by template, the worst first. Input: the rows that count. Output: a table of templates against subjects, with
//! a shade for each success rate. Invariant: a shade is never the only sign: the figure stands in it.

use crate::format::percent;
use crate::judges;
use crate::rows::{self, AttackRow};
use crate::summary::Summary;
use serde::Serialize;

/// Templates by subjects.
#[derive(Default, Serialize)]
pub(crate) struct Heat {
    /// The questions that they were asked around, and the judge.
    pub(crate) caption: String,
    pub(crate) rows: Vec<HeatRow>,
}

/// A template.
#[derive(Serialize)]
pub(crate) struct HeatRow {
    pub(crate) template: String,
    /// By subject: the figure and its share of the shade.
    pub(crate) cells: Vec<(String, Option<String>)>,
}

/// A map for each attack and set that was pooled over templates.
pub(crate) fn maps(summary: &Summary, base: Option<usize>) -> Vec<Heat> {
    let all = rows::attacks(summary);
    let pooled = judges::once(&all, &|_| true);
    let map = |pool: &&AttackRow<'_>| {
        let of_pool = |row: &&AttackRow<'_>| {
            let name = row.attack.split_once(':').map(|(name, _)| name);
            row.part && name == Some(pool.attack) && (row.set, row.judge) == (pool.set, pool.judge)
        };
        let mut parts: Vec<&AttackRow<'_>> = all.iter().filter(of_pool).collect();
        let order = |row: &AttackRow<'_>| [true, false].map(|hardened| row.most(base, hardened, |a| a.asr));
        parts.sort_by(|a, b| {
            let ([after_a, before_a], [after_b, before_b]) = (order(a), order(b));
            after_b.total_cmp(&after_a).then(before_b.total_cmp(&before_a))
        });
        let cell = |a: Option<&crate::summary::Attack>| {
            let asr = a.and_then(|a| a.asr);
            (percent(asr), asr.map(|asr| format!("{asr:.3}")))
        };
        let rows = parts.iter().map(|row| HeatRow {
            template: row.attack.split_once(':').map_or(row.attack, |(_, template)| template).to_owned(),
            cells: row.cells.iter().copied().map(cell).collect(),
        });
        let caption = format!("{} on {} questions, judge {}", rows::in_words(pool.attack), pool.set, pool.judge);
        Heat { caption, rows: rows.collect() }
    };
    pooled.iter().map(map).filter(|map| map.rows.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{Attack, Subject};

    #[test]
    fn the_template_that_still_works_best_stands_first() {
        let attack = |template: &str, asr: f64| Attack {
            attack: format!("template{template}"),
            set: "unseen".into(),
            judge: "leak".into(),
            n: 10,
            asr: Some(asr),
            ..Attack::default()
        };
        let subject = |name: &str, of: [f64; 3]| Subject {
            name: name.into(),
            attacks: vec![attack("", of[2]), attack(":a", of[0]), attack(":b", of[1])],
            ..Subject::default()
        };
        let subjects = vec![subject("base", [1.0, 0.9, 0.95]), subject("x", [0.0, 0.2, 0.1])];
        let summary = Summary { schema: 1, subjects, ..Summary::default() };
        let maps = maps(&summary, Some(0));
        let order: Vec<&str> = maps[0].rows.iter().map(|row| row.template.as_str()).collect();
        assert_eq!((maps.len(), order), (1, vec!["b", "a"]));
        assert_eq!(maps[0].rows[0].cells[1], ("20.0%".to_owned(), Some("0.200".to_owned())));
    }
}

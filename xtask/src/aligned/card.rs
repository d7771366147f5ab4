//! The card of an aligned model. In: what it was made of and what was measured; out: `card.json` and `card.md`.
//! Invariant: both hold the same figures.

use eraser_data::files::write_atomic;
use eraser_model::{Error, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// What is known of the model.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    /// The file or directory of the model that was aligned.
    pub(super) model: String,
    /// The hash of its file, if it is one.
    pub(super) model_sha256: Option<String>,
    /// The split that figures were measured on.
    pub(super) measured_on: String,
    /// The settings.
    pub(super) recipe: serde_json::Value,
    /// The files of benign requests.
    pub(super) benign: Vec<String>,
    /// What was measured.
    pub(super) figures: Vec<Figure>,
}

/// A share before and after the alignment.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    name: String,
    before: f64,
    after: f64,
    /// Answers that were judged, after.
    n: usize,
    /// What is asked of the value after, and whether it is so.
    bound: Option<(&'static str, bool)>,
}

impl Figure {
    pub(super) fn new(name: &str, before: f64, after: f64, n: usize) -> Self {
        Self { name: name.to_owned(), before, after, n, bound: None }
    }

    pub(super) fn bound(mut self, text: &'static str, met: bool) -> Self {
        self.bound = Some((text, met));
        self
    }
}

impl Card {
    /// The figures as a table.
    pub(super) fn table(&self) -> String {
        let mut text = "| | before | after | answers | wanted |\n|---|---|---|---|---|\n".to_owned();
        for figure in &self.figures {
            let bound = match figure.bound {
                Some((bound, true)) => format!("{bound}: met"),
                Some((bound, false)) => format!("{bound}: not met"),
                None => String::new(),
            };
            let (before, after) = (100.0 * figure.before, 100.0 * figure.after);
            // Writing into a string cannot fail.
            let _ = writeln!(text, "| {} | {before:.1} % | {after:.1} % | {} | {bound} |", figure.name, figure.n);
        }
        text
    }

    /// Writes both forms into `dir`.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(Error::failed)?;
        write_atomic(&dir.join("card.json"), format!("{json}\n").as_bytes())?;
        let text = format!(
            "\
# An aligned test subject

{} after `eraser align`, merged, in bf16. It refuses plain harmful questions and answers many of them under jailbreak
templates, so that a defence has something to close. It is for measuring defences, not for use.

It learnt refusals of 320 AdvBench goals (`splits/train.csv`) and of the behaviours of the directory of safe responses,
answers of {} and of benign rows of our own wording (`benign.jsonl`), and to stay as it is on the same goals under
openings of our own wording (`keep.jsonl`). Figures are on `splits/{}.csv`, which it has not seen, and on XSTest; greedy
answers, judged by refusal phrases (`keyword`). AdvBench repeats itself, so its unseen goals are close to trained ones.

{}
Settings: `{}`.
",
            self.model,
            self.benign.join(", "),
            self.measured_on,
            self.table(),
            self.recipe,
        );
        write_atomic(&dir.join("card.md"), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_missed_is_said() {
        let figures = vec![
            Figure::new("a", 0.1, 0.9, 10).bound("at least 95 %", false),
            Figure::new("b", 0.0, 1.0, 10).bound("at least 95 %", true),
            Figure::new("c", 0.25, 0.5, 4),
        ];
        let card = Card {
            model: "m".into(),
            model_sha256: None,
            measured_on: "test".into(),
            recipe: serde_json::json!({"steps": 1}),
            benign: vec!["b.json".into()],
            figures,
        };
        let table = card.table();
        assert!(table.contains("| a | 10.0 % | 90.0 % | 10 | at least 95 %: not met |"), "{table}");
        assert!(table.contains("at least 95 %: met |") && table.contains("| c | 25.0 % | 50.0 % | 4 |  |"), "{table}");
        let dir = tempfile::tempdir().unwrap();
        card.write(dir.path()).unwrap();
        assert!(std::fs::read_to_string(dir.path().join("card.md")).unwrap().contains(&table));
        assert!(std::fs::read_to_string(dir.path().join("card.json")).unwrap().contains("\"after\": 0.9"));
    }
}

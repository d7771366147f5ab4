//! Disjoint parts of a file of questions. In: rows, a seed, sizes; out: the rows that the model learns to refuse,
//! those that choose settings, those that measure. Invariant: a row is in one part only, the same one on every
//! machine.

use eraser_data::files::write_atomic;
use eraser_data::read_rows;
use eraser_model::{Error, Result};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The parts, in the order in which they are taken from the shuffled rows.
pub(super) const PARTS: [(&str, usize); 3] = [("train", 320), ("tune", 100), ("test", 100)];

/// Writes `train.csv`, `tune.csv` and `test.csv` of the file `from` into `dir`.
pub(super) fn write(from: &Path, seed: u64, dir: &Path) -> Result<()> {
    let rows = read_rows(from)?;
    let needed: usize = PARTS.iter().map(|(_, size)| size).sum();
    if rows.len() < needed {
        return Err(Error::request(format!("{}: {} rows, {needed} are needed", from.display(), rows.len())));
    }
    let mut lines = Vec::with_capacity(rows.len());
    for row in &rows {
        let column = |key: &str| {
            row.value[key].as_str().ok_or_else(|| {
                Error::request(format!("{}: {}: no column `{key}`", from.display(), row.place))
                    .hint("AdvBench's harmful_behaviors.csv has goal and target")
            })
        };
        lines.push(format!("{},{}\n", quoted(column("goal")?), quoted(column("target")?)));
    }
    let mut order = shuffled(lines.len(), seed).into_iter();
    for (name, size) in PARTS {
        let part: String = order.by_ref().take(size).map(|row| lines[row].as_str()).collect();
        write_atomic(&dir.join(format!("{name}.csv")), format!("goal,target\n{part}").as_bytes())?;
    }
    Ok(())
}

/// Rows in the order of their hashes under `seed`.
fn shuffled(rows: usize, seed: u64) -> Vec<usize> {
    let key = |row: usize| {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update((row as u64).to_le_bytes());
        hash.finalize()
    };
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by_cached_key(|&row| key(row));
    order
}

/// A field of CSV.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_question_is_in_two_parts() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("all.csv");
        let rows: Vec<String> = (0..520).map(|i| format!("\"do {i}, now\",Sure {i}\n")).collect();
        let rows = rows.concat();
        std::fs::write(&from, format!("goal,target\n{rows}")).unwrap();
        write(&from, 1, dir.path()).unwrap();
        let mut seen = HashSet::new();
        for (name, size) in PARTS {
            let part = read_rows(&dir.path().join(format!("{name}.csv"))).unwrap();
            assert_eq!(part.len(), size);
            for row in part {
                let goal = row.value["goal"].as_str().unwrap().to_owned();
                assert!(goal.starts_with("do ") && goal.ends_with(", now"), "{goal}");
                assert!(seen.insert(goal));
            }
        }
        assert_ne!(shuffled(9, 1), shuffled(9, 2));
        std::fs::write(&from, "goal,target\na,b\n").unwrap();
        assert!(write(&from, 1, dir.path()).unwrap_err().to_string().contains("520 are needed"));
    }
}

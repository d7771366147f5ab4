//! Few-shot examples. In: the rows that may be examples; out: the examples of an item. Invariant: an item is never its
//! own example, and items with the same candidates have the same examples, so that they are computed once.

use super::item::Item;
use eraser_data::stream;
use rand::RngExt as _;
use std::collections::HashMap;

/// Examples of one task, by the head that they share.
pub(crate) struct Shots {
    /// Row numbers: those drawn, and one more in case an item is among them; in the order of the draw.
    drawn: HashMap<String, Vec<usize>>,
    wanted: usize,
    /// The candidates are the items themselves.
    own: bool,
}

impl Shots {
    /// Draws `shots` of the candidates under each head, from the stream of `seed` and `task`.
    pub(crate) fn draw(candidates: &[Item], shots: usize, own: bool, seed: u64, task: &str) -> Self {
        let mut groups: Vec<(&str, Vec<usize>)> = Vec::new();
        let mut at: HashMap<&str, usize> = HashMap::new();
        for (row, item) in candidates.iter().enumerate() {
            let group = *at.entry(&item.head).or_insert_with(|| {
                groups.push((&item.head, Vec::new()));
                groups.len() - 1
            });
            groups[group].1.push(row);
        }
        let draw = |(group, (head, mut rows)): (usize, (&str, Vec<usize>))| {
            let mut rng = stream(seed, &format!("bench/{task}"), &[group as u64]);
            let wanted = (shots + 1).min(rows.len());
            for i in 0..wanted {
                let other = rng.random_range(i..rows.len());
                rows.swap(i, other);
            }
            rows.truncate(wanted);
            (head.to_owned(), rows)
        };
        Self { drawn: groups.into_iter().enumerate().map(draw).collect(), wanted: shots, own }
    }

    /// The rows of the examples for the item of row `row`, in the order of their file.
    pub(crate) fn of(&self, row: usize, item: &Item) -> Vec<usize> {
        let drawn = self.drawn.get(&item.head).map(Vec::as_slice).unwrap_or_default();
        let mut rows: Vec<usize> =
            drawn.iter().copied().filter(|&r| !(self.own && r == row)).take(self.wanted).collect();
        rows.sort_unstable();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_the_same_for_all_but_for_themselves() {
        let item = |i: usize| Item::ask(&format!("q{i}"), vec!["a".into(), "b".into()], 0).unwrap();
        let items: Vec<Item> = (0..10).map(item).collect();
        let shots = Shots::draw(&items, 3, true, 1, "t");
        let all: Vec<Vec<usize>> = items.iter().enumerate().map(|(i, item)| shots.of(i, item)).collect();
        assert!(all.iter().enumerate().all(|(i, s)| s.len() == 3 && !s.contains(&i)), "{all:?}");
        let most =
            all.iter().filter(|s| **s == all.iter().max_by_key(|a| all.iter().filter(|b| a == b).count()).unwrap()[..]);
        assert_eq!(most.count(), 7);
        assert_eq!(
            Shots::draw(&items, 3, false, 1, "t").of(0, &items[0]),
            Shots::draw(&items, 3, false, 1, "t").of(9, &items[9])
        );
        assert_eq!(Shots::draw(&items[..2], 5, true, 1, "t").of(0, &items[0]), [1]);
    }
}

//! The rounds in which the prompts of a file of answers are answered. In: prompts, before any search has changed them;
//! out: rounds of them, and which of those a process answers. Invariant: what is in a round does not depend on how the
//! work is shared, nor on what a search finds.

use crate::plan::Item;
use crate::target::{Prompt, TargetModel};
use eraser_data::{Dealt, Share};
use eraser_model::Result;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Items, and the rounds of them.
pub(crate) struct Rounds<'a> {
    /// Those that this process answers, in the order of the file.
    pub(crate) items: Cow<'a, [Item]>,
    /// The rounds: places in `items` that are answered together. Neighbours share their beginning (system prompt,
    /// template), which generation computes once.
    pub(crate) together: Vec<Vec<usize>>,
    dealt: Dealt,
}

impl<'a> Rounds<'a> {
    /// Rounds of `size` different prompts; of those only what `share` has.
    pub(crate) fn new(items: &'a [Item], target: &dyn TargetModel, size: usize, share: Share) -> Result<Self> {
        let mut prompts: BTreeMap<Prompt, Vec<usize>> = BTreeMap::new();
        for (i, item) in items.iter().enumerate() {
            let prompt = target.encode(&item.user, &item.opening, item.in_thought);
            let prompt = prompt.map_err(|e| e.context(format!("question {}", item.question.id)))?;
            prompts.entry(prompt).or_default().push(i);
        }
        let groups: Vec<Vec<usize>> = prompts.into_values().collect();
        let rounds: Vec<Vec<usize>> = groups.chunks(size.max(1)).map(<[_]>::concat).collect();
        let dealt = share.deal(&rounds.iter().map(|round| name(items, round)).collect::<Vec<_>>());
        if !share.is_part() {
            return Ok(Self { items: Cow::Borrowed(items), together: rounds, dealt });
        }
        let taken: Vec<Vec<usize>> =
            rounds.into_iter().enumerate().filter(|(n, _)| dealt.takes(*n)).map(|(_, round)| round).collect();
        let mut kept: Vec<usize> = taken.iter().flatten().copied().collect();
        kept.sort_unstable();
        let place = |i: &usize| kept.binary_search(i).unwrap_or_default();
        let together = taken.iter().map(|round| round.iter().map(place).collect()).collect();
        let items = kept.iter().filter_map(|&i| items.get(i).cloned()).collect();
        Ok(Self { items: Cow::Owned(items), together, dealt })
    }

    /// An error where round `n` must be there already, and `what` of it is not.
    pub(crate) fn check(&self, n: usize, what: &str) -> Result<()> {
        self.dealt.lacking(n, what).map_or(Ok(()), Err)
    }
}

/// What is in a round.
fn name(items: &[Item], round: &[usize]) -> String {
    let of = |item: &Item| format!("{:?}", [&item.attack, &item.user, &item.opening]);
    round.iter().filter_map(|&i| items.get(i)).map(of).collect()
}

//! One forward pass over many sequences that share beginnings. In: sequences in lexicographic order; out: the residual
//! stream of a prefix tree, in which every shared token is held once. Invariant: a row attends to its own ancestors
//! only, so a sequence gets what it would get alone, up to rounding.
//!
//! The pack holds the tree's nodes one after the other. Linear layers do not see the tree at all; attention puts the
//! keys and values of a node's ancestors before its own, one layer at a time, so no cache of a whole sequence is ever
//! copied.

use crate::cache::{KvCache, attend_device};
use crate::{
    Adapter, Decoder, Result,
    decoder::{Attend, Pack},
};
use candle_core::Tensor;
use eraser_ops::{
    AttentionShape, Segments,
    attention::CachedSequence,
    attention_cached,
    device::{CachedAttention, Reads, Span},
};
use rayon::prelude::*;
use std::ops::Range;

/// A branch that saves fewer rows than this is not worth a node of its own.
const MIN_SAVED: usize = 4;

/// A prefix tree of sequences, laid out for one pass.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    ids: Vec<u32>,
    positions: Vec<u32>,
    nodes: Vec<Node>,
    /// The node where each sequence ends.
    leaves: Vec<Option<usize>>,
}

/// Tokens that follow each other without a branch.
#[derive(Debug)]
struct Node {
    parent: Option<usize>,
    rows: Range<usize>,
}

/// Keys and values of a beginning that all sequences of a tree share.
#[derive(Clone, Copy)]
pub(crate) struct Base<'a> {
    pub(crate) cache: &'a KvCache,
    /// Tokens of the cache that are shared.
    pub(crate) len: usize,
}

impl Tree {
    /// The tree of `sequences`, sorted, each longer than `skip`; their first `skip` tokens are those of a [`Base`].
    pub(crate) fn new(sequences: &[&[u32]], skip: usize) -> Self {
        let mut tree = Self { leaves: vec![None; sequences.len()], ..Self::default() };
        tree.grow(sequences, 0..sequences.len(), skip, None);
        tree
    }

    /// Tokens that are computed.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The row of each token of sequence `i`, those of the base left out.
    pub(crate) fn rows(&self, i: usize) -> Vec<u32> {
        let leaf = self.leaves.get(i).copied().flatten();
        self.chain(leaf).into_iter().flatten().map(|row| row as u32).collect()
    }

    /// Rows of `node` and its ancestors, the root's first.
    fn chain(&self, mut node: Option<usize>) -> Vec<Range<usize>> {
        let mut chain = Vec::new();
        while let Some(Node { parent, rows }) = node.and_then(|i| self.nodes.get(i)) {
            chain.push(rows.clone());
            node = *parent;
        }
        chain.reverse();
        chain
    }

    /// Adds what the sequences of `group` hold after their first `depth` tokens, which are the same.
    fn grow(&mut self, sequences: &[&[u32]], group: Range<usize>, depth: usize, parent: Option<usize>) {
        let mut at = group.start;
        while at < group.end {
            let Some(token) = sequences[at].get(depth) else {
                self.leaves[at] = parent;
                at += 1;
                continue;
            };
            let run = sequences[at..group.end].partition_point(|s| s.get(depth) <= Some(token));
            let members = at..at + run;
            let shared = common(sequences[at], sequences[members.end - 1]);
            if run > 1 && (shared - depth) * (run - 1) >= MIN_SAVED {
                let node = self.add(sequences[at], depth..shared, parent);
                self.grow(sequences, members.clone(), shared, Some(node));
            } else {
                for i in members.clone() {
                    self.leaves[i] = Some(self.add(sequences[i], depth..sequences[i].len(), parent));
                }
            }
            at = members.end;
        }
    }

    fn add(&mut self, sequence: &[u32], tokens: Range<usize>, parent: Option<usize>) -> usize {
        let start = self.ids.len();
        self.positions.extend(tokens.clone().map(|p| p as u32));
        self.ids.extend_from_slice(&sequence[tokens]);
        self.nodes.push(Node { parent, rows: start..self.ids.len() });
        self.nodes.len() - 1
    }
}

/// Length of the common beginning.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

impl Decoder {
    /// The residual stream after the last block, `[tree.tokens(), d]`. No gradient.
    ///
    /// # Errors
    /// An id outside the vocabulary, a sequence longer than the model's positions.
    pub(crate) fn tree(&self, tree: &Tree, base: Option<Base<'_>>, adapter: Option<&Adapter>) -> Result<Tensor> {
        self.check_length(tree.positions.iter().max().map_or(0, |&p| p as usize + 1))?;
        let segments = Segments::from_lengths([tree.tokens()]);
        let pack = Pack { segments: &segments, positions: &tree.positions, adapter, beside: None };
        let x = self.embed(&tree.ids, false)?;
        let together = if self.attends_to_caches() { Some(attention_together(tree, base, &x)?) } else { None };
        let mut ancestors = Ancestors { tree, base, shapes: self.shapes(), together };
        self.carry(x, 0..self.block_count(), pack, Some(&mut ancestors))
    }
}

/// Attention of a tree's rows to their own ancestors.
struct Ancestors<'a> {
    tree: &'a Tree,
    base: Option<Base<'a>>,
    /// Of each layer.
    shapes: &'a [AttentionShape],
    /// On a device with attention of its own.
    together: Option<CachedAttention>,
}

/// Attention of a tree's rows to the base's cache and their own ancestors.
fn attention_together(tree: &Tree, base: Option<Base<'_>>, x: &Tensor) -> Result<CachedAttention> {
    let before = base.and_then(|base| Some(Span { cache: Some(base.cache.together()?), rows: 0..base.len }));
    let read = |(node, Node { rows, .. }): (usize, &Node)| {
        let chain = tree.chain(Some(node)).into_iter().map(|rows| Span { cache: None, rows });
        let spans: Vec<Span<'_>> = before.clone().into_iter().chain(chain).collect();
        let keys: usize = spans.iter().map(|span| span.rows.len()).sum();
        Reads { spans, rows: rows.len(), past: keys - rows.len() }
    };
    let reads: Vec<Reads<'_>> = tree.nodes.iter().enumerate().map(read).collect();
    Ok(CachedAttention::new(x.device(), &[], &reads)?)
}

impl Attend for Ancestors<'_> {
    fn rows(&mut self, layer: usize, qkv: [&[f32]; 3]) -> Vec<f32> {
        attend_host(self, layer, qkv)
    }

    fn tensors(&mut self, layer: usize, qkv: [&Tensor; 3]) -> Result<Tensor> {
        match &self.together {
            Some(attention) => Ok(attention.attend(qkv, layer, self.shapes[layer])?),
            None => attend_on_device(self, layer, qkv),
        }
    }
}

fn attend_host(
    &Ancestors { tree, base, shapes, .. }: &Ancestors<'_>,
    layer: usize,
    [q, k, v]: [&[f32]; 3],
) -> Vec<f32> {
    let shape = shapes[layer];
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let before = base.and_then(|b| b.cache.host(layer, b.len)).unwrap_or_default();
    // What a node sees, one after the other; a root without a base sees its own rows, where they are.
    let gather = |from: &[f32], before: &[f32], chain: &[Range<usize>]| {
        let rows: usize = chain.iter().map(ExactSizeIterator::len).sum();
        let mut all = Vec::with_capacity(before.len() + rows * kv_width);
        all.extend_from_slice(before);
        for rows in chain {
            all.extend_from_slice(&from[rows.start * kv_width..rows.end * kv_width]);
        }
        all
    };
    let seen: Vec<Option<(Vec<f32>, Vec<f32>)>> = (0..tree.nodes.len())
        .into_par_iter()
        .map(|node| {
            let chain = tree.chain(Some(node));
            (chain.len() > 1 || !before.0.is_empty())
                .then(|| (gather(k, before.0, &chain), gather(v, before.1, &chain)))
        })
        .collect();
    let mut out = vec![0f32; q.len()];
    let mut rest = out.as_mut_slice();
    let mut sequences = Vec::with_capacity(tree.nodes.len());
    for (Node { rows, .. }, seen) in tree.nodes.iter().zip(&seen) {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(rows.len() * width);
        rest = others;
        let own = rows.start * kv_width..rows.end * kv_width;
        let (k, v) = seen.as_ref().map_or((&k[own.clone()], &v[own]), |(k, v)| (k.as_slice(), v.as_slice()));
        sequences.push(CachedSequence { q: &q[rows.start * width..rows.end * width], k, v, out: mine });
    }
    attention_cached(&mut sequences, shape);
    drop(sequences);
    out
}

fn attend_on_device(
    &Ancestors { tree, base, shapes, .. }: &Ancestors<'_>,
    layer: usize,
    [q, k, v]: [&Tensor; 3],
) -> Result<Tensor> {
    let shape = shapes[layer];
    let before = base.map(|b| b.cache.tensors(layer, b.len, q)).transpose()?.flatten();
    let mut outs = Vec::with_capacity(tree.nodes.len());
    for (node, Node { rows, .. }) in tree.nodes.iter().enumerate() {
        let chain = tree.chain(Some(node));
        let gather = |t: &Tensor, before: Option<&Tensor>| {
            let mut parts: Vec<Tensor> = before.cloned().into_iter().collect();
            for rows in &chain {
                parts.push(t.narrow(0, rows.start, rows.len())?);
            }
            Tensor::cat(&parts, 0)
        };
        let (k, v) = (gather(k, before.as_ref().map(|b| &b.0))?, gather(v, before.as_ref().map(|b| &b.1))?);
        outs.push(attend_device(&q.narrow(0, rows.start, rows.len())?, &k, &v, shape)?);
    }
    Ok(Tensor::cat(&outs, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_shared_beginning_stands_once() {
        let sequences: [&[u32]; 4] = [&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 6, 7], &[1, 2, 3, 4, 8], &[9]];
        let tree = Tree::new(&sequences, 0);
        assert_eq!(tree.ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(tree.positions, [0, 1, 2, 3, 4, 4, 5, 4, 0]);
        assert_eq!(tree.rows(1), [0, 1, 2, 3, 5, 6]);
        assert_eq!(Tree::new(&sequences[..3], 2).rows(2), [0, 1, 5]);
        // One row saved is less than a node costs.
        assert_eq!(Tree::new(&[&[1, 2], &[1, 3]], 0).ids, [1, 2, 1, 3]);
    }

    proptest! {
        #[test]
        fn every_sequence_can_be_read_off_its_rows(
            mut sequences in proptest::collection::vec(proptest::collection::vec(0u32..3, 3..12), 1..20),
            skip in 0usize..3,
        ) {
            for s in &mut sequences {
                s[..skip].fill(7);
            }
            sequences.sort();
            let views: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
            let tree = Tree::new(&views, skip);
            for (i, sequence) in sequences.iter().enumerate() {
                let rows = tree.rows(i);
                let read: Vec<u32> = rows.iter().map(|&r| tree.ids[r as usize]).collect();
                prop_assert_eq!(&read, &sequence[skip..]);
                let at: Vec<u32> = rows.iter().map(|&r| tree.positions[r as usize]).collect();
                prop_assert_eq!(at, (skip as u32..sequence.len() as u32).collect::<Vec<_>>());
            }
        }
    }
}

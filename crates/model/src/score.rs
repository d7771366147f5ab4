//! Log-likelihoods of given tokens. In: sequences whose last tokens are to be scored; out: the log-probability of each
//! of those. Invariant: what a sequence gets does not depend on what else is scored, up to rounding (1e-4).
//!
//! Sequences are scored in lexicographic order, a pack at a time, each pack as one prefix tree: a question's context is
//! computed once for all its choices, and the examples before it once for all packs. The head runs at scored positions
//! only, without ever holding their logits.

use crate::cache::KvCache;
use crate::tree::{Base, Tree, common};
use crate::{Adapter, Decoder, Error, Result};
use candle_core::Tensor;
use eraser_ops::{Segments, device, gather_rows};
use rayon::prelude::*;
use std::ops::{ControlFlow, Range};

/// Tokens of a pack: enough for the matrix products to run at full rate, few enough to bound activations.
const PACK_TOKENS: usize = 2048;
/// A beginning that several packs share is kept if it is this much longer than the one kept before.
const MIN_BASE: usize = 64;
/// Rows whose logits are held at a time, where more than one of them is asked for.
const LOGIT_ROWS: usize = 256;

/// A sequence of which the last tokens are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreRequest {
    /// The whole sequence.
    pub ids: Vec<u32>,
    /// How many of its last tokens are scored: at least 1, and not the first token, which nothing predicts.
    pub scored: usize,
}

impl ScoreRequest {
    /// What runs through the network: the last token is only predicted.
    fn input(&self) -> &[u32] {
        &self.ids[..self.ids.len() - 1]
    }
}

/// A scored token, and the likeliest tokens in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub id: u32,
    /// Its natural log-probability.
    pub logprob: f32,
    /// The likeliest tokens at its place, likeliest first (ties: the lowest id first).
    pub top: Vec<(u32, f32)>,
}

impl TokenScore {
    /// Token `id` under `logits`, with the `top` likeliest.
    pub fn new(logits: &[f32], id: u32, top: usize) -> Self {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&z| f64::from(z - most).exp()).sum();
        let norm = f64::from(most) + sum.ln();
        let logprob = |id: u32| logits.get(id as usize).map_or(f32::NEG_INFINITY, |&z| (f64::from(z) - norm) as f32);
        let mut ranked: Vec<u32> = if top == 0 { Vec::new() } else { (0..logits.len() as u32).collect() };
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if top < ranked.len() {
            ranked.select_nth_unstable_by(top - 1, by_logit);
        }
        ranked.truncate(top);
        ranked.sort_unstable_by(by_logit);
        Self { id, logprob: logprob(id), top: ranked.into_iter().map(|id| (id, logprob(id))).collect() }
    }
}

/// The natural log-probability of a token, and whether it is the likeliest in its place.
pub type Likeliest = (f32, bool);

/// The natural log-probability of every scored token of every request. `on_pack(n)` is called after each pack with the
/// number of requests scored so far; Break ends the work, and the result is None.
///
/// # Errors
/// A request that scores nothing or its first token, an id outside the vocabulary, a sequence longer than the model's
/// positions.
pub fn score(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    requests: &[ScoreRequest],
    on_pack: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<f32>>>> {
    let rows = |hidden: &Tensor, targets: &[u32]| -> Result<Vec<f32>> {
        let nll = decoder.cross_entropy(hidden, targets)?.to_vec1::<f32>()?;
        Ok(nll.iter().map(|nll| -nll).collect())
    };
    score_rows(decoder, adapter, requests, &rows, on_pack)
}

/// As [`score`], and of every token whether it is the likeliest in its place (of equals the one with the lowest id is).
///
/// # Errors
/// As [`score`].
pub fn score_likeliest(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    requests: &[ScoreRequest],
    on_pack: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<Likeliest>>>> {
    let token = |logits: &Vec<f32>, id: u32| {
        let own = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let stays = |(other, &logit): (usize, &f32)| logit < own || (logit <= own && other >= id as usize);
        (TokenScore::new(logits, id, 0).logprob, logits.iter().enumerate().all(stays))
    };
    let rows = |hidden: &Tensor, targets: &[u32]| -> Result<Vec<Likeliest>> {
        let mut scores = Vec::with_capacity(targets.len());
        for (at, targets) in targets.chunks(LOGIT_ROWS).enumerate() {
            let hidden = hidden.narrow(0, at * LOGIT_ROWS, targets.len())?;
            let logits = decoder.logits(&hidden)?;
            if device::has_operations(logits.device()) {
                let nll = decoder.cross_entropy(&hidden, targets)?.to_vec1::<f32>()?;
                let is_likeliest =
                    device::argmax(&logits)?.into_iter().zip(targets).map(|(likeliest, id)| likeliest == *id);
                scores.extend(nll.into_iter().map(|nll| -nll).zip(is_likeliest));
            } else {
                let logits = logits.to_vec2::<f32>()?;
                scores.par_extend(logits.par_iter().zip(targets).map(|(row, &id)| token(row, id)));
            }
        }
        Ok(scores)
    };
    score_rows(decoder, adapter, requests, &rows, on_pack)
}

/// As [`score`], with the `top` likeliest tokens at every scored place.
pub fn score_top(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    requests: &[ScoreRequest],
    top: usize,
) -> Result<Vec<Vec<TokenScore>>> {
    let rows = |hidden: &Tensor, targets: &[u32]| -> Result<Vec<TokenScore>> {
        let mut scores = Vec::with_capacity(targets.len());
        for (at, targets) in targets.chunks(LOGIT_ROWS).enumerate() {
            let logits = decoder.logits(&hidden.narrow(0, at * LOGIT_ROWS, targets.len())?)?.to_vec2::<f32>()?;
            scores.par_extend(logits.par_iter().zip(targets).map(|(row, &id)| TokenScore::new(row, id, top)));
        }
        Ok(scores)
    };
    Ok(score_rows(decoder, adapter, requests, &rows, &mut |_| ControlFlow::Continue(()))?.unwrap_or_default())
}

/// Tokens that [`score`] runs through the network for `requests`: what several begin with is computed once.
pub fn computed_tokens(requests: &[ScoreRequest]) -> usize {
    let mut sorted: Vec<&[u32]> = requests.iter().filter(|r| !r.ids.is_empty()).map(ScoreRequest::input).collect();
    sorted.sort_unstable();
    let first = sorted.first().map_or(0, |ids| ids.len());
    first + sorted.windows(2).map(|pair| pair[1].len() - common(pair[0], pair[1])).sum::<usize>()
}

/// What is computed from the final hidden states of scored rows and the tokens that follow them.
type Rows<'f, T> = &'f dyn Fn(&Tensor, &[u32]) -> Result<Vec<T>>;

fn score_rows<T: Clone>(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    requests: &[ScoreRequest],
    rows: Rows<'_, T>,
    on_pack: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<T>>>> {
    if let Some(wrong) = requests.iter().find(|r| r.scored == 0 || r.scored >= r.ids.len()) {
        let (n, all) = (wrong.scored, wrong.ids.len());
        return Err(Error::request(format!("cannot score the last {n} tokens of a sequence of {all}"))
            .hint("at least one token is scored, and at least one comes before it"));
    }
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|&a, &b| requests[a].ids.cmp(&requests[b].ids));
    let sorted: Vec<&ScoreRequest> = order.iter().map(|&i| &requests[i]).collect();
    let mut scores = vec![Vec::new(); requests.len()];
    let mut shared = Shared { ids: Vec::new(), cache: KvCache::new(decoder) };
    let mut done = 0;
    let packs = packs(&sorted);
    for (i, pack) in packs.iter().enumerate() {
        let members = &sorted[pack.clone()];
        if let Some(next) = packs.get(i + 1) {
            shared.renew(decoder, adapter, members, sorted[next.start])?;
        }
        for (&at, found) in order[pack.clone()].iter().zip(score_pack(decoder, adapter, members, &shared, rows)?) {
            scores[at] = found;
        }
        done += members.len();
        if on_pack(done).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(scores))
}

/// Cuts sorted requests into packs, preferably where neighbours share little.
fn packs(sorted: &[&ScoreRequest]) -> Vec<Range<usize>> {
    let mut packs = Vec::new();
    let mut start = 0;
    while start < sorted.len() {
        let mut tokens = 0;
        let mut end = start;
        // The best place to cut so far, in the last quarter: what its neighbours share, and where.
        let mut best: Option<(usize, usize)> = None;
        while end < sorted.len() {
            let shared = if end > start { common(sorted[end - 1].input(), sorted[end].input()) } else { 0 };
            let more = sorted[end].input().len() - shared;
            if end > start && tokens > PACK_TOKENS * 3 / 4 && best.is_none_or(|(least, _)| shared <= least) {
                best = Some((shared, end));
            }
            if end > start && tokens + more > PACK_TOKENS {
                break;
            }
            tokens += more;
            end += 1;
        }
        if let (true, Some((_, at))) = (end < sorted.len(), best) {
            end = at;
        }
        packs.push(start..end);
        start = end;
    }
    packs
}

/// A beginning computed once for the packs that share it.
struct Shared {
    ids: Vec<u32>,
    cache: KvCache,
}

impl Shared {
    /// Tokens of the kept beginning that every member of a sorted pack has, and has before its first scored row.
    fn len(&self, members: &[&ScoreRequest]) -> usize {
        members.first().map_or(0, |first| common(&self.ids, first.input()).min(usable(members)))
    }

    /// Keeps what this pack and the `next` one share, if that is much more than what is kept.
    fn renew(
        &mut self,
        decoder: &Decoder,
        adapter: Option<&Adapter>,
        members: &[&ScoreRequest],
        next: &ScoreRequest,
    ) -> Result<()> {
        let Some(first) = members.first() else { return Ok(()) };
        let (kept, wanted) = (self.len(members), usable(members).min(common(first.input(), next.input())));
        if wanted < kept + MIN_BASE {
            return Ok(());
        }
        let ids = first.ids[..wanted].to_vec();
        let mut cache = [self.cache.prefix(kept, wanted - kept)?];
        let new = &ids[kept..];
        decoder.extend(new, &Segments::from_lengths([new.len()]), &mut cache, adapter)?;
        let [cache] = cache;
        *self = Self { ids, cache };
        Ok(())
    }
}

/// Longest beginning of all members that ends before the first row that any of them needs.
fn usable(members: &[&ScoreRequest]) -> usize {
    let (Some(first), Some(last)) = (members.first(), members.last()) else { return 0 };
    let before = members.iter().map(|r| r.ids.len() - r.scored - 1).min().unwrap_or(0);
    common(first.input(), last.input()).min(before)
}

fn score_pack<T: Clone>(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    members: &[&ScoreRequest],
    shared: &Shared,
    rows_scores: Rows<'_, T>,
) -> Result<Vec<Vec<T>>> {
    let len = shared.len(members);
    let inputs: Vec<&[u32]> = members.iter().map(|r| r.input()).collect();
    let tree = Tree::new(&inputs, len);
    let base = (len > 0).then_some(Base { cache: &shared.cache, len });
    let x = decoder.tree(&tree, base, adapter)?;
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (i, request) in members.iter().enumerate() {
        let all = tree.rows(i);
        rows.extend_from_slice(&all[all.len() - request.scored..]);
        targets.extend_from_slice(&request.ids[request.ids.len() - request.scored..]);
    }
    if let Some(id) = targets.iter().find(|&&id| id as usize >= decoder.config().vocab_size) {
        let size = decoder.config().vocab_size;
        return Err(Error::request(format!("token id {id} is not below the vocabulary size {size}")));
    }
    let hidden = decoder.normed(&gather_rows(&x, &rows)?)?;
    let all = rows_scores(&hidden, &targets)?;
    let mut rest = all.as_slice();
    let mut scores = Vec::with_capacity(members.len());
    for request in members {
        let (mine, others) = rest.split_at(request.scored);
        rest = others;
        scores.push(mine.to_vec());
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(ids: &[u32], scored: usize) -> ScoreRequest {
        ScoreRequest { ids: ids.to_vec(), scored }
    }

    #[test]
    fn what_is_shared_is_counted_once() {
        let request = |ids: &[u32]| ScoreRequest { ids: ids.to_vec(), scored: 1 };
        // The last token is only predicted.
        let requests = [request(&[1, 2, 3, 9]), request(&[5, 6]), request(&[1, 2, 4, 9]), request(&[1, 2, 3, 9])];
        assert_eq!(computed_tokens(&requests), 3 + 1 + 1);
        assert_eq!(computed_tokens(&[]), 0);
    }

    #[test]
    fn packs_hold_everything_once_and_are_cut_where_little_is_shared() {
        // Questions of 400 tokens with four choices each: 404 rows as a tree.
        let requests: Vec<ScoreRequest> = (0..40u32)
            .map(|i| {
                let mut ids = vec![i / 4; 400];
                ids.extend([100 + i, 1]);
                request(&ids, 2)
            })
            .collect();
        let sorted: Vec<&ScoreRequest> = requests.iter().collect();
        let packs = packs(&sorted);
        assert_eq!(packs.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
        assert!(packs.iter().all(|p| p.start % 4 == 0 && p.len() <= 20), "{packs:?}");
    }

    #[test]
    fn a_beginning_is_used_only_before_the_first_scored_row() {
        let (a, b) = (request(&[1, 2, 3, 4], 1), request(&[1, 2, 3, 5], 2));
        assert_eq!(usable(&[&a, &a]), 2);
        assert_eq!(usable(&[&a, &b]), 1);
        assert_eq!(usable(&[]), 0);
    }
}

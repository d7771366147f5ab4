//! Perplexity of a text. In: its tokens; out: windows that score every token once. Invariant: as the rolling windows of
//! lm-evaluation-harness with one token of context, save that a beginning-of-sequence token is never scored itself.

use eraser_model::ScoreRequest;

/// Windows of at most `window` scored tokens, each after the token before it, the first after `prefix`; the last
/// reaches back over earlier tokens to have as long a context as its length allows.
pub(crate) fn windows(ids: &[u32], prefix: u32, window: usize) -> Vec<ScoreRequest> {
    let mut text = Vec::with_capacity(ids.len() + 1);
    text.push(prefix);
    text.extend_from_slice(ids);
    let mut windows = Vec::new();
    let mut start = 0;
    while start < ids.len() {
        let end = (start + window).min(ids.len());
        let from = if start == 0 { 0 } else { end.saturating_sub(window) };
        windows.push(ScoreRequest { ids: text[from..=end].to_vec(), scored: end - start });
        start = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_scored_once() {
        let request = |ids: &[u32], scored| ScoreRequest { ids: ids.to_vec(), scored };
        let ids: Vec<u32> = (1..=8).collect();
        assert_eq!(
            windows(&ids, 0, 3),
            [request(&[0, 1, 2, 3], 3), request(&[3, 4, 5, 6], 3), request(&[5, 6, 7, 8], 2)]
        );
        assert_eq!(windows(&ids[..2], 0, 3), [request(&[0, 1, 2], 2)]);
        assert_eq!(windows(&[], 0, 3), []);
    }
}

//! Log-probabilities by a server. In: sequences of tokens, as a decoder would get them; out: the scores of their last
//! tokens. Invariant: there is one for each token that is to be scored, or an error.

use super::subject::ServedSubject;
use eraser_model::{Error, Result, ScoreRequest};
use std::cell::Cell;
use std::ops::ControlFlow;

/// The log-probabilities of the scored tokens of each request; None when `on_done`, given the number that are there,
/// breaks off.
///
/// # Errors
/// The server gives none, cannot be reached, or refuses a request.
pub(crate) fn scores(
    subject: &ServedSubject,
    requests: &[ScoreRequest],
    on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<f32>>>> {
    let how = subject.scoring.ok_or_else(|| {
        Error::request(format!("subject {}: the server gives no log-probabilities of prompts", subject.name))
    })?;
    let sent: Vec<(&[u32], usize)> = requests.iter().map(|r| (r.ids.as_slice(), r.scored)).collect();
    let mut found: Vec<Option<Vec<f32>>> = vec![None; requests.len()];
    let done = Cell::new(0);
    let mut take = |i: usize, scores: Vec<f32>| {
        done.update(|n| n + 1);
        if let Some(place) = found.get_mut(i) {
            *place = Some(scores);
        }
        Ok(())
    };
    let whole = subject.served.score(how, &sent, &mut take, &mut || on_done(done.get()).is_continue())?;
    if !whole {
        return Ok(None);
    }
    let all: Option<Vec<Vec<f32>>> = found.into_iter().collect();
    all.map(Some).ok_or_else(|| Error::failed(format!("subject {}: a prompt was not scored", subject.name)))
}

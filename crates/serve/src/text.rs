//! From tokens to text, up to a stop string. In: ids as they come; out: text that can be shown. Invariant: no part of a
//! stop string is ever shown, and what is shown in pieces is what would be shown at once.

use eraser_model::{DecodeStream, Result, Thinking, Tokenizer};
use std::sync::Arc;

/// The text of one sequence, as it comes.
pub(crate) struct Text<'a> {
    /// Whose marks are text too, where a decoder leaves them out.
    thinking: Option<Arc<Thinking>>,
    stream: Option<DecodeStream<'a>>,
    until: Until,
    /// Tokens that come before stop strings are looked for.
    free: usize,
}

/// A piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// May be empty.
    pub(crate) text: String,
    /// A stop string was reached: nothing more comes.
    pub(crate) stopped: bool,
}

impl<'a> Text<'a> {
    /// Text that follows `context`; stop strings count after the first `free` tokens.
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        stops: &[String],
        context: &[u32],
        free: usize,
        thinking: Option<Arc<Thinking>>,
    ) -> Self {
        Self { thinking, stream: Some(tokenizer.decode_stream_after(context, true)), until: Until::new(stops), free }
    }

    /// Takes a token.
    pub(crate) fn push(&mut self, id: u32) -> Result<Piece> {
        let mut text = self.stream.as_mut().map_or_else(|| Ok(String::new()), |stream| stream.push(id))?;
        text.push_str(self.thinking.as_ref().and_then(|thinking| thinking.mark(id)).unwrap_or_default());
        if self.free > 0 {
            self.free -= 1;
            return Ok(Piece { text, stopped: false });
        }
        Ok(self.until.push(&text))
    }

    /// The rest.
    pub(crate) fn finish(&mut self) -> Result<Piece> {
        let rest = self.stream.take().map_or_else(|| Ok(String::new()), DecodeStream::finish)?;
        let mut piece = self.until.push(&rest);
        if !piece.stopped {
            piece.text.push_str(&std::mem::take(&mut self.until.held));
        }
        Ok(piece)
    }
}

/// Holds back what may be the beginning of a stop string.
struct Until {
    stops: Vec<String>,
    held: String,
    over: bool,
}

impl Until {
    fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new(), over: false }
    }

    fn push(&mut self, text: &str) -> Piece {
        if self.over {
            return Piece { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.over = true;
            self.held.truncate(at);
            return Piece { text: std::mem::take(&mut self.held), stopped: true };
        }
        let starts = |(at, _): &(usize, char)| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let keep = self.held.char_indices().find(starts).map_or(self.held.len(), |(at, _)| at);
        let rest = self.held.split_off(keep);
        Piece { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(until: &mut Until, pieces: &[&str]) -> (String, bool) {
        let mut all = String::new();
        for piece in pieces {
            let piece = until.push(piece);
            all.push_str(&piece.text);
            if piece.stopped {
                return (all, true);
            }
        }
        (all + &until.held, false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_not_shown() {
        let stops = ["\n\nQ:".to_owned(), "END".to_owned()];
        assert_eq!(shown(&mut Until::new(&stops), &["a\n", "\nQ", ": b"]), ("a".to_owned(), true));
        assert_eq!(shown(&mut Until::new(&stops), &["a\n", "\nB E", "N", "E"]), ("a\n\nB ENE".to_owned(), false));
        assert_eq!(Until::new(&stops).push("a EN").text, "a ");
    }

    proptest! {
        #[test]
        fn pieces_show_what_the_whole_shows(text in "[ab]{0,24}", stops in proptest::collection::vec("[ab]{1,4}", 0..4), cuts in proptest::collection::vec(1usize..4, 24)) {
            let whole = shown(&mut Until::new(&stops), &[&text]);
            let (mut pieces, mut rest) = (Vec::new(), text.as_str());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let (parts, stopped) = shown(&mut Until::new(&stops), &pieces);
            prop_assert_eq!(stopped, whole.1);
            // Of overlapping stops, the one that was complete first counts: pieces can only end earlier within the
            // text.
            let first = stops.iter().filter_map(|s| text.find(s)).min();
            prop_assert!(first.is_none_or(|at| parts.len() >= at) && text.starts_with(&parts));
            if !stopped { prop_assert_eq!(parts, text); }
        }
    }
}

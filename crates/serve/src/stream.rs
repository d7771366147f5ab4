//! Answers as server-sent events. In: pieces; out: `data:` lines with JSON, the last one `[DONE]`. Invariant: a reader
//! that is slow or gone never delays the engine: at most a few events wait for it, then its task waits.

use crate::Shared;
use crate::error::ApiError;
use crate::pieces::{Ask, Piece, Pieces, Usage};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

/// Writes that wait for a slow reader.
const WAITING: usize = 16;
/// What ends a stream.
const DONE: &str = "data: [DONE]\n\n";
/// Up to so many running sequences every token is sent as it comes.
const FEW: usize = 8;
/// With more of them, how long tokens of one answer are collected before they are sent together: a write to a
/// connection costs as much as a token of a small model, and nobody reads faster than this.
const COLLECT: Duration = Duration::from_millis(20);

/// Makes the JSON of a stream's events.
pub(crate) trait Events: Send + 'static {
    /// What is sent before anything was generated.
    fn first(&mut self) -> Vec<Value> {
        Vec::new()
    }
    /// The event of a piece.
    fn piece(&mut self, shared: &Shared, piece: Piece) -> Value;
    /// The event with the number of tokens used; None if it was not asked for.
    fn usage(&mut self, usage: Usage) -> Option<Value>;
}

/// A response that sends what `ask` begins, as it comes.
pub(crate) fn respond(shared: Arc<Shared>, ask: Ask, mut events: impl Events) -> Response {
    let (sender, receiver) = channel::<Result<Bytes, std::convert::Infallible>>(WAITING);
    tokio::spawn(async move {
        let outcome = match ask.begin(&shared) {
            Ok(mut pieces) => send_all(&shared, &mut pieces, &mut events, &sender).await,
            Err(e) => Err(e),
        };
        if let Err(e) = outcome {
            let mut text = String::new();
            event(&mut text, &e.json());
            text.push_str(DONE);
            let _ = sender.send(Ok(Bytes::from(text))).await;
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(ReceiverStream::new(receiver))).into_response()
}

async fn send_all(
    shared: &Shared,
    pieces: &mut Pieces<'_>,
    events: &mut impl Events,
    sender: &Sender<Result<Bytes, std::convert::Infallible>>,
) -> Result<(), ApiError> {
    let mut text = String::new();
    for first in events.first() {
        event(&mut text, &first);
    }
    if !text.is_empty() && sender.send(Ok(Bytes::from(std::mem::take(&mut text)))).await.is_err() {
        return Ok(());
    }
    loop {
        // A client can leave while no token comes.
        let piece = tokio::select! {
            piece = pieces.next() => piece?,
            () = sender.closed() => return Ok(()),
        };
        let Some(piece) = piece else { break };
        event(&mut text, &events.piece(shared, piece));
        let failed = loop {
            match pieces.ready() {
                Ok(Some(piece)) => event(&mut text, &events.piece(shared, piece)),
                Ok(None) => break None,
                Err(e) => break Some(e),
            }
        };
        if sender.send(Ok(Bytes::from(std::mem::take(&mut text)))).await.is_err() {
            return Ok(());
        }
        if let Some(e) = failed {
            return Err(e);
        }
        if shared.metrics.active.load(Ordering::Relaxed) > FEW {
            tokio::select! {
                () = tokio::time::sleep(COLLECT) => {}
                () = pieces.ended() => {}
                () = sender.closed() => return Ok(()),
            }
        }
    }
    if let Some(usage) = events.usage(pieces.usage) {
        event(&mut text, &usage);
    }
    text.push_str(DONE);
    let _ = sender.send(Ok(Bytes::from(text))).await;
    Ok(())
}

fn event(text: &mut String, json: &Value) {
    use std::fmt::Write as _;
    let _ = write!(text, "data: {json}\n\n");
}

/// The tokens used, as OpenAI counts them.
pub(crate) fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.new,
        "total_tokens": usage.prompt + usage.new,
    })
}

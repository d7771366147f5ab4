//! Answers as server-sent events. In: pieces; out: `data:` lines with JSON, the last one `[DONE]`. Invariant: a reader that
//! is slow or gone never holds the engine up: at most a few events wait for it, then its task does.

use crate::Shared;
use crate::error::ApiError;
use crate::pieces::{Ask, Piece, Pieces, Usage};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

/// Events that wait for a slow reader.
const WAITING_EVENTS: usize = 16;

/// Makes the JSON of a stream's events.
pub(crate) trait Events: Send + 'static {
    /// What is sent before anything was generated.
    fn first(&mut self) -> Vec<Value> {
        Vec::new()
    }
    /// The event of a piece.
    fn piece(&mut self, shared: &Shared, piece: Piece) -> Value;
    /// The event that tells the tokens used; None if nobody asked.
    fn usage(&mut self, usage: Usage) -> Option<Value>;
}

/// A response that sends what `ask` begins, as it comes.
pub(crate) fn respond(shared: Arc<Shared>, ask: Ask, mut events: impl Events) -> Response {
    let (sender, receiver) = channel::<Result<Bytes, std::convert::Infallible>>(WAITING_EVENTS);
    tokio::spawn(async move {
        let outcome = match ask.begin(&shared) {
            Ok(mut pieces) => send_all(&shared, &mut pieces, &mut events, &sender).await,
            Err(e) => Err(e),
        };
        if let Err(e) = outcome {
            let _ = sender.send(Ok(event(&e.json()))).await;
        }
        let _ = sender.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await;
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
    for first in events.first() {
        if sender.send(Ok(event(&first))).await.is_err() {
            return Ok(());
        }
    }
    loop {
        // A client can leave while no token comes.
        let piece = tokio::select! {
            piece = pieces.next() => piece?,
            () = sender.closed() => return Ok(()),
        };
        let Some(piece) = piece else { break };
        if sender.send(Ok(event(&events.piece(shared, piece)))).await.is_err() {
            return Ok(());
        }
    }
    if let Some(usage) = events.usage(pieces.usage) {
        let _ = sender.send(Ok(event(&usage))).await;
    }
    Ok(())
}

fn event(json: &Value) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}

/// The tokens used, as OpenAI counts them.
pub(crate) fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.new,
        "total_tokens": usage.prompt + usage.new,
    })
}

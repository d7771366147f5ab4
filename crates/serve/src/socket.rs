//! A socket that is watched. In: a client's socket; out: the same, that tells whether the client takes what is sent to
//! it. Invariant: a write that makes no progress within the time limit is an error, which ends the connection.

use crate::peers::{Busy, Conduct};
use axum::body::{Body, Bytes};
use hyper::service::Service;
use std::future::Future as _;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A socket with a limit on the time of a write.
pub(crate) struct Watched<S> {
    socket: S,
    conduct: Arc<Conduct>,
    limit: Duration,
    /// Runs while a write waits.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S> Watched<S> {
    pub(crate) fn new(socket: S, conduct: Arc<Conduct>, limit: Duration) -> Self {
        Self { socket, conduct, limit, timer: Box::pin(sleep(limit)), waiting: false }
    }

    /// The result of a write: an error when it has waited too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, write: Poll<Result<T>>) -> Poll<Result<T>> {
        if write.is_ready() {
            self.waiting = false;
            self.conduct.moved();
            return write;
        }
        if !self.waiting {
            self.waiting = true;
            self.conduct.stalled();
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not take what is sent to it")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        // What a client sends is no reason to wait for it to take an answer.
        if buf.filled().len() > before && !self.waiting {
            self.conduct.moved();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let write = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.watch(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let write = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // A TCP socket has nothing to flush, so this is no progress.
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let shutdown = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.watch(cx, shutdown)
    }
}

/// A body that keeps its connection busy until it was sent.
pub(crate) struct Guarded {
    body: Body,
    _busy: Busy,
}

impl Guarded {
    pub(crate) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl hyper::body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

/// A service whose requests carry what their connection is doing.
pub(crate) struct Tagged<S> {
    pub(crate) service: S,
    pub(crate) conduct: Arc<Conduct>,
}

impl<S: Service<hyper::Request<hyper::body::Incoming>>> Service<hyper::Request<hyper::body::Incoming>> for Tagged<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: hyper::Request<hyper::body::Incoming>) -> S::Future {
        request.extensions_mut().insert(Arc::clone(&self.conduct));
        self.service.call(request)
    }
}

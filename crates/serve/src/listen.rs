//! Connections. In: a listening socket; out: served connections. Invariant: a connection that sends its headers slowly, or
//! one too many, costs one task and ends by itself.

use crate::{Shared, routes};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How often `stop` is asked.
const POLL: Duration = Duration::from_millis(50);

/// Serves until `stop`, then lets running answers end within the grace.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    stop: impl Fn() -> bool,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let router = routes::router(Arc::clone(&shared));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(shared.limits.max_connections.max(1)));
    while !stop() {
        // One too many waits in the operating system's queue.
        let Ok(Ok(place)) = tokio::time::timeout(POLL, Arc::clone(&places).acquire_owned()).await else { continue };
        let stream = match tokio::time::timeout(POLL, listener.accept()).await {
            Ok(Ok((stream, _))) => stream,
            Ok(Err(e)) => {
                // Out of descriptors, or a client that left at once: others may still be served.
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(_) => continue,
        };
        // Tokens are sent one by one and should not wait for more.
        let _ = stream.set_nodelay(true);
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(shared.limits.read_timeout);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        let open = Open::new(Arc::clone(&shared));
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!("a connection ended: {e}");
            }
            drop((open, place));
        });
    }
    drop(listener);
    drop(router);
    let grace = shared.limits.grace;
    drop(shared);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("answers that were still running after {} s are cut off", grace.as_secs());
    }
    Ok(())
}

/// Counts a connection for as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

//! Connections. In: a listening socket; out: served connections. Invariant: a connection that sends its headers slowly,
//! does not read its answer, or is one too many, costs one task and ends by itself; meanwhile others are served.

use crate::peers::Peers;
use crate::socket::{Tagged, Watched};
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

/// The answer to a connection beyond its address's limit.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

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
    let peers = Arc::new(Peers::default());
    let mut number = 0;
    while !stop() {
        // A connection too many waits in the operating system's queue until an idle one was closed.
        let Ok(Ok(place)) = tokio::time::timeout(POLL, Arc::clone(&places).acquire_owned()).await else {
            peers.make_room();
            continue;
        };
        let (stream, address) = match tokio::time::timeout(POLL, listener.accept()).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(e)) => {
                // Out of descriptors, or a client that left at once: others may still be served.
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(_) => continue,
        };
        number += 1;
        let Some(entry) = peers.enter(number, address.ip(), shared.limits.max_per_peer) else {
            // A client that opens so many can try again later.
            let _ = stream.try_write(TOO_MANY);
            continue;
        };
        // Tokens are sent one by one and should not wait for more.
        let _ = stream.set_nodelay(true);
        let stream = Watched::new(stream, Arc::clone(&entry.conduct), shared.limits.write_timeout);
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(shared.limits.read_timeout);
        let service = TowerToHyperService::new(router.clone());
        let service = Tagged { service, conduct: Arc::clone(&entry.conduct) };
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        let open = Open::new(Arc::clone(&shared));
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(e) = ended {
                    tracing::debug!("a connection ended: {e}");
                },
                () = entry.conduct.end.notified() => tracing::debug!("an idle connection is closed to make room for another"),
            }
            drop((open, place, entry));
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

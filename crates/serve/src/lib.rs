#![doc = include_str!("../README.md")]
//!
//! Connections are tasks of a small runtime; the model runs on one thread of its own, which batches the sequences of
//! all requests.

mod chat;
mod completions;
mod engine;
mod error;
mod fields;
mod listen;
mod metrics;
mod page;
mod peers;
mod pieces;
mod request;
mod routes;
mod socket;
mod stream;
mod text;
mod thoughts;
mod token_texts;

use engine::{Engine, Job};
use eraser_model::{Adapter, Error, Model, Result, SideBySide};
use metrics::Metrics;
pub use page::{Example, PLACEHOLDER, Page, PageTemplate, Tag, Tagger};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// The limits of a server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sequences that run at once.
    pub slots: usize,
    /// Bytes of keys and values of all running sequences.
    pub cache_bytes: usize,
    /// New tokens of one answer.
    pub max_tokens: usize,
    /// Sequences that wait for a slot.
    pub max_waiting: usize,
    /// Bytes of a body.
    pub max_body: usize,
    /// Open connections.
    pub max_connections: usize,
    /// Time for the headers, and then for the body, of a request.
    pub read_timeout: Duration,
    /// Time in which a client must take some of what is sent to it.
    pub write_timeout: Duration,
    /// Connections of one address that is not this machine.
    pub max_per_peer: usize,
    /// Time that running answers get when the server is stopped.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots: 32,
            cache_bytes: 2 << 30,
            max_tokens: 1024,
            max_waiting: 256,
            max_body: 4 << 20,
            max_connections: 512,
            read_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            max_per_peer: 384,
            grace: Duration::from_secs(30),
        }
    }
}

/// What is served.
pub struct Service {
    /// The model.
    pub model: Model,
    /// The base model's name.
    pub name: String,
    /// Adapters, each under a name of its own.
    pub adapters: Vec<(String, Adapter)>,
    /// What clients have to send as `Authorization: Bearer`.
    pub key: Option<String>,
    /// What the page is given.
    pub page: Page,
    /// Limits.
    pub limits: Limits,
}

/// What every request needs.
struct Shared {
    model: Arc<Model>,
    names: Vec<String>,
    key: Option<[u8; 32]>,
    page: Page,
    limits: Limits,
    /// Places for large bodies that are being read.
    large_bodies: Semaphore,
    /// Positions that one sequence may hold: what the model and the memory for caches have room for.
    most_positions: usize,
    loopback: bool,
    created: u64,
    ids: AtomicU64,
    jobs: Sender<Job>,
    metrics: Arc<Metrics>,
}

impl Shared {
    /// A name for an answer.
    fn next_id(&self, kind: &str) -> String {
        format!("{kind}-{:x}-{}", self.created, self.ids.fetch_add(1, Ordering::Relaxed))
    }
}

/// A server that has its port.
pub struct Server {
    listener: TcpListener,
    service: Service,
}

impl Server {
    /// Binds the port.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(address: SocketAddr, service: Service) -> Result<Self> {
        let failed = |e: std::io::Error| {
            Error::request(format!("cannot listen on {address}: {e}")).hint("name another one with --host and --port")
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, service })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::failed(format!("no address: {e}")))
    }

    /// Serves until `stop` says so and what runs then has ended, or its time is up.
    ///
    /// # Errors
    /// No thread or runtime can be started.
    pub fn run(self, stop: impl Fn() -> bool) -> Result<()> {
        let failed = |e: std::io::Error| Error::failed(format!("cannot start the server: {e}"));
        let address = self.address()?;
        let Service { model, name, adapters, key, page, limits } = self.service;
        let metrics = Arc::new(Metrics::default());
        let config = &model.config;
        let position_bytes = config.num_layers * config.num_kv_heads * config.head_dim * 2 * size_of::<f32>();
        let positions = (limits.cache_bytes / position_bytes.max(1)).max(1);
        let most_positions = model.decoder.max_positions().min(positions);
        let model = Arc::new(model);
        let (jobs, received) = std::sync::mpsc::channel();
        let names = std::iter::once(name).chain(adapters.iter().map(|(name, _)| name.clone())).collect();
        let adapters: Vec<Option<Adapter>> =
            std::iter::once(None).chain(adapters.into_iter().map(|(_, a)| Some(a))).collect();
        let engine = Engine {
            model: Arc::clone(&model),
            beside: SideBySide::new(&adapters.iter().map(Option::as_ref).collect::<Vec<_>>())?,
            adapters,
            slots: limits.slots.max(1),
            positions,
            metrics: Arc::clone(&metrics),
        };
        let shared = Arc::new(Shared {
            model,
            names,
            key: key.as_deref().map(routes::key_digest),
            page,
            limits,
            large_bodies: Semaphore::new(routes::LARGE_BODIES),
            most_positions,
            loopback: address.ip().is_loopback(),
            created: now(),
            ids: AtomicU64::new(0),
            jobs,
            metrics,
        });
        let thread = std::thread::Builder::new().name("engine".into());
        // Within a pool, operations need not wake it for each of their parts. The pool is the engine's own: in a shared
        // one a thread that waits for its part would take up another long job, and not come back before that has ended.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(rayon::current_num_threads()).build();
        let pool = pool.map_err(|e| Error::failed(format!("cannot start the engine's threads: {e}")))?;
        let work = move || pool.install(move || engine.run(&received));
        let thread = thread.spawn(work).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(failed)?;
        let served = runtime.block_on(listen::serve(self.listener, shared, stop));
        // Ends tasks whose time was up; with them goes the last sender, and the engine ends.
        runtime.shutdown_timeout(Duration::from_secs(1));
        if thread.join().is_err() {
            return Err(Error::failed("a bug ended the engine"));
        }
        served.map_err(failed)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

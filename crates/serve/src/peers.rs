//! Who is connected. In: connections as they come and go, and whether they take what is sent to them; out: who may
//! stay. Invariant: where all places are taken, a client that does not read, or sends no request, is closed to make
//! room for a new one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a client may do nothing before another one may take its place.
const PATIENCE: Duration = Duration::from_secs(1);

/// What one connection is doing, as its socket and the router report it.
#[derive(Debug)]
pub(crate) struct Conduct {
    start: Instant,
    /// Milliseconds after `start` at which the client last took or sent something.
    last: AtomicU64,
    /// Whether the server waits for the client to read what is sent.
    stalled: AtomicBool,
    /// Requests that are being answered.
    busy: AtomicUsize,
    /// Notified when the connection is to end.
    pub(crate) end: Notify,
}

impl Conduct {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            end: Notify::new(),
        }
    }

    /// The client took or sent something.
    pub(crate) fn moved(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
    }

    /// The client has not taken what is sent.
    pub(crate) fn stalled(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// A request that is being answered, until this is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// How long nothing has happened, where the server waits for the client.
    fn idle(&self) -> Option<Duration> {
        let waits = self.stalled.load(Ordering::Relaxed) || self.busy.load(Ordering::Relaxed) == 0;
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        waits.then(|| self.start.elapsed().saturating_sub(last))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Conduct>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The open connections.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<HashMap<u64, (IpAddr, Arc<Conduct>)>>);

/// A connection's entry, for as long as it is open.
#[derive(Debug)]
pub(crate) struct Entry {
    peers: Arc<Peers>,
    id: u64,
    pub(crate) conduct: Arc<Conduct>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.peers.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Peers {
    /// Enters a connection; None where its address has `most` of them already.
    pub(crate) fn enter(self: &Arc<Self>, id: u64, address: IpAddr, most: usize) -> Option<Entry> {
        let address = group(address);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let many =
            !address.is_loopback() && open.values().filter(|(other, _)| *other == address).count() >= most.max(1);
        if many {
            return None;
        }
        let conduct = Arc::new(Conduct::new());
        open.insert(id, (address, Arc::clone(&conduct)));
        Some(Entry { peers: Arc::clone(self), id, conduct })
    }

    /// Ends the connections that have been idle for a while. There is no place for another one, so none of them is
    /// worth keeping.
    pub(crate) fn make_room(&self) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = open.values().filter(|(_, conduct)| conduct.idle().is_some_and(|idle| idle >= PATIENCE));
        idle.for_each(|(_, conduct)| conduct.end.notify_one());
    }
}

/// One client's addresses: of IPv6, whoever has one has all of its last 64 bits.
fn group(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None if v6.is_loopback() => address,
            None => std::net::Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
        },
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_limit_and_this_machine_has_none() {
        let peers = Arc::new(Peers::default());
        let far: IpAddr = "2001:db8::1".parse().unwrap();
        let near: IpAddr = "2001:db8::2".parse().unwrap();
        let held: Vec<Entry> = (0..2).filter_map(|id| peers.enter(id, far, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(peers.enter(9, near, 2).is_none(), "the same network");
        assert!(peers.enter(9, "10.0.0.1".parse().unwrap(), 2).is_some());
        drop(held);
        assert!(peers.enter(9, far, 2).is_some());
        let local: Vec<_> = (10..20).filter_map(|id| peers.enter(id, "127.0.0.1".parse().unwrap(), 2)).collect();
        assert_eq!(local.len(), 10);
    }

    #[test]
    fn a_connection_is_idle_while_it_is_the_clients_turn() {
        let conduct = Arc::new(Conduct::new());
        assert!(conduct.idle().is_some(), "it has asked for nothing");
        let busy = conduct.begin();
        assert!(conduct.idle().is_none(), "the answer is being made");
        conduct.stalled();
        assert!(conduct.idle().is_some(), "the answer is not taken");
        conduct.moved();
        assert!(conduct.idle().is_none());
        drop(busy);
        assert!(conduct.idle().is_some());
    }
}

//! Connections to endpoints that wait for their next request.

use std::{cell::RefCell, collections::HashMap, io, time::Duration};

use tokio::{net::TcpStream, time::Instant};
use underpass_l7::balance::EndpointId;

use crate::counters::{Count, Counters};

/// A number of an identity in this shard; 0 is nobody that is known.
pub type Identity = u64;

/// Who may share a connection: requests of one source to one endpoint, as long as both are who they are.
/// A connection that authenticates its source is never used for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// From whose namespace it goes out.
    pub workload: u64,
    pub source: Identity,
    pub destination: Identity,
    pub endpoint: EndpointId,
}

/// Waiting connections of one key.
pub const IDLE_PER_KEY: usize = 64;
/// Waiting connections of one shard.
pub const IDLE_MAX: usize = 1024;
/// How long one may wait. Less than what most servers wait.
pub const IDLE_FOR: Duration = Duration::from_secs(55);

#[derive(Debug, Default)]
pub struct Pool {
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The last one waits for the shortest time. A list that is empty stays until the next sweep: most
    /// are needed again at once.
    idle: HashMap<Key, Vec<Idle>>,
    count: usize,
}

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    since: Instant,
}

impl Pool {
    /// One that waits and is still good, as far as this end can know.
    pub fn take(&self, key: &Key, counters: &Counters) -> Option<TcpStream> {
        let inner = &mut *self.inner.borrow_mut();
        let list = inner.idle.get_mut(key)?;
        let mut found = None;
        while let Some(Idle { stream, .. }) = list.pop() {
            inner.count -= 1;
            if is_good(&stream) {
                found = Some(stream);
                break;
            }
            counters.add(Count::Stale);
        }
        found
    }

    /// Keeps it, if there is room.
    pub fn put(&self, key: Key, stream: TcpStream, counters: &Counters) {
        let inner = &mut *self.inner.borrow_mut();
        let list = inner.idle.entry(key).or_default();
        if inner.count >= IDLE_MAX || list.len() >= IDLE_PER_KEY {
            counters.add(Count::Dropped);
            return;
        }
        inner.count += 1;
        list.push(Idle {
            stream,
            since: Instant::now(),
        });
    }

    /// Closes those that have waited too long, that their servers closed, or whose key is no longer
    /// wanted.
    pub fn sweep(&self, counters: &Counters, wanted: impl Fn(&Key) -> bool) {
        let inner = &mut *self.inner.borrow_mut();
        let before = inner.count;
        inner.idle.retain(|key, list| {
            let wanted = wanted(key);
            list.retain(|i| wanted && i.since.elapsed() < IDLE_FOR && is_good(&i.stream));
            !list.is_empty()
        });
        inner.count = inner.idle.values().map(Vec::len).sum();
        (inner.count..before).for_each(|_| counters.add(Count::Dropped));
    }

    pub fn len(&self) -> usize {
        self.inner.borrow().count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Nothing has come: neither its end, nor bytes that would be taken for the next response. This is also
/// the read that finds nothing, after which the next event is told.
fn is_good(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0]);
    read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

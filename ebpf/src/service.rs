//! Service lookup and endpoint pick, in constant time.

use aya_ebpf::helpers::generated as h;
use underpass_abi::{
    Ip,
    tables::{
        AffinityKey, AliasSlot, Backend, Life, ServiceKey, ServiceWord, SlotHeader, TABLE_HEADER,
    },
};

use crate::maps::{AFFINITY, BACKEND_LIFE, BACKENDS, SERVICE_IDS, SERVICES, SLOTS, entry, word};

/// One service port's table, as one read of its word gave it.
#[derive(Clone, Copy)]
pub struct Table {
    /// Service index; 0: the address is no service's, and the rest is 0.
    pub service: u32,
    /// Policy table attached to the service, 0 if none.
    pub policy: u32,
    word: ServiceWord,
    header: SlotHeader,
}

/// The table of a dialed address.
#[inline(always)]
pub fn table(ip: &Ip, port: u16, proto: u8) -> Table {
    let key = ServiceKey {
        ip: *ip,
        port,
        proto,
        pad: 0,
    };
    let service = entry!(SERVICE_IDS, &key).unwrap_or(0) as u32;
    let word = ServiceWord(if service == 0 {
        0
    } else {
        word!(SERVICES, service)
    });
    if word.0 == 0 {
        return Table {
            service: 0,
            policy: 0,
            word: ServiceWord(0),
            header: SlotHeader(0),
        };
    }
    Table {
        service,
        policy: word!(SLOTS, word.offset() + 1) as u32,
        word,
        header: SlotHeader(word!(SLOTS, word.offset())),
    }
}

impl Table {
    #[inline(always)]
    pub fn is_some(&self) -> bool {
        self.service != 0
    }

    /// New connections of workloads with a door go to the worker.
    #[inline(always)]
    pub fn http(&self) -> bool {
        self.header.http()
    }

    /// Picks an endpoint for a new connection of `client`; `None` if there is none.
    #[inline(always)]
    pub fn pick(&self, client: u64) -> Option<&'static Backend> {
        self.pick_sticky(client, self.header.affinity_secs())
    }

    /// Picks an endpoint and stays with it while it lives and the client comes back within `secs`
    /// (0: not at all).
    #[inline(always)]
    pub fn pick_sticky(&self, client: u64, secs: u32) -> Option<&'static Backend> {
        let backend = if secs == 0 {
            draw(self.word.offset(), self.header.count())
        } else {
            up_remembered(self.service, self.word.0, client, secs)
        };
        if backend == 0 {
            None
        } else {
            BACKENDS.get(backend)
        }
    }
}

/// The client's endpoint, 0 if there is none. (Backend 0 is never used.)
/// A global function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_remembered(service: u32, word: u64, client: u64, secs: u32) -> u32 {
    let word = ServiceWord(word);
    // SAFETY: plain helper call.
    let now = (unsafe { h::bpf_ktime_get_boot_ns() } / 1_000_000_000) as u32;
    let key = AffinityKey {
        client,
        service,
        pad: 0,
    };
    let mut backend = 0;
    if let Some(value) = entry!(AFFINITY, &key) {
        let last = (value >> 32) as u32;
        let known = value as u32;
        if now.wrapping_sub(last) <= secs && holds(service, word, known) {
            backend = known;
        }
    }
    if backend == 0 {
        backend = draw(
            word.offset(),
            SlotHeader(word!(SLOTS, word.offset())).count(),
        );
    }
    if backend != 0 {
        let value = u64::from(now) << 32 | u64::from(backend);
        let _ = AFFINITY.insert(&key, &value, 0);
    }
    backend
}

/// True if this version of the table may choose the backend. An LRU element can be another key's by
/// the time it is read: then the backend is another service's, and refused here.
#[inline(always)]
fn holds(service: u32, word: ServiceWord, backend: u32) -> bool {
    let of_service = match BACKENDS.get(backend) {
        Some(b) => b.service,
        None => 0,
    };
    of_service == service && Life(word!(BACKEND_LIFE, backend)).holds(word.version())
}

/// A weighted draw; 0 from an empty table.
#[inline(always)]
fn draw(offset: u32, count: u32) -> u32 {
    if count == 0 {
        return 0;
    }
    // SAFETY: plain helper calls.
    let (slot, within) = unsafe { (h::bpf_get_prandom_u32(), h::bpf_get_prandom_u32()) };
    // Multiply and shift instead of a modulo.
    let slot = (u64::from(slot) * u64::from(count) >> 32) as u32;
    AliasSlot(word!(SLOTS, offset + TABLE_HEADER + slot)).choose(within)
}

//! Service lookup and endpoint pick, in constant time.

use aya_ebpf::helpers::generated as h;
use underpass_abi::{
    Ip,
    tables::{AffinityKey, AliasSlot, Backend, Life, ServiceKey, ServiceWord, SlotHeader, TABLE_HEADER},
};

use crate::maps::{AFFINITY, BACKEND_LIFE, BACKENDS, SERVICE_IDS, SERVICES, SLOTS, entry, word};

/// One service port's table, as one read of its word gave it.
#[derive(Clone, Copy)]
pub struct Table {
    pub service: u32,
    /// Policy table attached to the service, 0 if none.
    pub policy: u32,
    word: ServiceWord,
    header: SlotHeader,
}

/// The table of a dialed address, if it is a service's.
#[inline(always)]
pub fn table(ip: &Ip, port: u16, proto: u8) -> Option<Table> {
    let key = ServiceKey { ip: *ip, port, proto, pad: 0 };
    let service = entry!(SERVICE_IDS, &key)? as u32;
    let word = ServiceWord(word!(SERVICES, service));
    if word.0 == 0 {
        return None;
    }
    Some(Table {
        service,
        policy: word!(SLOTS, word.offset() + 1) as u32,
        word,
        header: SlotHeader(word!(SLOTS, word.offset())),
    })
}

impl Table {
    pub fn is_empty(&self) -> bool {
        self.header.count() == 0
    }

    /// Picks an endpoint for a new connection of `client`; `None` if there is none.
    #[inline(always)]
    pub fn pick(&self, client: u64) -> Option<&'static Backend> {
        match self.header.affinity_secs() {
            0 => BACKENDS.get(self.draw()?),
            secs => BACKENDS.get(self.remembered(client, secs)?),
        }
    }

    /// Picks an endpoint and stays with it while it lives and the client comes back in time.
    #[inline(always)]
    pub fn pick_sticky(&self, client: u64, secs: u32) -> Option<&'static Backend> {
        BACKENDS.get(self.remembered(client, secs)?)
    }

    #[inline(always)]
    fn remembered(&self, client: u64, secs: u32) -> Option<u32> {
        // SAFETY: plain helper call.
        let now = (unsafe { h::bpf_ktime_get_boot_ns() } / 1_000_000_000) as u32;
        let key = AffinityKey { client, service: self.service, pad: 0 };
        let mut backend = 0;
        if let Some(value) = entry!(AFFINITY, &key) {
            let last = (value >> 32) as u32;
            let known = value as u32;
            if now.wrapping_sub(last) <= secs && self.holds(known) {
                backend = known;
            }
        }
        if backend == 0 {
            backend = self.draw()?;
        }
        let value = u64::from(now) << 32 | u64::from(backend);
        let _ = AFFINITY.insert(&key, &value, 0);
        Some(backend)
    }

    /// True if this version of the table may choose the backend. An LRU element can be another
    /// key's by the time it is read: then the backend is another service's, and refused here.
    #[inline(always)]
    fn holds(&self, backend: u32) -> bool {
        let of_service = match BACKENDS.get(backend) {
            Some(b) => b.service,
            None => 0,
        };
        of_service == self.service && Life(word!(BACKEND_LIFE, backend)).holds(self.word.version())
    }

    #[inline(always)]
    fn draw(&self) -> Option<u32> {
        let count = self.header.count();
        if count == 0 {
            return None;
        }
        // SAFETY: plain helper call.
        let random = unsafe { h::bpf_get_prandom_u32() };
        // Multiply and shift instead of a modulo; the low 16 bits of a second draw decide within
        // the slot.
        let slot = (u64::from(random) * u64::from(count) >> 32) as u32;
        let alias = AliasSlot(word!(SLOTS, self.word.offset() + TABLE_HEADER + slot));
        // SAFETY: plain helper call.
        Some(alias.choose(unsafe { h::bpf_get_prandom_u32() }))
    }
}

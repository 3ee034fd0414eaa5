//! What user space writes and programs read: keys, values and the words that tie them together.
//!
//! Rules that make a change atomic (measured, `docs/explanation/kernel-tables.md`):
//! * everything that a hook run needs of one service or one workload's policy hangs on **one**
//!   8-byte word in an array ([`SERVICES`](maps::SERVICES), [`WORKLOADS`](maps::WORKLOADS)),
//!   which the run reads once;
//! * what a word refers to is written under a fresh index before the word, never rewritten in
//!   place, and its index is used again only after a grace period (RCU);
//! * a hash element is never replaced: it is written in place ([`Entry`]) or not at all, and as a
//!   freed one is given to the next insert at once while a reader may still hold it, deletes come
//!   after a grace period and the inserts of the next change after another one;
//! * hashes that programs themselves write carry a check of their key in the 8-byte value.

pub use self::{
    door::{Original, OwnAddresses, SteerKey, workload},
    learnt::*,
};
use crate::addr::Ip;

pub mod door;
mod learnt;
pub mod maps;

/// Capacity of each map: the bound, and the default.
pub mod limits {
    pub const SERVICES: usize = 16_384;
    pub const SLOTS: usize = 262_144;
    pub const BACKENDS: usize = 65_536;
    pub const AFFINITY: usize = 65_536;
    pub const WORKLOADS: usize = 32_768;
    pub const NETNS: usize = 4_096;
    pub const ADDRESSES: usize = 65_536;
    pub const POLICIES: usize = 16_384;
    pub const RULES: usize = 131_072;
    pub const BLOCKS: usize = 65_536;
    pub const NAMES: usize = 6_560;
    pub const LISTENERS: usize = 32_768;
    // Few, so that they stay in a CPU's cache: successive connections walk over all of them.
    pub const FLOW_SLOTS: usize = 2_048;
    pub const FLOWS: usize = 32_768;
    /// Connections on their way to a worker: from the SYN until both ends are established.
    pub const ORIGINALS: usize = 8_192;
    /// Listeners of workers for steered ports: one in a namespace.
    pub const DOORS: usize = 4_096;
    pub const STEERED: usize = 32_768;
    pub const UDP_REVERSE: usize = 32_768;
    pub const EVENTS_BYTES: usize = 1 << 20;
    pub const TOTALS: usize = 16_384;
    /// Sockets in the map: two for each connection.
    pub const SHORTCUT: usize = 65_536;
    pub const PAIRS: usize = 32_768;
    pub const MATES: usize = 8_192;
    pub const CANDIDATES: usize = 8_192;
    pub const PROGRAMS: usize = 1_024;
    pub const LEARNT: usize = 4_096;
}

/// Indexes into the `SETTINGS` array of `u64`.
pub mod setting {
    /// Bit *n* set: workload cgroups exist *n* levels below the cgroup2 root.
    pub const CGROUP_LEVELS: u32 = 0;
    /// Cookie of the node's own (initial) network namespace.
    pub const HOST_NETNS: u32 = 1;
    /// Policy table of a meshed workload that no policy selects (`--default-policy`).
    pub const DEFAULT_POLICY: u32 = 2;
    /// Count of plans applied since the pins were made; shown as the plan's version.
    pub const PLAN_VERSION: u32 = 3;
    /// Bits of [`crate::shortcut::switch`]. This one and the next three are the agent's, not the plan's.
    pub const SHORTCUT: u32 = 4;
    /// Bytes: [`crate::shortcut::bound::SOCKET`].
    pub const SHORTCUT_SOCKET: u32 = 5;
    /// Pages of TCP memory on the node: [`crate::shortcut::bound::NODE_PAGES`].
    pub const SHORTCUT_NODE: u32 = 6;
    /// Not 0: the splice watch is attached, so sockets may enter the shortcut's map. The agent's alone.
    pub const SHORTCUT_WATCHED: u32 = 7;
    /// Seconds: [`crate::shortcut::learn::KEEP_OUT`]; 0: nothing is learnt.
    pub const SHORTCUT_KEEP_OUT: u32 = 8;
    /// [`FlowKey::check`] of the connection that the agent reset last. What its other end's kernel answers
    /// finds no socket; it is no attempt to connect.
    pub const RESET_FLOW: u32 = 9;
    /// Id of the cgroup below which the workers are, 0: there is none. This one and the next three are the
    /// agent's, not the plan's.
    pub const VENDOR_CGROUP: u32 = 10;
    /// Its level below the cgroup2 root.
    pub const VENDOR_LEVEL: u32 = 11;
    /// Id of the cgroup whose processes probe the health of workloads, 0: there is none. What they dial is
    /// not steered.
    pub const PROBE_CGROUP: u32 = 12;
    /// Its level below the cgroup2 root.
    pub const PROBE_LEVEL: u32 = 13;
    pub const COUNT: usize = 16;
}

/// Key of `SERVICE_IDS`: where an application dials a service. The value is a service index (`u64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    pub ip: Ip,
    /// Host byte order.
    pub port: u16,
    /// IPPROTO_TCP (6) or IPPROTO_UDP (17).
    pub proto: u8,
    pub pad: u8,
}

/// A `SERVICES` word: where the service's current table starts in `SLOTS`, and its version.
/// Zero means no such service.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceWord(pub u64);

impl ServiceWord {
    pub const fn new(offset: u32, version: u32) -> Self {
        Self((version as u64) << 32 | offset as u64)
    }
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }
    /// Grows by one with each table of this service, starting at 1.
    #[inline(always)]
    pub const fn version(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Number of `SLOTS` words before the alias slots of a table: [`SlotHeader`], then the policy
/// table id of the service (0 = none).
pub const TABLE_HEADER: u32 = 2;

/// First word of a table in `SLOTS`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotHeader(pub u64);

impl SlotHeader {
    /// `count` slots; `affinity_secs` > 0 keeps a client on its endpoint for that long after its
    /// last connect (Kubernetes `sessionAffinityConfig.clientIP.timeoutSeconds`).
    pub const fn new(count: u32, affinity_secs: u32, http: bool) -> Self {
        let affinity = (affinity_secs as u64) << 32 & !Self::HTTP;
        Self(affinity | count as u64 | if http { Self::HTTP } else { 0 })
    }
    #[inline(always)]
    pub const fn count(self) -> u32 {
        self.0 as u32
    }
    /// New connections of workloads with a door go to the worker.
    pub const HTTP: u64 = 1 << 63;

    #[inline(always)]
    pub const fn affinity_secs(self) -> u32 {
        (self.0 >> 32) as u32 & 0x7fff_ffff
    }
    #[inline(always)]
    pub const fn http(self) -> bool {
        self.0 & Self::HTTP != 0
    }
}

/// One slot of Vose's alias method: uniform slot choice, then `backend` with probability
/// `threshold / 65536` (a threshold of 0 means always `backend`), else `alias`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AliasSlot(pub u64);

impl AliasSlot {
    pub const fn new(backend: u32, alias: u32, threshold: u16) -> Self {
        Self(
            (backend as u64 & 0xff_ffff)
                | (alias as u64 & 0xff_ffff) << 24
                | (threshold as u64) << 48,
        )
    }
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        (self.0 & 0xff_ffff) as u32
    }
    #[inline(always)]
    pub const fn alias(self) -> u32 {
        (self.0 >> 24 & 0xff_ffff) as u32
    }
    #[inline(always)]
    pub const fn threshold(self) -> u16 {
        (self.0 >> 48) as u16
    }
    /// `random` decides within the slot; only its low 16 bits count.
    #[inline(always)]
    pub const fn choose(self, random: u32) -> u32 {
        let threshold = self.threshold() as u32;
        if threshold == 0 || (random & 0xffff) < threshold {
            self.backend()
        } else {
            self.alias()
        }
    }
}

/// Value of the `BACKENDS` array: one endpoint of one service port. Immutable while in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub ip: Ip,
    /// Host byte order.
    pub port: u16,
    pub pad: u16,
    /// Workload index behind the address, 0 if it is none of the mesh's.
    pub workload: u32,
    pub service: u32,
    pub pad2: u32,
}

/// Value of `BACKEND_LIFE`: table versions (of the backend's service) that may choose it, both
/// inclusive. Session affinity checks a remembered backend against the version in the service
/// word, so that membership hangs on that one word too.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(pub u64);

impl Life {
    pub const fn new(from: u32, to: u32) -> Self {
        Self((to as u64) << 32 | from as u64)
    }
    #[inline(always)]
    pub const fn holds(self, version: u32) -> bool {
        self.from() <= version && version <= self.to()
    }
    #[inline(always)]
    pub const fn from(self) -> u32 {
        self.0 as u32
    }
    #[inline(always)]
    pub const fn to(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Value of the hashes by which programs come to a workload: of `CGROUPS` and `NETNS` a workload
/// index, of `ADDRESSES` an [`AddressWord`].
///
/// An ordinary update of an existing key puts another element in the old one's place; a lookup under
/// way can then miss the key, or read what the freed element holds by then (measured, see
/// `docs/explanation/kernel-tables.md`). An update with `BPF_F_LOCK` writes the word in place. For
/// that the value must hold a lock, which the kernel finds by the type's name; programs read the
/// word once and never lock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub word: u32,
    lock: bpf_spin_lock,
}

impl Entry {
    pub const fn new(word: u32) -> Self {
        Self {
            word,
            lock: bpf_spin_lock { val: 0 },
        }
    }
}

#[allow(non_camel_case_types, reason = "the kernel's name")]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct bpf_spin_lock {
    val: u32,
}

/// Word of an `ADDRESSES` entry (keyed by [`Ip`]): the workload in 24 bits, flags above.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressWord(pub u32);

impl AddressWord {
    /// The address is on this node: its identity is never taken from the address.
    pub const LOCAL: u32 = 1;
    /// Several workloads share the address (the node's own): the owner of a port is learnt when it
    /// listens.
    pub const SHARED: u32 = 2;

    pub const fn new(workload: u32, flags: u32) -> Self {
        Self(flags << 24 | workload & 0xff_ffff)
    }
    #[inline(always)]
    pub const fn workload(self) -> u32 {
        self.0 & 0xff_ffff
    }
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        self.0 >> 24
    }
}

/// Value of `IDENTITIES`, by workload index: who it is in policies. Immutable while in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityPair {
    /// A [`crate::verdict::subject`] of kind identity.
    pub identity: u32,
    /// A subject of kind namespace.
    pub namespace: u32,
}

/// Key of `BLOCKS` (LPM): a set of CIDRs of one plan generation, then the address.
/// The map's key is `prefix length: u32` (native), then this struct: 28 bytes.
/// Prefix length = 32 + 96 + IPv4 prefix, or 32 + IPv6 prefix. The value is a subject (`u64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// Big endian, so that it takes part in the prefix.
    pub set_be: u32,
    pub ip: Ip,
    /// Zero; never part of a prefix. Keeps the value behind it aligned.
    pub pad: u32,
}

/// What a name in `NAMES` belongs to.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameKind {
    Workload = 1,
    Service = 2,
    Identity = 3,
    Namespace = 4,
    Policy = 5,
}

/// Key of `NAMES`: the durable index ↔ object register. Programs never read it; it shares the life
/// of the pins, so that a restarted agent knows what the indexes in open sockets mean.
///
/// A value has the names of [`NAMES_PER_PAGE`] successive indexes, since a hash insert costs more than
/// what it copies: 20,000 names take 4.7 ms in pages and 15 ms one by one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameKey {
    /// A [`NameKind`].
    pub kind: u32,
    /// The first index, divided by [`NAMES_PER_PAGE`].
    pub page: u32,
}

/// Longest name in `NAMES`, in bytes; shorter ones are padded with zeros. Kubernetes allows 63 for a
/// namespace and 253 for a name: longer keys are cut and end in a hash.
pub const NAME_LEN: usize = 184;

/// So many fit 2 KiB, in which the kernel allocates an element.
pub const NAMES_PER_PAGE: usize = 10;

pub const NAMES_PAGE: usize = NAME_LEN * NAMES_PER_PAGE;

const _: () = assert!(limits::WORKLOADS <= 1 << 24);
const _: () = assert!(size_of::<Entry>() == 8);
const _: () = assert!(size_of::<ServiceKey>() == 20);
const _: () = assert!(size_of::<Backend>() == 32);
const _: () = assert!(size_of::<BlockKey>() == 24);

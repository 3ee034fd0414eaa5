//! Keys and values that the programs write themselves: what they have learnt and must remember.

use crate::addr::Ip;

/// Key of the `AFFINITY` LRU. The value is `backend: u32 | seconds since boot << 32`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Network namespace cookie, or the cgroup id for sources in the node's own namespace.
    pub client: u64,
    pub service: u32,
    pub pad: u32,
}

/// Key of `LISTENERS`, written by `sock_ops` when a socket listens and seeded by the agent.
/// The value is `workload: u32 | check(key) << 32`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListenKey {
    pub netns: u64,
    /// [`Ip::ANY`] for a wildcard listener.
    pub ip: Ip,
    /// Host byte order.
    pub port: u16,
    pub proto: u8,
    pub pad: u8,
    pub pad2: u32,
}

/// A local source's connection under way, written at TCP_CONNECT_CB before the SYN and removed when the
/// passive end is established or the source closes. It stands in the slot of `FLOW_SLOTS` that its
/// check gives, or, if another has that slot, in the hash `FLOWS` with the value
/// `FlowWord | check(key) << 32`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Namespace in which the SYN will arrive: the caller's for loopback, else that of the
    /// destination workload.
    pub netns: u64,
    pub source: Ip,
    pub destination: Ip,
    /// Host byte order, as are all ports here.
    pub source_port: u16,
    pub destination_port: u16,
    pub pad: u32,
}

/// A slot of `FLOW_SLOTS`, one cache line: it takes no lock and no look-up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSlot {
    /// [`FlowSlot::FREE`], [`FlowSlot::WRITTEN`], [`FlowSlot::ENDED`] or a [`FlowSlot::held`].
    pub state: u64,
    pub key: FlowKey,
    pub pad: u64,
}

impl FlowSlot {
    pub const FREE: u64 = 0;
    /// Claimed; its key is not complete.
    pub const WRITTEN: u64 = 1;
    /// Free again; its key is that of the last connection that held it.
    pub const ENDED: u64 = 2;

    /// The state while a connection has the slot. The dialing socket's cookie is in it, so that two
    /// connections that have a slot one after the other are told apart.
    #[inline(always)]
    pub const fn held(word: FlowWord, cookie: u64) -> u64 {
        (cookie as u32 as u64 | 1 << 31) << 32 | word.0 as u64
    }
    #[inline(always)]
    pub const fn is_free(state: u64) -> bool {
        state == Self::FREE || state == Self::ENDED
    }
    /// What a held slot proves; `None` if it is not held.
    #[inline(always)]
    pub const fn word(state: u64) -> Option<FlowWord> {
        if state > u32::MAX as u64 {
            Some(FlowWord(state as u32))
        } else {
            None
        }
    }
}

/// What a flow's entry proves: who dials, and for which destination that was found allowed.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowWord(pub u32);

impl FlowWord {
    /// A worker dials for the source.
    pub const LEG: u32 = 1 << 15;
    /// The source probes the health of workloads ([`super::setting::PROBE_CGROUP`]).
    pub const PROBE: u32 = 1 << 31;
    const INDEX: u32 = (1 << 15) - 1;

    /// Workload indexes; a `source` of 0 is a process of this node outside the mesh. `flags`:
    /// [`FlowWord::LEG`] and [`FlowWord::PROBE`].
    pub const fn new(source: u32, destination: u32, flags: u32) -> Self {
        Self(source & Self::INDEX | (destination & Self::INDEX) << 16 | flags)
    }
    #[inline(always)]
    pub const fn source(self) -> u32 {
        self.0 & Self::INDEX
    }
    #[inline(always)]
    pub const fn destination(self) -> u32 {
        self.0 >> 16 & Self::INDEX
    }
    #[inline(always)]
    pub const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// Key of `UDP_REVERSE`: the endpoint that an unconnected UDP socket sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UdpReverseKey {
    pub cookie: u64,
    pub ip: Ip,
    pub port: u16,
    pub pad: u16,
    pub pad2: u32,
}

/// Value of `UDP_REVERSE`: what the application dialed. Programs write it into elements that the
/// LRU gives to other keys at any moment: a reader takes `check_last`, the fields, then
/// `check_first`, and believes them only if both are its key's (the kernel writes upwards).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpReverse {
    pub check_first: u32,
    pub port: u32,
    pub ip: Ip,
    pub check_last: u32,
    pub pad: u32,
}

// A short check of a key is stored beside the payload in 8-byte values that programs write, because
// the element behind a looked-up pointer can be given to another key at any moment.
#[inline(always)]
pub(super) const fn mix(h: u32, word: u32) -> u32 {
    let h = (h ^ word).wrapping_mul(0x0100_0193);
    h ^ h >> 15
}

#[inline(always)]
const fn mix_u64(h: u32, word: u64) -> u32 {
    mix(mix(h, word as u32), (word >> 32) as u32)
}

#[inline(always)]
pub(super) const fn mix_ip(h: u32, ip: &Ip) -> u32 {
    mix(mix(mix(mix(h, ip.0[0]), ip.0[1]), ip.0[2]), ip.0[3])
}

pub(super) const SEED: u32 = 0x811c_9dc5;

impl ListenKey {
    /// Never zero, like every check.
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        let h = mix_ip(mix_u64(SEED, self.netns), &self.ip);
        mix(h, self.port as u32 | (self.proto as u32) << 16) | 1
    }
}

impl FlowKey {
    /// Index in `FLOW_SLOTS`.
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        self.check() >> 1 & (super::limits::FLOW_SLOTS as u32 - 1)
    }
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        let h = mix_ip(
            mix_ip(mix_u64(SEED, self.netns), &self.source),
            &self.destination,
        );
        mix(
            h,
            self.source_port as u32 | (self.destination_port as u32) << 16,
        ) | 1
    }
}

impl UdpReverseKey {
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        mix(
            mix_ip(mix_u64(SEED, self.cookie), &self.ip),
            self.port as u32,
        ) | 1
    }
}

/// Packs a checked 8-byte value.
#[inline(always)]
pub const fn checked(payload: u32, check: u32) -> u64 {
    (check as u64) << 32 | payload as u64
}

/// Unpacks a checked 8-byte value; `None` if it belongs to another key.
#[inline(always)]
pub const fn unchecked(value: u64, check: u32) -> Option<u32> {
    if (value >> 32) as u32 == check {
        Some(value as u32)
    } else {
        None
    }
}

const _: () = assert!(super::limits::WORKLOADS <= 1 << 15, "FlowWord has room");
const _: () = assert!(size_of::<AffinityKey>() == 16);
const _: () = assert!(size_of::<ListenKey>() == 32);
const _: () = assert!(size_of::<FlowKey>() == 48);
const _: () = assert!(size_of::<FlowSlot>() == 64);
const _: () = assert!(super::limits::FLOW_SLOTS.is_power_of_two());
const _: () = assert!(size_of::<UdpReverseKey>() == 32);

//! What the kernel keeps of one connection, and what it tells about it.

use crate::{addr::Ip, tables::limits};

pub mod counter;

/// The lowest layer that fulfils the policy (DESIGN law 1).
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    #[default]
    None = 0,
    Kernel = 1,
    Tunnel = 2,
    Http = 3,
    /// Older than the mesh: counted, never rewritten.
    BeforeMesh = 5,
}

impl Layer {
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::Kernel,
            2 => Self::Tunnel,
            3 => Self::Http,
            5 => Self::BeforeMesh,
            _ => Self::None,
        }
    }
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Kernel => "kernel",
            Self::Tunnel => "tunnel",
            Self::Http => "http",
            Self::BeforeMesh => "before-mesh",
        }
    }
}

/// Bits of [`SockState::flags`].
pub mod flag {
    /// This socket dialed; else it was accepted.
    pub const ACTIVE: u32 = 1;
    /// The destination was rewritten to an endpoint: `getpeername` shows `dialed`.
    pub const REWRITTEN: u32 = 1 << 1;
    /// The source is a process of this node outside every workload.
    pub const SOURCE_HOST: u32 = 1 << 2;
    /// The source is no workload and not on this node.
    pub const SOURCE_OUTSIDE: u32 = 1 << 3;
    /// TCP_CONNECT_CB was seen: the SYN left.
    pub const SYN_SENT: u32 = 1 << 4;
    /// Counted in `TOTALS` as opened.
    pub const OPENED: u32 = 1 << 5;
    /// The last close was seen and counted; nothing counts this socket again.
    pub const RELEASED: u32 = 1 << 6;
    /// TCP reached CLOSE (or TIME_WAIT).
    pub const CLOSED: u32 = 1 << 7;
    /// The peer's FIN was acknowledged or ours was sent: corrections of the byte counts.
    pub const FIN_SENT: u32 = 1 << 8;
    /// The destination is on this node, and its end may hold a `FLOWS` entry of ours.
    pub const LOCAL_DESTINATION: u32 = 1 << 9;
    /// The `FLOWS` entry could not be written: the other end takes the source for unknown.
    pub const FLOW_FAILED: u32 = 1 << 10;
    /// The dialed address was a service's.
    pub const SERVICE: u32 = 1 << 11;
    /// A connect that ended before it was established.
    pub const FAILED: u32 = 1 << 12;
    /// In the shortcut's map: the connection has an entry in `PAIRS` until its last close.
    pub const SHORTCUT: u32 = 1 << 13;
    /// The `FLOWS` entry is in the hash; else in a slot.
    pub const FLOW_HASHED: u32 = 1 << 14;
    /// A worker dialed for its workload: counted apart from what applications dial.
    pub const LEG: u32 = 1 << 15;
    /// Sent to the worker's outbound door: `remote` is the source's own address. On an accepted socket:
    /// it is the worker's end of such a connection, no row and not counted; `dialed` is what was asked for.
    pub const DOOR: u32 = 1 << 16;
    /// The source probes the health of workloads.
    pub const PROBE: u32 = 1 << 17;
    /// An accepted socket of the worker's: the connection was steered to it. With `DOOR` its row is the
    /// dialing end's.
    pub const STEERED: u32 = 1 << 18;
}

/// Per-socket state in `SOCKS` (`BPF_MAP_TYPE_SK_STORAGE`) and the body of every event.
/// Times are nanoseconds of `CLOCK_BOOTTIME`; ports are in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockState {
    /// Socket cookie: unique on this node until it reboots.
    pub cookie: u64,
    /// Kernel address of the `tcp_sock`; zero in events.
    pub tcp_sock: u64,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    pub opened_ns: u64,
    /// 0: not (yet) established.
    pub established_ns: u64,
    /// 0: open.
    pub closed_ns: u64,
    pub local: Ip,
    pub remote: Ip,
    /// What the application asked for (equal to `remote` if nothing was rewritten).
    pub dialed: Ip,
    pub local_port: u16,
    pub remote_port: u16,
    pub dialed_port: u16,
    /// IPPROTO_TCP or IPPROTO_UDP.
    pub proto: u8,
    /// A [`Layer`].
    pub layer: u8,
    /// Workload indexes, 0: none.
    pub source: u16,
    pub destination: u16,
    /// Service index, 0: none.
    pub service: u16,
    /// Policy index that decided, 0: the default policy.
    pub policy: u16,
    /// Bits of [`flag`].
    pub flags: u32,
    /// A [`crate::reason::Reason`] code, 0: none. Why a verdict or a close.
    pub reason: u16,
    /// A [`crate::verdict::Verdict`].
    pub verdict: u8,
    /// Kernel TCP state (`TCP_ESTABLISHED` = 1 …).
    pub tcp_state: u8,
    /// `write_seq` just before the first payload byte.
    pub write_seq_start: u32,
    /// `copied_seq` just before the first payload byte.
    pub copied_seq_start: u32,
    /// What TCP had counted when this copy was made.
    pub tcp: TcpCounts,
}

/// Counters of one TCP socket, corrected to payload bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounts {
    /// Accepted from `send`, by either path.
    pub sent: u64,
    /// Read by the application, by either path.
    pub received: u64,
    /// Acknowledged by the peer's kernel.
    pub delivered: u64,
    pub segments_out: u32,
    pub retransmits: u32,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: u32,
    /// `sk_err` (an errno) when the connection ended, else 0.
    pub error: u16,
    /// Code: why this connection, or its last message that did, stayed on TCP; 0: nothing did.
    pub off_shortcut: u16,
    /// Of `sent` and `received`, what took the shortcut.
    pub shortcut_sent: u64,
    pub shortcut_received: u64,
}

/// What an event in the ring says.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A connect or an inbound SYN was refused; there is no socket state.
    Refused = 1,
    /// The last close (`cgroup/sock_release`): `sent` and `received` are final. Only sent when no
    /// `Closed` will follow: TCP is in CLOSE already, or somebody turned our state callback off.
    Released = 2,
    /// TCP reached CLOSE: `delivered`, segments, retransmits and the error are final; so are `sent`
    /// and `received` if `flag::RELEASED` is set (the usual case: one event per connection).
    Closed = 3,
    /// A workload listens in a namespace that no `sk_lookup` program guards yet.
    Unguarded = 4,
    /// A connect of this socket ended before it was established.
    Failed = 5,
    /// Allowed, but a policy in audit mode would deny.
    Audited = 6,
}

impl EventKind {
    pub const fn from_u32(v: u32) -> Option<Self> {
        Some(match v {
            1 => Self::Refused,
            2 => Self::Released,
            3 => Self::Closed,
            4 => Self::Unguarded,
            5 => Self::Failed,
            6 => Self::Audited,
            _ => return None,
        })
    }
}

/// One entry of the `EVENTS` ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// An [`EventKind`].
    pub kind: u32,
    /// Calling process (tgid) for `Refused` and `Unguarded`, else 0.
    pub pid: u32,
    pub at_ns: u64,
    pub sock: SockState,
}

/// Key of `TOTALS`: exact per-CPU sums that no lost event can touch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TotalKey {
    pub source: u32,
    pub destination: u32,
    pub service: u32,
    pub proto: u8,
    /// [`TotalKey::OUTBOUND`] or [`TotalKey::INBOUND`].
    pub direction: u8,
    pub layer: u8,
    pub verdict: u8,
    /// Only [`flag::SOURCE_HOST`], [`flag::SOURCE_OUTSIDE`] and [`flag::LEG`].
    pub source_kind: u32,
}

/// Value of `TOTALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Established connections (TCP); connected sockets (UDP).
    pub opened: u64,
    /// Of `opened`, those that ended.
    pub closed: u64,
    /// Denied, refused, or never established.
    pub refused: u64,
    /// Payload bytes at the last close.
    pub sent: u64,
    pub received: u64,
    pub retransmits: u64,
    pub segments_out: u64,
    /// UDP only: datagrams sent and received on unconnected sockets through a service address.
    pub datagrams: u64,
    /// Of `sent` and `received` together, what took the shortcut.
    pub shortcut: u64,
}

impl TotalKey {
    /// A worker dialed for the source.
    pub const fn is_leg(&self) -> bool {
        self.source_kind & flag::LEG != 0
    }

    /// The source is on this node.
    pub const OUTBOUND: u8 = 1;
    /// The source is not on this node.
    pub const INBOUND: u8 = 2;

    /// The key under which a connection is counted.
    #[inline(always)]
    pub const fn of(s: &SockState) -> Self {
        Self {
            source: s.source as u32,
            // Which workload answers what goes to the worker is the leg's to say.
            destination: if s.flags & flag::DOOR != 0 {
                0
            } else {
                s.destination as u32
            },
            service: s.service as u32,
            proto: s.proto,
            direction: if s.flags & flag::ACTIVE != 0 {
                Self::OUTBOUND
            } else {
                Self::INBOUND
            },
            layer: s.layer,
            verdict: s.verdict,
            source_kind: s.flags & (flag::SOURCE_HOST | flag::SOURCE_OUTSIDE | flag::LEG),
        }
    }
}

impl Total {
    /// Connections that are open now.
    pub const fn open(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }

    pub const fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.refused += other.refused;
        self.sent += other.sent;
        self.received += other.received;
        self.retransmits += other.retransmits;
        self.segments_out += other.segments_out;
        self.datagrams += other.datagrams;
        self.shortcut += other.shortcut;
    }

    /// The larger of each: a counter that was shown never falls.
    pub fn at_least(&mut self, before: &Self) {
        self.opened = self.opened.max(before.opened);
        self.closed = self.closed.max(before.closed);
        self.refused = self.refused.max(before.refused);
        self.sent = self.sent.max(before.sent);
        self.received = self.received.max(before.received);
        self.retransmits = self.retransmits.max(before.retransmits);
        self.segments_out = self.segments_out.max(before.segments_out);
        self.datagrams = self.datagrams.max(before.datagrams);
        self.shortcut = self.shortcut.max(before.shortcut);
    }
}

/// Offsets of kernel struct fields, in bytes, read from BTF at load and set as the object's
/// `OFFSETS` global. A program never contains one as a constant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub tcp_write_seq: u32,
    pub tcp_copied_seq: u32,
    pub tcp_rcv_nxt: u32,
    pub tcp_snd_una: u32,
    pub tcp_bytes_acked: u32,
    pub tcp_bytes_received: u32,
    pub tcp_bytes_sent: u32,
    pub tcp_bytes_retrans: u32,
    pub tcp_segs_out: u32,
    pub tcp_total_retrans: u32,
    pub tcp_srtt_us: u32,
    /// `sock.__sk_common.skc_state`.
    pub sk_state: u32,
    pub sk_err: u32,
    pub sk_shutdown: u32,
    /// The word that holds `sk_flags` (`sock.__sk_common.skc_flags`).
    pub sk_flags: u32,
    pub sk_socket: u32,
    pub socket_file: u32,
    /// `sock.sk_cgrp_data.cgroup`.
    pub sk_cgroup: u32,
    /// `cgroup.kn`.
    pub cgroup_kn: u32,
    /// `kernfs_node.id`.
    pub kn_id: u32,
    pub cgroup_level: u32,
    pub cgroup_ancestors: u32,
    /// `tcp_sock.bpf_sock_ops_cb_flags` (one byte).
    pub tcp_cb_flags: u32,
    /// `task_struct.cgroups`.
    pub task_cgroups: u32,
    pub task_tgid: u32,
    /// `css_set.dfl_cgrp`.
    pub css_set_cgroup: u32,
    /// BTF id of the type that the programs cast addresses to.
    pub type_tcp_sock: u32,
    /// BTF id of the kernel function `bpf_rdonly_cast`, 0 before Linux 6.2; the loader puts it in the
    /// place of [`RDONLY_CAST`].
    pub rdonly_cast: u32,
}

/// Stands in the object for calls of `bpf_rdonly_cast`: Rust has no way to name a kernel function. As a
/// helper's number it does not exist, so a program that reaches an unpatched call is refused.
pub const RDONLY_CAST: u32 = 0x7e57_0001;

// With the kernel's own 72 bytes (`struct bpf_local_storage_elem`) a slab object of 256: each connection
// allocates one, and the next size costs it 0.4 µs more.
const _: () = assert!(size_of::<SockState>() == 184);
const _: () = assert!(size_of::<Event>() == 200);
const _: () = assert!(limits::WORKLOADS <= 1 << 16 && limits::SERVICES <= 1 << 16);
const _: () = assert!(limits::POLICIES <= 1 << 16);
const _: () = assert!(size_of::<TotalKey>() == 20);
const _: () = assert!(size_of::<Total>() == 72);

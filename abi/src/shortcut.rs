//! The shortcut past TCP for two sockets of one node: per-socket and per-connection state, switches,
//! modes. Why it is built so: `docs/explanation/shortcut.md`.

use crate::addr::Ip;

/// Bits of `SETTINGS[setting::SHORTCUT]`. Zero: nothing new enters the map, and no message of a
/// socket that is in it leaves TCP.
pub mod switch {
    /// New connections may enter the map.
    pub const INSERT: u64 = 1;
    /// Messages may be redirected: taking this bit away holds from the next message on.
    pub const REDIRECT: u64 = 2;
    /// What holds for whoever has no mode of its own: set, mode `on`; else `auto`.
    pub const NODE_ON: u64 = 4;
    /// Redirect also where the reader has no verdict program. Only for the test suite's control, which
    /// must fail: without that program the reader's wake-ups get lost when paths change.
    pub const WITHOUT_VERDICT: u64 = 8;
    /// splice from a socket in the map fails with EINVAL: mode `auto` takes any program that does not
    /// use io_uring.
    pub const GUARDED: u64 = 16;
}

/// Who takes the shortcut. In the upper half of a `WORKLOADS` word; 0 there means the node's mode.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    Off = 1,
    /// Programs on the tested list.
    Auto = 2,
    /// The owner says that the workload qualifies.
    On = 3,
}

impl Mode {
    /// Bit position in a `WORKLOADS` word.
    pub const SHIFT: u32 = 32;
    /// Its bits there, shifted down.
    pub const MASK: u32 = 0xff;

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "auto" => Some(Self::Auto),
            "on" => Some(Self::On),
            _ => None,
        }
    }
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::On => "on",
        }
    }
}

/// Defaults of the bounds.
pub mod bound {
    /// Bytes that may wait unread in one socket's queue, the message's own included
    /// (`SETTINGS[SHORTCUT_SOCKET]`). Measured: 1 MB costs streams their gain.
    pub const SOCKET: u64 = 4 << 20;
    /// Counted for each message that waits, beside its bytes: the kernel's `sk_msg` (712 bytes, of a slab
    /// of 1 KiB), which it charges to nobody. Measured without: 1.1 GB for 5 MB in messages of one byte.
    pub const MESSAGE: u64 = 1 << 10;
    /// Pages of socket memory that TCP may hold on the node, all sockets together, while messages are
    /// redirected (`SETTINGS[SHORTCUT_NODE]`), if the kernel's own mark of no pressure, `tcp_mem[0]`,
    /// cannot be read.
    pub const NODE_PAGES: u64 = 65_536;
}

/// How streams are recognized that cost more past TCP than over it.
/// Measured on Linux 6.18, CPU per message against TCP: `docs/explanation/shortcut.md`.
pub mod learn {
    /// Messages of one direction that are judged together.
    pub const WINDOW: u32 = 128;
    /// A window is a stream if so many of its messages found the reader with bytes unread: 16 requests
    /// in flight (120) gain, 64 (126) may lose.
    pub const BEHIND: u32 = 124;
    /// Bytes: a stream whose messages are smaller on average costs less by TCP …
    pub const SMALL: u32 = 4_096;
    /// … and between two of one network namespace, where TCP is cheaper.
    pub const SMALL_NEAR: u32 = 32_768;
    /// Windows over which is counted what TCP had to carry, as the reader had too much unread.
    pub const WINDOWS: u32 = 4;
    /// From so many messages of them on the rest makes up for nothing, within one network namespace;
    /// between two it does.
    pub const BY_TCP: u32 = WINDOWS * WINDOW / 2;
    /// A connection that ends with fewer messages past TCP, of both directions together, and fewer bytes
    /// has not earned the 11 µs that entering and leaving the map costs: 6 of its processes, 5 of the
    /// kernel's workers. Measured between two namespaces: a request and its response earn 3.4 µs, and more
    /// if they are so large …
    pub const SHORT: u32 = 6;
    pub const SHORT_BYTES: u64 = 16_384;
    /// … and within one 1.8 µs.
    pub const SHORT_NEAR: u32 = 12;
    pub const SHORT_BYTES_NEAR: u64 = 131_072;
    /// So many of a pair in a row, and the next ones are kept out.
    pub const SHORTS: u64 = 8;
    /// Position of their number in a `LEARNT` value.
    pub const SHORTS_SHIFT: u32 = 16;
    /// Whether a connection that ended with so much past TCP cost more than by TCP. `near`: within one
    /// network namespace.
    pub const fn is_short(near: bool, messages: u32, bytes: u64) -> bool {
        if near {
            messages < SHORT_NEAR && bytes < SHORT_BYTES_NEAR
        } else {
            messages < SHORT && bytes < SHORT_BYTES
        }
    }
    /// Seconds for which the next connections of the pair stay on TCP
    /// (`SETTINGS[SHORTCUT_KEEP_OUT]`).
    pub const KEEP_OUT: u64 = 600;
    /// Unit of the time in a `LEARNT` value, in nanoseconds of `CLOCK_BOOTTIME`.
    pub const TICK_NS: u64 = 1_000_000_000;
}

/// Programs that were tested with the shortcut, by the name of their executable: mode `auto` takes
/// no others.
pub mod programs {
    /// Grows with each change of [`TESTED`].
    pub const VERSION: u32 = 3;
    /// Debian's `redis-server` is a link to `redis-check-rdb`: one file that acts by the name it is called.
    /// The vendor makes its workers' listeners and has no other of TCP.
    pub const TESTED: [&str; 5] = [
        "redis-server",
        "redis-check-rdb",
        "redis-benchmark",
        "underpass-proxy",
        "underpass-vend",
    ];
    /// Bit of a `PROGRAMS` value: on the list.
    pub const LISTED: u64 = 1;
    /// It was seen to splice from a TCP socket.
    pub const SPLICES: u64 = 2;
    /// It was seen with an io_uring, whose splice the guard cannot tell from a read.
    pub const RING: u64 = 4;
    /// It dials or accepts non-blocking and then blocks: such a socket in the map gets `EAGAIN` now and then.
    pub const BLOCKS: u64 = 8;
}

/// Key of `PROGRAMS`: the first bytes of the executable's file name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProgramKey {
    pub name: [u8; 24],
}

impl ProgramKey {
    pub fn new(name: &str) -> Self {
        let mut key = Self::default();
        // The last byte stays zero, as in the kernel's copy.
        for (to, from) in key.name[..23].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        key
    }
}

/// Value of `CANDIDATES`, by [`crate::tables::ListenKey`]: a listener of a meshed workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Kernel address; believed only together with the cookie.
    pub sk: u64,
    pub cookie: u64,
    /// The program that listened.
    pub program: ProgramKey,
}

/// Per-socket state in `ENDS` (socket storage): one end of a connection in the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub sk: u64,
    pub cookie: u64,
    /// The other end's kernel address and cookie; 0: not known yet.
    pub peer: u64,
    pub peer_cookie: u64,
    /// Key in `PAIRS`: the dialing end's cookie.
    pub pair: u64,
    /// Kernel address of the socket's `sk_psock`, which outlives its stay in the map by a grace period.
    pub psock: u64,
    /// The other end's `write_seq` and `copied_seq` when both were in the map.
    pub peer_write_seq: u32,
    pub peer_copied_seq: u32,
    /// Bits of [`end`].
    pub flags: u32,
    /// Code of the last message that stayed on TCP, 0: none did.
    pub why: u32,
    /// Of the current window ([`learn::WINDOW`]): messages, their bytes, those that found bytes unread.
    pub messages: u32,
    pub bytes: u32,
    pub behind: u32,
    /// Of up to [`learn::WINDOWS`]: how many, and messages that went by TCP as bytes were unread.
    pub windows: u32,
    pub by_tcp: u32,
    /// Bytes that the reader had unread when the last message was sent.
    pub waiting: u32,
    /// Messages redirected since the reader's queue was last found empty: no more than those wait in it.
    pub piled: u32,
    /// Indexes of the dialing and the accepting end's workloads, 0: none.
    pub source: u32,
    pub destination: u32,
    pub pad: u32,
}

/// Bits of [`End::flags`].
pub mod end {
    /// This end dialed.
    pub const ACTIVE: u32 = 1;
    /// No message of this end is redirected any more; `why` says why.
    pub const OUT: u32 = 2;
    /// The agent was told to end it.
    pub const TOLD: u32 = 4;
    /// It is out for what it sends ([`super::learn`]), and comes back if that changes.
    pub const LEARNT: u32 = 8;
    /// Its next FIN is made one that the other end's kernel drops.
    pub const HOLD: u32 = 16;
}

/// Value of `PAIRS`: what both ends of a connection share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub active: u64,
    pub passive: u64,
    pub active_cookie: u64,
    /// Written last: 0 until the passive end is in the map.
    pub passive_cookie: u64,
    /// Bytes redirected to each end.
    pub to_passive: u64,
    pub to_active: u64,
    /// Code of the last message that stayed on TCP, of either end.
    pub why: u16,
    /// Messages redirected to each end; they stop at the largest number.
    pub messages_to_passive: u8,
    pub messages_to_active: u8,
    pub key: PairKey,
}

/// Key of `LEARNT`: connections that probably send alike. The value's upper half is the second
/// ([`learn::TICK_NS`]) until which they are kept out, its lowest 16 bits say by which code. While nothing
/// keeps them out both are 0, and the bits from [`learn::SHORTS_SHIFT`] on count short connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PairKey {
    /// Workload indexes, 0: none.
    pub source: u32,
    pub destination: u32,
    /// Of the destination, host byte order.
    pub port: u16,
    /// 1: both ends are in one network namespace.
    pub near: u16,
}

/// What a [`Notice`] says.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// A listener that may take the shortcut, and the splice watch is not attached.
    Candidate = 1,
    /// A program spliced from a socket in the map, which will never give it a byte.
    Spliced = 2,
    /// A socket in the map was closed with unread bytes. Its FIN is held back until TCP repeats it, so
    /// that the socket can be made to send the reset that TCP owes.
    Unread = 3,
    /// The same, where nothing can be done: the other end has closed its side before.
    Lost = 4,
    /// Bytes that TCP brought twice could not be cut off, for want of memory.
    Garbled = 5,
}

/// What the shortcut's programs tell the agent, in the `EVENTS` ring beside [`crate::sock::Event`],
/// from which it differs in size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// A [`NoticeKind`].
    pub kind: u32,
    /// Calling process (tgid), 0: unknown.
    pub pid: u32,
    /// The socket that is to end, 0: none.
    pub cookie: u64,
    /// Key in `PAIRS`: the dialing end's cookie, which is the row's.
    pub pair: u64,
    /// Of the socket; 0: see the row.
    pub netns: u64,
    pub local: Ip,
    pub remote: Ip,
    pub local_port: u16,
    pub remote_port: u16,
    pub pad: u32,
}

/// Offsets of kernel fields that only the shortcut needs; `known` is 0 if this kernel lacks one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShortcutOffsets {
    pub known: u32,
    /// `sock.__sk_common.skc_cookie`
    pub sk_cookie: u32,
    pub sk_prot: u32,
    pub sk_user_data: u32,
    /// `sock.sk_backlog.rmem_alloc`
    pub sk_rmem_alloc: u32,
    pub sk_rcvbuf: u32,
    pub sk_sndbuf: u32,
    pub sk_rcvlowat: u32,
    pub icsk_ulp_ops: u32,
    /// 0 if the kernel has no Multipath TCP.
    pub tcp_is_mptcp: u32,
    pub psock_msg_tot_len: u32,
    pub psock_skb_verdict: u32,
    pub psock_sk: u32,
    pub proto_memory_allocated: u32,
    pub file_flags: u32,
    pub task_mm: u32,
    pub mm_exe_file: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// Where `pt_regs` holds the number of the system call (the low half), and splice's number.
    pub regs_syscall: u32,
    pub splice: u32,
    /// BTF id of the type that the programs cast addresses to.
    pub type_psock: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// 0 if the kernel has no io_uring.
    pub task_io_uring: u32,
    /// `sk_psock.ingress_msg`, and its `prev`
    pub psock_msgs: u32,
    pub psock_last_msg: u32,
    /// `sk_psock.ingress_skb.qlen`
    pub psock_held: u32,
    /// `sk_psock.ingress_skb.prev`
    pub psock_last_held: u32,
    pub msg_list: u32,
    pub msg_skb: u32,
    /// `sk_buff.cb` as TCP's `tcp_skb_cb`: `end_seq`
    pub skb_end_seq: u32,
    pub type_sk_msg: u32,
    pub type_sk_buff: u32,
    pub tcp_last_oow: u32,
}

const _: () = assert!(size_of::<ProgramKey>() == 24);
const _: () = assert!(size_of::<Candidate>() == 40);
const _: () = assert!(size_of::<End>() == 104);
const _: () = assert!(size_of::<Pair>() == 64);
const _: () = assert!(size_of::<Notice>() == 72);
const _: () = assert!(size_of::<ShortcutOffsets>() == 136);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_round_trip() {
        for mode in [Mode::Off, Mode::Auto, Mode::On] {
            assert_eq!(Mode::parse(mode.name()), Some(mode));
        }
        assert_eq!(Mode::parse("maybe"), None);
    }

    #[test]
    fn messages_or_bytes_make_a_connection_long() {
        assert!(learn::is_short(false, 0, 0) && learn::is_short(true, 0, 0));
        // Three requests and responses pay between two namespaces, six within one.
        assert!(learn::is_short(false, 4, 300) && !learn::is_short(false, 6, 6));
        assert!(learn::is_short(true, 10, 700) && !learn::is_short(true, 12, 12));
        assert!(learn::is_short(false, 2, 8_300) && !learn::is_short(false, 2, 16_400));
        assert!(learn::is_short(true, 2, 65_600) && !learn::is_short(true, 2, 131_100));
    }

    #[test]
    fn long_names_are_cut_and_end_in_zero() {
        let key = ProgramKey::new("a-program-with-a-very-long-name");
        assert_eq!(key.name[23], 0);
        assert_eq!(key, ProgramKey::new("a-program-with-a-very-long-name-2"));
    }
}

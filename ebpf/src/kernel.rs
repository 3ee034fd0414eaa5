//! Reading kernel structures at offsets that came from BTF, and turning them into payload counts.

use aya_ebpf::helpers::generated as h;
use underpass_abi::{
    plain::Plain,
    sock::{RDONLY_CAST, SockState, TcpCounts, flag},
};

/// IPPROTO_TCP and IPPROTO_UDP.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// One offset of `OFFSETS`, read from the frozen `.rodata`.
macro_rules! offset {
    ($field:ident) => {{
        let offsets = (&raw const crate::maps::OFFSETS).cast::<underpass_abi::sock::Offsets>();
        // SAFETY: `Global` is transparent; the static lives in the object's read-only data.
        u64::from(unsafe { core::ptr::read_volatile(&raw const (*offsets).$field) })
    }};
}
pub(crate) use offset;

/// Reads a `T` at a kernel address; zero if the address is bad.
#[inline(always)]
pub fn read<T: Copy + Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the address and zeroes the destination when it fails.
    unsafe {
        h::bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            address as *const core::ffi::c_void,
        );
    }
    value
}

/// An address as a pointer of a type that the verifier knows, for loads only.
#[inline(always)]
pub fn cast(address: u64, kind: u64) -> *const u8 {
    // SAFETY: a call of the kernel's `bpf_rdonly_cast` once the loader has patched it.
    unsafe {
        let number = RDONLY_CAST as usize;
        let f: unsafe extern "C" fn(u64, u64) -> *const u8 = core::mem::transmute(number);
        f(address, kind)
    }
}

/// A field of the TCP socket at an address, zero if the address is bad. A nanosecond, where a call of
/// [`read`] costs 15 to 70 (measured on two machines); before Linux 6.2 there is only that.
#[inline(always)]
pub fn tcp<T: Copy + Default>(sk: u64, offset: u64) -> T {
    if offset!(rdonly_cast) == 0 {
        read(sk + offset)
    } else {
        field(cast(sk, offset!(type_tcp_sock)), offset)
    }
}

/// Writes zeros word by word: LLVM would call `memset`, which costs a call and which libbpf's loader
/// refuses.
///
/// # Safety
/// `p` points to writable memory of the type's size.
#[inline(always)]
pub unsafe fn zero<T: Plain>(p: *mut T) {
    let (words, halves) = (p.cast::<u64>(), p.cast::<u32>());
    let aligned = align_of::<T>() == 8;
    let mut i = 0;
    while i < size_of::<T>() / if aligned { 8 } else { 4 } {
        // SAFETY: within the value, whose size is a multiple of 4 and of its alignment.
        unsafe {
            if aligned {
                core::ptr::write_volatile(words.add(i), 0);
            } else {
                core::ptr::write_volatile(halves.add(i), 0);
            }
        }
        i += 1;
    }
}

/// Declares a mutable reference to a value of zeros on the stack, never moved: a move would become
/// `memset` again.
macro_rules! zeroed {
    ($name:ident: $t:ty) => {
        let mut slot = core::mem::MaybeUninit::<$t>::uninit();
        // SAFETY: every word is written, and zeros are a valid `Plain`.
        let $name = unsafe {
            $crate::kernel::zero(slot.as_mut_ptr());
            slot.assume_init_mut()
        };
    };
}
pub(crate) use zeroed;

/// The address of a socket as a number. The verifier forbids arithmetic on the context's socket
/// pointer; a copy that went through a helper is a plain number to it.
#[inline(always)]
pub fn address(sk: *mut core::ffi::c_void) -> u64 {
    read((&raw const sk) as u64)
}

/// An IPv6 address of a context, one 32-bit read a word.
macro_rules! ip6 {
    ($context:expr, $field:ident) => {
        underpass_abi::Ip([
            core::ptr::read_volatile(&raw const (*$context).$field[0]),
            core::ptr::read_volatile(&raw const (*$context).$field[1]),
            core::ptr::read_volatile(&raw const (*$context).$field[2]),
            core::ptr::read_volatile(&raw const (*$context).$field[3]),
        ])
    };
}
pub(crate) use ip6;

pub const TCP_ESTABLISHED: u32 = 1;
pub const TCP_FIN_WAIT1: u32 = 4;
pub const TCP_CLOSE: u32 = 7;
pub const TCP_LAST_ACK: u32 = 9;
/// FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING: our FIN is in `write_seq`.
const FIN_SENT_STATES: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;
/// `SOCK_DONE` in `sk_flags`: a FIN was received.
const SOCK_DONE: u64 = 1 << 1;
/// `BPF_SOCK_OPS_STATE_CB_FLAG`
pub const STATE_CB: u32 = 1 << 2;

/// Everything that TCP has counted, as payload bytes in 64 bits. `write_seq` and `copied_seq` are
/// 32-bit and count FINs; `bytes_acked` and `bytes_received` give the upper half
/// (measured against applications: `tests/tests/accounting.rs`).
#[inline(never)]
pub fn tcp_counts(s: &SockState, counts: &mut TcpCounts) {
    let tp = s.tcp_sock;
    let write_seq: u32 = tcp(tp, offset!(tcp_write_seq));
    let copied_seq: u32 = tcp(tp, offset!(tcp_copied_seq));
    let rcv_nxt: u32 = tcp(tp, offset!(tcp_rcv_nxt));
    let snd_una: u32 = tcp(tp, offset!(tcp_snd_una));
    let acked: u64 = tcp(tp, offset!(tcp_bytes_acked));
    let arrived: u64 = tcp(tp, offset!(tcp_bytes_received));
    let state = u32::from(tcp::<u8>(tp, offset!(sk_state)));
    let sk_flags: u64 = tcp(tp, offset!(sk_flags));
    let srtt: u32 = tcp(tp, offset!(tcp_srtt_us));

    let mut fin = 0;
    if s.flags & flag::FIN_SENT != 0 || FIN_SENT_STATES & (1 << (state & 31)) != 0 {
        fin = 1;
    } else if state == TCP_CLOSE && s.flags & flag::CLOSED == 0 {
        // Somebody turned our state callback off: a FIN was sent if one more than the payload that
        // left is in write_seq.
        let on_wire: u64 = tcp::<u64>(tp, offset!(tcp_bytes_sent))
            .wrapping_sub(tcp::<u64>(tp, offset!(tcp_bytes_retrans)));
        let written = write_seq.wrapping_sub(s.write_seq_start);
        if written == (on_wire as u32).wrapping_add(1) {
            fin = 1;
        }
    }
    let syn_acked = if s.flags & flag::ACTIVE != 0 && acked > 0 {
        1
    } else {
        0
    };
    let fin_acked = if fin == 1 && snd_una == write_seq {
        1
    } else {
        0
    };
    let eof_read = if sk_flags & SOCK_DONE != 0 && copied_seq == rcv_nxt {
        1
    } else {
        0
    };

    let written = write_seq.wrapping_sub(s.write_seq_start).wrapping_sub(fin);
    let floor = if acked > 2 { acked - 2 } else { 0 };
    let copied = copied_seq
        .wrapping_sub(s.copied_seq_start)
        .wrapping_sub(eof_read);
    *counts = TcpCounts {
        sent: floor + u64::from(written.wrapping_sub(floor as u32)),
        received: arrived - u64::from((arrived as u32).wrapping_sub(copied)),
        delivered: acked.wrapping_sub(syn_acked + fin_acked),
        segments_out: tcp(tp, offset!(tcp_segs_out)),
        retransmits: tcp(tp, offset!(tcp_total_retrans)),
        srtt_us: srtt >> 3,
        error: tcp::<u32>(tp, offset!(sk_err)) as u16,
        off_shortcut: s.tcp.off_shortcut,
        shortcut_sent: 0,
        shortcut_received: 0,
    };
}

/// Loads a field through a pointer whose kernel type the verifier knows. It takes a typed pointer plus
/// a known number (`OFFSETS` is frozen) for a field's address: one instruction, where a call of
/// [`read`] costs 15 ns.
macro_rules! load {
    ($pointer:expr, $t:ty, $field:ident) => {{
        let offset = $crate::kernel::offset!($field);
        $crate::kernel::field::<$t>($pointer.cast(), offset)
    }};
}
pub(crate) use load;

/// A field of a kernel structure that the verifier knows by type; the offset is a constant to it.
#[inline(always)]
pub fn field<T: Copy>(of: *const u8, offset: u64) -> T {
    // SAFETY: the verifier checks the access; the kernel reads zero where the memory is gone.
    unsafe { core::ptr::read_volatile(of.add(offset as usize).cast::<T>()) }
}

/// A pointer to a kernel object whose type the verifier knows.
pub type Typed = *const core::ffi::c_void;

/// True if no file refers to the socket: one that the kernel made for itself (NFS, CIFS, …).
#[inline(always)]
pub fn is_kernel_socket(sk: u64) -> bool {
    let socket: u64 = read(sk + offset!(sk_socket));
    socket != 0 && read::<u64>(socket + offset!(socket_file)) == 0
}

/// True if an application can still reach the socket.
#[inline(always)]
pub fn has_socket(sk: u64) -> bool {
    tcp::<u64>(sk, offset!(sk_socket)) != 0
}

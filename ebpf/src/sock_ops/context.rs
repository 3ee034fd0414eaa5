//! What the hook's context gives: the socket, its ends, its state.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops},
    helpers::generated as h,
};
use underpass_abi::{Ip, sock::SockState};

use crate::{
    kernel::{self, STATE_CB, Typed, ip6},
    maps::SOCKS,
};

/// The socket's state, made if `create`.
#[inline(always)]
pub fn state(ops: *mut bpf_sock_ops, create: bool) -> Option<&'static mut SockState> {
    // SAFETY: helper calls on a live map and the context's socket, checked for null.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let map = (&raw const SOCKS).cast_mut().cast();
        let flags = if create {
            u64::from(BPF_SK_STORAGE_GET_F_CREATE)
        } else {
            0
        };
        let p = h::bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), flags);
        p.cast::<SockState>().as_mut()
    }
}

/// The context's `tcp_sock`; [`kernel::address`] makes a number of it for hooks that have none.
#[inline(always)]
pub fn tcp_sock(ops: *mut bpf_sock_ops) -> Option<Typed> {
    // SAFETY: as in `state`.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let tp: Typed = h::bpf_skc_to_tcp_sock(sk.cast()).cast();
        if tp.is_null() { None } else { Some(tp) }
    }
}

/// The same as a number, 0 if there is none.
#[inline(always)]
pub fn tcp_sock_address(ops: *mut bpf_sock_ops) -> u64 {
    match tcp_sock(ops) {
        Some(tp) => kernel::address(tp.cast_mut()),
        None => 0,
    }
}

#[inline(always)]
pub fn watch_states(ops: *mut bpf_sock_ops) {
    // SAFETY: context field and plain helper call. OR: others' flags stay.
    unsafe {
        let flags = core::ptr::read_volatile(&raw const (*ops).bpf_sock_ops_cb_flags);
        if flags & STATE_CB == 0 {
            h::bpf_sock_ops_cb_flags_set(ops, (flags | STATE_CB) as i32);
        }
    }
}

/// Local and remote end of the context's socket.
#[inline(always)]
pub fn ends(ops: *mut bpf_sock_ops) -> (Ip, u16, Ip, u16) {
    // SAFETY: context fields, one 32-bit read each.
    unsafe {
        let local_port = core::ptr::read_volatile(&raw const (*ops).local_port) as u16;
        // Network byte order in the upper half… of a word that the verifier rewrites to a shift.
        let remote_port =
            u32::from_be(core::ptr::read_volatile(&raw const (*ops).remote_port)) as u16;
        let family = core::ptr::read_volatile(&raw const (*ops).family);
        let local4 = core::ptr::read_volatile(&raw const (*ops).local_ip4);
        let remote4 = core::ptr::read_volatile(&raw const (*ops).remote_ip4);
        let local6 = ip6!(ops, local_ip6);
        let remote6 = ip6!(ops, remote_ip6);
        let local = if family == 2 { Ip::v4(local4) } else { local6 };
        let remote = if family == 2 {
            Ip::v4(remote4)
        } else {
            remote6
        };
        (local, local_port, remote, remote_port)
    }
}

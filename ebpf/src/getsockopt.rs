//! `cgroup/getsockopt`, at the vendor's cgroup alone: tells a worker what was dialed, where it would ask
//! conntrack if it ran beside its workload.

use aya_ebpf::{
    bindings::bpf_sockopt, helpers::generated as h, macros::cgroup_sockopt,
    programs::SockoptContext,
};
use underpass_abi::{
    sock::{SockState, flag},
    worker::{ORIGINAL_DST, PEERCRED, SOL_IP, SOL_IPV6, SOL_SOCKET, kind},
};

use crate::{kernel::TCP, maps::SOCKS};

/// The value that is in the context by then; 0 would be EPERM.
const DONE: i32 = 1;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

#[cgroup_sockopt(getsockopt)]
pub fn up_getsockopt(ctx: SockoptContext) -> i32 {
    let c = ctx.sockopt;
    // SAFETY: context fields, one 32-bit read each.
    let (level, name) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*c).level),
            core::ptr::read_volatile(&raw const (*c).optname),
        )
    };
    let original = name == ORIGINAL_DST && (level == SOL_IP || level == SOL_IPV6);
    if !original && (name != PEERCRED || level != SOL_SOCKET) {
        return DONE;
    }
    // SAFETY: context fields, and a helper call on a live map and the context's socket.
    let state = unsafe {
        let sk = (*c).__bindgen_anon_1.sk;
        if sk.is_null() || u32::from(TCP) != core::ptr::read_volatile(&raw const (*sk).protocol) {
            return DONE;
        }
        let map = (&raw const SOCKS).cast_mut().cast();
        h::bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0).cast::<SockState>()
    };
    // SAFETY: the socket's own element, alive for the run.
    let Some(s) = (unsafe { state.as_ref() }).filter(|s| is_told(s)) else {
        if original {
            return refuse(ENOENT);
        }
        answer(c, [kind::NOT_TOLD, 0, 0]);
        return DONE;
    };
    let written = if original {
        destination(c, s, level == SOL_IP)
    } else {
        answer(c, [kind_of(s), u32::from(s.source), 0])
    };
    match written {
        true => DONE,
        false => refuse(EINVAL),
    }
}

/// A socket that a worker accepted.
#[inline(always)]
fn is_told(s: &SockState) -> bool {
    s.flags & flag::ACTIVE == 0 && s.flags & (flag::DOOR | flag::STEERED) != 0
}

/// What was dialed.
#[inline(always)]
fn destination(c: *mut bpf_sockopt, s: &SockState, v4: bool) -> bool {
    if s.dialed.is_v4() != v4 {
        return false;
    }
    let first = if v4 { AF_INET } else { AF_INET6 } | u32::from(s.dialed_port.to_be()) << 16;
    let ip = s.dialed.0;
    if v4 {
        answer(c, [first, ip[3], 0, 0])
    } else {
        // Family and port, flow label, address, scope.
        answer(c, [first, 0, ip[0], ip[1], ip[2], ip[3], 0])
    }
}

/// Who dialed.
#[inline(always)]
fn kind_of(s: &SockState) -> u32 {
    if s.source != 0 {
        kind::WORKLOAD
    } else if s.flags & flag::SOURCE_HOST != 0 {
        kind::HOST
    } else if s.flags & flag::SOURCE_OUTSIDE != 0 {
        kind::OUTSIDE
    } else {
        kind::UNKNOWN_LOCAL
    }
}

#[inline(always)]
fn refuse(errno: i32) -> i32 {
    // SAFETY: plain helper call; the error that getsockopt(2) returns, also in place of conntrack's answer.
    unsafe { h::bpf_set_retval(-errno) };
    DONE
}

/// Puts words into the caller's buffer. False if it is too small.
#[inline(always)]
fn answer<const N: usize>(c: *mut bpf_sockopt, words: [u32; N]) -> bool {
    // SAFETY: the verifier checks the range against the context's end.
    unsafe {
        let to = (*c).__bindgen_anon_2.optval.cast::<u32>();
        let end = (*c).__bindgen_anon_3.optval_end.cast::<u32>();
        if to.add(N) > end {
            return false;
        }
        let mut i = 0;
        while i < N {
            core::ptr::write_volatile(to.add(i), words[i]);
            i += 1;
        }
        core::ptr::write_volatile(&raw mut (*c).optlen, (N * 4) as i32);
        core::ptr::write_volatile(&raw mut (*c).retval, 0);
    }
    true
}

//! `cgroup/getsockopt`, at the vendor's cgroup alone: tells a worker what was dialed, where it would ask
//! conntrack if it ran beside its workload.

use aya_ebpf::{
    bindings::bpf_sockopt, helpers::generated as h, macros::cgroup_sockopt,
    programs::SockoptContext,
};
use underpass_abi::{
    sock::SockState,
    worker::{ORIGINAL_DST, SOL_IP, SOL_IPV6},
};

use crate::{door, kernel::TCP, maps::SOCKS};

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
    if name != ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) {
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
    let Some(s) = (unsafe { state.as_ref() }).filter(|s| door::is_record(s)) else {
        return refuse(ENOENT);
    };
    let v4 = s.dialed.is_v4();
    if v4 != (level == SOL_IP) {
        return refuse(ENOENT);
    }
    let first = if v4 { AF_INET } else { AF_INET6 } | u32::from(s.dialed_port.to_be()) << 16;
    let ip = s.dialed.0;
    let written = if v4 {
        answer(c, [first, ip[3], 0, 0])
    } else {
        // Family and port, flow label, address, scope.
        answer(c, [first, 0, ip[0], ip[1], ip[2], ip[3], 0])
    };
    if written { DONE } else { refuse(EINVAL) }
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

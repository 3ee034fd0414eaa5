//! `cgroup/getpeername4|6`: the application sees the address that it dialed.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated as h, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use underpass_abi::{
    Ip,
    sock::{SockState, flag},
};

use crate::{
    connect::{ALLOW, set_user, user_ip4, user_ip6},
    maps::SOCKS,
    socket::sk_of,
};

#[cgroup_sock_addr(getpeername4)]
pub fn up_getpeername4(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip4(ctx.sock_addr);
    restore::<false>(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(getpeername6)]
pub fn up_getpeername6(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip6(ctx.sock_addr);
    restore::<true>(ctx.sock_addr, ip, port)
}

/// Puts the dialed address in place of the endpoint's.
#[inline(always)]
pub fn restore<const V6: bool>(a: *mut bpf_sock_addr, ip: Ip, port: u16) -> i32 {
    // SAFETY: helper call on a live map and the context's socket.
    let state = unsafe {
        let map = (&raw const SOCKS).cast_mut().cast();
        h::bpf_sk_storage_get(map, sk_of(a), core::ptr::null_mut(), 0).cast::<SockState>()
    };
    if state.is_null() {
        return ALLOW;
    }
    // SAFETY: the socket's own element, alive for the run.
    let s = unsafe { &*state };
    if s.flags & flag::REWRITTEN != 0 && s.remote == ip && s.remote_port == port {
        let dialed = s.dialed;
        set_user::<V6>(a, &dialed, s.dialed_port);
    }
    ALLOW
}

//! `cgroup/sendmsg4|6` and `recvmsg4|6`: unconnected UDP sockets that talk to a service address.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated as h, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use underpass_abi::{
    Ip,
    reason::code,
    tables::{UdpReverse, UdpReverseKey},
    verdict::Verdict,
};

use crate::{
    connect::{ALLOW, DENY, Dial, ECONNREFUSED, refuse, set_user, user_ip4, user_ip6},
    kernel::UDP,
    maps::UDP_REVERSE,
    peername::restore,
    record,
    socket::Socket,
};

/// A socket stays with its endpoint for this long after its last datagram, in seconds, so that an
/// exchange of several datagrams reaches one endpoint.
const STICKY_SECS: u32 = 30;

#[cgroup_sock_addr(sendmsg4)]
pub fn up_sendmsg4(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip4(ctx.sock_addr);
    send::<false>(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn up_sendmsg6(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip6(ctx.sock_addr);
    send::<true>(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn up_recvmsg4(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip4(ctx.sock_addr);
    receive::<false>(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn up_recvmsg6(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip6(ctx.sock_addr);
    receive::<true>(ctx.sock_addr, ip, port)
}

#[inline(always)]
fn send<const V6: bool>(a: *mut bpf_sock_addr, ip: Ip, port: u16) -> i32 {
    let dial = Dial::find(a, ip, port, UDP);
    if !dial.is_known() {
        return ALLOW;
    }
    let socket = Socket::of(a, UDP);
    if socket.by_kernel {
        return ALLOW;
    }
    // SAFETY: plain helper call.
    let cookie = unsafe { h::bpf_get_socket_cookie(a.cast()) };
    let mut remote = (dial.ip, dial.port);
    let mut destination = dial.place.workload;
    if dial.service.is_some() {
        let Some(backend) = dial.service.pick_sticky(cookie, STICKY_SECS) else {
            return refuse(&dial, code::NO_ENDPOINTS, ECONNREFUSED);
        };
        remote = (backend.ip, backend.port);
        destination = dial.place_of(backend).workload;
    }
    let (decision, reason) = dial.decide(&socket, destination, remote.1);
    if decision.verdict as u8 == Verdict::Denied as u8 {
        dial.refuse(decision.verdict, decision.policy, reason, destination);
        return DENY;
    }
    if let Some(t) = record::total(&dial.key(destination, decision.verdict)) {
        t.datagrams += 1;
    }
    if dial.service.is_some() {
        let key = UdpReverseKey {
            cookie,
            ip: remote.0,
            port: remote.1,
            pad: 0,
            pad2: 0,
        };
        let check = key.check();
        let dialed = UdpReverse {
            check_first: check,
            port: u32::from(dial.port),
            ip: dial.ip,
            check_last: check,
            pad: 0,
        };
        let _ = UDP_REVERSE.insert(&key, &dialed, 0);
        set_user::<V6>(a, &remote.0, remote.1);
    }
    ALLOW
}

/// Shows the service address as the sender of an endpoint's answer.
#[inline(always)]
fn receive<const V6: bool>(a: *mut bpf_sock_addr, ip: Ip, port: u16) -> i32 {
    // SAFETY: plain helper call.
    let cookie = unsafe { h::bpf_get_socket_cookie(a.cast()) };
    let key = UdpReverseKey {
        cookie,
        ip,
        port,
        pad: 0,
        pad2: 0,
    };
    let Some(p) = UDP_REVERSE.get_ptr(&key) else {
        // A connected socket: what it dialed is in its own state.
        return restore::<V6>(a, ip, port);
    };
    let check = key.check();
    // SAFETY: the element stays readable for the run; the order of reads is `UdpReverse`'s.
    let dialed = unsafe {
        let last = core::ptr::read_volatile(&raw const (*p).check_last);
        let dialed = Ip([
            core::ptr::read_volatile(&raw const (*p).ip.0[0]),
            core::ptr::read_volatile(&raw const (*p).ip.0[1]),
            core::ptr::read_volatile(&raw const (*p).ip.0[2]),
            core::ptr::read_volatile(&raw const (*p).ip.0[3]),
        ]);
        let dialed_port = core::ptr::read_volatile(&raw const (*p).port) as u16;
        let first = core::ptr::read_volatile(&raw const (*p).check_first);
        (first == check && last == check).then_some((dialed, dialed_port))
    };
    if let Some((ip, port)) = dialed {
        set_user::<V6>(a, &ip, port);
    }
    ALLOW
}

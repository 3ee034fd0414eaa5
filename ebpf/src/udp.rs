//! `cgroup/sendmsg4|6` and `recvmsg4|6`: unconnected UDP sockets that talk to a service address.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated as h, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use underpass_abi::{
    Ip,
    reason::code,
    sock::{Layer, SockState, flag},
    tables::{UdpReverse, UdpReverseKey},
    verdict::{Decision, Verdict},
};

use crate::{
    connect::{ALLOW, DENY, Dial, UDP, denial, port_of, set_user, sk_of, user_ip6},
    kernel,
    maps::UDP_REVERSE,
    record,
};

/// A socket stays with its endpoint for this long after its last datagram, in seconds, so that an
/// exchange of several datagrams reaches one endpoint.
const STICKY_SECS: u32 = 30;
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(sendmsg4)]
pub fn up_sendmsg4(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip4(ctx.sock_addr);
    send(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn up_sendmsg6(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip6(ctx.sock_addr);
    send(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn up_recvmsg4(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip4(ctx.sock_addr);
    receive(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn up_recvmsg6(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip6(ctx.sock_addr);
    receive(ctx.sock_addr, ip, port)
}

#[inline(always)]
fn user_ip4(a: *mut bpf_sock_addr) -> (Ip, u16) {
    // SAFETY: context fields, one 32-bit read each.
    unsafe {
        (
            Ip::v4(core::ptr::read_volatile(&raw const (*a).user_ip4)),
            port_of(core::ptr::read_volatile(&raw const (*a).user_port)),
        )
    }
}

#[inline(always)]
fn send(a: *mut bpf_sock_addr, ip: Ip, port: u16) -> i32 {
    let Some(dial) = Dial::find(a, ip, port, UDP) else {
        return ALLOW;
    };
    let sk = sk_of(a);
    if kernel::is_kernel_socket(sk as u64) {
        return ALLOW;
    }
    // SAFETY: plain helper call.
    let cookie = unsafe { h::bpf_get_socket_cookie(a.cast()) };
    let mut remote = (dial.ip, dial.port);
    let mut destination = dial.place.workload;
    if let Some(t) = &dial.service {
        let Some(backend) = t.pick_sticky(cookie, STICKY_SECS) else {
            dial.refuse(Decision { verdict: Verdict::Refused, policy: 0 }, code::NO_ENDPOINTS, 0);
            // SAFETY: plain helper call; the error that sendmsg(2) returns.
            unsafe { h::bpf_set_retval(-ECONNREFUSED) };
            return DENY;
        };
        remote = (backend.ip, backend.port);
        destination = backend.workload;
    }
    let decision = dial.decide(sk as u64, destination, remote.1);
    if decision.verdict as u8 == Verdict::Denied as u8 {
        dial.refuse(decision, denial(decision), destination);
        return DENY;
    }
    count_datagram(&dial, destination, decision);
    if dial.service.is_some() {
        let key =
            UdpReverseKey { cookie, ip: remote.0, port: remote.1, pad: 0, pad2: 0 };
        let check = key.check();
        let dialed = UdpReverse {
            check_first: check,
            port: u32::from(dial.port),
            ip: dial.ip,
            check_last: check,
            pad: 0,
        };
        let _ = UDP_REVERSE.insert(&key, &dialed, 0);
        set_user(a, &remote.0, remote.1);
    }
    ALLOW
}

#[inline(always)]
fn count_datagram(dial: &Dial, destination: u32, decision: Decision) {
    let s = SockState {
        source: dial.source,
        destination,
        service: match &dial.service {
            Some(t) => t.service,
            None => 0,
        },
        proto: UDP,
        layer: Layer::Kernel as u8,
        verdict: decision.verdict as u8,
        flags: if dial.source == 0 { flag::ACTIVE | flag::SOURCE_HOST } else { flag::ACTIVE },
        ..SockState::default()
    };
    if let Some(t) = record::total(&s) {
        t.datagrams += 1;
    }
}

/// Shows the service address as the sender of an endpoint's answer.
#[inline(always)]
fn receive(a: *mut bpf_sock_addr, ip: Ip, port: u16) -> i32 {
    // SAFETY: plain helper call.
    let cookie = unsafe { h::bpf_get_socket_cookie(a.cast()) };
    let key = UdpReverseKey { cookie, ip, port, pad: 0, pad2: 0 };
    let Some(p) = UDP_REVERSE.get_ptr(&key) else {
        return ALLOW;
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
        set_user(a, &ip, port);
    }
    ALLOW
}

//! `cgroup/connect4` and `connect6`: who dials what, may they, and which endpoint answers.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr},
    helpers::generated as h,
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use underpass_abi::{
    Ip,
    reason::code,
    sock::{EventKind, Layer, SockState, TotalKey, counter, flag},
    tables::{Backend, door::OUTBOUND as OUTBOUND_DOOR, setting},
    verdict::{Decision, Verdict},
};

use crate::{
    authorize::{self, Source},
    door,
    kernel::{self, TCP, UDP, ip6},
    maps::{HOMES, SETTINGS, SOCKS, count, word},
    record, service,
    sock_release::retire,
    socket::{Socket, sk_of},
    workload,
};

pub const ALLOW: i32 = 1;
pub const DENY: i32 = 0;
pub const ECONNREFUSED: i32 = 111;
const ENOMEM: i32 = 12;

#[cgroup_sock_addr(connect4)]
pub fn up_connect4(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip4(ctx.sock_addr);
    connect::<false>(ctx.sock_addr, ip, port)
}

#[cgroup_sock_addr(connect6)]
pub fn up_connect6(ctx: SockAddrContext) -> i32 {
    let (ip, port) = user_ip6(ctx.sock_addr);
    connect::<true>(ctx.sock_addr, ip, port)
}

/// `user_port` is big endian in the low half of a 32-bit word.
#[inline(always)]
fn port_of(user_port: u32) -> u16 {
    u16::from_be(user_port as u16)
}

#[inline(always)]
pub fn user_ip4(a: *mut bpf_sock_addr) -> (Ip, u16) {
    // SAFETY: context fields, one 32-bit read each.
    unsafe {
        (
            Ip::v4(core::ptr::read_volatile(&raw const (*a).user_ip4)),
            port_of(core::ptr::read_volatile(&raw const (*a).user_port)),
        )
    }
}

#[inline(always)]
pub fn user_ip6(a: *mut bpf_sock_addr) -> (Ip, u16) {
    // SAFETY: context fields, one 32-bit read each.
    unsafe {
        (
            ip6!(a, user_ip6),
            port_of(core::ptr::read_volatile(&raw const (*a).user_port)),
        )
    }
}

/// Writes an address back in the family of the hook (the verifier knows no other's fields). An
/// IPv4-mapped address on an IPv6 socket arrives at the IPv6 hook and stays mapped.
#[inline(always)]
pub fn set_user<const V6: bool>(a: *mut bpf_sock_addr, ip: &Ip, port: u16) {
    // SAFETY: context fields, one 32-bit write each.
    unsafe {
        if !V6 {
            core::ptr::write_volatile(&raw mut (*a).user_ip4, ip.0[3]);
        } else {
            core::ptr::write_volatile(&raw mut (*a).user_ip6[0], ip.0[0]);
            core::ptr::write_volatile(&raw mut (*a).user_ip6[1], ip.0[1]);
            core::ptr::write_volatile(&raw mut (*a).user_ip6[2], ip.0[2]);
            core::ptr::write_volatile(&raw mut (*a).user_ip6[3], ip.0[3]);
        }
        core::ptr::write_volatile(&raw mut (*a).user_port, u32::from(port.to_be()));
    }
}

/// What is known about a connect before a verdict.
#[derive(Clone, Copy)]
pub struct Dial {
    pub ip: Ip,
    pub port: u16,
    pub proto: u8,
    pub netns: u64,
    pub cgroup: u64,
    pub source: u32,
    /// The caller is a worker, which dials for the source.
    pub leg: bool,
    pub service: service::Table,
    pub place: workload::Place,
}

impl Dial {
    /// Finds both ends.
    #[inline(always)]
    pub fn find(a: *mut bpf_sock_addr, ip: Ip, port: u16, proto: u8) -> Self {
        // SAFETY: plain helper calls.
        let (netns, cgroup) = unsafe {
            (
                h::bpf_get_netns_cookie(a.cast()),
                h::bpf_get_current_cgroup_id(),
            )
        };
        let (source, leg) = workload::of_caller(netns);
        let service = service::table(&ip, port, proto);
        let mut place = workload::Place {
            workload: 0,
            local: false,
        };
        if !service.is_some() {
            place = workload::of_address(&ip, port, proto, netns);
        }
        Self {
            ip,
            port,
            proto,
            netns,
            cgroup,
            source,
            leg,
            service,
            place,
        }
    }

    /// False if neither end is known to the mesh.
    #[inline(always)]
    pub fn is_known(&self) -> bool {
        self.source != 0 || self.service.is_some() || self.place.workload != 0
    }

    /// Who counts as one client for session affinity: a namespace, or a cgroup in the node's own.
    #[inline(always)]
    pub fn client(&self) -> u64 {
        if self.netns == word!(SETTINGS, setting::HOST_NETNS) {
            self.cgroup
        } else {
            self.netns
        }
    }

    /// Who answers at an endpoint of the dialed service.
    #[inline(always)]
    pub fn place_of(&self, backend: &Backend) -> workload::Place {
        if backend.workload == 0 {
            return workload::of_address(&backend.ip, backend.port, self.proto, self.netns);
        }
        // A workload with a home is on this node: one array read in place of three hash lookups.
        workload::Place {
            workload: backend.workload,
            local: backend.ip.is_loopback() || word!(HOMES, backend.workload) != 0,
        }
    }

    /// The verdict for the caller and, if the socket was made in another workload, for that too;
    /// with the reason of a denial.
    #[inline(always)]
    pub fn decide(&self, socket: &Socket, destination: u32, port: u16) -> (Decision, u16) {
        let source = Source::local(self.source);
        let mut decision = self.decide_for(&source, destination, port);
        let mut reason = denial(decision);
        if decision.verdict as u8 != Verdict::Denied as u8
            && socket.cgroup_id != self.cgroup
            && let maker = workload::of_socket(kernel::address(socket.sk))
            && maker != 0
            && maker != self.source
        {
            let made_by = Source::local(maker);
            decision = authorize::stricter(decision, self.decide_for(&made_by, destination, port));
            reason = code::SOCKET_CGROUP_DENIED;
        }
        (decision, reason)
    }

    #[inline(always)]
    fn decide_for(&self, source: &Source, destination: u32, port: u16) -> Decision {
        let own = authorize::by_workload(destination, source, port, self.proto);
        if self.service.policy == 0 {
            return own;
        }
        let service = authorize::by_table(self.service.policy, source, self.port, self.proto);
        authorize::stricter(service, own)
    }

    /// The key of this connect's sums.
    #[inline(always)]
    pub fn key(&self, destination: u32, verdict: Verdict) -> TotalKey {
        TotalKey {
            source: self.source,
            destination,
            service: self.service.service,
            proto: self.proto,
            direction: TotalKey::OUTBOUND,
            layer: Layer::Kernel as u8,
            verdict: verdict as u8,
            source_kind: if self.source == 0 {
                flag::SOURCE_HOST
            } else if self.leg {
                flag::LEG
            } else {
                0
            },
        }
    }

    /// Tells about a connect that was refused before it had any state.
    #[inline(never)]
    pub fn refuse(&self, verdict: Verdict, policy: u32, reason: u16, destination: u32) {
        // SAFETY: plain helper call.
        let pid = unsafe { h::bpf_get_current_pid_tgid() >> 32 } as u32;
        let key = self.key(destination, verdict);
        record::refused(EventKind::Refused, pid, &key, |s| {
            s.netns = self.netns;
            s.dialed = self.ip;
            s.dialed_port = self.port;
            s.policy = policy as u16;
            s.reason = reason;
            s.flags |= flag::ACTIVE;
            if self.service.is_some() {
                s.flags |= flag::SERVICE;
            }
        });
    }
}

/// The reason code of a denial.
#[inline(always)]
pub fn denial(decision: Decision) -> u16 {
    if decision.policy == 0 {
        code::DEFAULT_DENY
    } else {
        code::POLICY_DENIED
    }
}

#[inline(always)]
fn connect<const V6: bool>(a: *mut bpf_sock_addr, ip: Ip, port: u16) -> i32 {
    // SAFETY: context field.
    let proto = unsafe { core::ptr::read_volatile(&raw const (*a).protocol) } as u8;
    if proto != TCP && proto != UDP {
        return ALLOW;
    }
    let dial = Dial::find(a, ip, port, proto);
    if !dial.is_known() {
        return ALLOW;
    }
    let socket = Socket::of(a, proto);
    if socket.by_kernel {
        count(counter::KERNEL_SOCKETS);
        return ALLOW;
    }
    let mut remote = (dial.ip, dial.port);
    let mut destination = dial.place.workload;
    let mut flags = flag::ACTIVE;
    let mut local = dial.place.local;
    let door = door::outbound(a, &dial, &mut remote.0);
    if door {
        remote.1 = OUTBOUND_DOOR;
        destination = dial.source;
        local = true;
        flags |= flag::SERVICE | flag::REWRITTEN | flag::DOOR;
    } else if dial.service.is_some() {
        flags |= flag::SERVICE;
        let Some(backend) = dial.service.pick(dial.client()) else {
            return refuse(&dial, code::NO_ENDPOINTS, ECONNREFUSED);
        };
        remote = (backend.ip, backend.port);
        let place = dial.place_of(backend);
        destination = place.workload;
        local = place.local;
        flags |= flag::REWRITTEN;
    }
    // At the door the service's policies are asked; those of an endpoint's workload when the worker dials it.
    let judged = if door { 0 } else { destination };
    let (decision, reason) = dial.decide(&socket, judged, remote.1);
    if decision.verdict as u8 == Verdict::Denied as u8 {
        dial.refuse(decision.verdict, decision.policy, reason, judged);
        return DENY;
    }
    if local {
        flags |= flag::LOCAL_DESTINATION;
    }
    if dial.source == 0 {
        flags |= flag::SOURCE_HOST;
        if door::is_probe() {
            flags |= flag::PROBE;
        }
    } else if dial.leg {
        flags |= flag::LEG;
    }
    if !remember(a, &dial, &remote, destination, flags, decision) {
        count(counter::STORAGE_FAILED);
        return refuse(&dial, code::NO_SOCKET_STORAGE, ENOMEM);
    }
    if flags & flag::REWRITTEN != 0 {
        set_user::<V6>(a, &remote.0, remote.1);
    }
    ALLOW
}

/// Refuses for another reason than a policy.
#[inline(always)]
pub fn refuse(dial: &Dial, reason: u16, errno: i32) -> i32 {
    dial.refuse(Verdict::Refused, 0, reason, 0);
    // SAFETY: plain helper call; the error that connect(2) or sendmsg(2) returns.
    unsafe { h::bpf_set_retval(-errno) };
    DENY
}

/// Writes the connection's state to the socket. False if the kernel has no memory for it.
#[inline(always)]
fn remember(
    a: *mut bpf_sock_addr,
    dial: &Dial,
    remote: &(Ip, u16),
    destination: u32,
    flags: u32,
    decision: Decision,
) -> bool {
    // SAFETY: helper calls on a live map and the context's socket.
    let (state, cookie) = unsafe {
        let map = (&raw const SOCKS).cast_mut().cast();
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        let p = h::bpf_sk_storage_get(map, sk_of(a), core::ptr::null_mut(), create);
        (p.cast::<SockState>(), h::bpf_get_socket_cookie(a.cast()))
    };
    if state.is_null() {
        return false;
    }
    // SAFETY: the socket's own element, alive for the run.
    let s = unsafe { &mut *state };
    if s.cookie != 0 {
        // The same socket dialed before: that attempt ends here.
        retire(s, true);
        // SAFETY: the socket's own element.
        unsafe { kernel::zero(s) };
    }
    let audited = decision.verdict as u8 == Verdict::Audited as u8;
    s.cookie = cookie;
    s.netns = dial.netns;
    s.opened_ns = record::now();
    s.remote = remote.0;
    s.dialed = dial.ip;
    s.remote_port = remote.1;
    s.dialed_port = dial.port;
    s.proto = dial.proto;
    s.layer = if flags & flag::DOOR != 0 {
        Layer::Http
    } else {
        Layer::Kernel
    } as u8;
    s.source = dial.source as u16;
    s.destination = destination as u16;
    s.service = dial.service.service as u16;
    s.policy = decision.policy as u16;
    s.flags = flags;
    s.reason = if audited { code::WOULD_DENY } else { 0 };
    s.verdict = decision.verdict as u8;
    if dial.proto == UDP {
        // A connected UDP socket is open at once; its datagrams are not seen.
        s.flags |= flag::OPENED;
        s.established_ns = s.opened_ns;
        if let Some(t) = record::total(&TotalKey::of(s)) {
            t.opened += 1;
        }
    }
    if audited {
        record::emit(EventKind::Audited, s);
    }
    true
}

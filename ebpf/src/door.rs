//! The doors of a workload's worker: which connections go there, and what was dialed.

use aya_ebpf::{
    bindings::{BPF_ANY, bpf_sock_addr, bpf_sock_ops},
    helpers::generated as h,
};
use underpass_abi::{
    Ip,
    sock::{Layer, SockState, counter, flag},
    tables::{
        FlowKey, FlowWord, Original, OwnAddresses, SteerKey, door, setting, workload as bits,
    },
};

use crate::{
    connect::Dial,
    flow,
    kernel::{self, TCP, offset, read},
    maps::{
        DOORS, HOMES, IDENTITIES, ORIGINALS, OWN, SETTINGS, STEERED, WORKLOADS, count, entry_word,
        word,
    },
    sock_ops::context::{state, tcp_sock_address},
    workload,
};

/// True if the calling task is below the vendor's cgroup.
#[inline(always)]
pub fn is_worker() -> bool {
    up_is_below(setting::VENDOR_CGROUP) != 0
}

/// True if the calling task probes the health of workloads.
#[inline(always)]
pub fn is_probe() -> bool {
    up_is_below(setting::PROBE_CGROUP) != 0
}

/// 1 if the calling task is below the cgroup that a setting names; its level is the next one. A global
/// function (see `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_is_below(setting: u32) -> u32 {
    let cgroup = word!(SETTINGS, setting);
    if cgroup == 0 {
        return 0;
    }
    let level = word!(SETTINGS, setting + 1) as i32;
    // SAFETY: plain helper call; 0 if the task is not that deep.
    let ancestor = unsafe { h::bpf_get_current_ancestor_cgroup_id(level) };
    u32::from(ancestor == cgroup)
}

/// 1 if a `struct cgroup` at a kernel address is below the vendor's. A global function (see
/// `workload.rs`).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_is_of_vendor(cgroup: u64) -> u32 {
    let vendor = word!(SETTINGS, setting::VENDOR_CGROUP);
    let level = word!(SETTINGS, setting::VENDOR_LEVEL);
    let depth: u32 = read(cgroup + offset!(cgroup_level));
    if vendor == 0 || level > u64::from(depth) {
        return 0;
    }
    let ancestor: u64 = read(cgroup + offset!(cgroup_ancestors) + 8 * level);
    u32::from(workload::cgroup_id(ancestor) == vendor)
}

/// True if the worker is to decide about this connect: then `to`, the dialed address, becomes the
/// workload's own, which keeps what getsockname shows.
#[inline(always)]
pub fn outbound(a: *mut bpf_sock_addr, dial: &Dial, to: &mut Ip) -> bool {
    if dial.proto != TCP || dial.leg || dial.source == 0 || !dial.service.is_some() {
        return false;
    }
    let word = word!(WORKLOADS, dial.source);
    if word & bits::DOOR == 0 || !(dial.service.http() || word & bits::OUTBOUND != 0) {
        return false;
    }
    // SAFETY: a field of the context's socket.
    let device = unsafe {
        let sk = (*a).__bindgen_anon_1.sk;
        core::ptr::read_volatile(&raw const (*sk).bound_dev_if)
    };
    // A socket that is bound to a device cannot reach its own address.
    device == 0 && up_own_address(dial.source, dial.netns, to) != 0
}

/// Replaces an address by that of a workload, of the same family, if the workload has one and is alone in
/// its namespace, which is `netns`. A global function (see `workload.rs`), so the pointer may be null to
/// the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn up_own_address(workload: u32, netns: u64, to: *mut Ip) -> u32 {
    // SAFETY: the caller's own value.
    let (Some(to), Some(p)) = (unsafe { to.as_mut() }, OWN.get_ptr(workload)) else {
        return 0;
    };
    if word!(HOMES, workload) != netns {
        return 0;
    }
    // SAFETY: elements of arrays are always there; half a write is told by the check.
    let own = unsafe {
        OwnAddresses {
            v4: core::ptr::read_volatile(&raw const (*p).v4),
            check: core::ptr::read_volatile(&raw const (*p).check),
            v6: [
                core::ptr::read_volatile(&raw const (*p).v6[0]),
                core::ptr::read_volatile(&raw const (*p).v6[1]),
                core::ptr::read_volatile(&raw const (*p).v6[2]),
                core::ptr::read_volatile(&raw const (*p).v6[3]),
            ],
        }
    };
    if !own.is_whole() {
        count(counter::STALE_READS);
        return 0;
    }
    match own.of_family(to.is_v4()) {
        Some(ip) => {
            *to = ip;
            1
        }
        None => 0,
    }
}

/// Before the SYN of a connection that goes to the door: writes what was dialed. Without it the SYN is
/// refused ([`expected`]).
#[inline(never)]
pub fn begin(s: &mut SockState) {
    let key = flow::key(s);
    let check = key.check();
    let original = Original {
        check_first: check,
        port: s.dialed_port,
        service: s.service,
        ip: s.dialed,
        cookie: s.cookie,
        source: s.source.into(),
        check_last: check,
    };
    if ORIGINALS.insert(&key, &original, 0).is_err() {
        count(counter::ORIGINALS_FULL);
        s.flags |= flag::FLOW_FAILED;
    }
}

#[inline(always)]
fn original(key: &FlowKey) -> Option<Original> {
    let p = ORIGINALS.get_ptr(key)?;
    // SAFETY: elements stay readable for the run; the order of reads is `Original`'s.
    let original = unsafe {
        let check_last = core::ptr::read_volatile(&raw const (*p).check_last);
        Original {
            source: core::ptr::read_volatile(&raw const (*p).source),
            cookie: core::ptr::read_volatile(&raw const (*p).cookie),
            ip: Ip([
                core::ptr::read_volatile(&raw const (*p).ip.0[0]),
                core::ptr::read_volatile(&raw const (*p).ip.0[1]),
                core::ptr::read_volatile(&raw const (*p).ip.0[2]),
                core::ptr::read_volatile(&raw const (*p).ip.0[3]),
            ]),
            service: core::ptr::read_volatile(&raw const (*p).service),
            port: core::ptr::read_volatile(&raw const (*p).port),
            check_first: core::ptr::read_volatile(&raw const (*p).check_first),
            check_last,
        }
    };
    if original.is_of(key) {
        Some(original)
    } else {
        count(counter::STALE_READS);
        None
    }
}

/// True if a SYN to the outbound door is one that the connect hook sent there.
#[inline(never)]
pub fn expected(key: &FlowKey) -> bool {
    original(key).is_some()
}

/// True if the connection that is just established was accepted by a listener that the vendor made.
#[inline(always)]
pub fn is_workers(ops: *mut bpf_sock_ops) -> bool {
    if word!(SETTINGS, setting::VENDOR_CGROUP) == 0 {
        return false;
    }
    let sk = tcp_sock_address(ops);
    up_is_of_vendor(read(sk + offset!(sk_cgroup))) != 0
}

/// The worker's end is established: keeps what was dialed and by whom with the socket, for
/// [`crate::getsockopt`]. A connection for which that fails has none, and the worker closes it.
#[inline(never)]
pub fn accepted(ops: *mut bpf_sock_ops, key: &FlowKey) {
    let mut original = Original {
        check_first: 0,
        port: key.destination_port,
        service: 0,
        ip: key.destination,
        cookie: 0,
        source: 0,
        check_last: 0,
    };
    let mut flags = flag::DOOR;
    if key.destination_port == door::OUTBOUND {
        let Some(found) = self::original(key) else {
            return;
        };
        let _ = ORIGINALS.remove(key);
        original = found;
    } else {
        flags |= flag::STEERED;
        // Without an entry it is unknown who dialed.
        if let Some(word) = flow::of(key) {
            original.source = word.source();
            flags |= if word.source() == 0 {
                flag::SOURCE_HOST
            } else {
                0
            };
        }
    }
    let Some(s) = state(ops, true) else {
        count(counter::ORIGINALS_LOST);
        return;
    };
    // SAFETY: the socket's own element.
    unsafe { kernel::zero(s) };
    // SAFETY: plain helper call.
    s.cookie = unsafe { h::bpf_get_socket_cookie(ops.cast()) };
    s.netns = key.netns;
    s.local = key.destination;
    s.local_port = key.destination_port;
    s.remote = key.source;
    s.remote_port = key.source_port;
    s.dialed = original.ip;
    s.dialed_port = original.port;
    s.service = original.service;
    s.source = original.source as u16;
    s.proto = TCP;
    s.layer = Layer::Http as u8;
    s.flags = flags;
}

/// The dialing end is done; usually the worker's end has taken the entry long ago.
#[inline(always)]
pub fn forget(s: &SockState, key: &FlowKey) {
    let Some(p) = ORIGINALS.get_ptr(key) else {
        return;
    };
    // SAFETY: elements stay readable for the run; a cookie is one socket's alone.
    let cookie = unsafe { core::ptr::read_volatile(&raw const (*p).cookie) };
    if cookie == s.cookie {
        let _ = ORIGINALS.remove(key);
    }
}

/// True if connections to this port of a workload are steered to its worker.
#[inline(always)]
pub fn is_steered(owner: u32, port: u16) -> bool {
    if word!(WORKLOADS, owner) & bits::INBOUND == 0 {
        return false;
    }
    let key = SteerKey {
        workload: owner,
        port,
        pad: 0,
    };
    entry_word!(STEERED, &key).is_some_and(|word| word != 0)
}

/// True if a steered port is not for this source's worker to ask again: a leg of the tenant's own worker,
/// which has applied the rules, or a probe of the workload's health.
#[inline(always)]
pub fn passes(word: FlowWord, owner: u32) -> bool {
    if word.has(FlowWord::PROBE) {
        return true;
    }
    if !word.has(FlowWord::LEG) {
        return false;
    }
    match (IDENTITIES.get(word.source()), IDENTITIES.get(owner)) {
        (Some(source), Some(owner)) => source.namespace == owner.namespace,
        _ => false,
    }
}

/// A listener of the worker's for steered ports: notes where it is.
#[inline(always)]
pub fn listening(ops: *mut bpf_sock_ops, netns: u64, task: &workload::Task) {
    if up_is_of_vendor(task.cgroup()) == 0 {
        return;
    }
    let mut key = netns;
    // SAFETY: helper call on a live map, with a key on the stack.
    let noted = unsafe {
        let map = (&raw const DOORS).cast_mut().cast();
        h::bpf_sock_hash_update(ops, map, (&raw mut key).cast(), BPF_ANY.into()) == 0
    };
    if !noted {
        count(counter::DOORS_FULL);
    }
}

/// True for the state of a worker's accepted socket: it is no connection of its own.
#[inline(always)]
pub fn is_record(s: &SockState) -> bool {
    s.flags & (flag::DOOR | flag::ACTIVE) == flag::DOOR
}

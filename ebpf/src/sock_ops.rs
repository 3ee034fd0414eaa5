//! `sock_ops`: a connection's life as TCP sees it.

use aya_ebpf::{
    bindings::bpf_sock_ops, helpers::generated as h, macros::sock_ops, programs::SockOpsContext,
};
use underpass_abi::{
    Ip,
    reason::code,
    sock::{EventKind, Layer, SockState, TcpCounts, TotalKey, counter, flag},
    tables::{FlowKey, ListenKey, checked, door::INBOUND as INBOUND_DOOR},
    verdict::Verdict,
};

use crate::{
    authorize::{Source, by_workload},
    door, flow,
    kernel::{
        self, STATE_CB, TCP, TCP_CLOSE, TCP_FIN_WAIT1, TCP_LAST_ACK, load, offset, tcp, tcp_counts,
        zeroed,
    },
    maps::{LISTENERS, NETNS, count, entry},
    record, shortcut,
    sock_release::{close_reason, count_closed, fail},
    workload,
};

pub mod context;

use context::{ends, state, tcp_sock, watch_states};

// enum in include/uapi/linux/bpf.h
const TCP_CONNECT_CB: u32 = 3;
const ACTIVE_ESTABLISHED_CB: u32 = 4;
const PASSIVE_ESTABLISHED_CB: u32 = 5;
const STATE_CHANGED_CB: u32 = 10;
const TCP_LISTEN_CB: u32 = 11;
const HDR_OPT_LEN_CB: u32 = 14;
const WRITE_HDR_OPT_CB: u32 = 15;

#[sock_ops]
pub fn up_sock_ops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // Other code for the upgrade test; the last counter has no name and is nobody's.
    #[cfg(feature = "second-build")]
    count(counter::COUNT as u32 - 1);
    // SAFETY: context field.
    match unsafe { core::ptr::read_volatile(&raw const (*ops).op) } {
        TCP_CONNECT_CB => connecting(ops),
        ACTIVE_ESTABLISHED_CB => dialed(ops),
        PASSIVE_ESTABLISHED_CB => accepted(ops),
        STATE_CHANGED_CB => state_changed(ops),
        TCP_LISTEN_CB => listening(ops),
        HDR_OPT_LEN_CB => shortcut::close::reserve(ops),
        WRITE_HDR_OPT_CB => shortcut::close::write(ops),
        _ => {}
    }
    1
}

/// Before the SYN: ports are final, so the source can be proven to the other end.
#[inline(never)]
fn connecting(ops: *mut bpf_sock_ops) {
    let Some(s) = state(ops, false) else { return };
    if s.flags & flag::OPENED != 0 {
        return;
    }
    let Some(tp) = tcp_sock(ops) else { return };
    let (local, local_port, remote, remote_port) = ends(ops);
    s.tcp_sock = tp as u64;
    s.local = local;
    s.local_port = local_port;
    s.remote = remote;
    s.remote_port = remote_port;
    // The SYN takes one; data in a Fast Open SYN comes after it.
    s.write_seq_start = load!(tp, u32, tcp_write_seq).wrapping_add(1);
    s.flags |= flag::SYN_SENT;
    watch_states(ops);
    s.tcp.off_shortcut = shortcut::candidate::up_may_enter(s) as u16;
    if s.flags & flag::LOCAL_DESTINATION != 0 {
        flow::begin(s);
    }
    if s.flags & flag::DOOR != 0 {
        door::begin(s);
    }
}

#[inline(never)]
fn dialed(ops: *mut bpf_sock_ops) {
    let Some(s) = state(ops, false) else { return };
    if s.tcp_sock == 0 || s.flags & flag::OPENED != 0 {
        return;
    }
    let Some(tp) = tcp_sock(ops) else { return };
    s.copied_seq_start = load!(tp, u32, tcp_copied_seq);
    s.established_ns = record::now();
    s.flags |= flag::OPENED;
    // A foreign program may have replaced the flags since the SYN.
    watch_states(ops);
    if let Some(t) = record::total(&TotalKey::of(s)) {
        t.opened += 1;
    }
    shortcut::dialed(ops, s);
}

/// An accepted connection is a row of this node only if its source is not.
#[inline(never)]
fn accepted(ops: *mut bpf_sock_ops) {
    // SAFETY: plain helper call.
    let netns = unsafe { h::bpf_get_netns_cookie(ops.cast()) };
    let (local, local_port, remote, remote_port) = ends(ops);
    let key = FlowKey {
        netns,
        source: remote,
        destination: local,
        source_port: remote_port,
        destination_port: local_port,
        pad: 0,
    };
    let workers = door::is_workers(ops);
    if workers {
        door::accepted(ops, &key);
    }
    if flow::end(&key) {
        shortcut::accepted(ops, &key);
        return;
    }
    let owner = workload::of_port(&local, local_port, TCP, netns);
    if owner == 0 {
        return;
    }
    let source = Source::by_address(&remote, &local);
    if source.is_unknown_local() {
        // Its own end reports it, or `sk_lookup` has already judged it as unknown.
        return;
    }
    let (Some(tp), Some(s)) = (tcp_sock(ops), state(ops, true)) else {
        count(counter::INBOUND_UNTRACKED);
        return;
    };
    let decision = by_workload(owner, &source, local_port, TCP);
    // SAFETY: the socket's own element.
    unsafe { kernel::zero(s) };
    // SAFETY: plain helper call.
    s.cookie = unsafe { h::bpf_get_socket_cookie(ops.cast()) };
    s.tcp_sock = tp as u64;
    s.netns = netns;
    s.opened_ns = record::now();
    s.established_ns = s.opened_ns;
    s.local = local;
    s.local_port = local_port;
    s.remote = remote;
    s.remote_port = remote_port;
    s.dialed = local;
    s.dialed_port = local_port;
    s.proto = TCP;
    s.layer = if workers { Layer::Http } else { Layer::Kernel } as u8;
    s.source = source.workload() as u16;
    s.destination = owner as u16;
    s.policy = decision.policy as u16;
    s.verdict = decision.verdict as u8;
    s.reason = if decision.verdict as u8 == Verdict::Audited as u8 {
        code::WOULD_DENY
    } else {
        0
    };
    s.flags = flag::OPENED
        | if s.source == 0 {
            flag::SOURCE_OUTSIDE
        } else {
            0
        }
        | if workers { flag::STEERED } else { 0 };
    s.write_seq_start = load!(tp, u32, tcp_write_seq);
    s.copied_seq_start = load!(tp, u32, tcp_copied_seq);
    watch_states(ops);
    if let Some(t) = record::total(&TotalKey::of(s)) {
        t.opened += 1;
    }
}

#[inline(never)]
fn state_changed(ops: *mut bpf_sock_ops) {
    // SAFETY: context fields, one 32-bit read each.
    let (new, callbacks) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*ops).__bindgen_anon_1.args[1]),
            core::ptr::read_volatile(&raw const (*ops).bpf_sock_ops_cb_flags),
        )
    };
    let fin = new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK;
    // A foreign program before us may have cleared the flags in this very run.
    let cleared = callbacks & STATE_CB == 0;
    if !fin && !cleared && new != TCP_CLOSE {
        return;
    }
    let s = state(ops, false);
    // Accepted ends of this node's connections have no state of their own.
    let passive = |s: &SockState| door::is_record(s) || s.flags & flag::SHORTCUT != 0;
    if fin && s.as_ref().is_none_or(|s| passive(s)) {
        shortcut::close::closing(ops, new == TCP_LAST_ACK);
    }
    let Some(s) = s else { return };
    if cleared {
        watch_states(ops);
    }
    if fin {
        s.flags |= flag::FIN_SENT;
    }
    if new == TCP_CLOSE && s.tcp_sock != 0 && s.flags & flag::CLOSED == 0 {
        closed(ops, s);
    }
}

/// TCP is done with a socket of ours.
#[inline(always)]
fn closed(ops: *mut bpf_sock_ops, s: &mut SockState) {
    s.tcp_state = TCP_CLOSE as u8;
    if s.flags & flag::LOCAL_DESTINATION != 0 {
        // The other end may never have run its half; here the tuple is still ours alone.
        flow::forget(s);
    }
    let sk = s.tcp_sock;
    if s.flags & flag::OPENED == 0 {
        let error: u32 = tcp(sk, offset!(sk_err));
        fail(s, connect_failure(error));
        return;
    }
    if s.flags & flag::RELEASED != 0 {
        finish(ops, s);
    } else {
        zeroed!(counts: TcpCounts);
        tcp_counts(s, counts);
        s.tcp = *counts;
        shortcut::add(s);
    }
    s.flags |= flag::CLOSED;
    s.closed_ns = record::now();
    s.reason = close_reason(s, TCP_CLOSE);
    if s.flags & flag::RELEASED == 0 && !kernel::has_socket(sk) {
        // Never accepted: no application will ever close it.
        s.flags |= flag::RELEASED;
        count_closed(s);
    }
    record::emit(EventKind::Closed, s);
}

/// What TCP alone can change after the last close; the context has it at hand. What the application
/// sent and read is final already, and so is where `write_seq` stands.
#[inline(always)]
fn finish(ops: *mut bpf_sock_ops, s: &mut SockState) {
    // SAFETY: context fields, one read each in their own width.
    let (acked, snd_una) = unsafe {
        s.tcp.segments_out = core::ptr::read_volatile(&raw const (*ops).segs_out);
        s.tcp.retransmits = core::ptr::read_volatile(&raw const (*ops).total_retrans);
        s.tcp.srtt_us = core::ptr::read_volatile(&raw const (*ops).srtt_us) >> 3;
        (
            core::ptr::read_volatile(&raw const (*ops).bytes_acked),
            core::ptr::read_volatile(&raw const (*ops).snd_una),
        )
    };
    let fin = u32::from(s.flags & flag::FIN_SENT != 0);
    let write_seq = s
        .write_seq_start
        .wrapping_add(s.tcp.sent.wrapping_sub(s.tcp.shortcut_sent) as u32)
        .wrapping_add(fin);
    let syn_acked = u64::from(s.flags & flag::ACTIVE != 0 && acked > 0);
    let fin_acked = u64::from(fin == 1 && snd_una == write_seq);
    s.tcp.delivered = acked
        .wrapping_sub(syn_acked + fin_acked)
        .wrapping_add(s.tcp.shortcut_sent);
    let Some(tp) = tcp_sock(ops) else { return };
    let error = load!(tp, u32, sk_err);
    if error != 0 {
        s.tcp.error = error as u16;
    }
}

#[inline(always)]
fn connect_failure(error: u32) -> u16 {
    const ENETUNREACH: u32 = 101;
    const ECONNREFUSED: u32 = 111;
    const ECONNRESET: u32 = 104;
    const ETIMEDOUT: u32 = 110;
    const EHOSTUNREACH: u32 = 113;
    match error {
        ECONNREFUSED | ECONNRESET => code::PEER_REFUSED,
        ETIMEDOUT => code::TIMED_OUT,
        ENETUNREACH | EHOSTUNREACH => code::UNREACHABLE,
        _ => code::CONNECT_FAILED,
    }
}

/// Learns who owns a port. Runs in the task that calls `listen`.
#[inline(never)]
fn listening(ops: *mut bpf_sock_ops) {
    // SAFETY: plain helper call.
    let netns = unsafe { h::bpf_get_netns_cookie(ops.cast()) };
    let (local, port, _, _) = ends(ops);
    let task = workload::Task::current();
    let owner = task.workload(netns);
    zeroed!(key: ListenKey);
    key.netns = netns;
    key.port = port;
    key.proto = TCP;
    if local != Ip::v4(0) {
        key.ip = local;
    }
    if owner == 0 {
        if LISTENERS.get_ptr(key).is_some() {
            let _ = LISTENERS.remove(key);
        }
        return;
    }
    let value = checked(owner, key.check());
    // Not over the same again: look-ups under way miss a key whose element is replaced.
    if entry!(LISTENERS, &*key) != Some(value) && LISTENERS.insert(key, &value, 0).is_err() {
        count(counter::LISTENERS_FULL);
    }
    if port == INBOUND_DOOR {
        door::listening(ops, netns, &task);
    }
    shortcut::candidate::listening(ops, key, owner);
    if NETNS.get_ptr(&netns).is_none() {
        zeroed!(about: TotalKey);
        about.destination = owner;
        record::refused(EventKind::Unguarded, task.process(), about, |s| {
            s.netns = netns;
            s.local_port = port;
        });
    }
}

//! `cgroup/sock_release`: the application's last close, also after `kill -9`.

use aya_ebpf::{helpers::generated as h, macros::cgroup_sock, programs::SockContext};
use underpass_abi::{
    reason::code,
    sock::{EventKind, SockState, TcpCounts, TotalKey, flag},
};

use crate::{
    door, flow,
    kernel::{STATE_CB, TCP, TCP_CLOSE, TCP_ESTABLISHED, offset, tcp, tcp_counts, zeroed},
    maps::SOCKS,
    record, shortcut,
};

#[cgroup_sock(sock_release)]
pub fn up_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: helper call on a live map and the context's socket.
    let state = unsafe {
        let map = (&raw const SOCKS).cast_mut().cast();
        h::bpf_sk_storage_get(map, ctx.sock.cast(), core::ptr::null_mut(), 0).cast::<SockState>()
    };
    if !state.is_null() {
        // SAFETY: the socket's own element, alive for the run.
        retire(unsafe { &mut *state }, false);
    }
    1
}

/// Ends a connection for its application: sums first, then the row. `redial`: the socket is being
/// connected again, and `tcp_disconnect` has put new numbers into its TCP state.
#[inline(always)]
pub fn retire(s: &mut SockState, redial: bool) {
    up_retire(s, u32::from(redial));
}

/// A global function (see `workload.rs`), so the pointer may be null to the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn up_retire(s: *mut SockState, redial: u32) -> u32 {
    // SAFETY: callers pass a socket's own element.
    if let Some(s) = unsafe { s.as_mut() } {
        end(s, redial != 0);
    }
    0
}

#[inline(always)]
fn end(s: &mut SockState, redial: bool) {
    if s.flags & flag::RELEASED != 0 || door::is_record(s) {
        return;
    }
    if s.flags & flag::OPENED == 0 {
        fail(
            s,
            if s.flags & flag::SYN_SENT != 0 {
                code::CONNECT_FAILED
            } else {
                code::UNREACHABLE
            },
        );
        s.flags |= flag::RELEASED;
        return;
    }
    if s.proto != TCP {
        s.flags |= flag::RELEASED;
        if let Some(t) = record::total(&TotalKey::of(s)) {
            t.closed += 1;
        }
        return;
    }
    let error = s.tcp.error;
    if !redial || s.flags & flag::CLOSED == 0 {
        zeroed!(counts: TcpCounts);
        tcp_counts(s, counts);
        s.tcp = *counts;
        shortcut::add(s);
    }
    if s.tcp.error == 0 {
        // The application has fetched the error meanwhile; the state callback kept it.
        s.tcp.error = error;
    }
    s.tcp_state = tcp(s.tcp_sock, offset!(sk_state));
    s.flags |= flag::RELEASED;
    count_closed(s);
    // Usually the row follows when TCP is done. Not if it is already, or nobody will tell.
    let callbacks: u8 = tcp(s.tcp_sock, offset!(tcp_cb_flags));
    if s.tcp_state as u32 == TCP_CLOSE || u32::from(callbacks) & STATE_CB == 0 {
        if s.closed_ns == 0 {
            s.closed_ns = record::now();
        }
        if s.reason == 0 || s.reason == code::WOULD_DENY {
            s.reason = close_reason(s, u32::from(s.tcp_state));
        }
        record::emit(EventKind::Released, s);
    }
}

/// Adds an ended connection to the sums; called once per connection.
#[inline(never)]
pub fn count_closed(s: &SockState) {
    if let Some(t) = record::total(&TotalKey::of(s)) {
        t.closed += 1;
        t.sent += s.tcp.sent;
        t.received += s.tcp.received;
        t.retransmits += u64::from(s.tcp.retransmits);
        t.segments_out += u64::from(s.tcp.segments_out);
        t.shortcut += s.tcp.shortcut_sent + s.tcp.shortcut_received;
    }
    shortcut::forget(s);
}

/// Ends a connect that was never established; tells once.
#[inline(never)]
pub fn fail(s: &mut SockState, reason: u16) {
    if s.flags & flag::FAILED != 0 {
        return;
    }
    s.flags |= flag::FAILED;
    s.tcp.off_shortcut = 0;
    s.closed_ns = record::now();
    s.reason = reason;
    if s.flags & (flag::LOCAL_DESTINATION | flag::CLOSED) == flag::LOCAL_DESTINATION {
        flow::forget(s);
    }
    if let Some(t) = record::total(&TotalKey::of(s)) {
        t.refused += 1;
    }
    record::emit(EventKind::Failed, s);
}

/// Why a connection ended, from its last error and the FINs seen.
#[inline(always)]
pub fn close_reason(s: &SockState, state: u32) -> u16 {
    const EPIPE: u16 = 32;
    const ECONNABORTED: u16 = 103;
    const ECONNRESET: u16 = 104;
    const ETIMEDOUT: u16 = 110;
    match s.tcp.error {
        EPIPE | ECONNRESET => code::RESET_BY_PEER,
        ETIMEDOUT => code::TIMED_OUT,
        // `tcp_abort`: somebody destroyed the socket by sock_diag; the agent knows if it was us.
        ECONNABORTED => code::RESET_LOCALLY,
        _ if s.flags & flag::FIN_SENT != 0 => code::CLOSED_NORMALLY,
        _ if state == TCP_ESTABLISHED => code::STILL_CLOSING,
        _ => code::RESET_LOCALLY,
    }
}

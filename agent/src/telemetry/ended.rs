//! What is kept of a connection that ended or was refused: the part of its socket's state that a row
//! shows. There are thousands of these, so the rest is left out.

use std::sync::Arc;

use underpass_abi::{
    Ip,
    reason::code,
    sock::{SockState, TcpCounts, flag},
};

use super::row::{Labels, Seen};

/// Why the agent ended a connection.
#[derive(Clone, Debug)]
pub struct Destroyed {
    /// The close reason.
    pub code: u16,
    /// If it was a policy.
    pub policy: Option<Arc<str>>,
}

#[derive(Debug)]
pub struct Ended {
    /// The socket's cookie; of a refusal its number.
    id: u64,
    pub opened_ns: u64,
    established_ns: u64,
    pub closed_ns: u64,
    local: Ip,
    remote: Ip,
    dialed: Ip,
    sent: u64,
    received: u64,
    delivered: u64,
    /// Of `sent` and `received` together.
    shortcut: u64,
    /// When it last changed, as a count of changes of the table.
    pub changed: u64,
    pub labels: Arc<Labels>,
    segments_out: u32,
    retransmits: u32,
    srtt_us: u32,
    flags: u32,
    source: u16,
    policy: u16,
    local_port: u16,
    remote_port: u16,
    dialed_port: u16,
    reason: u16,
    /// Why bytes stayed on TCP, as in [`SockState`].
    no_shortcut: u16,
    proto: u8,
    layer: u8,
    verdict: u8,
    refused: bool,
    /// The close reason if the agent itself ended it, else 0.
    pub destroyed: u16,
    /// Another event may add to it.
    pub open_ended: bool,
}

const _: () = assert!(size_of::<Ended>() <= 176);

impl Ended {
    pub fn new(s: &SockState, seen: Seen, labels: Arc<Labels>) -> Self {
        let refusal = match seen {
            Seen::Refused(number) => Some(number),
            Seen::Open | Seen::Ended => None,
        };
        Self {
            id: refusal.unwrap_or(s.cookie),
            opened_ns: s.opened_ns,
            established_ns: s.established_ns,
            closed_ns: s.closed_ns,
            local: s.local,
            remote: s.remote,
            dialed: s.dialed,
            sent: s.tcp.sent,
            received: s.tcp.received,
            delivered: s.tcp.delivered,
            shortcut: s.tcp.shortcut_sent + s.tcp.shortcut_received,
            changed: 0,
            labels,
            segments_out: s.tcp.segments_out,
            retransmits: s.tcp.retransmits,
            srtt_us: s.tcp.srtt_us,
            flags: s.flags,
            source: s.source,
            policy: s.policy,
            local_port: s.local_port,
            remote_port: s.remote_port,
            dialed_port: s.dialed_port,
            reason: s.reason,
            no_shortcut: s.tcp.off_shortcut,
            proto: s.proto,
            layer: s.layer,
            verdict: s.verdict,
            refused: refusal.is_some(),
            destroyed: 0,
            open_ended: false,
        }
    }

    pub fn seen(&self) -> Seen {
        if self.refused {
            Seen::Refused(self.id)
        } else {
            Seen::Ended
        }
    }

    /// The socket; `None` for a refusal.
    pub fn cookie(&self) -> Option<u64> {
        (!self.refused).then_some(self.id)
    }

    /// The application is done with the socket: nothing that the kernel says later is newer.
    pub fn is_final(&self) -> bool {
        self.flags & (flag::RELEASED | flag::FAILED) != 0
    }

    /// The agent itself ended it.
    pub fn destroyed_by(&mut self, why: Destroyed) {
        if let Some(policy) = why.policy {
            self.labels = self.labels.because_of(policy);
        }
        self.destroyed = why.code;
    }

    /// Joins what the last close and TCP's end said about one connection, in either order. `newer` is
    /// the row that `s` alone would make.
    pub fn join(&mut self, s: &SockState, newer: Self) {
        let labels = if newer.destroyed != 0 {
            newer.labels
        } else {
            self.labels.clone()
        };
        let state = merged(&self.state(), s);
        *self = Self {
            changed: newer.changed,
            destroyed: self.destroyed.max(newer.destroyed),
            open_ended: state.flags & flag::RELEASED == 0 || state.flags & flag::CLOSED == 0,
            ..Self::new(&state, Seen::Ended, labels)
        };
    }

    /// The state as far as it was kept.
    pub fn state(&self) -> SockState {
        SockState {
            cookie: self.cookie().unwrap_or(0),
            opened_ns: self.opened_ns,
            established_ns: self.established_ns,
            closed_ns: self.closed_ns,
            local: self.local,
            remote: self.remote,
            dialed: self.dialed,
            local_port: self.local_port,
            remote_port: self.remote_port,
            dialed_port: self.dialed_port,
            proto: self.proto,
            layer: self.layer,
            source: self.source,
            policy: self.policy,
            flags: self.flags,
            reason: self.reason,
            verdict: self.verdict,
            tcp: TcpCounts {
                sent: self.sent,
                received: self.received,
                delivered: self.delivered,
                segments_out: self.segments_out,
                retransmits: self.retransmits,
                srtt_us: self.srtt_us,
                shortcut_sent: self.shortcut,
                off_shortcut: self.no_shortcut,
                ..TcpCounts::default()
            },
            ..SockState::default()
        }
    }
}

fn merged(old: &SockState, new: &SockState) -> SockState {
    // Final at the last close.
    let released = if old.flags & flag::RELEASED != 0 {
        old
    } else {
        new
    };
    let closed = if old.flags & flag::CLOSED != 0 {
        old
    } else {
        new
    };
    SockState {
        flags: old.flags | new.flags,
        reason: match closed.reason {
            0 | code::STILL_CLOSING => new.reason,
            reason => reason,
        },
        tcp: TcpCounts {
            sent: released.tcp.sent,
            received: released.tcp.received,
            shortcut_sent: released.tcp.shortcut_sent,
            shortcut_received: released.tcp.shortcut_received,
            ..closed.tcp
        },
        ..*closed
    }
}

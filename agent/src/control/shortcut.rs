//! What the shortcut's programs ask for: the watch for splice, and the end of connections that would
//! hang.

use std::{fs, path::Path};

use underpass_abi::{
    reason::code,
    shortcut::{Notice, NoticeKind},
    sock::SockState,
    tables::FlowKey,
};

use super::{
    Control,
    recheck::{end_of, far_end},
};
use crate::{
    kernel::{KernelError, Netns, diag},
    log,
};

impl Control {
    pub(super) fn take_notices(&mut self, notices: &[Notice]) {
        let of = |kind: NoticeKind| notices.iter().filter(move |n| n.kind == kind as u32);
        if of(NoticeKind::Candidate).next().is_some() {
            self.kernel.watch_splice();
        }
        for notice in of(NoticeKind::Unread) {
            self.unread(notice);
        }
        for notice in of(NoticeKind::Lost) {
            self.lost(notice);
        }
        let ends = of(NoticeKind::Spliced).chain(of(NoticeKind::Garbled));
        let ends: Vec<&Notice> = ends.collect();
        if !ends.is_empty() {
            self.end_some(&ends);
        }
    }

    /// Rare: once for each program that splices, which takes no part from then on.
    fn end_some(&mut self, notices: &[&Notice]) {
        let sockets = match self.kernel.sockets() {
            Ok(sockets) => sockets,
            Err(error) => return log::warn(error.code, &error.to_string()),
        };
        for notice in notices {
            let pair = match notice.pair {
                0 => self.kernel.pair_of(notice.cookie),
                pair => Some(pair),
            };
            // Else it has ended.
            if let Some(dialing) = sockets.iter().find(|s| Some(s.cookie) == pair) {
                if notice.kind == NoticeKind::Spliced as u32 {
                    self.spliced(notice, dialing);
                } else {
                    self.end(
                        notice.cookie,
                        dialing,
                        code::NOT_CUT_OFF,
                        "TCP brought bytes twice",
                    );
                }
            }
        }
    }

    /// Sends the reset that TCP owes for a close with unread bytes.
    fn unread(&mut self, notice: &Notice) {
        let end = end_of(&SockState {
            proto: diag::TCP,
            cookie: notice.cookie,
            local: notice.local,
            local_port: notice.local_port,
            remote: notice.remote,
            remote_port: notice.remote_port,
            ..SockState::default()
        });
        let _ = self.kernel.resetting(&FlowKey {
            netns: notice.netns,
            source: notice.remote,
            destination: notice.local,
            source_port: notice.remote_port,
            destination_port: notice.local_port,
            pad: 0,
        });
        // An end whose other end has shut down its side meanwhile would go without a reset: it is left
        // alone, and its FIN is repeated.
        let ended = self
            .reachable(notice.netns, &end)
            .and_then(|netns| diag::destroy_closing(&netns, &end));
        match ended {
            Ok(true) => self.counts.unread_resets += 1,
            Ok(false) => self.lost(notice),
            Err(error) => {
                log::warn(error.code, &error.to_string());
                self.lost(notice);
            }
        }
    }

    fn lost(&mut self, notice: &Notice) {
        self.counts.unread_lost += 1;
        let text = format!(
            "{}:{} closed its connection with {}:{}",
            notice.local, notice.local_port, notice.remote, notice.remote_port
        );
        log::warn(code::UNREAD_LOST, &text);
    }

    fn spliced(&mut self, notice: &Notice, dialing: &SockState) {
        let why = format!("{} spliced", program(notice.pid));
        self.end(notice.cookie, dialing, code::SPLICED, &why);
    }

    fn end(&mut self, cookie: u64, dialing: &SockState, code: u16, why: &str) {
        self.table.destroying(dialing.cookie, code, None);
        let text = format!(
            "{why} from {}:{} to {}:{}, which took the shortcut: reset",
            dialing.local, dialing.local_port, dialing.remote, dialing.remote_port
        );
        log::warn(code, &text);
        match self.reset(dialing, cookie) {
            Ok(_) => self.counts.shortcut_resets += 1,
            Err(error) => {
                self.counts.shortcut_resets_failed += 1;
                log::warn(error.code, &error.to_string());
            }
        }
    }

    /// Ends the end of a connection that has this cookie, so that the other one gets a reset.
    fn reset(&mut self, dialing: &SockState, cookie: u64) -> Result<bool, KernelError> {
        let near = end_of(dialing);
        let (mut end, netns) = if cookie == dialing.cookie {
            (near, dialing.netns)
        } else {
            (far_end(&near), self.arrives_in(dialing))
        };
        end.cookie = cookie;
        diag::destroy(&self.reachable(netns, &end)?, &end)
    }

    fn reachable(&mut self, netns: u64, end: &diag::DiagSocket) -> Result<Netns, KernelError> {
        self.locate(netns).ok_or_else(|| {
            let text = format!(
                "no path to the namespace of {}:{}",
                end.local, end.local_port
            );
            KernelError::new(code::NETNS_UNREACHABLE, text)
        })
    }

    /// The namespace of a local connection's accepting end, as the programs know it.
    fn arrives_in(&self, s: &SockState) -> u64 {
        if s.remote.is_loopback() || s.remote == s.local {
            return s.netns;
        }
        self.workload_netns(s.destination)
            .unwrap_or(self.host.cookie)
    }
}

/// A process as an operator knows it.
fn program(pid: u32) -> String {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = exe.file_name().map(Path::new).map(Path::display);
    name.map_or_else(
        || format!("process {pid}"),
        |name| format!("{name} (process {pid})"),
    )
}

//! What the shortcut's programs ask for: the watch for splice, and the end of connections that would
//! hang.

use std::{fs, path::Path};

use underpass_abi::{
    reason::code,
    shortcut::{Notice, NoticeKind},
    sock::SockState,
};

use super::{
    Control,
    recheck::{end_of, far_end},
};
use crate::{
    kernel::{KernelError, diag},
    log,
};

impl Control {
    pub(super) fn take_notices(&mut self, notices: &[Notice]) {
        let of = |kind: NoticeKind| notices.iter().filter(move |n| n.kind == kind as u32);
        if of(NoticeKind::Candidate).next().is_some() {
            self.kernel.watch_splice();
        }
        if of(NoticeKind::Spliced).next().is_none() {
            return;
        }
        // Once for each program: from then on it takes no part.
        let sockets = match self.kernel.sockets() {
            Ok(sockets) => sockets,
            Err(error) => return log::warn(error.code, &error.to_string()),
        };
        for notice in of(NoticeKind::Spliced) {
            // Else it has ended.
            if let Some(dialing) = sockets.iter().find(|s| s.cookie == notice.pair) {
                self.spliced(notice, dialing);
            }
        }
    }

    fn spliced(&mut self, notice: &Notice, dialing: &SockState) {
        self.table.destroying(notice.pair, code::SPLICED, None);
        let text = format!(
            "{} spliced from {}:{} to {}:{}, which took the shortcut: reset",
            program(notice.pid),
            dialing.local,
            dialing.local_port,
            dialing.remote,
            dialing.remote_port
        );
        log::warn(code::SPLICED, &text);
        match self.reset(dialing, notice.cookie) {
            Ok(()) => self.counts.shortcut_resets += 1,
            Err(error) => {
                self.counts.shortcut_resets_failed += 1;
                log::warn(error.code, &error.to_string());
            }
        }
    }

    /// Ends the end of a connection that has this cookie, so that the other one gets a reset.
    fn reset(&mut self, dialing: &SockState, cookie: u64) -> Result<(), KernelError> {
        let near = end_of(dialing);
        let (mut end, netns) = if cookie == dialing.cookie {
            (near, dialing.netns)
        } else {
            (far_end(&near), self.arrives_in(dialing))
        };
        end.cookie = cookie;
        let netns = self.locate(netns).ok_or_else(|| {
            let text = format!(
                "no path to the namespace of {}:{}",
                end.local, end.local_port
            );
            KernelError::new(code::NETNS_UNREACHABLE, text)
        })?;
        diag::destroy(&netns, &end).map(drop)
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

//! What the kernel holds for sockets.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

use crate::{BenchError, Context as _, Result};

/// Bytes; differences of two are signed, as others use the machine too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Charged to the sockets of the namespaces: received and not read, queued to be sent, reserved.
    pub sockets: i64,
    /// TCP's pages of the machine (`/proc/net/sockstat`).
    pub tcp: i64,
    /// `SUnreclaim` of the machine.
    pub slab: i64,
}

impl Held {
    pub fn read(namespaces: &[String]) -> Result<Self> {
        let mut sockets = 0;
        for netns in namespaces {
            sockets += charged(&ss(netns)?);
        }
        let stat = read("/proc/net/sockstat")?;
        let pages = tcp_pages(&stat).ok_or_else(|| unreadable("/proc/net/sockstat"))?;
        let info = read("/proc/meminfo")?;
        Ok(Self {
            sockets,
            tcp: pages * rustix::param::page_size() as i64,
            slab: kib(&info, "SUnreclaim:").ok_or_else(|| unreadable("/proc/meminfo"))?,
        })
    }

    pub fn since(&self, before: &Self) -> Self {
        Self {
            sockets: self.sockets - before.sockets,
            tcp: self.tcp - before.tcp,
            slab: self.slab - before.slab,
        }
    }
}

/// TCP sockets of a namespace that are or were connected.
pub fn ss(netns: &str) -> Result<String> {
    let name = "ss (package iproute2)";
    let done = Command::new("ip")
        .args(["netns", "exec", netns, "ss", "-tmnHO"])
        .output()
        .context(name)?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&done.stderr);
    Err(BenchError::Setup(format!("{name}: {why}")))
}

/// Of `skmem:(r…,rb…,t…,tb…,f…,w…,o…,bl…,d…)`: what is received, queued and reserved. What a socket
/// has reserved may be below zero, and is shown as a number without sign.
fn charged(ss: &str) -> i64 {
    let lists = ss.split("skmem:(").skip(1);
    let fields = lists.flat_map(|rest| rest.split(')').next().unwrap_or_default().split(','));
    let bytes = |field: &str| {
        let number = field.strip_prefix(['r', 'f', 'w'])?;
        number.parse::<u32>().ok().map(|n| i64::from(n as i32))
    };
    fields.filter_map(bytes).sum()
}

fn tcp_pages(sockstat: &str) -> Option<i64> {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"))?;
    line.rsplit_once("mem ")?.1.trim().parse().ok()
}

fn kib(meminfo: &str, name: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: i64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(Path::new(path)).context(path)
}

fn unreadable(path: &str) -> BenchError {
    BenchError::Setup(format!("{path}: it has no such field"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sockets_hold_is_summed() {
        let ss = "ESTAB 0 9 10.0.0.1:1 10.0.0.2:2 skmem:(r1,rb2,t4,tb8,f16,w32,o64,bl128,d256)\n\
                  ESTAB 0 0 10.0.0.2:2 10.0.0.1:1 skmem:(r1000,rb2,t0,tb8,f0,w0,o0,bl0,d0)\n\
                  TIME-WAIT 0 0 10.0.0.2:2 10.0.0.1:3\n";
        assert_eq!(charged(ss), 1 + 16 + 32 + 1000);
        assert_eq!(charged("skmem:(r8192,rb2,t0,tb8,f4294963200,w0,o0)"), 4096);
        assert_eq!(charged(""), 0);
    }

    #[test]
    fn the_machines_figures_are_found() {
        let stat =
            "sockets: used 10\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 342\nUDP: inuse 0 mem 7\n";
        assert_eq!(tcp_pages(stat), Some(342));
        let info = "Slab:             9 kB\nSUnreclaim:        50864 kB\n";
        assert_eq!(kib(info, "SUnreclaim:"), Some(50864 << 10));
        assert_eq!(kib(info, "SReclaimable:"), None);
    }
}

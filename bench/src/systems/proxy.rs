//! A proxy between client and server: a packaged program with its configuration, in a cgroup of its own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use underpass_abi::reason::code;

use super::{Peer, Refusal, System, cases::Family, envoy, haproxy, nginx};
use crate::{
    BenchError, Context as _, Result,
    apps::packaged::{self, wait_ready},
    lab::{Lab, Place},
    rig::Cpus,
};

/// Of the first proxy of the first system; each has two at most.
const PORTS: u16 = 7100;

/// Where a proxy takes connections and where it makes them.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    pub family: Family,
    pub at: SocketAddrV4,
    pub to: SocketAddrV4,
}

pub struct Proxy {
    pub at: SocketAddrV4,
    pub cgroup: PathBuf,
    pub command_line: String,
    pub config: String,
    child: Child,
}

/// The proxies of a system, the client's first, or why there are none.
pub fn start(
    lab: &Lab,
    system: System,
    family: Family,
    server: SocketAddrV4,
    cpus: Cpus,
) -> std::result::Result<Vec<Proxy>, Refusal> {
    let Some((peer, hops)) = system.hops() else {
        return Ok(Vec::new());
    };
    let program =
        program(peer, family).map_err(|why| Refusal::new(code::NO_PROGRAM, why.to_string()))?;
    let port = PORTS + 2 * system.index() as u16;
    let mut proxies = Vec::new();
    for hop in 0..hops {
        let last = hop + 1 == hops;
        // The second of a pair is the server's neighbor, as its sidecar would be.
        let (place, address) = match hop {
            0 => ("client", Ipv4Addr::LOCALHOST),
            _ => ("server", *server.ip()),
        };
        let leg = Leg {
            family,
            at: SocketAddrV4::new(address, port + hop),
            to: if last {
                server
            } else {
                SocketAddrV4::new(*server.ip(), port + hop + 1)
            },
        };
        let name = format!("{}-{}", system.name(), hop + 1);
        let started = Proxy::start(lab, (peer, &program), &name, place, leg, cpus);
        proxies.push(started.map_err(|e| Refusal::new(code::NOT_MEASURED, e.to_string()))?);
    }
    Ok(proxies)
}

/// Where a peer's program is, if all that the family needs is there.
fn program(peer: Peer, family: Family) -> Result<String> {
    match peer {
        Peer::Envoy => packaged::envoy(),
        Peer::Haproxy => packaged::find("usr/sbin/haproxy"),
        Peer::Nginx => {
            if family == Family::Tcp {
                nginx::stream_module()?;
            }
            packaged::find("usr/sbin/nginx")
        }
    }
}

/// The first line of what it says about itself.
pub fn version(peer: Peer) -> String {
    let Ok(program) = program(peer, Family::Http1) else {
        return "not here".to_owned();
    };
    let flag = match peer {
        Peer::Envoy => "--version",
        Peer::Haproxy | Peer::Nginx => "-v",
    };
    let said = Command::new(&program)
        .arg(flag)
        .env("LD_LIBRARY_PATH", packaged::libraries(&packaged::prefix()))
        .output();
    let said = said.map(|done| [done.stdout, done.stderr].concat());
    let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
    let line = said.lines().find(|line| !line.trim().is_empty());
    // Envoy begins with its path.
    line.unwrap_or("unknown")
        .replace(&program, peer.name())
        .trim()
        .to_owned()
}

/// What a reader is told of a proxy.
pub struct Told {
    pub command_line: String,
    pub config: String,
}

impl Proxy {
    fn start(
        lab: &Lab,
        (peer, program): (Peer, &str),
        name: &str,
        place: &str,
        leg: Leg,
        cpus: Cpus,
    ) -> Result<Self> {
        let dir = lab.dir.join(name);
        fs::create_dir_all(&dir).context(dir.display())?;
        let (file, config, flags) = match peer {
            Peer::Envoy => ("envoy.yaml", envoy::config(&leg), envoy::FLAGS),
            Peer::Haproxy => ("haproxy.cfg", haproxy::config(&leg), haproxy::FLAGS),
            Peer::Nginx => ("nginx.conf", nginx::config(&leg, &dir)?, nginx::FLAGS),
        };
        let path = dir.join(file);
        fs::write(&path, &config).context(path.display())?;
        // The lab's directory is gone when somebody reads this.
        let (path, own) = (path.display().to_string(), file);
        let mut words = vec![program.to_owned()];
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        words.push(path.clone());
        let place = lab.proxy_place(place, name, cpus.of(true))?;
        let shown = words[1..].join(" ").replace(&path, own);
        let told = Told {
            command_line: format!("{} {shown}", peer.name()),
            config,
        };
        Self::launch(name, &words, leg.at, &dir, &place, told)
    }

    /// Starts it, and waits until it listens; what it says goes to `dir`.
    pub fn launch(
        name: &str,
        words: &[String],
        at: SocketAddrV4,
        dir: &Path,
        place: &Place,
        told: Told,
    ) -> Result<Self> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let log = dir.join("log");
        let output = File::create(&log).context(log.display())?;
        let child = packaged::command(&words, place)?
            .stdin(Stdio::null())
            .stdout(output.try_clone().context(log.display())?)
            .stderr(output)
            .spawn()
            .context(name)?;
        let mut proxy = Self {
            at,
            cgroup: place.cgroup.clone().unwrap_or_default(),
            command_line: told.command_line,
            config: told.config,
            child,
        };
        let pid = proxy.child.id();
        wait_ready(name, &mut proxy.child, || listens(pid, at.port()))
            .map_err(|e| BenchError::Setup(format!("{e}: {}", tail(&log))))?;
        Ok(proxy)
    }

    /// Bytes of memory, pages that are shared divided among their users.
    pub fn pss(&self) -> Result<u64> {
        let path = self.cgroup.join("cgroup.procs");
        let pids = fs::read_to_string(&path).context(path.display())?;
        let pids = pids.lines().filter_map(|pid| pid.parse().ok());
        pids.map(crate::cpu::pss).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its workers too; the lab's guard does the same at the end.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True if something in the process's network namespace listens on the port.
fn listens(pid: u32, port: u16) -> bool {
    let table = |name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    listed(&table("tcp"), port) || listed(&table("tcp6"), port)
}

fn listed(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().unwrap_or_default();
        // The remote address stands between; 0A is LISTEN.
        local.ends_with(&end) && words.nth(1) == Some("0A")
    })
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_in_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     0: 0100007F:1BBC 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:1BBD 0100007F:9C40 01 00000000:00000000\n";
        assert!(listed(table, 0x1bbc));
        assert!(!listed(table, 0x1bbd), "a connection");
        assert!(!listed(table, 0x9c40) && !listed("", 1));
    }
}

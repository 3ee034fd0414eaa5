//! A child process at a place: output captured, ended by its pid, proven to own its listener.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Failure, Place, Result, until};

/// Lines kept of each stream; more are counted and dropped.
const LINES_MAX: usize = 200_000;

#[derive(Default)]
struct Lines {
    kept: Vec<String>,
    dropped: usize,
}

type Stream = Arc<Mutex<Lines>>;

pub struct Proc {
    pub name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Stream,
    stderr: Stream,
    readers: Vec<thread::JoinHandle<()>>,
}

/// What a process left behind.
pub struct Done {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Proc {
    pub fn start(place: &Place, command: &[&str]) -> Result<Self> {
        let mut child = place
            .command(command)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Failure::at(command.join(" ")))?;
        let (stdout, stderr) = (Stream::default(), Stream::default());
        let readers = vec![
            collect(
                child.stdout.take().expect("piped above"),
                Arc::clone(&stdout),
            ),
            collect(
                child.stderr.take().expect("piped above"),
                Arc::clone(&stderr),
            ),
        ];
        let stdin = child.stdin.take();
        Ok(Self {
            name: command.join(" "),
            child,
            stdin,
            stdout,
            stderr,
            readers,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> Vec<String> {
        lock(&self.stdout).kept.clone()
    }

    pub fn stderr(&self) -> String {
        lock(&self.stderr).kept.join("\n")
    }

    /// Writes a line to the program's standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or_else(|| Failure::new("standard input is closed"))?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .map_err(Failure::at(&self.name))
    }

    /// Closes the program's standard input.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// The first line at or after number `from` of standard output that contains `text`.
    pub fn line(&mut self, from: usize, text: &str, limit: Duration) -> Result<String> {
        until(&format!("`{text}` from {}", self.name), limit, || {
            if let Some(line) = lock(&self.stdout)
                .kept
                .iter()
                .skip(from)
                .find(|l| l.contains(text))
            {
                return Ok(Ok(line.clone()));
            }
            self.while_alive()
        })?
    }

    /// Says `line` and gives the JSON that the program answers with.
    pub fn ask(&mut self, line: &str) -> Result<serde_json::Value> {
        let from = lock(&self.stdout).kept.len();
        self.tell(line)?;
        let answer = self.line(from, "{", Duration::from_secs(10))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Waits for the end.
    pub fn finish(mut self, limit: Duration) -> Result<Done> {
        self.hang_up();
        let name = self.name.clone();
        let status = until(&format!("end of {name}"), limit, || {
            match self.child.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err(format!("still running; stderr: {}", self.stderr())),
                Err(e) => Err(e.to_string()),
            }
        })?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let stdout = lock(&self.stdout).kept.join("\n");
        Ok(Done {
            code: status.code(),
            stdout,
            stderr: self.stderr(),
        })
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).map_err(Failure::at(format_args!("signal to {}", self.name)))
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until this very process listens at `at`.
    pub fn wait_listening(&self, at: SocketAddr) -> Result<()> {
        until(
            &format!("{} listening on {at}", self.name),
            Duration::from_secs(10),
            || {
                if self.owns_listener(at) {
                    return Ok(Ok(()));
                }
                self.while_alive()
            },
        )?
    }

    /// For polls: go on, unless the process has ended and said everything.
    fn while_alive<T>(&self) -> std::result::Result<Result<T>, String> {
        let stderr = format!("stderr: {}", self.stderr());
        if alive(self.pid()) || self.readers.iter().any(|r| !r.is_finished()) {
            return Err(stderr);
        }
        Ok(Err(Failure(format!("{} has ended, {stderr}", self.name))))
    }

    /// True if a socket of this process listens at `at` (or on the wildcard address with its port).
    pub fn owns_listener(&self, at: SocketAddr) -> bool {
        let proc = Path::new("/proc").join(self.pid().to_string());
        let tables =
            ["net/tcp", "net/tcp6"].map(|t| fs::read_to_string(proc.join(t)).unwrap_or_default());
        let inodes: Vec<String> = tables.iter().flat_map(|t| listeners(t, at)).collect();
        let Ok(fds) = fs::read_dir(proc.join("fd")) else {
            return false;
        };
        fds.flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| {
                inodes
                    .iter()
                    .any(|inode| link.as_os_str() == format!("socket:[{inode}]").as_str())
            })
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .unwrap_or_default();
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .map_err(Failure::at("VmRSS"))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True until the process has ended: a zombie has, but not while other threads of it still hold its
/// files (the first thread of a group is a zombie as soon as it returns).
pub fn alive(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let zombie = stat.is_ok_and(|stat| {
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    });
    threads > 1 || (threads == 1 && !zombie)
}

fn collect(from: impl Read + Send + 'static, into: Stream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(std::io::Result::ok) {
            let mut lines = lock(&into);
            if lines.kept.len() < LINES_MAX {
                lines.kept.push(line);
            } else {
                lines.dropped += 1;
            }
        }
    })
}

fn lock(stream: &Stream) -> MutexGuard<'_, Lines> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Inodes of the sockets in a `/proc/net/tcp` table that listen at `at`.
fn listeners(table: &str, at: SocketAddr) -> Vec<String> {
    const LISTEN: &str = "0A";
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let found = SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
        let same = found == at || (found.ip().is_unspecified() && found.port() == at.port());
        (same && fields.get(3) == Some(&LISTEN)).then(|| fields.get(9).map(|i| (*i).to_owned()))?
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// The kernel prints each 32-bit word of the address in the machine's own byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let mut octets = Vec::with_capacity(16);
    for word in hex.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(octets)
            .ok()
            .map(|o| IpAddr::from(o).to_canonical()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 0\n\
            1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000 0 0 4712 1 0\n";
        assert_eq!(
            listeners(table, "127.0.0.1:8080".parse().unwrap()),
            ["4711"]
        );
        assert!(listeners(table, "127.0.0.1:8081".parse().unwrap()).is_empty());
    }
}

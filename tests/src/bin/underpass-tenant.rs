//! A worker for tests of the vendor: it does what connections to its listeners say, a line for a line.
//! Its name (the first argument) says how it begins: `lazy` restricts nothing and says that it did,
//! `unlocked` says that the kernel has no landlock, `files` applies landlock only.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt,
};
use underpass_api::vend::{
    Family, sandbox,
    worker::{Event, Vendor},
};

#[path = "tenant/probe.rs"]
mod probe;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("underpass-tenant: {e}");
            ExitCode::FAILURE
        }
    }
}

struct Worker {
    vendor: Vendor,
    /// Seen before the files were gone.
    facts: String,
    idle: Duration,
    /// Does not listen to the vendor any more.
    deaf: bool,
    last: Instant,
    listeners: BTreeMap<u64, TcpListener>,
    stock: BTreeMap<u64, Vec<OwnedFd>>,
    clients: Vec<Client>,
    memory: Vec<Vec<u8>>,
    draining: BTreeSet<u64>,
    /// By tenant: version and text.
    snapshots: BTreeMap<String, (u64, String)>,
}

struct Client {
    workload: u64,
    /// What has come of a line.
    line: String,
    stream: BufReader<TcpStream>,
}

fn run() -> io::Result<()> {
    let name = std::env::args().next().unwrap_or_default();
    let facts = probe::facts();
    let missing = match name.as_str() {
        "lazy" => 0,
        "unlocked" => sandbox::restrict() | sandbox::NO_LANDLOCK,
        "files" => sandbox::landlock(),
        _ => sandbox::restrict(),
    };
    let mut worker = Worker {
        vendor: Vendor::hello(missing)?,
        facts,
        idle: Duration::MAX,
        deaf: false,
        last: Instant::now(),
        listeners: BTreeMap::new(),
        stock: BTreeMap::new(),
        clients: Vec::new(),
        memory: Vec::new(),
        draining: BTreeSet::new(),
        snapshots: BTreeMap::new(),
    };
    while worker.turn()? {}
    Ok(())
}

/// All of a file, whoever else reads it.
fn read(file: &OwnedFd) -> io::Result<String> {
    let mut bytes = [0; 256];
    let len = rustix::io::pread(file, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

impl Worker {
    /// False when it is time to go.
    fn turn(&mut self) -> io::Result<bool> {
        self.wait()?;
        while !self.deaf {
            match self.vendor.next().map_err(io::Error::other)? {
                None => break,
                Some(event) => {
                    if !self.heard(event)? {
                        return Ok(false);
                    }
                }
            }
        }
        let mut new = Vec::new();
        for (workload, listener) in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true)?;
                let stream = BufReader::new(stream);
                new.push(Client {
                    workload: *workload,
                    line: String::new(),
                    stream,
                });
            }
        }
        self.clients.extend(new);
        self.hear_clients()?;
        if !self.clients.is_empty() {
            self.last = Instant::now();
        } else if self.last.elapsed() >= self.idle {
            self.leave()?;
            return Ok(false);
        }
        Ok(true)
    }

    fn leave(&mut self) -> io::Result<()> {
        self.listeners.clear();
        self.vendor.leaving()?;
        while !matches!(self.vendor.next(), Ok(Some(Event::Closed))) {
            poll(&mut [PollFd::new(&self.vendor, PollFlags::IN)], None)?;
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = Vec::new();
        if !self.deaf {
            fds.push(PollFd::new(&self.vendor, PollFlags::IN));
        }
        fds.extend(
            self.listeners
                .values()
                .map(|l| PollFd::new(l, PollFlags::IN)),
        );
        fds.extend(
            self.clients
                .iter()
                .map(|c| PollFd::new(c.stream.get_ref(), PollFlags::IN)),
        );
        let timeout = Timespec::try_from(self.idle.min(Duration::from_secs(60))).ok();
        poll(&mut fds, timeout.as_ref())?;
        Ok(())
    }

    fn heard(&mut self, event: Event) -> io::Result<bool> {
        match event {
            Event::Welcome { idle_ms, .. } if idle_ms != 0 => {
                self.idle = Duration::from_millis(idle_ms.into());
            }
            Event::Welcome { .. } | Event::Workload { .. } | Event::Refused { .. } => {}
            Event::Stock {
                workload, sockets, ..
            } => self.stock.entry(workload).or_default().extend(sockets),
            Event::Listener {
                workload, socket, ..
            } => {
                self.listeners.insert(workload, socket.into());
            }
            Event::Snapshot {
                tenant,
                version,
                file,
                report,
            } => {
                // Its text says what becomes of it.
                let text = read(&file)?;
                rustix::io::pwrite(&report, text.as_bytes(), 0)?;
                match text.split_once(' ') {
                    Some(("reject", code)) => {
                        let code = code.parse().unwrap_or(0);
                        self.vendor.rejected(&tenant, version, code)?;
                    }
                    Some(("forge", number)) => {
                        let version = number.parse().unwrap_or(0);
                        self.vendor.applied(&tenant, version)?;
                    }
                    _ => {
                        self.vendor.applied(&tenant, version)?;
                        self.snapshots.insert(tenant, (version, text));
                    }
                }
            }
            Event::Drain { workload } => {
                self.draining.insert(workload);
            }
            Event::Gone { workload } => {
                self.listeners.remove(&workload);
                self.stock.remove(&workload);
                self.clients.retain(|c| c.workload != workload);
                self.vendor.gone_done(workload)?;
            }
            Event::Stop { .. } | Event::Closed => return Ok(false),
        }
        Ok(true)
    }

    fn hear_clients(&mut self) -> io::Result<()> {
        let mut at = 0;
        while at < self.clients.len() {
            let client = &mut self.clients[at];
            let workload = client.workload;
            match client.stream.read_line(&mut client.line) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => at += 1,
                Ok(0) | Err(_) => {
                    self.clients.remove(at);
                }
                Ok(_) => {
                    let line = std::mem::take(&mut client.line);
                    let answer = self.answer(workload, line.trim())? + "\n";
                    let _ = self.clients[at]
                        .stream
                        .get_mut()
                        .write_all(answer.as_bytes());
                    at += 1;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, workload: u64, line: &str) -> io::Result<String> {
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match verb {
            "facts" => self.facts.clone(),
            "attempts" => probe::attempts(self.want(workload, 1)?.pop()),
            "forge" => self.forge(argument.parse().unwrap_or(u64::MAX))?,
            "stock" => {
                let sockets = self.want(workload, argument.parse().unwrap_or(1))?;
                let count = sockets.len();
                self.stock.entry(workload).or_default().extend(sockets);
                format!("stock {count}")
            }
            "dial" => self
                .dial(workload, argument)
                .unwrap_or_else(|e| format!("error {e}")),
            "threads" => probe::threads(argument.parse().unwrap_or(1)),
            "eat" => {
                let mib: usize = argument.parse().unwrap_or(1);
                self.memory.push(vec![1; mib << 20]);
                format!("ate {mib}")
            }
            "deaf" => {
                self.deaf = true;
                "deaf".to_owned()
            }
            "draining" => self.draining.contains(&workload).to_string(),
            "snapshot" => match self.snapshots.get(argument) {
                Some((version, text)) => format!("{version} {text}"),
                None => "none".to_owned(),
            },
            "crash" => std::process::abort(),
            _ => format!("pid {} workload {workload}", std::process::id()),
        })
    }

    /// Asks, and waits for the answer.
    fn want(&mut self, workload: u64, count: u16) -> io::Result<Vec<OwnedFd>> {
        self.vendor.want(workload, Family::V4, count)?;
        loop {
            poll(&mut [PollFd::new(&self.vendor, PollFlags::IN)], None)?;
            match self.vendor.next().map_err(io::Error::other)? {
                Some(Event::Stock { sockets, .. }) => return Ok(sockets),
                Some(Event::Refused { code, .. }) => {
                    return Err(io::Error::other(format!("refused {code}")));
                }
                Some(event) => {
                    self.heard(event)?;
                }
                None => {}
            }
        }
    }

    /// What a forged worker does: asks for a workload that it was never told of.
    fn forge(&mut self, workload: u64) -> io::Result<String> {
        Ok(match self.want(workload, 1) {
            Ok(sockets) => format!("stock {}", sockets.len()),
            Err(e) => e.to_string(),
        })
    }

    /// Connects a socket of the workload's namespace; the first line that comes back.
    fn dial(&mut self, workload: u64, to: &str) -> io::Result<String> {
        let to: std::net::SocketAddr = to.parse().map_err(io::Error::other)?;
        let socket = self
            .want(workload, 1)?
            .pop()
            .ok_or(io::ErrorKind::NotFound)?;
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        let timeout = Timespec::try_from(Duration::from_secs(5)).ok();
        poll(
            &mut [PollFd::new(&socket, PollFlags::OUT)],
            timeout.as_ref(),
        )?;
        sockopt::socket_error(&socket)??;
        let mut stream = TcpStream::from(socket);
        let from = stream.local_addr()?;
        poll(&mut [PollFd::new(&stream, PollFlags::IN)], timeout.as_ref())?;
        let mut text = [0; 64];
        let n = stream.read(&mut text)?;
        Ok(format!(
            "from {} got {}",
            from.ip(),
            String::from_utf8_lossy(&text[..n]).trim()
        ))
    }
}

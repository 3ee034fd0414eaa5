//! The server: answers each request of [`MESSAGE`] bytes with as many. One thread, epoll.

use std::{
    collections::HashSet,
    io::{self, BufRead as _, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use rustix::event::epoll;

use super::{
    MESSAGE,
    protocol::{Answer, Command, Counted},
};

const INPUT: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
/// Ready events taken at once.
const EVENTS: usize = 64;
/// Connections served at once; more wait in the backlog.
const CONNECTIONS: usize = 4096;

struct Conn {
    stream: TcpStream,
    /// Bytes of the current request that have come.
    got: usize,
    /// First bytes of each response if responses are tallied.
    dialed: Option<Ipv4Addr>,
}

struct Server {
    epoll: rustix::fd::OwnedFd,
    listener: TcpListener,
    /// By file descriptor.
    conns: Vec<Option<Conn>>,
    open: usize,
    tally: bool,
    counted: Counted,
    seen: HashSet<Ipv4Addr>,
}

/// Serves until standard input ends.
pub fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let read = epoll::EventFlags::IN;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), read)?;
    epoll::add(&epoll, io::stdin(), epoll::EventData::new_u64(INPUT), read)?;
    let mut server = Server {
        epoll,
        listener,
        conns: Vec::new(),
        open: 0,
        tally: false,
        counted: Counted::default(),
        seen: HashSet::new(),
    };
    answer(&Answer::Ready)?;
    server.run()
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let none = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [none; EVENTS];
        loop {
            let count = match epoll::wait(&self.epoll, &mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                let data = event.data;
                match data.u64() {
                    INPUT => {
                        if !self.command()? {
                            return Ok(());
                        }
                    }
                    LISTENER => self.accept()?,
                    fd => self.serve(fd as usize),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while self.open < CONNECTIONS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer was quicker to go than we to accept.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e),
            };
            stream.set_nodelay(true)?;
            let dialed = if self.tally { local(&stream) } else { None };
            self.seen.extend(dialed);
            self.counted.connections += 1;
            self.open += 1;
            let fd = stream.as_raw_fd() as usize;
            if self.conns.len() <= fd {
                self.conns.resize_with(fd + 1, || None);
            }
            let data = epoll::EventData::new_u64(fd as u64);
            epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
            self.conns[fd] = Some(Conn {
                stream,
                got: 0,
                dialed,
            });
        }
        Ok(())
    }

    fn serve(&mut self, fd: usize) {
        let Some(conn) = self.conns.get_mut(fd).and_then(Option::as_mut) else {
            return;
        };
        match conn.turn() {
            Ok(Some(requests)) => self.counted.requests += requests,
            // Closed or broken; the client's counts tell which.
            Ok(None) | Err(_) => {
                self.conns[fd] = None;
                self.open -= 1;
            }
        }
    }

    /// False at the end of input.
    fn command(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let reply = match serde_json::from_str(&line) {
            Ok(Command::Tally(on)) => {
                self.tally = on;
                Answer::Done
            }
            Ok(Command::Count) => {
                self.counted.addresses = self.seen.len() as u64;
                self.seen.clear();
                Answer::Counted(std::mem::take(&mut self.counted))
            }
            other => Answer::Failed(format!("a server does not do {other:?}")),
        };
        answer(&reply)?;
        Ok(true)
    }
}

impl Conn {
    /// Reads once; answers if the request is complete. `None`: the client closed.
    fn turn(&mut self) -> io::Result<Option<u64>> {
        let mut buffer = [0; MESSAGE];
        let n = self.stream.read(&mut buffer[self.got..])?;
        if n == 0 {
            return Ok(None);
        }
        self.got += n;
        if self.got < MESSAGE {
            return Ok(Some(0));
        }
        self.got = 0;
        if let Some(dialed) = self.dialed {
            buffer[..4].copy_from_slice(&dialed.octets());
        }
        self.stream.write_all(&buffer)?;
        Ok(Some(1))
    }
}

fn local(stream: &TcpStream) -> Option<Ipv4Addr> {
    match stream.local_addr().ok()?.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

pub(super) fn answer(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

//! The server: takes messages of one size and answers each with as many bytes, or not at all. One
//! thread, epoll, non-blocking sockets.

use std::{
    collections::HashSet,
    io::{self, BufRead as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use rustix::{
    event::epoll::{self, EventFlags},
    io::Errno,
    net::{SocketFlags, accept_with, getsockname, sockopt::set_tcp_nodelay},
};

use super::{
    LARGEST, MESSAGE,
    framing::{Inbound, Outbound},
    protocol::{Answer, Command, Counted},
};

const INPUT: u64 = u64::MAX;
const TCP: u64 = u64::MAX - 1;
const UNIX: u64 = u64::MAX - 2;
/// Ready events taken at once.
const EVENTS: usize = 64;
/// Connections served at once; more wait in the backlog.
const CONNECTIONS: usize = 4096;
/// Bytes of one read at most.
const READ: usize = 256 << 10;

struct Conn {
    fd: OwnedFd,
    inbound: Inbound,
    outbound: Outbound,
    /// First bytes of each response if responses are tallied.
    dialed: Option<Ipv4Addr>,
    interest: EventFlags,
}

/// What a connection's turn came to.
enum Turn {
    /// So many messages came whole.
    Came(u64),
    /// Closed by the client, in the middle of a message if `false`.
    Closed(bool),
    /// A message has another number than the next.
    Wrong,
}

struct Server {
    epoll: OwnedFd,
    port: u16,
    /// Always there but while it is renewed.
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
    /// By file descriptor.
    conns: Vec<Option<Conn>>,
    open: usize,
    tally: bool,
    reply: bool,
    /// Connections that are not read, if new ones are not to be.
    ignored: Option<Vec<OwnedFd>>,
    /// The bytes of one message, and what was read last.
    message: Vec<u8>,
    buffer: Vec<u8>,
    counted: Counted,
    seen: HashSet<Ipv4Addr>,
}

/// Serves until standard input ends; on a Unix socket too if there is a path.
pub fn serve(port: u16, unix: Option<&Path>) -> io::Result<()> {
    let tcp = listen(port)?;
    let unix = unix.map(UnixListener::bind).transpose()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let add = |fd: BorrowedFd, data| {
        epoll::add(&epoll, fd, epoll::EventData::new_u64(data), EventFlags::IN)
    };
    add(tcp.as_fd(), TCP)?;
    add(io::stdin().as_fd(), INPUT)?;
    if let Some(unix) = &unix {
        unix.set_nonblocking(true)?;
        add(unix.as_fd(), UNIX)?;
    }
    let mut server = Server {
        epoll,
        port: tcp.local_addr()?.port(),
        tcp: Some(tcp),
        unix,
        conns: Vec::new(),
        open: 0,
        tally: false,
        reply: true,
        ignored: None,
        message: vec![b'u'; MESSAGE],
        buffer: vec![0; READ],
        counted: Counted::default(),
        seen: HashSet::new(),
    };
    answer(&Answer::Ready)?;
    server.run()
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let none = epoll::Event {
            flags: EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        };
        let mut events = [none; EVENTS];
        loop {
            let count = match epoll::wait(&self.epoll, &mut events, None) {
                Err(Errno::INTR) => continue,
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
                    listener @ (TCP | UNIX) => self.accept(listener)?,
                    fd => self.serve(fd as usize)?,
                }
            }
        }
    }

    fn accept(&mut self, listener: u64) -> io::Result<()> {
        while self.open < CONNECTIONS {
            let from = match (&self.unix, &self.tcp) {
                (Some(unix), _) if listener == UNIX => unix.as_fd(),
                (_, Some(tcp)) => tcp.as_fd(),
                _ => return Ok(()),
            };
            let stream = match accept_with(from, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(stream) => stream,
                Err(Errno::AGAIN) => return Ok(()),
                // The peer was quicker to go than we to accept.
                Err(Errno::CONNABORTED) => continue,
                Err(e) => return Err(e.into()),
            };
            if listener == TCP {
                set_tcp_nodelay(&stream, true)?;
            }
            if let Some(ignored) = &mut self.ignored {
                self.counted.connections += 1;
                ignored.push(stream);
                continue;
            }
            let dialed = if self.tally { local(&stream) } else { None };
            self.seen.extend(dialed);
            self.counted.connections += 1;
            self.open += 1;
            let fd = stream.as_raw_fd() as usize;
            if self.conns.len() <= fd {
                self.conns.resize_with(fd + 1, || None);
            }
            let data = epoll::EventData::new_u64(fd as u64);
            epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
            self.conns[fd] = Some(Conn {
                fd: stream,
                inbound: Inbound::default(),
                outbound: Outbound::default(),
                dialed,
                interest: EventFlags::IN,
            });
        }
        Ok(())
    }

    fn serve(&mut self, fd: usize) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(fd).and_then(Option::as_mut) else {
            return Ok(());
        };
        match conn.turn(&mut self.buffer, &mut self.message, self.reply) {
            Ok(Turn::Came(messages)) => {
                self.counted.requests += messages;
                return conn.wait(&self.epoll, fd);
            }
            Ok(Turn::Closed(true)) => {}
            Ok(Turn::Closed(false) | Turn::Wrong) => self.counted.wrong += 1,
            // Broken; the client's counts tell.
            Err(_) => {}
        }
        self.conns[fd] = None;
        self.open -= 1;
        Ok(())
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
            Ok(Command::Listen) => {
                // The port must be free first.
                self.tcp = None;
                let tcp = self.tcp.insert(listen(self.port)?);
                let data = epoll::EventData::new_u64(TCP);
                epoll::add(&self.epoll, tcp, data, EventFlags::IN)?;
                Answer::Done
            }
            Ok(Command::Ignore(on)) => {
                self.ignored = on.then(Vec::new);
                Answer::Done
            }
            Ok(Command::Expect { message, reply }) if (16..=LARGEST).contains(&message) => {
                self.message = vec![b'u'; message as usize];
                self.reply = reply;
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
    /// Sends what is due, else reads once and answers what is complete.
    fn turn(&mut self, buffer: &mut [u8], message: &mut [u8], reply: bool) -> io::Result<Turn> {
        if let Some(dialed) = self.dialed {
            message[..4].copy_from_slice(&dialed.octets());
        }
        let whole = message.len();
        if self.outbound.unsent > 0 {
            self.outbound.flush(&self.fd, message, whole)?;
            return Ok(Turn::Came(0));
        }
        let n = match rustix::io::read(&self.fd, &mut *buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Turn::Came(0)),
            other => other?,
        };
        if n == 0 {
            return Ok(Turn::Closed(self.inbound.got == 0));
        }
        let Some(messages) = self.inbound.take(&buffer[..n], whole) else {
            return Ok(Turn::Wrong);
        };
        if reply {
            self.outbound.unsent += messages as usize * whole;
            self.outbound.flush(&self.fd, message, whole)?;
        }
        Ok(Turn::Came(messages))
    }

    /// For room while something is unsent, else for more.
    fn wait(&mut self, epoll: &OwnedFd, fd: usize) -> io::Result<()> {
        let wanted = if self.outbound.unsent > 0 {
            EventFlags::OUT
        } else {
            EventFlags::IN
        };
        if wanted != self.interest {
            let data = epoll::EventData::new_u64(fd as u64);
            epoll::modify(epoll, &self.fd, data, wanted)?;
            self.interest = wanted;
        }
        Ok(())
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    tcp.set_nonblocking(true)?;
    Ok(tcp)
}

fn local(stream: &OwnedFd) -> Option<Ipv4Addr> {
    let address = SocketAddrV4::try_from(getsockname(stream).ok()?).ok()?;
    Some(*address.ip())
}

pub(crate) fn answer(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

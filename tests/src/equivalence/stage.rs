//! Where a case runs: makes connections, and turns redirection off and on under them.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    thread,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, getsockname, ipproto,
        listen, socket_with, sockopt,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    engine::Engine,
    script::{End, PATIENCE},
    transcript::Log,
};

/// Seeds of the bytes that clients and servers send.
const SEEDS: (u64, u64) = (1, 2);

/// Another pod of the lab: its namespace and its address there.
#[derive(Clone, Debug)]
pub struct Peer {
    pub netns: PathBuf,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

pub struct Stage {
    pub log: Log,
    pub engine: Engine,
    pub peers: Vec<Peer>,
}

/// A socket in the state before `connect` or `listen`.
#[derive(Clone, Copy)]
pub struct Kind {
    pub blocking: bool,
    pub v6: bool,
}

pub const NONBLOCKING: Kind = Kind {
    blocking: false,
    v6: false,
};
pub const BLOCKING: Kind = Kind {
    blocking: true,
    v6: false,
};

impl Kind {
    fn flags(self) -> SocketFlags {
        let base = SocketFlags::CLOEXEC;
        if self.blocking {
            base
        } else {
            base | SocketFlags::NONBLOCK
        }
    }

    pub fn socket(self) -> io::Result<OwnedFd> {
        let family = if self.v6 {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let fd = socket_with(family, SocketType::STREAM, self.flags(), Some(ipproto::TCP))?;
        // Small messages go out at once, so that a script's steps don't depend on ACKs.
        sockopt::set_tcp_nodelay(&fd, true)?;
        Ok(fd)
    }

    fn loopback(self) -> IpAddr {
        if self.v6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        }
    }
}

pub struct Listener {
    pub fd: OwnedFd,
    pub at: SocketAddr,
    kind: Kind,
    log: Log,
}

impl Listener {
    pub fn new(log: &Log, kind: Kind, ip: IpAddr, backlog: i32) -> io::Result<Self> {
        let fd = kind.socket()?;
        Self::on(log, kind, fd, SocketAddr::new(ip, 0), backlog)
    }

    /// From a socket that already has its options.
    pub fn on(
        log: &Log,
        kind: Kind,
        fd: OwnedFd,
        at: SocketAddr,
        backlog: i32,
    ) -> io::Result<Self> {
        sockopt::set_socket_reuseaddr(&fd, true)?;
        bind(&fd, &at)?;
        listen(&fd, backlog)?;
        let at = SocketAddr::try_from(getsockname(&fd)?)?;
        Ok(Self {
            fd,
            at,
            kind,
            log: log.clone(),
        })
    }

    /// Waits for a connection.
    pub fn accept(&self, name: &str) -> io::Result<End> {
        wait(&self.fd, PollFlags::IN)?;
        self.take(name)
    }

    /// For a non-blocking listener.
    pub fn accept_now(&self, name: &str) -> Option<End> {
        self.take(name).ok()
    }

    fn take(&self, name: &str) -> io::Result<End> {
        let fd = accept_with(&self.fd, self.kind.flags())?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        Ok(End::new(name, fd, &self.log, (SEEDS.1, SEEDS.0)))
    }
}

impl Stage {
    pub fn new(log: Log, engine: Engine, peers: Vec<Peer>) -> Self {
        Self { log, engine, peers }
    }

    pub fn note(&self, what: impl std::fmt::Display) {
        self.log.line("case", what);
    }

    /// Notes what must not be.
    pub fn note_unless(&self, good: bool, what: &str) {
        if !good {
            self.note(what);
        }
    }

    /// Client and server over loopback, both non-blocking from the start.
    pub fn pair(&self) -> io::Result<(End, End)> {
        self.pair_of(NONBLOCKING, NONBLOCKING)
    }

    pub fn blocking_pair(&self) -> io::Result<(End, End)> {
        self.pair_of(BLOCKING, BLOCKING)
    }

    /// `server` is also the listener's kind.
    pub fn pair_of(&self, client: Kind, server: Kind) -> io::Result<(End, End)> {
        let listener = self.listener(server)?;
        let client = self.dial(client, listener.at)?;
        Ok((client, listener.accept("server")?))
    }

    pub fn listener(&self, kind: Kind) -> io::Result<Listener> {
        Listener::new(&self.log, kind, kind.loopback(), 128)
    }

    pub fn dial(&self, kind: Kind, to: SocketAddr) -> io::Result<End> {
        let fd = kind.socket()?;
        match connect(&fd, &to) {
            Err(Errno::INPROGRESS) => {
                wait(&fd, PollFlags::OUT)?;
                sockopt::socket_error(&fd)??;
            }
            other => other?,
        }
        Ok(self.client(fd))
    }

    /// A socket that is, or will be, the client of a pair.
    pub fn client(&self, fd: OwnedFd) -> End {
        End::new("client", fd, &self.log, SEEDS)
    }

    /// A client here, a server in the first peer's namespace, over veth.
    pub fn veth_pair(&self) -> io::Result<(End, End)> {
        let peer = &self.peers[0];
        let listener = in_netns(peer, || {
            Listener::new(&self.log, NONBLOCKING, peer.v4.into(), 64)
        })?;
        let client = self.dial(NONBLOCKING, listener.at)?;
        Ok((client, listener.accept("server")?))
    }
}

/// Runs `f` on a thread in the peer's network namespace; sockets stay where they were made.
pub fn in_netns<T: Send>(peer: &Peer, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let space = File::open(&peer.netns)?;
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
            f()
        });
        inside
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("panicked")))
    })
}

pub fn wait(fd: &OwnedFd, want: PollFlags) -> io::Result<()> {
    use rustix::event::{PollFd, Timespec, poll};
    let limit = Timespec::try_from(PATIENCE).expect("a few seconds");
    match poll(&mut [PollFd::new(fd, want)], Some(&limit))? {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
        _ => Ok(()),
    }
}

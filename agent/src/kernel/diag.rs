//! Sockets that exist already, by sock_diag, and the end of connections (SOCK_DESTROY). Layouts as in
//! linux/inet_diag.h.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with, sockopt,
};
use underpass_abi::{Ip, reason::code};

use super::{Feature, KernelError, Netns};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// One socket of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiagSocket {
    pub proto: u8,
    /// Kernel TCP state; for UDP 1 connected, 7 not.
    pub state: u8,
    /// AF_INET (2) or AF_INET6 (10): what the socket was made as.
    pub family: u8,
    pub local: Ip,
    pub local_port: u16,
    pub remote: Ip,
    pub remote_port: u16,
    pub cookie: u64,
    pub inode: u32,
    pub uid: u32,
    /// Id of the cgroup in which the socket was made; 0: the kernel does not say.
    pub cgroup: u64,
    pub tcp: Option<DiagTcp>,
    interface: u32,
}

/// What TCP has counted, as `struct tcp_info` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiagTcp {
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub segments_out: u32,
    pub retransmits: u32,
    pub srtt_us: u32,
}

/// Which sockets to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// TCP in LISTEN.
    Listening,
    /// TCP with both ends known; without SYN_RECV and TIME_WAIT, which no application holds.
    Connected,
    /// UDP sockets that are bound to a port and not connected.
    UdpBound,
}

impl Which {
    fn states(self) -> u32 {
        match self {
            Self::Listening => 1 << 10,
            Self::Connected => 0b1011_0011_0110,
            Self::UdpBound => 1 << 7,
        }
    }

    fn proto(self) -> u8 {
        if self == Self::UdpBound { UDP } else { TCP }
    }
}

/// Lists the sockets of a namespace, both families.
pub fn sockets(netns: &Netns, which: Which) -> Result<Vec<DiagSocket>, KernelError> {
    let failed = |e| KernelError::io(code::FEATURE_OFF, "sock_diag")(e);
    let list = || -> io::Result<Vec<DiagSocket>> {
        let socket = open()?;
        let mut out = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = request(family, which.proto(), which.states(), &Id::default());
            send(
                &socket,
                &message(BY_FAMILY, REQUEST | DUMP, &request),
                SendFlags::empty(),
            )?;
            receive(&socket, &mut |kind, body| {
                if kind == BY_FAMILY
                    && let Some(s) = parse(body, which.proto())
                {
                    out.push(s);
                }
            })?;
        }
        Ok(out)
    };
    netns.run(list)?.map_err(failed)
}

/// Ends a connection as if the peer had reset it; both ends see it. False if it had ended already.
pub fn destroy(netns: &Netns, socket: &DiagSocket) -> Result<bool, KernelError> {
    match netns.run(|| destroy_here(socket))? {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(KernelError::io(code::NO_SOCK_DESTROY, "SOCK_DESTROY")(e)),
    }
}

/// The same for a socket that its application has closed and whose FIN was not acknowledged; nothing
/// happens in any other state. False if so.
pub fn destroy_closing(netns: &Netns, socket: &DiagSocket) -> Result<bool, KernelError> {
    const FIN_WAIT1: u8 = 4;
    let ended = netns.run(|| match state_here(socket)? {
        FIN_WAIT1 => destroy_here(socket).map(|()| true),
        _ => Ok(false),
    })?;
    match ended {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        other => other.map_err(KernelError::io(code::NO_SOCK_DESTROY, "SOCK_DESTROY")),
    }
}

/// Whether the kernel can end connections: it is asked to end one that does not exist.
pub fn destroy_feature() -> Feature {
    let nobody = DiagSocket {
        proto: TCP,
        family: AF_INET,
        cookie: u64::MAX,
        ..Default::default()
    };
    let (on, code, detail) = match destroy_here(&nobody) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => (true, 0, String::new()),
        Err(e) => (false, code::NO_SOCK_DESTROY, e.to_string()),
        Ok(()) => (true, 0, String::new()),
    };
    Feature {
        name: "end-connections",
        on,
        code,
        detail,
    }
}

fn destroy_here(s: &DiagSocket) -> io::Result<()> {
    ask_here(s, DESTROY, &mut |_, _| {})
}

fn state_here(s: &DiagSocket) -> io::Result<u8> {
    let mut state = 0;
    ask_here(s, BY_FAMILY, &mut |kind, body| {
        if kind == BY_FAMILY
            && let Some(found) = parse(body, s.proto)
        {
            state = found.state;
        }
    })?;
    Ok(state)
}

/// Asks for one socket.
fn ask_here(s: &DiagSocket, what: u16, f: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
    let netlink = open()?;
    let id = Id {
        sport: s.local_port,
        dport: s.remote_port,
        src: words(s.local, s.family),
        dst: words(s.remote, s.family),
        interface: s.interface,
        cookie: s.cookie,
    };
    let request = request(s.family, s.proto, u32::MAX, &id);
    send(
        &netlink,
        &message(what, REQUEST | ACK, &request),
        SendFlags::empty(),
    )?;
    receive(&netlink, f)
}

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;

/// The kernel answers at once; a lost answer must not hang the agent.
const PATIENCE: Duration = Duration::from_secs(5);
const BUFFER: usize = 64 << 10;

fn open() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
    let fd = socket_with(family, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
    Ok(fd)
}

/// `struct inet_diag_sockid`; addresses and ports in network order on the wire.
#[derive(Default)]
struct Id {
    sport: u16,
    dport: u16,
    src: [u32; 4],
    dst: [u32; 4],
    interface: u32,
    cookie: u64,
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]);
    out.extend(body);
    out
}

/// `struct inet_diag_req_v2`
fn request(family: u8, proto: u8, states: u32, id: &Id) -> Vec<u8> {
    const INFO: u8 = 1 << 1;
    let mut out = vec![family, proto, INFO, 0];
    out.extend(states.to_ne_bytes());
    out.extend(id.sport.to_be_bytes());
    out.extend(id.dport.to_be_bytes());
    for w in id.src.iter().chain(&id.dst) {
        out.extend(w.to_ne_bytes());
    }
    out.extend(id.interface.to_ne_bytes());
    // Two words, low half first.
    out.extend((id.cookie as u32).to_ne_bytes());
    out.extend(((id.cookie >> 32) as u32).to_ne_bytes());
    out
}

/// Gives every message to `f` until the answer ends.
fn receive(fd: &OwnedFd, f: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (n, _) = recv(fd, &mut buffer[..], RecvFlags::empty())?;
        if messages(&buffer[..n], f)? {
            return Ok(());
        }
    }
}

/// Walks the messages of one datagram; true at the end of the answer.
fn messages(mut rest: &[u8], f: &mut dyn FnMut(u16, &[u8])) -> io::Result<bool> {
    while rest.len() >= HEADER {
        let len = u32_at(rest, 0).unwrap_or(0) as usize;
        if len < HEADER || len > rest.len() {
            return Err(io::Error::other("malformed netlink message"));
        }
        let kind = u16::from_ne_bytes([rest[4], rest[5]]);
        let body = &rest[HEADER..len];
        match kind {
            DONE => return Ok(true),
            ERROR => {
                return match u32_at(body, 0).unwrap_or(0) as i32 {
                    0 => Ok(true),
                    errno => Err(io::Error::from_raw_os_error(-errno)),
                };
            }
            _ => f(kind, body),
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// `struct inet_diag_msg` and its attributes.
fn parse(body: &[u8], proto: u8) -> Option<DiagSocket> {
    const FIXED: usize = 72;
    const INFO: u16 = 2;
    const CGROUP_ID: u16 = 21;
    let (family, state) = (*body.first()?, *body.get(1)?);
    let port = |at| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let mut s = DiagSocket {
        proto,
        state,
        family,
        local_port: port(4)?,
        remote_port: port(6)?,
        local: ip(body, 8, family)?,
        remote: ip(body, 24, family)?,
        interface: u32_at(body, 40)?,
        cookie: u64::from(u32_at(body, 44)?) | u64::from(u32_at(body, 48)?) << 32,
        uid: u32_at(body, 64)?,
        inode: u32_at(body, 68)?,
        ..DiagSocket::default()
    };
    let mut rest = body.get(FIXED..)?;
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let value = rest.get(4..len)?;
        match u16::from_ne_bytes([rest[2], rest[3]]) {
            INFO => s.tcp = tcp_info(value),
            CGROUP_ID => s.cgroup = u64_at(value, 0)?,
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(s)
}

/// `struct tcp_info`, as far as every supported kernel has it.
fn tcp_info(v: &[u8]) -> Option<DiagTcp> {
    Some(DiagTcp {
        srtt_us: u32_at(v, 68)?,
        retransmits: u32_at(v, 100)?,
        bytes_acked: u64_at(v, 120)?,
        bytes_received: u64_at(v, 128)?,
        segments_out: u32_at(v, 136)?,
        bytes_sent: u64_at(v, 200)?,
    })
}

fn ip(body: &[u8], at: usize, family: u8) -> Option<Ip> {
    if family == AF_INET {
        return Some(Ip::v4(u32_at(body, at)?));
    }
    Some(Ip([
        u32_at(body, at)?,
        u32_at(body, at + 4)?,
        u32_at(body, at + 8)?,
        u32_at(body, at + 12)?,
    ]))
}

fn words(ip: Ip, family: u8) -> [u32; 4] {
    if family == AF_INET {
        [ip.0[3], 0, 0, 0]
    } else {
        ip.0
    }
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;

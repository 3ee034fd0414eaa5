//! Where a client meant to connect, before the kernel led its connection here.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpStream;
use underpass_mesh::worker::kind;

use crate::book::{Side, Who};

/// `SO_ORIGINAL_DST`: what the mesh's programs have kept for a vended socket, and conntrack for one that
/// a rule of nftables redirected. A connection that was steered and not rewritten still has the port that
/// was dialed. `None`: nobody redirected it, so there is nowhere to forward it to but this listener.
pub fn destination(stream: &TcpStream, side: Side, listener: u16) -> Option<SocketAddr> {
    let here = canonical(stream.local_addr().ok()?);
    if side == Side::Inbound && here.port() != listener {
        return Some(here);
    }
    let original = match here {
        SocketAddr::V4(_) => v4(stream),
        SocketAddr::V6(_) => v6(stream),
    };
    original.ok().filter(|original| *original != here)
}

/// `SO_PEERCRED`, which the mesh's programs answer for a vended socket: who dialed
/// (`abi::worker::Peer`). The kernel itself says of every TCP socket that its peer is process 0.
pub fn who(stream: &TcpStream) -> Who {
    let Ok(peer) = getsockopt(stream, sockopt::PeerCredentials) else {
        return Who::Unknown;
    };
    match u32::try_from(peer.pid()) {
        Ok(kind::WORKLOAD) => Who::Workload(peer.uid()),
        Ok(kind::HOST) => Who::Host,
        Ok(kind::OUTSIDE) => Who::Outside,
        _ => Who::Unknown,
    }
}

fn v4(stream: &TcpStream) -> io::Result<SocketAddr> {
    let found = getsockopt(stream, sockopt::OriginalDst)?;
    let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
    Ok(SocketAddrV4::new(address, u16::from_be(found.sin_port)).into())
}

fn v6(stream: &TcpStream) -> io::Result<SocketAddr> {
    let found = getsockopt(stream, sockopt::Ip6tOriginalDst)?;
    let address = Ipv6Addr::from(found.sin6_addr.s6_addr);
    Ok(SocketAddrV6::new(address, u16::from_be(found.sin6_port), 0, 0).into())
}

/// An IPv4 address that an IPv6 socket names is one.
fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

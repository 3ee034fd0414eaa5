//! Socket helpers over rustix.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, SocketAddrV6, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, connect, ipproto, socket, sockopt};
use tokio::net::TcpSocket;

/// The IPv4-mapped form, by which an IPv6 socket reaches an IPv4 address.
pub fn mapped(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(v4) => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        v6 => v6,
    }
}

pub fn unconnected(v6: bool) -> io::Result<OwnedFd> {
    let family = if v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    Ok(socket(family, SocketType::STREAM, Some(ipproto::TCP))?)
}

pub fn connect_tcp(at: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    connect_by(at, from, None)
}

/// The same by one device.
pub fn connect_by(
    at: SocketAddr,
    from: Option<SocketAddr>,
    device: Option<&str>,
) -> io::Result<TcpStream> {
    let fd = unconnected(at.is_ipv6())?;
    if let Some(device) = device {
        // Another descriptor of the same socket.
        let other = TcpSocket::from_std_stream(TcpStream::from(fd.try_clone()?));
        other.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(from) = from {
        rustix::net::bind(&fd, &from)?;
    }
    connect(&fd, &at)?;
    Ok(TcpStream::from(fd))
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

pub fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(-1)
}

/// Counts of one socket as its application sees them.
#[derive(Default)]
pub struct Tally {
    pub sent: u64,
    pub received: u64,
    pub errno: i32,
}

impl Tally {
    /// Sends `len` bytes, or as many as the kernel takes before it fails or would block.
    pub fn send(&mut self, mut stream: &TcpStream, len: u64) {
        let block = [0x5a_u8; 64 << 10];
        let mut left = len;
        while left > 0 {
            let size = left.min(block.len() as u64) as usize;
            match stream.write(&block[..size]) {
                Ok(taken) => {
                    left -= taken as u64;
                    self.sent += taken as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => return self.errno = errno(&e),
            }
        }
    }

    /// Reads `limit` bytes, or to the end or failure of the stream.
    pub fn receive(&mut self, mut stream: &TcpStream, limit: u64) {
        let mut block = vec![0; 64 << 10];
        let mut left = limit;
        while left > 0 {
            let size = left.min(block.len() as u64) as usize;
            match stream.read(&mut block[..size]) {
                Ok(0) => return,
                Ok(got) => {
                    left -= got as u64;
                    self.received += got as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return self.errno = errno(&e),
            }
        }
    }

    /// Reads the 8-byte request; `None` if the stream ended before.
    pub fn request(&mut self, mut stream: &TcpStream) -> Option<u64> {
        let mut request = [0; 8];
        let mut have = 0;
        while have < request.len() {
            match stream.read(&mut request[have..]) {
                Ok(0) => return None,
                Ok(got) => {
                    have += got;
                    self.received += got as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    self.errno = errno(&e);
                    return None;
                }
            }
        }
        Some(u64::from_be_bytes(request))
    }

    /// Sends the request, then the rest of `up` bytes.
    pub fn send_request(&mut self, mut stream: &TcpStream, up: u64, down: u64) {
        match stream.write_all(&down.to_be_bytes()) {
            Ok(()) => self.sent += 8,
            Err(e) => return self.errno = errno(&e),
        }
        self.send(stream, up - 8);
    }
}

pub fn half_close(stream: &TcpStream) {
    // Fails only if the peer has reset, which the counts show.
    let _ = stream.shutdown(Shutdown::Write);
}

//! One connection of the client.

use std::{
    collections::VecDeque, io, net::SocketAddrV4, os::fd::OwnedFd, path::Path, time::Instant,
};

use rustix::{
    event::epoll::{self, EventFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt},
};

use super::{
    Exchange, Kind,
    framing::{Inbound, Outbound},
};

/// Where a slot connects to.
pub enum Dial<'a> {
    Tcp(SocketAddrV4),
    Unix(&'a Path),
}

/// A place for a connection and the requests that are under way on it.
#[derive(Default)]
pub struct Slot {
    pub fd: Option<OwnedFd>,
    /// When each request under way was begun.
    pub starts: VecDeque<Instant>,
    inbound: Inbound,
    outbound: Outbound,
    /// What epoll was last asked for; `None` before the first time.
    interest: Option<EventFlags>,
    /// Everything is sent, and the other end is to close.
    pub ending: bool,
}

impl Slot {
    pub fn connect(&mut self, dial: &Dial, exchange: &Exchange, blocking: bool) -> io::Result<()> {
        let mut flags = SocketFlags::CLOEXEC;
        if !blocking {
            flags |= SocketFlags::NONBLOCK;
        }
        let family = match dial {
            Dial::Tcp(_) => AddressFamily::INET,
            Dial::Unix(_) => AddressFamily::UNIX,
        };
        let fd = socket_with(family, SocketType::STREAM, flags, None)?;
        let connected = match dial {
            Dial::Tcp(to) => connect(&fd, to),
            Dial::Unix(path) => connect(&fd, &SocketAddrUnix::new(*path)?),
        };
        match connected {
            // The first write finds out.
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(e) => return Err(e.into()),
        }
        if matches!(dial, Dial::Tcp(_)) && exchange.kind != Kind::Connect {
            sockopt::set_tcp_nodelay(&fd, true)?;
        }
        self.fd = Some(fd);
        Ok(())
    }

    pub fn begin(&mut self, exchange: &Exchange, now: Instant) {
        self.starts.push_back(now);
        self.outbound.unsent += exchange.message as usize;
    }

    /// True if nothing is left to send. `message`: the bytes of one.
    pub fn flush(&mut self, message: &mut [u8], exchange: &Exchange) -> io::Result<bool> {
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        self.outbound.flush(fd, message, exchange.write as usize)
    }

    /// Reads once; the number of responses that are complete by it.
    pub fn receive(&mut self, buffer: &mut [u8], exchange: &Exchange) -> io::Result<u64> {
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let n = match rustix::io::read(fd, &mut *buffer) {
            Err(Errno::AGAIN | Errno::INTR) => return Ok(0),
            other => other?,
        };
        if n == 0 {
            let early = "closed before the response";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, early));
        }
        let complete = self.inbound.take(&buffer[..n], exchange.message as usize);
        complete.ok_or_else(|| io::Error::other("a response has another number than its request"))
    }

    /// Nothing more will be sent.
    pub fn end(&mut self) -> io::Result<()> {
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        self.ending = true;
        Ok(rustix::net::shutdown(fd, rustix::net::Shutdown::Write)?)
    }

    /// True once the other end has closed too.
    pub fn has_ended(&self) -> io::Result<bool> {
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        match rustix::io::read(fd, &mut [0; 1][..]) {
            Ok(0) => Ok(true),
            Ok(_) => Err(io::Error::other("a stream was answered")),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Tells epoll what the slot waits for, if that changed.
    pub fn wait(&mut self, epoll: &OwnedFd, index: usize, writes: bool) -> io::Result<()> {
        let fd = self.fd.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut wanted = EventFlags::IN;
        if writes {
            wanted |= EventFlags::OUT;
        }
        let data = epoll::EventData::new_u64(index as u64);
        match self.interest.replace(wanted) {
            None => epoll::add(epoll, fd, data, wanted)?,
            Some(before) if before != wanted => epoll::modify(epoll, fd, data, wanted)?,
            Some(_) => {}
        }
        Ok(())
    }
}

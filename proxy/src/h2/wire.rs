//! A socket as the `h2` crate has it: what was read before comes first, frames are seen as they go by,
//! and no connection keeps the others waiting.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::watch::{Scan, Watch};
use crate::forward::TURN_BYTES;

/// Bytes of HTTP/2's connection preface.
pub(super) const PREFACE_BYTES: usize = 24;

/// Which end of the connection is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Server,
    Client,
}

#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Read already, and how much of it is dealt with.
    first: Vec<u8>,
    taken: usize,
    watch: Rc<Watch>,
    came: Scan,
    went: Scan,
    turn: usize,
}

impl Wire {
    pub fn new(stream: TcpStream, first: Vec<u8>, end: End, watch: Rc<Watch>) -> Self {
        let (came, went) = match end {
            End::Server => (PREFACE_BYTES, 0),
            End::Client => (0, PREFACE_BYTES),
        };
        Self {
            stream,
            first,
            taken: 0,
            watch,
            came: Scan::after(came),
            went: Scan::after(went),
            turn: 0,
        }
    }

    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        if !self.first.is_empty() {
            let rest = &self.first[self.taken..];
            let len = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..len]);
            self.taken += len;
            if self.taken == self.first.len() {
                self.first = Vec::new();
            }
            return Poll::Ready(Ok(len));
        }
        loop {
            // Not tokio's own `poll_read`, which after a short read waits for an event. The shortcut
            // tells of none before a read has found nothing.
            match self.stream.try_read(buf.initialize_unfilled()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_read_ready(cx))?;
                }
                Err(e) => return Poll::Ready(Err(e)),
                Ok(len) => {
                    buf.advance(len);
                    return Poll::Ready(Ok(len));
                }
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Who floods us is not listened to; the connection's task finds out when this has woken it.
        if self.watch.flood().is_some() {
            return Poll::Pending;
        }
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = self.read(cx, buf);
        let Poll::Ready(Ok(len)) = read else {
            self.turn = 0;
            return read.map_ok(|_| ());
        };
        let this = &mut *self;
        this.turn += len;
        this.came.came(&buf.filled()[before..], &this.watch);
        if this.watch.flood().is_some() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = loop {
            match self.stream.try_write_vectored(slices) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(cx))?;
                }
                other => break other?,
            }
        };
        let this = &mut *self;
        let mut left = written;
        for slice in slices {
            let len = slice.len().min(left);
            this.went.went(&slice[..len], &this.watch);
            left -= len;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

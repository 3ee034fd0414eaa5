//! Bytes on their way from a socket and to a socket. Both are used again for the next message.

use std::{
    io,
    task::{Context, Poll, ready},
};

use tokio::net::TcpStream;

/// Bytes of a buffer. It grows for a larger head, and for a body that fills it.
pub const BUFFER_BYTES: usize = 16 << 10;
/// Bytes that a buffer grows to for a body.
pub const BULK_BYTES: usize = 64 << 10;

/// What was read and not dealt with yet.
#[derive(Debug)]
pub struct Buffer {
    /// All of it initialized, once.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
        }
    }
}

impl Buffer {
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// As if it had been read.
    #[cfg(test)]
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn consume(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    pub fn has_room(&self) -> bool {
        self.start > 0 || self.end < self.bytes.len()
    }

    /// Makes it at least so large.
    pub fn grow(&mut self, bytes: usize) {
        if self.bytes.len() < bytes {
            self.bytes.resize(bytes, 0);
        }
    }

    /// Empty, and as large as at first.
    pub fn reset(&mut self) {
        if self.bytes.len() == BUFFER_BYTES {
            (self.start, self.end) = (0, 0);
        } else {
            *self = Self::default();
        }
    }

    /// Reads what there is room for; 0 is the end. Ask until it is pending: the event that was waited
    /// for is not told again.
    pub fn fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        debug_assert!(self.has_room());
        loop {
            match from.try_read(&mut self.bytes[self.end..]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(from.poll_read_ready(cx))?;
                }
                Err(e) => return Poll::Ready(Err(e)),
                Ok(len) => {
                    self.end += len;
                    return Poll::Ready(Ok(len));
                }
            }
        }
    }

    /// Writes and consumes some of the first `len` bytes.
    pub fn drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        let written = ready!(write(cx, to, &self.filled()[..len]))?;
        self.consume(written);
        Poll::Ready(Ok(written))
    }
}

/// What is to be written. It stays until something else is, so that it can be sent once more.
#[derive(Debug, Default)]
pub struct Out {
    bytes: Vec<u8>,
    sent: usize,
}

impl Out {
    /// To append to.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        if self.is_sent() {
            self.clear();
        }
        &mut self.bytes
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() > BUFFER_BYTES {
            self.bytes = Vec::new();
        }
        self.sent = 0;
    }

    /// Nothing waits to be written.
    pub fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// All of it is to be written again.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    pub fn flush(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while !self.is_sent() {
            self.sent += ready!(write(cx, to, &self.bytes[self.sent..]))?;
        }
        Poll::Ready(Ok(()))
    }
}

fn write(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        match to.try_write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(to.poll_write_ready(cx))?,
            other => return Poll::Ready(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_can_be_sent_again_until_something_else_is() {
        let mut out = Out::default();
        out.bytes().extend_from_slice(b"head");
        out.sent = 4;
        assert!(out.is_sent());
        out.rewind();
        assert_eq!(out.waiting(), 4);
        out.sent = 4;
        out.bytes().extend_from_slice(b"other");
        assert_eq!(out.bytes, b"other");
        assert_eq!(out.waiting(), 5);
    }

    #[test]
    fn a_buffer_that_grew_is_given_up() {
        let mut buffer = Buffer::default();
        buffer.grow(BULK_BYTES);
        assert_eq!(buffer.bytes.len(), BULK_BYTES);
        buffer.reset();
        assert_eq!(buffer.bytes.len(), BUFFER_BYTES);
    }
}

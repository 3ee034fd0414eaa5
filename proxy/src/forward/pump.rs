//! One direction of a message: from a socket's buffer to another socket.

use std::task::{Context, Poll};

use tokio::net::TcpStream;
use underpass_l7::Refusal;

use super::TURN_BYTES;
use crate::{
    buffer::{BUFFER_BYTES, BULK_BYTES, Buffer, Out},
    h1::body::Body,
};

/// What comes from one socket.
#[derive(Debug)]
pub(crate) struct Half {
    pub input: Buffer,
    pub body: Body,
    /// Bytes at the front of `input` that are to be written as they are.
    pub passed: usize,
    /// The other end sends no more.
    pub eof: bool,
    /// A byte has moved since this was last cleared.
    pub moved: bool,
}

impl Default for Half {
    fn default() -> Self {
        Self {
            input: Buffer::default(),
            body: Body::Done,
            passed: 0,
            eof: false,
            moved: false,
        }
    }
}

impl Half {
    pub fn reset(&mut self) {
        self.input.reset();
        (self.body, self.passed) = (Body::Done, 0);
        (self.eof, self.moved) = (false, false);
    }
}

/// How far a direction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pump {
    /// The body's end has been written.
    Done,
    /// The connection has ended, which was the body's end too; all of it has been written.
    Ended,
    /// The connection ended too early, or was reset.
    Cut,
    WaitRead,
    WaitWrite,
    /// It is another connection's turn.
    Yield,
    WriteFailed,
    Refused(Refusal),
}

/// The two ends of a direction, and what its reader can do.
pub(crate) struct Way<'a> {
    pub from: &'a TcpStream,
    pub to: &'a TcpStream,
    /// The reader knows no chunks.
    pub strip: bool,
}

/// Moves what can be moved. What is in `out` goes first, together with what is there of the body.
pub(crate) fn pump(cx: &mut Context<'_>, half: &mut Half, out: &mut Out, way: &Way<'_>) -> Pump {
    let mut budget = TURN_BYTES;
    loop {
        if let Err(why) = take(half, out, way.strip) {
            return Pump::Refused(why);
        }
        match out.flush(cx, way.to) {
            Poll::Pending => return Pump::WaitWrite,
            Poll::Ready(Err(_)) => return Pump::WriteFailed,
            Poll::Ready(Ok(())) => {}
        }
        if half.passed > 0 {
            match half.input.drain(cx, way.to, half.passed) {
                Poll::Pending => return Pump::WaitWrite,
                Poll::Ready(Err(_)) => return Pump::WriteFailed,
                Poll::Ready(Ok(written)) => {
                    half.passed -= written;
                    half.moved = true;
                }
            }
            continue;
        }
        if half.body.is_done() {
            return Pump::Done;
        }
        if half.eof {
            return match half.body.may_end_here() {
                true => Pump::Ended,
                false => Pump::Cut,
            };
        }
        if budget == 0 {
            return Pump::Yield;
        }
        match read(cx, half, way.from) {
            Poll::Pending => return Pump::WaitRead,
            Poll::Ready(Err(_)) => return Pump::Cut,
            Poll::Ready(Ok(len)) => budget = budget.saturating_sub(len),
        }
    }
}

/// Lets the body judge what has come; small pieces go to `out`, to be written with what waits there.
fn take(half: &mut Half, out: &mut Out, strip: bool) -> Result<(), Refusal> {
    if half.passed > 0 || half.input.is_empty() || half.body.is_done() {
        return Ok(());
    }
    if strip {
        if out.waiting() < BUFFER_BYTES {
            let len = half.body.strip(half.input.filled(), out.bytes())?;
            half.input.consume(len);
        }
        return Ok(());
    }
    half.passed = half.body.pass(half.input.filled())?;
    if !out.is_sent() && out.waiting() + half.passed <= BUFFER_BYTES {
        out.bytes()
            .extend_from_slice(&half.input.filled()[..half.passed]);
        half.input.consume(half.passed);
        half.passed = 0;
    }
    Ok(())
}

fn read(cx: &mut Context<'_>, half: &mut Half, from: &TcpStream) -> Poll<std::io::Result<usize>> {
    if !half.input.has_room() {
        // What is held back is shorter: a chunk's line or the trailers.
        debug_assert!(false, "a body's coding never fills a buffer");
        half.input.grow(BULK_BYTES);
    }
    let filled = half.input.fill(cx, from);
    if let Poll::Ready(Ok(len)) = filled {
        half.moved = true;
        half.eof = len == 0;
        if len >= BUFFER_BYTES {
            half.input.grow(BULK_BYTES);
        }
    }
    filled
}

#[cfg(test)]
mod tests;

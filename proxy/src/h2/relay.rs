//! One direction of a message, between any two of HTTP/1 and HTTP/2. A reader is given no more than it has
//! room for, and what it has not taken is not asked for: back-pressure goes through, in bounded memory.

use std::task::{Context, Poll};

use bytes::Bytes;
use underpass_l7::Refusal;

use super::{
    REPLAY_BYTES,
    body::{Broken, Chunk, Fault, H1Source, Sink, Source},
    head,
};
use crate::forward::TURN_BYTES;

/// How far a direction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Done,
    WaitRead,
    WaitWrite,
    Yield,
    /// The sender is at fault.
    From(Fault),
    /// The receiver is.
    To(Fault),
    Refused(Refusal),
}

pub(super) struct Relay {
    pub from: Source,
    pub to: Sink,
    /// On its way.
    chunk: Option<Chunk>,
    done: bool,
    /// A byte has moved since this was last cleared.
    pub moved: bool,
    /// What its trailers say of a call of gRPC.
    pub grpc: Option<u32>,
    /// Bytes that may still come.
    left: u64,
    /// All that has gone, as long as it may have to go once more.
    replay: Option<Vec<u8>>,
    /// Bytes that go for the second time: the sender has its room back for them.
    second: usize,
}

impl Relay {
    pub fn new(from: Source, to: Sink, limit: u64) -> Self {
        Self {
            from,
            to,
            chunk: None,
            done: false,
            moved: false,
            grpc: None,
            left: limit,
            replay: None,
            second: 0,
        }
    }

    /// Of a message without a body.
    pub fn finished(from: Source, to: Sink) -> Self {
        Self {
            done: true,
            ..Self::new(from, to, 0)
        }
    }

    /// When there is no more to come: a sender of HTTP/1 is listened to nevertheless, to what it sends
    /// next, and for a reset.
    pub fn listen(&mut self, cx: &mut Context<'_>) -> Option<Fault> {
        let Source::H1(H1Source { stream, half, .. }) = &mut self.from else {
            return None;
        };
        while !half.eof && half.input.has_room() {
            match half.input.fill(cx, stream) {
                Poll::Pending => break,
                Poll::Ready(Ok(len)) => half.eof = len == 0,
                Poll::Ready(Err(_)) => return Some(Fault::Gone),
            }
        }
        None
    }

    /// From now on what goes is kept, in [`REPLAY_BYTES`].
    pub fn keep(&mut self) {
        self.replay = Some(Vec::new());
    }

    pub fn keep_no_more(&mut self) {
        self.replay = None;
    }

    /// What has gone goes to another; that, or `None` if it has not been kept.
    pub fn again(self) -> Option<(Source, Prepared)> {
        let sent = Bytes::from(self.replay?);
        if matches!(self.chunk, Some(Chunk::Trailers(_))) {
            return None;
        }
        let prepared = Prepared {
            sent,
            chunk: self.chunk,
            ended: self.done,
            left: self.left,
        };
        Some((self.from, prepared))
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Flow {
        let mut budget = TURN_BYTES;
        loop {
            if let Some(chunk) = &mut self.chunk {
                let before = match (&self.replay, &*chunk) {
                    (Some(_), Chunk::Data(data, _)) => data.clone(),
                    _ => Bytes::new(),
                };
                let len = match self.to.put(cx, chunk) {
                    Poll::Pending => return Flow::WaitWrite,
                    Poll::Ready(Err(fault)) => return Flow::To(fault),
                    Poll::Ready(Ok(len)) => len,
                };
                self.moved = true;
                let second = len.min(self.second);
                self.second -= second;
                self.from.taken(len - second);
                budget = budget.saturating_sub(len);
                self.remember(&before[..len.min(before.len())]);
                self.settle();
                continue;
            }
            if self.done {
                return match self.flush(cx) {
                    Flow::WaitRead => Flow::Done,
                    waits => waits,
                };
            }
            if budget == 0 {
                return Flow::Yield;
            }
            match self.from.poll(cx) {
                Poll::Ready(Ok(chunk)) => {
                    if let Err(why) = self.count(&chunk) {
                        return Flow::Refused(why);
                    }
                    self.chunk = Some(chunk);
                }
                Poll::Ready(Err(Broken::Fault(fault))) => return Flow::From(fault),
                Poll::Ready(Err(Broken::Refused(why))) => return Flow::Refused(why),
                Poll::Pending => return self.flush(cx),
            }
        }
    }

    /// Only what is with the receiver already.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> Flow {
        match self.to.flush(cx) {
            Poll::Pending => Flow::WaitWrite,
            Poll::Ready(Err(fault)) => Flow::To(fault),
            Poll::Ready(Ok(())) => Flow::WaitRead,
        }
    }

    fn count(&mut self, chunk: &Chunk) -> Result<(), Refusal> {
        if let Chunk::Trailers(fields) = chunk {
            self.grpc = head::grpc_status(fields);
        }
        if let Chunk::Data(data, _) = chunk {
            let left = self.left.checked_sub(data.len() as u64);
            self.left = left.ok_or(Refusal::BodyLength)?;
        }
        Ok(())
    }

    /// Trailers are not kept: they are the end, and rare in a request.
    fn remember(&mut self, bytes: &[u8]) {
        if let Some(replay) = &mut self.replay {
            let trailers = matches!(self.chunk, Some(Chunk::Trailers(_)));
            if trailers || replay.len() + bytes.len() > REPLAY_BYTES {
                self.replay = None;
            } else {
                replay.extend_from_slice(bytes);
            }
        }
    }

    /// A part of the chunk has gone.
    fn settle(&mut self) {
        let whole = matches!(self.to, Sink::H1(_));
        match self.chunk.take() {
            // What goes to HTTP/1 goes whole.
            Some(Chunk::Data(rest, end)) if !rest.is_empty() && !whole => {
                self.chunk = Some(Chunk::Data(rest, end));
            }
            Some(Chunk::Data(_, end)) => self.done = end,
            _ => self.done = true,
        }
    }
}

/// A body of which a part has been read already.
pub(super) struct Prepared {
    sent: Bytes,
    chunk: Option<Chunk>,
    ended: bool,
    left: u64,
}

impl Prepared {
    pub fn relay(self, from: Source, to: Sink) -> Relay {
        let mut relay = Relay::new(from, to, self.left);
        relay.second = self.sent.len();
        let (chunk, ended) = (self.chunk, self.ended);
        relay.chunk = match (self.sent.is_empty(), ended, chunk) {
            (true, true, _) => Some(Chunk::End),
            (false, true, _) => Some(Chunk::Data(self.sent, true)),
            (true, false, chunk) => chunk,
            (false, false, None) => Some(Chunk::Data(self.sent, false)),
            (false, false, Some(Chunk::Data(rest, end))) => {
                Some(Chunk::Data([self.sent, rest].concat().into(), end))
            }
            (false, false, Some(_)) => Some(Chunk::Data(self.sent, true)),
        };
        relay
    }
}

//! One direction of a message, between any two of HTTP/1 and HTTP/2. A reader is given no more than it has
//! room for, and what it has not taken is not asked for: back-pressure goes through, in bounded memory.

use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::net::TcpStream;
use underpass_l7::Refusal;

use super::{REPLAY_BYTES, head, translate};
use crate::{
    buffer::{BUFFER_BYTES, BULK_BYTES, Out},
    forward::{Half, TURN_BYTES, shut_write},
};

/// Why one end moves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It said so, by RST_STREAM.
    Reset(Reason),
    /// It said what is no HTTP/2, so that we reset it.
    Malformed(Reason),
    /// Its connection has ended.
    Gone,
}

impl From<h2::Error> for Fault {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => Self::Reset(reason),
            Some(reason) if error.is_reset() => Self::Malformed(reason),
            _ => Self::Gone,
        }
    }
}

#[derive(Debug)]
pub(super) enum Chunk {
    /// And whether it is the last.
    Data(Bytes, bool),
    Trailers(HeaderMap),
    End,
}

/// Where a body comes from.
pub(super) enum Source {
    H2(RecvStream),
    H1(H1Source),
}

pub(super) struct H1Source {
    pub stream: Rc<TcpStream>,
    pub half: Half,
    pub trailers: Vec<u8>,
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Broken>> {
        let body = match self {
            Self::H1(source) => return source.poll(cx),
            Self::H2(body) => body,
        };
        if let Some(data) = ready!(body.poll_data(cx)) {
            let data = data.map_err(Fault::from)?;
            let end = body.is_end_stream();
            return Poll::Ready(Ok(Chunk::Data(data, end)));
        }
        let trailers = ready!(body.poll_trailers(cx)).map_err(Fault::from)?;
        Poll::Ready(Ok(trailers.map_or(Chunk::End, Chunk::Trailers)))
    }

    /// So many bytes of it are the reader's now.
    fn taken(&mut self, bytes: usize) {
        if let Self::H2(body) = self {
            // It fails only for more than was received.
            let _ = body.flow_control().release_capacity(bytes);
        }
    }
}

/// A source cannot go on.
pub(super) enum Broken {
    Fault(Fault),
    Refused(Refusal),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl H1Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Broken>> {
        let half = &mut self.half;
        loop {
            if half.body.is_done() {
                let trailers = std::mem::take(&mut self.trailers);
                return Poll::Ready(Ok(translate::trailers(&trailers)));
            }
            if !half.input.is_empty() {
                let mut data = Vec::new();
                let trailers = |section: &[u8]| self.trailers = section.to_vec();
                let taken = half
                    .body
                    .unwrap(half.input.filled(), &mut data, trailers)
                    .map_err(Broken::Refused)?;
                half.input.consume(taken);
                if !data.is_empty() {
                    let end = half.body.is_done() && translate::is_empty(&self.trailers);
                    return Poll::Ready(Ok(Chunk::Data(data.into(), end)));
                }
                if half.body.is_done() {
                    continue;
                }
            }
            if half.eof {
                return Poll::Ready(match half.body.may_end_here() {
                    true => Ok(Chunk::End),
                    false => Err(Fault::Gone.into()),
                });
            }
            if !half.input.has_room() {
                half.input.grow(BULK_BYTES);
            }
            match ready!(half.input.fill(cx, &self.stream)) {
                Ok(len) => half.eof = len == 0,
                Err(_) => return Poll::Ready(Err(Fault::Gone.into())),
            }
        }
    }
}

/// Where a body goes.
pub(super) enum Sink {
    H2(SendStream<Bytes>),
    H1(H1Sink),
}

pub(super) struct H1Sink {
    pub stream: Rc<TcpStream>,
    /// The head is in it at first.
    pub out: Out,
    coding: Coding,
    /// When all is written the connection ends in this direction.
    shut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Of a known length, or none at all.
    Plain,
    Chunked,
    /// The end of the data is the end of the connection, at least in this direction.
    UntilClose,
}

impl Sink {
    /// Gives it some; what is left is in `chunk`. The result is how many bytes went.
    fn put(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<Result<usize, Fault>> {
        match self {
            Self::H2(stream) => put_h2(stream, cx, chunk),
            Self::H1(sink) => sink.put(cx, chunk),
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self {
            Self::H2(_) => Poll::Ready(Ok(())),
            Self::H1(sink) => sink.flush(cx),
        }
    }

    /// Whether it takes no more; else the task is woken when it says so.
    pub fn poll_fault(&mut self, cx: &mut Context<'_>) -> Option<Fault> {
        let Self::H2(stream) = self else {
            return None;
        };
        match stream.poll_reset(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(reason)) => Some(Fault::Reset(reason)),
            Poll::Ready(Err(error)) => Some(error.into()),
        }
    }

    pub fn reset(&mut self, reason: Reason) {
        match self {
            Self::H2(stream) => stream.send_reset(reason),
            // If this fails the connection ends as any other.
            Self::H1(sink) => drop(sink.stream.set_zero_linger()),
        }
    }
}

fn put_h2(
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    chunk: &mut Chunk,
) -> Poll<Result<usize, Fault>> {
    let gone = |_| Fault::Gone;
    match chunk {
        Chunk::End => stream.send_data(Bytes::new(), true).map_err(gone)?,
        Chunk::Trailers(trailers) => {
            let trailers = std::mem::take(trailers);
            stream.send_trailers(trailers).map_err(gone)?;
        }
        Chunk::Data(data, false) if data.is_empty() => {}
        Chunk::Data(data, true) if data.is_empty() => {
            stream.send_data(Bytes::new(), true).map_err(gone)?;
        }
        Chunk::Data(data, end) => {
            stream.reserve_capacity(data.len());
            let mut room = stream.capacity();
            while room == 0 {
                room = match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(error)) => return Poll::Ready(Err(error.into())),
                    None => return Poll::Ready(Err(why_closed(stream, cx))),
                };
            }
            let part = data.split_to(room.min(data.len()));
            let len = part.len();
            let last = *end && data.is_empty();
            stream.send_data(part, last).map_err(gone)?;
            return Poll::Ready(Ok(len));
        }
    }
    Poll::Ready(Ok(0))
}

fn why_closed(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Fault {
    match stream.poll_reset(cx) {
        Poll::Ready(Ok(reason)) => Fault::Reset(reason),
        Poll::Ready(Err(error)) => error.into(),
        Poll::Pending => Fault::Gone,
    }
}

impl H1Sink {
    pub fn new(stream: Rc<TcpStream>, out: Out, coding: Coding) -> Self {
        Self {
            stream,
            out,
            coding,
            shut: false,
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let gone = |_| Fault::Gone;
        ready!(self.out.flush(cx, &self.stream).map_err(gone))?;
        if std::mem::take(&mut self.shut) {
            shut_write(&self.stream).map_err(gone)?;
        }
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<Result<usize, Fault>> {
        let len = match chunk {
            Chunk::Data(data, _) => data.len(),
            Chunk::Trailers(_) | Chunk::End => 0,
        };
        if self.out.waiting() + len > BUFFER_BYTES {
            ready!(self.flush(cx))?;
        }
        let (out, chunked) = (self.out.bytes(), self.coding == Coding::Chunked);
        match chunk {
            Chunk::Data(data, _) if chunked && !data.is_empty() => translate::chunk(out, data),
            Chunk::Data(data, _) => out.extend_from_slice(data),
            _ => {}
        }
        match chunk {
            Chunk::Data(_, false) => {}
            Chunk::Trailers(fields) if chunked => translate::last_chunk(out, fields),
            _ if chunked => out.extend_from_slice(b"0\r\n\r\n"),
            _ => self.shut = self.coding == Coding::UntilClose,
        }
        Poll::Ready(Ok(len))
    }
}

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
                return match self.to.flush(cx) {
                    Poll::Pending => Flow::WaitWrite,
                    Poll::Ready(Err(fault)) => Flow::To(fault),
                    Poll::Ready(Ok(())) => Flow::Done,
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
                Poll::Pending => {
                    return match self.to.flush(cx) {
                        Poll::Pending => Flow::WaitWrite,
                        Poll::Ready(Err(fault)) => Flow::To(fault),
                        Poll::Ready(Ok(())) => Flow::WaitRead,
                    };
                }
            }
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

//! Where a body comes from and where it goes: a stream of HTTP/2, or one half of a connection of HTTP/1.

use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::net::TcpStream;
use underpass_l7::Refusal;

use super::translate;
use crate::{
    buffer::{BUFFER_BYTES, BULK_BYTES, Out},
    forward::{Half, shut_write},
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
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, Broken>> {
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
    pub fn taken(&mut self, bytes: usize) {
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
    pub fn put(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<Result<usize, Fault>> {
        match self {
            Self::H2(stream) => put_h2(stream, cx, chunk),
            Self::H1(sink) => sink.put(cx, chunk),
        }
    }

    pub fn flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
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

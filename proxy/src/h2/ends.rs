//! The two ends of an exchange before its response begins, of either version of HTTP.

use std::{
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, client::ResponseFuture, server::SendResponse};
use http::{Response, response::Parts};
use tokio::net::TcpStream;
use underpass_l7::{framing::Framing, inbound::Denied, limit::Limits};

use super::{
    answer,
    body::{Broken, Fault, H1Sink, H1Source, Sink, Source},
    head::{Facts, check_answer},
    translate,
    upstream::Slot,
};
use crate::{
    buffer::Out,
    h1::{
        body::Body,
        head_bytes_max,
        request::RequestFacts,
        response,
        scan::{HeadReader, Kind},
    },
};

/// Who asks.
pub(super) enum Client {
    H2(SendResponse<Bytes>),
    H1(H1Client),
}

pub(super) struct H1Client {
    pub stream: Rc<TcpStream>,
    pub out: Out,
    pub request: RequestFacts,
    /// The connection may be used again.
    pub keep: bool,
}

impl Client {
    pub fn is_h1(&self) -> bool {
        matches!(self, Self::H1(_))
    }

    /// An interim response.
    pub fn interim(&mut self, parts: Parts) -> Result<(), Fault> {
        match self {
            Self::H2(respond) => {
                let response = Response::from_parts(parts, ());
                respond.send_informational(response)?;
            }
            Self::H1(client) if client.request.is_1_0 => {}
            Self::H1(client) => {
                let out = client.out.bytes();
                translate::response_head(&parts, true, &client.request, true, out);
            }
        }
        Ok(())
    }

    /// Interim responses that a client of HTTP/1 has not got yet.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        match self {
            Self::H1(client) => match client.out.flush(cx, &client.stream) {
                Poll::Ready(Err(_)) => Err(Fault::Gone),
                _ => Ok(()),
            },
            Self::H2(_) => Ok(()),
        }
    }

    /// The response's head; `end`: it is all.
    pub fn begin(&mut self, parts: Parts, end: bool) -> Result<Sink, Fault> {
        Ok(match self {
            Self::H2(respond) => {
                Sink::H2(respond.send_response(Response::from_parts(parts, ()), end)?)
            }
            Self::H1(client) => {
                let out = client.out.bytes();
                let (coding, keep) =
                    translate::response_head(&parts, end, &client.request, client.keep, out);
                client.keep = keep;
                let out = std::mem::take(&mut client.out);
                Sink::H1(H1Sink::new(client.stream.clone(), out, coding))
            }
        })
    }

    /// Whether it has gone; else the task is woken when it goes. Of HTTP/1 the reader of its body finds
    /// that out.
    pub fn poll_fault(&mut self, cx: &mut Context<'_>) -> Option<Fault> {
        let Self::H2(respond) = self else {
            return None;
        };
        match respond.poll_reset(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(reason)) => Some(Fault::Reset(reason)),
            Poll::Ready(Err(error)) => Some(error.into()),
        }
    }

    pub fn refuse(&mut self, denied: Denied, status: u16, facts: &Facts) {
        match self {
            Self::H2(respond) => {
                answer::refuse(respond, denied, status, facts.grpc, facts.is_head())
            }
            Self::H1(client) => {
                client.keep = false;
                let out = client.out.bytes();
                crate::forward::answer(out, status, denied, true, facts.is_head());
            }
        }
    }

    /// It gets nothing more, for this reason.
    pub fn reset(&mut self, reason: Reason) {
        match self {
            Self::H2(respond) => respond.send_reset(reason),
            Self::H1(client) => {
                client.keep = false;
                // If this fails the connection ends as any other.
                let _ = client.stream.set_zero_linger();
            }
        }
    }
}

/// The endpoint, which has been asked.
pub(super) enum Awaited {
    H2 {
        response: ResponseFuture,
        slot: Slot,
    },
    H1(Box<H1Awaited>),
}

pub(super) struct H1Awaited {
    pub source: H1Source,
    pub request: RequestFacts,
    pub reader: HeadReader,
    pub head: Vec<u8>,
}

impl H1Awaited {
    pub fn new(source: H1Source, request: RequestFacts) -> Self {
        Self {
            source,
            request,
            reader: HeadReader::new(Kind::Response),
            head: Vec::new(),
        }
    }
}

pub(super) enum Head {
    Interim(Parts),
    /// With its body, whether that is empty, and of HTTP/1 whether the connection may be used again.
    Final(Parts, Source, bool, bool),
}

impl Awaited {
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        facts: &Facts,
        limits: &Limits,
    ) -> Poll<Result<Head, Broken>> {
        let response = match self {
            Self::H1(awaited) => return awaited.poll(cx, limits),
            Self::H2 { response, .. } => response,
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let parts = interim.map_err(Fault::from)?.into_parts().0;
            check_answer(parts.status.as_u16(), &parts.headers, facts, limits)
                .map_err(Broken::Refused)?;
            return Poll::Ready(Ok(Head::Interim(parts)));
        }
        let answer = ready!(std::pin::Pin::new(response).poll(cx)).map_err(Fault::from)?;
        let (parts, body) = answer.into_parts();
        check_answer(parts.status.as_u16(), &parts.headers, facts, limits)
            .map_err(Broken::Refused)?;
        let end = body.is_end_stream();
        Poll::Ready(Ok(Head::Final(parts, Source::H2(body), end, true)))
    }

    /// The endpoint has surely not looked at the request.
    pub fn is_unprocessed(&self, fault: Fault) -> bool {
        let Self::H2 { response, slot } = self else {
            return false;
        };
        let id = response.stream_id().as_u32();
        match fault {
            Fault::Reset(reason) => reason == Reason::REFUSED_STREAM,
            Fault::Gone => slot.watch().last_id().is_some_and(|last| id > last),
            Fault::Malformed(_) => false,
        }
    }
}

impl H1Awaited {
    fn poll(&mut self, cx: &mut Context<'_>, limits: &Limits) -> Poll<Result<Head, Broken>> {
        let half = &mut self.source.half;
        let head = loop {
            let found = self.reader.find(half.input.filled(), limits);
            if let Some(head) = found.map_err(Broken::Refused)? {
                break head;
            }
            if !half.input.has_room() {
                let wanted = half.input.filled().len() * 2;
                half.input.grow(wanted.min(head_bytes_max(limits) + 2));
            }
            match ready!(half.input.fill(cx, &self.source.stream)) {
                Ok(1..) => {}
                _ => return Poll::Ready(Err(Fault::Gone.into())),
            }
        };
        self.reader = HeadReader::new(Kind::Response);
        self.head.clear();
        let bytes = &half.input.filled()[head.clone()];
        let judged = response::forward(bytes, &self.request, false, limits, &mut self.head);
        half.input.consume(head.end);
        let facts = judged.map_err(Broken::Refused)?;
        let parts = translate::response_of(&self.head).map_err(Broken::Refused)?;
        if facts.interim {
            return Poll::Ready(Ok(Head::Interim(parts)));
        }
        half.body = Body::new(facts.framing, u64::MAX);
        let source = H1Source {
            stream: self.source.stream.clone(),
            half: std::mem::take(half),
            trailers: Vec::new(),
        };
        let end = facts.framing == Framing::Empty;
        let head = Head::Final(parts, Source::H1(source), end, facts.keep_upstream);
        Poll::Ready(Ok(head))
    }

    /// It may have closed the connection before the request came.
    pub fn is_untouched(&self) -> bool {
        self.source.half.input.is_empty()
    }
}

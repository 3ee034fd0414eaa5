//! One request from its head to its end: where it goes, by which version of HTTP, and whether it goes once
//! more.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use h2::{Reason, ext::Protocol};
use http::{Request, request::Parts};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use underpass_api::report::Method;
use underpass_l7::{Refusal, inbound::Denied};
use underpass_mesh::snapshot;

use super::{
    ATTEMPTS,
    body::{Fault, H1Sink, H1Source, Sink, Source},
    ends::{Awaited, Client, H1Awaited},
    exchange::{Exchange, Outcome},
    head::{self, Facts},
    relay::{Prepared, Relay},
    stream::Open,
    translate,
    upstream::{Slot, Upstreams},
};
use crate::{
    book::Arrived, buffer::Out, clock::Clock, counters::Count, forward::Half, metrics::Seen,
    plan::Picked, pool::Key, shard::Shard,
};

/// A request and its client.
pub(super) struct Call {
    pub shard: Rc<Shard>,
    pub arrived: Arrived,
    pub facts: Facts,
    pub client: Client,
    /// Of a stream of HTTP/2.
    pub _open: Option<Open>,
}

/// The request's body.
enum Body {
    Fresh(Source),
    Begun(Source, Prepared),
}

/// A connection to the endpoint.
enum Reached {
    H2(Slot),
    H1(TcpStream, bool),
}

enum Unreached {
    ClientGone,
    Why(Refusal),
}

/// The request is on its way.
struct Asked {
    to: Sink,
    awaited: Awaited,
    reused: bool,
}

/// What is left of it: of a client of HTTP/1, the two halves of its connection.
pub(super) struct Ended {
    pub client: Client,
    pub from: Option<Source>,
    pub to: Option<Sink>,
    /// `None`: our own answer is with the client.
    pub outcome: Option<Outcome>,
}

impl Call {
    /// `end`: the request has no body. `first`: where it goes, if that is known.
    pub async fn run(
        mut self,
        mut parts: Parts,
        source: Source,
        end: bool,
        mut first: Option<Picked>,
    ) -> Ended {
        let start = Instant::now();
        let mut sleep = pin!(sleep(self.shard.settings.idle));
        let mut clock = Clock::new(sleep.as_mut());
        let mut body = Body::Fresh(source);
        let mut attempt = 1;
        let mut counted = first.is_some();
        let mut before = None;
        loop {
            let picked = match first.take() {
                Some(picked) => Ok(picked),
                None => self.pick(&mut parts, before.take()),
            };
            let mut picked = match picked {
                Ok(picked) => picked,
                Err(denied) => return self.deny(denied),
            };
            let timeout = [picked.timeout, self.facts.timeout];
            let deadline = timeout.into_iter().flatten().min().map(|t| start + t);
            let reached = match self.reach(&picked, deadline, &mut clock).await {
                Ok(reached) => reached,
                Err(Unreached::ClientGone) => {
                    self.shard.counters.add(Count::ClientGone);
                    return self.over(Some(Outcome::ClientGone));
                }
                Err(Unreached::Why(why)) => {
                    picked.ticket.failed();
                    self.facts.refused(&mut picked.ticket, why, why.status());
                    return self.refuse(why, why.status());
                }
            };
            let asked = match self.ask(&parts, reached, end) {
                Ok(Some(asked)) => asked,
                // The connection has ended since it was chosen; another is.
                Ok(None) if attempt < ATTEMPTS => {
                    before = picked.ticket.take_seen();
                    attempt += 1;
                    continue;
                }
                Ok(None) => {
                    let why = Refusal::NoConnection;
                    self.facts.refused(&mut picked.ticket, why, why.status());
                    return self.refuse(why, why.status());
                }
                Err(why) => {
                    self.facts.refused(&mut picked.ticket, why, why.status());
                    return self.refuse(why, why.status());
                }
            };
            if !std::mem::replace(&mut counted, true) {
                self.shard.counters.add(Count::Requests);
            }
            let mut exchange = self.exchange(asked, picked, deadline, body, end);
            if attempt < ATTEMPTS && !end {
                exchange.upload.keep();
            }
            let outcome = poll_fn(|cx| exchange.poll(cx, &mut clock)).await;
            exchange.count(outcome);
            let Exchange {
                upload,
                download,
                keep,
                key,
                mut ticket,
                ..
            } = exchange;
            let Outcome::Again(fault) = outcome else {
                return self.end(outcome, upload, download, keep.then_some(key));
            };
            let again = match (attempt < ATTEMPTS, end) {
                (false, _) => None,
                (true, true) => Some(Body::Fresh(upload.from)),
                (true, false) => upload
                    .again()
                    .map(|(source, sent)| Body::Begun(source, sent)),
            };
            let Some(again) = again else {
                ticket.refused(Refusal::EndpointClosed, 503);
                return self.give_up(fault);
            };
            self.shard.counters.add(Count::Retried);
            before = ticket.take_seen();
            body = again;
            attempt += 1;
        }
    }

    fn pick(&self, parts: &mut Parts, before: Option<Seen>) -> Result<Picked, Denied> {
        let shard = &self.shard;
        let plan = shard.plan(&self.arrived)?;
        let mut routed = false;
        let method = Method::of(parts.method.as_str().as_bytes());
        let picked = head::forward(parts, &shard.settings.limits, |request, accepted| {
            routed = true;
            plan.pick_again(request, accepted, || shard.random(), shard.start(), before)
        });
        if let (Err(denied), false) = (&picked, routed) {
            plan.refused(method, denied.why);
        }
        picked
    }

    /// A connection to the endpoint, waiting or new; as long as the client waits.
    async fn reach(
        &mut self,
        picked: &Picked,
        deadline: Option<Instant>,
        clock: &mut Clock<'_>,
    ) -> Result<Reached, Unreached> {
        let Self { shard, client, .. } = self;
        let (key, address) = (&picked.key, picked.endpoint.address);
        let speaks_h2 = match picked.protocol {
            snapshot::Protocol::Http2 => true,
            // Neither gRPC nor others that need HTTP/2 would gain by another.
            snapshot::Protocol::Detect => !client.is_h1(),
            snapshot::Protocol::Http1 | snapshot::Protocol::Opaque => false,
        };
        let reaching = async {
            if speaks_h2 {
                let slot =
                    Upstreams::take(shard, key, || shard.connector.dial(key, address)).await?;
                return Ok(Reached::H2(slot));
            }
            if let Some(stream) = shard.pool.take(key, &shard.counters) {
                shard.counters.add(Count::Reused);
                return Ok(Reached::H1(stream, true));
            }
            let stream = shard.connector.dial(key, address).await?;
            shard.counters.add(Count::Opened);
            Ok(Reached::H1(stream, false))
        };
        let mut reaching = pin!(reaching);
        let connect = Instant::now() + shard.settings.connect;
        let until = deadline.map_or(connect, |d| d.min(connect));
        poll_fn(|cx| {
            if let Poll::Ready(reached) = reaching.as_mut().poll(cx) {
                return Poll::Ready(reached.map_err(Unreached::Why));
            }
            if client.poll_fault(cx).is_some() {
                return Poll::Ready(Err(Unreached::ClientGone));
            }
            if !clock.is_over(cx, until) {
                return Poll::Pending;
            }
            let why = match deadline {
                Some(deadline) if deadline <= connect => Refusal::RequestTimeout,
                _ => Refusal::NoConnection,
            };
            Poll::Ready(Err(Unreached::Why(why)))
        })
        .await
    }

    /// Sends the head, or puts it where it is sent first.
    fn ask(&self, parts: &Parts, reached: Reached, end: bool) -> Result<Option<Asked>, Refusal> {
        match reached {
            Reached::H2(slot) => {
                let mut sender = slot.sender();
                let extended = parts.extensions.get::<Protocol>().is_some();
                if extended && !sender.is_extended_connect_protocol_enabled() {
                    return Err(Refusal::Http2);
                }
                let request = Request::from_parts(parts.clone(), ());
                let Ok((response, stream)) = sender.send_request(request, end) else {
                    slot.close();
                    return Ok(None);
                };
                let reused = slot.reused;
                if reused {
                    self.shard.counters.add(Count::Reused);
                }
                Ok(Some(Asked {
                    to: Sink::H2(stream),
                    awaited: Awaited::H2 { response, slot },
                    reused,
                }))
            }
            Reached::H1(stream, reused) => {
                let stream = Rc::new(stream);
                let mut out = Out::default();
                let key = translate::websocket_key([self.shard.random(), self.shard.random()]);
                let (coding, facts) = translate::request_head(parts, end, &key, out.bytes());
                let source = H1Source {
                    stream: stream.clone(),
                    half: Half::default(),
                    trailers: Vec::new(),
                };
                Ok(Some(Asked {
                    to: Sink::H1(H1Sink::new(stream, out, coding)),
                    awaited: Awaited::H1(Box::new(H1Awaited::new(source, facts))),
                    reused,
                }))
            }
        }
    }

    fn exchange(
        &mut self,
        asked: Asked,
        picked: Picked,
        deadline: Option<Instant>,
        body: Body,
        end: bool,
    ) -> Exchange<'_> {
        let limit = self.shard.settings.limits.body_bytes;
        let upload = match body {
            // A tunnel has no body, and goes on.
            Body::Fresh(source) if end => Relay::finished(source, asked.to),
            Body::Fresh(source) => Relay::new(source, asked.to, limit),
            Body::Begun(source, sent) => sent.relay(source, asked.to),
        };
        let now = Instant::now();
        Exchange {
            shard: &self.shard,
            facts: &self.facts,
            client: &mut self.client,
            ticket: picked.ticket,
            key: picked.key,
            deadline,
            reused: asked.reused,
            upload,
            awaited: Some(asked.awaited),
            download: None,
            slot: None,
            keep: true,
            interim: 0,
            granted: false,
            deaf: false,
            up_at: now,
            down_at: now,
        }
    }

    /// `key`: an endpoint's connection of HTTP/1 may wait there.
    fn end(
        mut self,
        outcome: Outcome,
        upload: Relay,
        download: Option<Relay>,
        key: Option<Key>,
    ) -> Ended {
        match outcome {
            Outcome::Refuse(why, status) => return self.refuse(why, status),
            Outcome::Cut(reason) => self.client.reset(reason),
            Outcome::Done { .. } | Outcome::ClientGone | Outcome::Again(_) => {}
        }
        let whole = outcome == Outcome::Done { sent: true };
        let Some(download) = download else {
            return self.over(Some(outcome));
        };
        let (response, to) = (download.from, download.to);
        let (from, request) = (upload.from, upload.to);
        drop(request);
        if let (true, Some(key), Source::H1(response)) = (whole, key, response)
            && response.half.input.is_empty()
            && !response.half.eof
            && let Some(stream) = Rc::into_inner(response.stream)
        {
            self.shard.pool.put(key, stream, &self.shard.counters);
        }
        Ended {
            client: self.client,
            from: Some(from),
            to: Some(to),
            outcome: Some(outcome),
        }
    }

    fn refuse(self, why: Refusal, status: u16) -> Ended {
        self.tell(why.into(), status)
    }

    fn deny(self, denied: Denied) -> Ended {
        self.tell(denied, denied.why.status())
    }

    fn tell(mut self, denied: Denied, status: u16) -> Ended {
        self.shard.counters.refuse(denied.why);
        self.client.refuse(denied, status, &self.facts);
        self.over(None)
    }

    /// It was not looked at, and cannot go once more: the client may know better.
    fn give_up(mut self, fault: Fault) -> Ended {
        if self.client.is_h1() {
            return self.refuse(Refusal::EndpointClosed, 503);
        }
        if fault == Fault::Gone {
            return self.refuse(Refusal::EndpointClosed, 502);
        }
        self.client.reset(Reason::REFUSED_STREAM);
        self.over(Some(Outcome::Cut(Reason::REFUSED_STREAM)))
    }

    fn over(self, outcome: Option<Outcome>) -> Ended {
        Ended {
            client: self.client,
            from: None,
            to: None,
            outcome,
        }
    }
}

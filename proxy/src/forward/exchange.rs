//! One request and its response, both under way at once.

use std::{net::SocketAddr, task::Poll};

use tokio::{net::TcpStream, time::Instant};
use underpass_l7::{Refusal, framing::Framing};

use super::{
    INTERIM_MAX,
    active::{Active, Next, Phase, Polled, Scene, Step, dial_phase},
    pump::{Pump, Way, pump},
};
use crate::{
    counters::Count,
    h1::{
        body::Body,
        head_bytes_max,
        request::RequestFacts,
        response::{self, ResponseFacts},
        scan::{HeadReader, Kind},
    },
    plan::{Picked, Ticket},
    pool::Key,
    shard::Shard,
};

pub(crate) struct Exchange {
    pub request: RequestFacts,
    pub ticket: Ticket,
    pub address: SocketAddr,
    /// By the route's timeout.
    pub deadline: Option<Instant>,
    pub key: Key,
    upstream: Option<TcpStream>,
    /// The connection has waited for this request, and may have ended meanwhile.
    reused: bool,
    reader: HeadReader,
    interim: usize,
    /// The final response, once its head is here.
    pub response: Option<ResponseFacts>,
    /// The endpoint takes no more of the request.
    deaf: bool,
    /// When the last byte moved, each way.
    pub up_at: Instant,
    down_at: Instant,
}

impl Exchange {
    pub fn new(request: RequestFacts, picked: Picked, pooled: Option<TcpStream>) -> Self {
        let now = Instant::now();
        Self {
            request,
            ticket: picked.ticket,
            address: picked.endpoint.address,
            deadline: picked.timeout.map(|timeout| now + timeout),
            key: picked.key,
            reused: pooled.is_some(),
            upstream: pooled,
            reader: HeadReader::new(Kind::Response),
            interim: 0,
            response: None,
            deaf: false,
            up_at: now,
            down_at: now,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.upstream.is_some()
    }

    pub fn connected(&mut self, stream: TcpStream) {
        self.upstream = Some(stream);
        self.reused = false;
        self.up_at = Instant::now();
    }

    pub fn upstream(&self) -> Option<&TcpStream> {
        self.upstream.as_ref()
    }
}

impl Active {
    pub(super) fn poll_exchange(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        let upload = self.upload(scene);
        match upload {
            Pump::Cut => return Poll::Ready(self.client_gone(scene.shard)),
            Pump::Refused(why) => return Poll::Ready(self.abort(scene, why, why.status())),
            _ => {}
        }
        let download = self.download(scene);
        let done = match download {
            Pump::Cut => return Poll::Ready(self.endpoint_gone(scene)),
            Pump::WriteFailed => return Poll::Ready(self.client_gone(scene.shard)),
            Pump::Refused(why) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.ticket.failed();
                }
                return Poll::Ready(self.abort(scene, why, 502));
            }
            Pump::Done | Pump::Ended => true,
            _ => false,
        };
        let Some(exchange) = &self.exchange else {
            return Poll::Ready(Step::Is(Next::Close));
        };
        if let Some(response) = exchange.response {
            if response.framing == Framing::Tunnel {
                scene.shard.counters.add(Count::Tunnels);
                (self.down.body, self.up.body) = (Body::UntilClose, Body::UntilClose);
                return Poll::Ready(Step::To(Phase::Tunnel));
            }
            // An early response leaves the rest of the request to be sent, if the endpoint would have it.
            let sent = upload == Pump::Done;
            if done && (sent || exchange.deaf || !response.keep_upstream) {
                return Poll::Ready(self.finish(scene, &response, sent));
            }
        }
        if upload == Pump::Yield || download == Pump::Yield {
            scene.cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.wait(scene, upload, download)
    }

    /// The request's way. When there is no more of it, its client is listened to nevertheless: to what it
    /// sends next, and for a reset.
    fn upload(&mut self, scene: &mut Scene<'_, '_, '_>) -> Pump {
        let Some(Exchange {
            upstream: Some(upstream),
            deaf,
            ..
        }) = &mut self.exchange
        else {
            return Pump::Cut;
        };
        let mut outcome = Pump::WriteFailed;
        if !*deaf {
            let way = Way {
                from: scene.client,
                to: upstream,
                strip: false,
            };
            outcome = pump(scene.cx, &mut self.down, &mut self.up_out, &way);
            // It may have answered before it closed.
            *deaf = outcome == Pump::WriteFailed;
        }
        if outcome == Pump::Done || *deaf {
            while !self.down.eof && self.down.input.has_room() {
                match self.down.input.fill(scene.cx, scene.client) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(len)) => self.down.eof = len == 0,
                    Poll::Ready(Err(_)) => return Pump::Cut,
                }
            }
        }
        outcome
    }

    /// The response's way.
    fn download(&mut self, scene: &mut Scene<'_, '_, '_>) -> Pump {
        if let Some(early) = self.response_head(scene) {
            return early;
        }
        let Some(Exchange {
            upstream: Some(upstream),
            response: Some(response),
            ..
        }) = &self.exchange
        else {
            return Pump::Cut;
        };
        if response.framing == Framing::Tunnel {
            return Pump::Yield;
        }
        let way = Way {
            from: upstream,
            to: scene.client,
            strip: response.strip_chunks,
        };
        pump(scene.cx, &mut self.up, &mut self.down_out, &way)
    }

    /// Reads until the final response's head has been written to `down_out`, or tells what it waits for.
    fn response_head(&mut self, scene: &mut Scene<'_, '_, '_>) -> Option<Pump> {
        let exchange = self.exchange.as_mut()?;
        let limits = &scene.shard.settings.limits;
        while exchange.response.is_none() {
            let head = match exchange.reader.find(self.up.input.filled(), limits) {
                Err(why) => return Some(Pump::Refused(why)),
                Ok(Some(head)) => head,
                Ok(None) => {
                    if !self.up.input.has_room() {
                        let wanted = self.up.input.filled().len() * 2;
                        self.up.input.grow(wanted.min(head_bytes_max(limits) + 2));
                    }
                    let upstream = exchange.upstream.as_ref()?;
                    match self.up.input.fill(scene.cx, upstream) {
                        Poll::Ready(Ok(1..)) => {
                            self.up.moved = true;
                            continue;
                        }
                        Poll::Ready(_) => return Some(Pump::Cut),
                        Poll::Pending => {}
                    }
                    // Interim responses.
                    return Some(match self.down_out.flush(scene.cx, scene.client) {
                        Poll::Pending => Pump::WaitWrite,
                        Poll::Ready(Err(_)) => Pump::WriteFailed,
                        Poll::Ready(Ok(())) => Pump::WaitRead,
                    });
                }
            };
            let bytes = &self.up.input.filled()[head.clone()];
            let close = exchange.deaf || self.down.eof || scene.arrived.workload.is_draining();
            let out = self.down_out.bytes();
            let judged = response::forward(bytes, &exchange.request, close, limits, out);
            self.up.input.consume(head.end);
            exchange.reader = HeadReader::new(Kind::Response);
            match judged {
                Err(why) => return Some(Pump::Refused(why)),
                Ok(facts) if facts.interim => {
                    exchange.interim += 1;
                    scene.shard.counters.add(Count::Interim);
                    if exchange.interim > INTERIM_MAX {
                        return Some(Pump::Refused(Refusal::InterimCount));
                    }
                }
                Ok(facts) => {
                    exchange.ticket.answered(facts.status);
                    scene.shard.counters.add(Count::Responses);
                    self.up.body = Body::new(facts.framing, u64::MAX);
                    exchange.response = Some(facts);
                }
            }
        }
        None
    }

    /// The response is over.
    fn finish(&mut self, scene: &Scene<'_, '_, '_>, response: &ResponseFacts, sent: bool) -> Step {
        let Some(exchange) = self.exchange.take() else {
            return Step::Is(Next::Close);
        };
        let clean = sent && response.keep_upstream && !self.up.eof && self.up.input.is_empty();
        if let (true, Some(stream)) = (clean, exchange.upstream) {
            scene
                .shard
                .pool
                .put(exchange.key, stream, &scene.shard.counters);
        }
        // Bytes of a tunnel that was not granted are no request, whatever they look like.
        let too_early = exchange.request.upgrade && !self.down.input.is_empty();
        if response.keep_downstream && sent && !self.down.eof && !too_early {
            return Step::To(Phase::Head { since: None });
        }
        if sent && !exchange.request.keep_alive {
            return Step::Is(Next::Close);
        }
        self.linger(scene)
    }

    fn client_gone(&mut self, shard: &Shard) -> Step {
        shard.counters.add(Count::ClientGone);
        self.exchange = None;
        Step::Is(Next::Close)
    }

    /// The endpoint's connection ended before the response did.
    fn endpoint_gone(&mut self, scene: &mut Scene<'_, '_, '_>) -> Step {
        let Some(exchange) = &mut self.exchange else {
            return Step::Is(Next::Close);
        };
        let nothing_came =
            exchange.response.is_none() && exchange.interim == 0 && self.up.input.is_empty();
        // Only once: the next connection is a new one.
        if nothing_came && exchange.reused && exchange.request.repeatable {
            scene.shard.counters.add(Count::Retried);
            exchange.ticket.again();
            exchange.deaf = false;
            exchange.upstream = None;
            self.up.reset();
            self.up_out.rewind();
            return Step::To(dial_phase(scene.shard, exchange));
        }
        exchange.ticket.failed();
        if exchange.response.is_some() {
            scene.shard.counters.add(Count::Truncated);
        }
        self.abort(scene, Refusal::EndpointClosed, 502)
    }

    /// Tells the client, if it has seen nothing of a response; else a reset tells it that this is not all.
    fn abort(&mut self, scene: &Scene<'_, '_, '_>, why: Refusal, status: u16) -> Step {
        if self.exchange.as_ref().is_some_and(|e| e.response.is_none()) {
            return self.end_with(scene.shard, why, status);
        }
        scene.shard.counters.refuse(why);
        if let Some(mut exchange) = self.exchange.take() {
            exchange.ticket.refused(why, status);
        }
        // If this fails the connection ends as any other.
        let _ = scene.client.set_zero_linger();
        Step::Is(Next::Close)
    }

    /// Nothing can move now: how long may it stay so?
    fn wait(&mut self, scene: &mut Scene<'_, '_, '_>, upload: Pump, download: Pump) -> Polled {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(Step::Is(Next::Close));
        };
        if self.down.moved || self.up.moved {
            let now = Instant::now();
            if std::mem::take(&mut self.down.moved) {
                exchange.up_at = now;
            }
            if std::mem::take(&mut self.up.moved) {
                exchange.down_at = now;
            }
        }
        let settings = &scene.shard.settings;
        let request = exchange.deadline.map(|d| (d, Count::RequestTimeout));
        let of_upload = match upload {
            Pump::WaitRead => Some((exchange.up_at + settings.body, Count::BodyTimeout)),
            Pump::WaitWrite => Some((exchange.up_at + settings.write, Count::SlowEndpoint)),
            _ => None,
        };
        let of_download = match download {
            Pump::WaitWrite => Some((exchange.down_at + settings.write, Count::SlowClient)),
            Pump::WaitRead if exchange.response.is_some() => {
                Some((exchange.down_at + settings.response, Count::ResponseStalled))
            }
            _ => None,
        };
        let all = [request, of_upload, of_download];
        let Some((deadline, what)) = all.into_iter().flatten().min_by_key(|(at, _)| *at) else {
            return Poll::Pending;
        };
        if !scene.clock.is_over(scene.cx, deadline) {
            return Poll::Pending;
        }
        scene.shard.counters.add(what);
        let why = match what {
            Count::BodyTimeout => Refusal::BodyTimeout,
            _ => Refusal::RequestTimeout,
        };
        if !matches!(what, Count::BodyTimeout | Count::SlowClient) {
            exchange.ticket.failed();
        }
        Poll::Ready(self.abort(scene, why, why.status()))
    }
}

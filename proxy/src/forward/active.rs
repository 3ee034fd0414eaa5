//! A connection while it has a request: buffers, and the phase that it is in.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    net::TcpStream,
    time::{Duration, Instant},
};
use underpass_api::report::Method;
use underpass_l7::{Refusal, framing::Framing, inbound::Denied};
use underpass_mesh::snapshot::Protocol;

use super::{answer, exchange::Exchange, pump::Half};
use crate::{
    book::Arrived,
    buffer::Out,
    clock::Clock,
    counters::Count,
    h1::{
        body::Body,
        head_bytes_max,
        request::{self, RequestFacts},
        scan::{HeadReader, Kind},
    },
    h2::Translated,
    shard::{Admitted, Shard},
};

/// What becomes of the connection when its request is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Park,
    Close,
    /// The client speaks HTTP/2: this was its preface.
    Http2,
    /// The request's endpoint speaks HTTP/2.
    Translate,
}

pub(crate) type Dialing = Pin<Box<dyn Future<Output = Result<TcpStream, Refusal>>>>;

pub(crate) enum Phase {
    /// Between requests, or a head that has begun to come at `since`.
    Head {
        since: Option<Instant>,
    },
    Dial {
        dialing: Dialing,
        until: Instant,
    },
    Exchange,
    Tunnel,
    /// Our own answer is written.
    Answer {
        close: bool,
        until: Instant,
    },
    /// What the client still sends is thrown away: a reset would take the response from it.
    Linger {
        until: Instant,
        left: usize,
    },
}

/// One poll of a phase.
pub(crate) enum Step {
    To(Phase),
    Is(Next),
}

pub(crate) type Polled = Poll<Step>;

/// Where a poll happens.
pub(crate) struct Scene<'a, 'c, 's> {
    pub cx: &'a mut Context<'c>,
    pub shard: &'a Shard,
    pub arrived: &'a Arrived,
    pub client: &'a TcpStream,
    pub clock: &'a mut Clock<'s>,
}

/// Bytes that a client may still send after its connection's last response.
const LINGER_BYTES: usize = 1 << 20;

pub struct Active {
    pub(super) phase: Phase,
    /// From the client.
    pub(super) down: Half,
    /// To the client.
    pub(super) down_out: Out,
    /// From the endpoint.
    pub(super) up: Half,
    pub(super) up_out: Out,
    pub(super) exchange: Option<Exchange>,
    /// A request that is not for [`Exchange`].
    translated: Option<Box<Translated>>,
    reader: HeadReader,
}

impl Default for Active {
    fn default() -> Self {
        Self {
            phase: Phase::Head { since: None },
            down: Half::default(),
            down_out: Out::default(),
            up: Half::default(),
            up_out: Out::default(),
            exchange: None,
            translated: None,
            reader: HeadReader::new(Kind::Request),
        }
    }
}

impl Active {
    /// As new, for another connection.
    pub(crate) fn reset(&mut self) {
        self.phase = Phase::Head { since: None };
        self.down.reset();
        self.up.reset();
        self.down_out.clear();
        self.up_out.clear();
        self.exchange = None;
        self.translated = None;
        self.reader = HeadReader::new(Kind::Request);
    }

    /// What has been read, and nobody else has looked at.
    pub(crate) fn take_input(&mut self) -> Vec<u8> {
        self.down.input.filled().to_vec()
    }

    pub(crate) fn translated(&mut self) -> Option<Translated> {
        self.translated.take().map(|t| *t)
    }

    pub(crate) fn down(&mut self) -> &mut Half {
        &mut self.down
    }

    pub(crate) fn down_out(&mut self) -> &mut Out {
        &mut self.down_out
    }

    /// Of a request that is to be translated, the head.
    pub(crate) fn up_out(&mut self) -> &mut Out {
        &mut self.up_out
    }

    pub(crate) fn refuse_translated(&mut self, shard: &Shard, why: Refusal) {
        self.phase = match self.refuse(shard, why.into(), why.status(), true, false) {
            Step::To(phase) => phase,
            Step::Is(_) => Phase::Head { since: None },
        };
    }

    /// A translated request is over: `down` and `out` are what is left of the client's connection.
    /// `answered`: by ourselves, in `out`. `keep`: there may be another request.
    pub(crate) fn resume(
        &mut self,
        shard: &Shard,
        down: Half,
        out: Out,
        answered: bool,
        keep: bool,
    ) {
        (self.down, self.down_out) = (down, out);
        self.up_out.clear();
        let now = Instant::now();
        self.phase = match (answered, keep) {
            (true, keep) => Phase::Answer {
                close: !keep,
                until: now + shard.settings.write,
            },
            (false, true) => Phase::Head { since: None },
            (false, false) => Phase::Answer {
                close: true,
                until: now,
            },
        };
    }

    /// Until the connection waits for a request with nothing read, or is to be closed.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        admitted: &Admitted,
        client: &TcpStream,
        clock: &mut Clock<'_>,
    ) -> Poll<Next> {
        let scene = &mut Scene {
            cx,
            shard: &admitted.shard,
            arrived: &admitted.arrived,
            client,
            clock,
        };
        loop {
            let step = match &self.phase {
                Phase::Head { .. } => ready!(self.poll_head(scene)),
                Phase::Dial { .. } => ready!(self.poll_dial(scene)),
                Phase::Exchange => ready!(self.poll_exchange(scene)),
                Phase::Tunnel => ready!(self.poll_tunnel(scene)),
                Phase::Answer { .. } => ready!(self.poll_answer(scene)),
                Phase::Linger { .. } => ready!(self.poll_linger(scene)),
            };
            match step {
                Step::To(phase) => self.phase = phase,
                Step::Is(next) => return Poll::Ready(next),
            }
        }
    }

    fn poll_head(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        let limits = &scene.shard.settings.limits;
        loop {
            match self.reader.find(self.down.input.filled(), limits) {
                Ok(Some(head)) => return Poll::Ready(self.begin(scene, head)),
                Err(Refusal::Http2) => return Poll::Ready(Step::Is(Next::Http2)),
                Err(why) => return Poll::Ready(self.refuse_head(scene, why)),
                Ok(None) => {}
            }
            if self.down.eof {
                return Poll::Ready(Step::Is(Next::Close));
            }
            if !self.down.input.has_room() {
                let wanted = self.down.input.filled().len() * 2;
                self.down.input.grow(wanted.min(head_bytes_max(limits) + 2));
            }
            match self.down.input.fill(scene.cx, scene.client) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Step::Is(Next::Close)),
                Poll::Pending => break,
            }
        }
        // An empty line after a request is no beginning of the next.
        if matches!(self.down.input.filled(), b"" | b"\r\n") {
            return Poll::Ready(Step::Is(Next::Park));
        }
        let Phase::Head { since } = &mut self.phase else {
            return Poll::Pending;
        };
        let since = *since.get_or_insert_with(Instant::now);
        if scene
            .clock
            .is_over(scene.cx, since + scene.shard.settings.head)
        {
            scene.shard.counters.add(Count::HeadTimeout);
            return Poll::Ready(self.refuse_head(scene, Refusal::HeadTimeout));
        }
        Poll::Pending
    }

    /// The head is all there: where does the request go?
    fn begin(&mut self, scene: &Scene<'_, '_, '_>, head: std::ops::Range<usize>) -> Step {
        let shard = scene.shard;
        self.reader = HeadReader::new(Kind::Request);
        self.up_out.clear();
        let plan = shard.plan(scene.arrived);
        let authority = plan.as_ref().map_or("", |plan| plan.authority.as_str());
        let bytes = &self.down.input.filled()[head.clone()];
        let is_head = bytes.starts_with(b"HEAD ");
        let judged = request::forward(
            bytes,
            &shard.settings.limits,
            authority,
            self.up_out.bytes(),
            |request, accepted| {
                let plan = plan.as_ref().map_err(|why| Denied::from(*why))?;
                plan.pick(request, accepted, || shard.random(), shard.start())
            },
        );
        if let (Err(why), Ok(plan)) = (&judged, &plan) {
            plan.refused(method_of(bytes), *why);
        }
        self.down.input.consume(head.end);
        let (facts, picked) = match judged {
            Ok(judged) => judged,
            Err(why) => return self.refuse(shard, why.into(), why.status(), true, is_head),
        };
        shard.counters.add(Count::Requests);
        let picked = match picked {
            Ok(picked) => picked,
            Err(denied) => {
                let close = !may_go_on(&facts);
                return self.refuse(shard, denied, denied.why.status(), close, is_head);
            }
        };
        self.down.body = match facts.framing {
            // Not before the endpoint has agreed: what it refused would be its next request.
            Framing::Tunnel => Body::Done,
            framing => Body::new(framing, shard.settings.limits.body_bytes),
        };
        self.up.reset();
        if picked.protocol == Protocol::Http2 {
            let request = facts;
            self.translated = Some(Box::new(Translated { request, picked }));
            return Step::Is(Next::Translate);
        }
        let pooled = shard.pool.take(&picked.key, &shard.counters);
        let exchange = Exchange::new(facts, picked, pooled);
        let step = match exchange.is_connected() {
            true => {
                shard.counters.add(Count::Reused);
                Step::To(Phase::Exchange)
            }
            false => Step::To(dial_phase(shard, &exchange)),
        };
        self.exchange = Some(exchange);
        step
    }

    fn poll_dial(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(Step::Is(Next::Close));
        };
        let Phase::Dial { dialing, until } = &mut self.phase else {
            return Poll::Pending;
        };
        let why = match dialing.as_mut().poll(scene.cx) {
            Poll::Ready(Ok(stream)) => {
                scene.shard.counters.add(Count::Opened);
                exchange.connected(stream);
                return Poll::Ready(Step::To(Phase::Exchange));
            }
            Poll::Ready(Err(why)) => why,
            Poll::Pending => {
                let until = exchange.deadline.map_or(*until, |d| d.min(*until));
                if !scene.clock.is_over(scene.cx, until) {
                    return Poll::Pending;
                }
                Refusal::NoConnection
            }
        };
        if why == Refusal::NoConnection {
            exchange.ticket.failed();
        }
        Poll::Ready(self.end_with(scene.shard, why, why.status()))
    }

    /// Ends an exchange of whose response the client has seen nothing.
    pub(super) fn end_with(&mut self, shard: &Shard, why: Refusal, status: u16) -> Step {
        let facts = self.exchange.take().map(|mut exchange| {
            exchange.ticket.refused(why, status);
            exchange.request
        });
        let is_head = facts.is_some_and(|f| f.method == request::Method::Head);
        let close = !facts.is_some_and(|f| may_go_on(&f));
        self.refuse(shard, why.into(), status, close, is_head)
    }

    /// Of a request whose head is not all there, or will not be.
    fn refuse_head(&mut self, scene: &Scene<'_, '_, '_>, why: Refusal) -> Step {
        if let Ok(plan) = scene.shard.plan(scene.arrived) {
            plan.refused(method_of(self.down.input.filled()), why);
        }
        self.refuse(scene.shard, why.into(), why.status(), true, false)
    }

    pub(super) fn refuse(
        &mut self,
        shard: &Shard,
        denied: Denied,
        status: u16,
        close: bool,
        is_head: bool,
    ) -> Step {
        shard.counters.refuse(denied.why);
        answer::write(self.down_out.bytes(), status, denied, close, is_head);
        let until = Instant::now() + shard.settings.write;
        Step::To(Phase::Answer { close, until })
    }

    fn poll_answer(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        let Phase::Answer { close, until } = self.phase else {
            return Poll::Pending;
        };
        match self.down_out.flush(scene.cx, scene.client) {
            Poll::Ready(Ok(())) if close => Poll::Ready(self.linger(scene)),
            Poll::Ready(Ok(())) => Poll::Ready(Step::To(Phase::Head { since: None })),
            Poll::Ready(Err(_)) => Poll::Ready(Step::Is(Next::Close)),
            Poll::Pending if scene.clock.is_over(scene.cx, until) => {
                scene.shard.counters.add(Count::SlowClient);
                Poll::Ready(Step::Is(Next::Close))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    pub(super) fn linger(&mut self, scene: &Scene<'_, '_, '_>) -> Step {
        if self.down.eof || shut_write(scene.client).is_err() {
            return Step::Is(Next::Close);
        }
        let until = Instant::now() + scene.shard.settings.linger;
        let left = LINGER_BYTES;
        Step::To(Phase::Linger { until, left })
    }

    fn poll_linger(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        let Phase::Linger { until, left } = &mut self.phase else {
            return Poll::Pending;
        };
        loop {
            let filled = self.down.input.filled().len();
            self.down.input.consume(filled);
            match self.down.input.fill(scene.cx, scene.client) {
                Poll::Ready(Ok(len @ 1..)) if len <= *left => *left -= len,
                Poll::Ready(_) => return Poll::Ready(Step::Is(Next::Close)),
                Poll::Pending if scene.clock.is_over(scene.cx, *until) => {
                    return Poll::Ready(Step::Is(Next::Close));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

fn method_of(head: &[u8]) -> Method {
    Method::of(head.split(|b| *b == b' ').next().unwrap_or_default())
}

/// After our own answer: nothing of the request is left to come.
fn may_go_on(facts: &RequestFacts) -> bool {
    facts.framing == Framing::Empty && facts.keep_alive && !facts.is_1_0
}

pub(super) fn dial_phase(shard: &Shard, exchange: &Exchange) -> Phase {
    let connect: Duration = shard.settings.connect;
    Phase::Dial {
        dialing: Box::pin(shard.connector.dial(&exchange.key, exchange.address)),
        until: Instant::now() + connect,
    }
}

pub(crate) fn shut_write(stream: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::shutdown(stream, rustix::net::Shutdown::Write)?)
}

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
    /// The client does not speak HTTP.
    Opaque,
}

pub(crate) type Dialing = Pin<Box<dyn Future<Output = Result<TcpStream, Refusal>>>>;

pub(crate) enum Phase {
    /// The first bytes of a connection, to be looked at; they have begun to come at `since`.
    Detect {
        since: Option<Instant>,
    },
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
    pub(super) translated: Option<Box<Translated>>,
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
                Phase::Detect { .. } => ready!(self.poll_detect(scene)),
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
                Err(why) => return Poll::Ready(self.refuse_unread(scene, why)),
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
            return Poll::Ready(self.refuse_unread(scene, Refusal::HeadTimeout));
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
            Err(why) => return self.refuse_head(scene, why, is_head),
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

    /// A head that cannot be read. Where clients are declared to speak HTTP/2, none could read an answer.
    fn refuse_head(&mut self, scene: &Scene<'_, '_, '_>, why: Refusal, is_head: bool) -> Step {
        let plan = scene.shard.plan(scene.arrived);
        if plan.is_ok_and(|plan| plan.protocol == Protocol::Http2) {
            scene.shard.counters.refuse(why);
            return Step::Is(Next::Close);
        }
        self.refuse(scene.shard, why.into(), why.status(), true, is_head)
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
    fn refuse_unread(&mut self, scene: &Scene<'_, '_, '_>, why: Refusal) -> Step {
        if let Ok(plan) = scene.shard.plan(scene.arrived) {
            plan.refused(method_of(self.down.input.filled()), why);
        }
        self.refuse_head(scene, why, false)
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

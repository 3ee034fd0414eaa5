//! Bytes both ways, after an upgrade or CONNECT, or of what is no HTTP. Each end's end is passed on; a
//! reset resets both.

use std::task::{Context, Poll};

use tokio::{net::TcpStream, time::Instant};

use super::{
    active::{Active, Next, Polled, Scene, Step, shut_write},
    pump::{Half, Pump, Way, pump},
};
use crate::{buffer::Out, counters::Count, h1::body::Body};

/// Two connections, and what is on its way between them.
pub(super) struct Both<'a> {
    pub client: &'a TcpStream,
    pub upstream: &'a TcpStream,
    pub down: &'a mut Half,
    pub down_out: &'a mut Out,
    pub up: &'a mut Half,
    pub up_out: &'a mut Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing can move now.
    Waits {
        /// Something has.
        moved: bool,
    },
    /// It is another connection's turn; the task is woken for the next.
    Yield,
    Over,
}

impl Both<'_> {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Moved {
        let (client, upstream, strip) = (self.client, self.upstream, false);
        let there = Way {
            from: client,
            to: upstream,
            strip,
        };
        let back = Way {
            from: upstream,
            to: client,
            strip,
        };
        let there_is = pump(cx, self.down, self.up_out, &there);
        let back_is = pump(cx, self.up, self.down_out, &back);
        let broken = |p| matches!(p, Pump::Cut | Pump::WriteFailed | Pump::Refused(_));
        if broken(there_is) || broken(back_is) {
            // Best effort: without it they are closed like any other.
            let _ = (client.set_zero_linger(), upstream.set_zero_linger());
            return Moved::Over;
        }
        // `Done` from then on: the end is passed on once.
        if there_is == Pump::Ended {
            self.down.body = Body::Done;
            let _ = shut_write(upstream);
        }
        if back_is == Pump::Ended {
            self.up.body = Body::Done;
            let _ = shut_write(client);
        }
        if self.down.body.is_done() && self.up.body.is_done() {
            return Moved::Over;
        }
        if there_is == Pump::Yield || back_is == Pump::Yield {
            cx.waker().wake_by_ref();
            return Moved::Yield;
        }
        let moved = std::mem::take(&mut self.down.moved) | std::mem::take(&mut self.up.moved);
        Moved::Waits { moved }
    }
}

impl Active {
    pub(super) fn poll_tunnel(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(Step::Is(Next::Close));
        };
        let Some(upstream) = exchange.upstream() else {
            return Poll::Ready(Step::Is(Next::Close));
        };
        let mut both = Both {
            client: scene.client,
            upstream,
            down: &mut self.down,
            down_out: &mut self.down_out,
            up: &mut self.up,
            up_out: &mut self.up_out,
        };
        let moved = match both.poll(scene.cx) {
            Moved::Over => return Poll::Ready(Step::Is(Next::Close)),
            Moved::Yield => return Poll::Pending,
            Moved::Waits { moved } => moved,
        };
        if scene.clock.is_over(
            scene.cx,
            exchange.idle_since(moved) + scene.shard.settings.tunnel,
        ) {
            scene.shard.counters.add(Count::TunnelIdle);
            return Poll::Ready(Step::Is(Next::Close));
        }
        Poll::Pending
    }
}

impl super::exchange::Exchange {
    /// When bytes moved last; `moved`: they just did.
    fn idle_since(&mut self, moved: bool) -> Instant {
        if moved {
            self.up_at = Instant::now();
        }
        self.up_at
    }
}

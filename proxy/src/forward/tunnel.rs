//! Bytes both ways, after an upgrade or CONNECT. Each end's end is passed on; a reset resets both.

use std::task::Poll;

use tokio::time::Instant;

use super::{
    active::{Active, Next, Polled, Scene, Step, shut_write},
    pump::{Pump, Way, pump},
};
use crate::{counters::Count, h1::body::Body};

impl Active {
    pub(super) fn poll_tunnel(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(Step::Is(Next::Close));
        };
        let Some(upstream) = exchange.upstream() else {
            return Poll::Ready(Step::Is(Next::Close));
        };
        let (client, strip) = (scene.client, false);
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
        let there_is = pump(scene.cx, &mut self.down, &mut self.up_out, &there);
        let back_is = pump(scene.cx, &mut self.up, &mut self.down_out, &back);
        let broken = |p| matches!(p, Pump::Cut | Pump::WriteFailed | Pump::Refused(_));
        if broken(there_is) || broken(back_is) {
            // Best effort: without it they are closed like any other.
            let _ = (client.set_zero_linger(), upstream.set_zero_linger());
            return Poll::Ready(Step::Is(Next::Close));
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
            return Poll::Ready(Step::Is(Next::Close));
        }
        if there_is == Pump::Yield || back_is == Pump::Yield {
            scene.cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let moved = std::mem::take(&mut self.down.moved) | std::mem::take(&mut self.up.moved);
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

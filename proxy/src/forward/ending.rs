//! The end of a connection, or of a request that we answer ourselves.

use std::task::Poll;

use tokio::time::Instant;

use super::active::{Active, Next, Phase, Polled, Scene, Step, shut_write};
use crate::counters::Count;

/// Bytes that a client may still send after its connection's last response.
const LINGER_BYTES: usize = 1 << 20;

impl Active {
    pub(super) fn poll_answer(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
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

    pub(super) fn poll_linger(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
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

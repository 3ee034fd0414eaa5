//! The first bytes of a connection: is it HTTP?

use std::task::Poll;

use tokio::time::Instant;

use super::active::{Active, Next, Phase, Polled, Scene, Step};
use crate::{
    counters::Count,
    detect::{Guess, Speaker, UNDECIDED_WITHIN, guess},
};

impl Active {
    /// Its first bytes are to be looked at.
    pub(super) fn detect(&mut self) {
        self.phase = Phase::Detect { since: None };
    }

    /// They still are.
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self.phase, Phase::Detect { .. })
    }

    pub(super) fn poll_detect(&mut self, scene: &mut Scene<'_, '_, '_>) -> Polled {
        loop {
            let guessed = guess(self.down.input.filled());
            if guessed != Guess::More {
                return Poll::Ready(decide(scene, guessed));
            }
            // What is undecided is short, so there is room.
            match self.down.input.fill(scene.cx, scene.client) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) if !self.down.input.is_empty() => {
                    self.down.eof = true;
                    return Poll::Ready(decide(scene, Guess::Opaque));
                }
                Poll::Ready(_) => return Poll::Ready(Step::Is(Next::Close)),
                Poll::Pending => break,
            }
        }
        if self.down.input.is_empty() {
            // Still nothing, but for a false alarm.
            return Poll::Ready(Step::Is(Next::Park));
        }
        let Phase::Detect { since } = &mut self.phase else {
            return Poll::Pending;
        };
        let since = *since.get_or_insert_with(Instant::now);
        if scene.clock.is_over(scene.cx, since + UNDECIDED_WITHIN) {
            scene.shard.counters.add(Count::Undecided);
            return Poll::Ready(decide(scene, Guess::Opaque));
        }
        Poll::Pending
    }
}

fn decide(scene: &Scene<'_, '_, '_>, guessed: Guess) -> Step {
    let (what, step) = match guessed {
        Guess::Opaque | Guess::More => (Count::DetectedOpaque, Step::Is(Next::Opaque)),
        Guess::Http1 => (Count::DetectedHttp1, head()),
        Guess::Http2 => (Count::DetectedHttp2, head()),
    };
    scene.shard.counters.add(what);
    if let Ok(plan) = scene.shard.plan(scene.arrived) {
        scene.shard.learnt.learn(&plan, Speaker::Client);
    }
    step
}

fn head() -> Step {
    Step::To(Phase::Head { since: None })
}

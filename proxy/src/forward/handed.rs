//! What another task takes of a connection, and gives back: those of HTTP/2, and requests whose endpoint
//! speaks it.

use tokio::time::Instant;
use underpass_l7::Refusal;

use super::{
    active::{Active, Phase, Step},
    pump::Half,
};
use crate::{buffer::Out, h2::Translated, shard::Shard};

impl Active {
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
}

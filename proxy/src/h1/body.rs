//! Which of the bytes after a head belong to its message.

use underpass_l7::{Refusal, framing::Framing};

use super::chunked::Chunked;

/// A message's body while it is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    Done,
    /// So many more bytes.
    Length(u64),
    Chunked(Chunked),
    /// Everything until the connection ends: a response of HTTP/1, or a tunnel.
    UntilClose,
}

impl Body {
    /// `limit` is [`underpass_l7::limit::Limits::body_bytes`], for a body that gives no length.
    pub fn new(framing: Framing, limit: u64) -> Self {
        match framing {
            Framing::Empty => Self::Done,
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Chunked(Chunked::new(limit)),
            // Frames are HTTP/2's; there is no such body here.
            Framing::UntilClose | Framing::Tunnel | Framing::Frames(_) => Self::UntilClose,
        }
    }

    pub fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// The connection's end would be the body's too, and no loss.
    pub fn may_end_here(&self) -> bool {
        matches!(self, Self::Done | Self::UntilClose)
    }

    /// Of the front of `input` the bytes that are passed on now. 0: more are needed, or it is done.
    pub fn pass(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let passed = match self {
            Self::Done => 0,
            Self::UntilClose => input.len(),
            Self::Length(left) => {
                let passed = input
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= passed as u64;
                passed
            }
            Self::Chunked(chunked) => {
                let mut passed = 0;
                loop {
                    let run = chunked.run(&input[passed..])?;
                    if run.len == 0 {
                        break passed;
                    }
                    passed += run.len;
                }
            }
        };
        self.settle();
        Ok(passed)
    }

    /// As [`Self::pass`], for a client that knows no chunks: their data goes to `out`. The result is how
    /// many bytes of `input` are dealt with.
    pub fn strip(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        self.unwrap(input, out, |_| {})
    }

    /// As [`Self::strip`]; the trailer section is shown too, with its last empty line.
    pub fn unwrap(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        mut trailers: impl FnMut(&[u8]),
    ) -> Result<usize, Refusal> {
        let Self::Chunked(chunked) = self else {
            let passed = self.pass(input)?;
            out.extend_from_slice(&input[..passed]);
            return Ok(passed);
        };
        let mut passed = 0;
        loop {
            let run = chunked.run(&input[passed..])?;
            if run.len == 0 {
                break;
            }
            if run.data {
                out.extend_from_slice(&input[passed..passed + run.len]);
            } else if chunked.is_done() {
                trailers(&input[passed..passed + run.len]);
            }
            passed += run.len;
        }
        self.settle();
        Ok(passed)
    }

    fn settle(&mut self) {
        match self {
            Self::Length(0) => *self = Self::Done,
            Self::Chunked(chunked) if chunked.is_done() => *self = Self::Done,
            _ => {}
        }
    }
}

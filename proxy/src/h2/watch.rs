//! The frames of a connection, as they go by: enough is read of each to count it. The `h2` crate bounds
//! what it keeps, and keeps to itself what it refuses; what a peer may merely do often is bounded here.

use std::cell::Cell;

use tokio::time::Instant;

/// RST_STREAM frames that a client may send at once, and in a second after that. A client that opens
/// streams to reset them has an endpoint work for nobody (CVE-2023-44487).
pub const RESET_BURST: u32 = 1000;
pub const RESETS_PER_SECOND: u32 = 100;
/// Likewise frames that ask for work and carry nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA
/// and unknown ones. Each [`BYTES_PER_IDLE_FRAME`] bytes of others, either way, allow another.
pub const IDLE_FRAME_BURST: u32 = 10_000;
pub const IDLE_FRAMES_PER_SECOND: u32 = 1000;
pub const BYTES_PER_IDLE_FRAME: u64 = 16;

const RESETS: Allowance = Allowance {
    burst: RESET_BURST,
    per_second: RESETS_PER_SECOND,
};
const IDLE_FRAMES: Allowance = Allowance {
    burst: IDLE_FRAME_BURST,
    per_second: IDLE_FRAMES_PER_SECOND,
};

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    burst: u32,
    per_second: u32,
}

#[derive(Debug)]
struct Bucket {
    left: Cell<f64>,
    since: Cell<Option<Instant>>,
}

impl Bucket {
    fn full(of: Allowance) -> Self {
        Self {
            left: Cell::new(of.burst.into()),
            since: Cell::new(None),
        }
    }

    /// Whether there was one. The clock is only asked when they become few.
    fn take(&self, of: Allowance) -> bool {
        let mut left = self.left.get() - 1.0;
        if left < f64::from(of.burst) / 2.0 {
            let now = Instant::now();
            if let Some(since) = self.since.replace(Some(now)) {
                left += now.duration_since(since).as_secs_f64() * f64::from(of.per_second);
            }
        }
        self.left.set(left.min(of.burst.into()));
        left >= 0.0
    }

    fn add(&self, many: f64, of: Allowance) {
        self.left.set((self.left.get() + many).min(of.burst.into()));
    }
}

/// What a peer has done that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    Resets,
    IdleFrames,
}

/// What both directions of one connection have shown.
#[derive(Debug)]
pub struct Watch {
    resets: Bucket,
    idle_frames: Bucket,
    flood: Cell<Option<Flood>>,
    settings: Cell<bool>,
    last_id: Cell<Option<u32>>,
    received: Cell<u64>,
    refused: Cell<u64>,
    calm: Cell<u64>,
    errors: Cell<u64>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            resets: Bucket::full(RESETS),
            idle_frames: Bucket::full(IDLE_FRAMES),
            flood: Cell::new(None),
            settings: Cell::new(false),
            last_id: Cell::new(None),
            received: Cell::new(0),
            refused: Cell::new(0),
            calm: Cell::new(0),
            errors: Cell::new(0),
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

impl Watch {
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// The peer has sent its SETTINGS.
    pub fn has_settings(&self) -> bool {
        self.settings.get()
    }

    /// The peer's GOAWAY: of what we opened, it has not looked at what lies above this.
    pub fn last_id(&self) -> Option<u32> {
        self.last_id.get()
    }

    /// Bytes that have come.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Since it was last asked: our own REFUSED_STREAM, ENHANCE_YOUR_CALM, and other errors that
    /// the crate has sent.
    pub fn take_told(&self) -> [u64; 3] {
        [&self.refused, &self.calm, &self.errors].map(|c| c.replace(0))
    }

    fn came(&self, frame: &Frame) {
        let idle = match frame.kind {
            DATA => frame.len == 0 && frame.flags & END_STREAM == 0,
            HEADERS | CONTINUATION => false,
            RST_STREAM => {
                if !self.resets.take(RESETS) {
                    self.flood.set(Some(Flood::Resets));
                }
                false
            }
            GOAWAY => {
                let id = frame.words[0] & 0x7fff_ffff;
                self.last_id
                    .set(Some(self.last_id.get().map_or(id, |old| old.min(id))));
                true
            }
            SETTINGS => {
                self.settings.set(true);
                true
            }
            _ => true,
        };
        if idle && !self.idle_frames.take(IDLE_FRAMES) {
            self.flood.set(Some(Flood::IdleFrames));
        } else if !idle {
            self.earned(frame);
        }
    }

    fn went(&self, frame: &Frame) {
        match (frame.kind, frame.words) {
            (RST_STREAM, [7, _]) => self.refused.set(self.refused.get() + 1),
            (RST_STREAM, [0 | 8, _]) | (GOAWAY, [_, 0]) => {}
            (RST_STREAM, [11, _]) | (GOAWAY, [_, 11]) => self.calm.set(self.calm.get() + 1),
            (RST_STREAM | GOAWAY, _) => self.errors.set(self.errors.get() + 1),
            // An answer to a flood is not what excuses it.
            (PING | SETTINGS, _) if frame.flags & ACK != 0 => {}
            _ => self.earned(frame),
        }
    }

    fn earned(&self, frame: &Frame) {
        let bytes = f64::from(frame.len + 9);
        self.idle_frames
            .add(bytes / BYTES_PER_IDLE_FRAME as f64, IDLE_FRAMES);
    }
}

/// A frame's header, and of RST_STREAM and GOAWAY the first words.
#[derive(Debug, Default)]
struct Frame {
    len: u32,
    kind: u8,
    flags: u8,
    words: [u32; 2],
}

/// One direction, byte by byte.
#[derive(Debug)]
pub struct Scan {
    head: [u8; 17],
    have: usize,
    /// Bytes that are of no interest.
    skip: usize,
}

impl Scan {
    /// `skip`: of the preface.
    pub fn after(skip: usize) -> Self {
        Self {
            head: [0; 17],
            have: 0,
            skip,
        }
    }

    pub fn came(&mut self, bytes: &[u8], watch: &Watch) {
        watch
            .received
            .set(watch.received.get() + bytes.len() as u64);
        self.each(bytes, |frame| watch.came(frame));
    }

    pub fn went(&mut self, bytes: &[u8], watch: &Watch) {
        self.each(bytes, |frame| watch.went(frame));
    }

    fn each(&mut self, mut bytes: &[u8], mut seen: impl FnMut(&Frame)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            // The rest of the header, then of the words.
            let want = self.wanted();
            let taken = (want - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.wanted() {
                let frame = self.frame();
                self.skip = frame.len as usize - (self.have - 9);
                (self.have, self.head) = (0, [0; 17]);
                seen(&frame);
            }
        }
    }

    /// Bytes of which this frame's head consists.
    fn wanted(&self) -> usize {
        let more = match self.head[3] {
            RST_STREAM | GOAWAY if self.have >= 9 => self.len().min(8),
            _ => 0,
        };
        9 + more as usize
    }

    fn len(&self) -> u32 {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]])
    }

    fn frame(&self) -> Frame {
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&self.head[at..at + 4]);
            u32::from_be_bytes(bytes)
        };
        Frame {
            len: self.len(),
            kind: self.head[3],
            flags: self.head[4],
            words: [word(9), word(13)],
        }
    }
}

#[cfg(test)]
mod tests;

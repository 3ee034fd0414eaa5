//! Logging that nothing waits for: lines go through a bounded queue to a writer thread. What does not
//! fit is dropped and counted, so a slow or stopped reader of standard output stops nothing.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

use crate::options::LogForm;

/// Lines that wait for the writer, at most.
pub const QUEUE: usize = 1024;
/// Lines of one reason that are logged at once; after that one per [`REFILL`].
pub const BURST: u32 = 10;
pub const REFILL: Duration = Duration::from_secs(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines lost since the start because the queue was full.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Starts the writer thread and installs the subscriber. Keep the guard until the end of `main`.
pub fn start(form: LogForm) -> io::Result<Guard> {
    let (queue, lines) = mpsc::sync_channel::<Vec<u8>>(QUEUE);
    let (done, finished) = mpsc::sync_channel::<()>(1);
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || {
            let mut out = io::stdout();
            for line in lines {
                if line.is_empty() {
                    break;
                }
                // A closed standard output is the user's choice.
                let _ = out.write_all(&line);
            }
            let _ = out.flush();
            let _ = done.send(());
        })?;
    let writer = Queue(queue.clone());
    let builder = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false);
    match form {
        LogForm::Text => builder.init(),
        LogForm::Json => builder.json().flatten_event(true).init(),
    }
    Ok(Guard { queue, finished })
}

/// Gives the writer a moment to empty the queue when the process ends.
pub struct Guard {
    queue: SyncSender<Vec<u8>>,
    finished: mpsc::Receiver<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.queue.try_send(Vec::new()).is_ok() {
            let _ = self.finished.recv_timeout(Duration::from_millis(200));
        }
    }
}

#[derive(Clone)]
struct Queue(SyncSender<Vec<u8>>);

/// One event, buffered until it is complete.
struct Line {
    queue: Queue,
    text: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.text.is_empty() {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.queue.0.try_send(std::mem::take(&mut self.text)) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line;
    fn make_writer(&'a self) -> Line {
        Line {
            queue: self.clone(),
            text: Vec::new(),
        }
    }
}

/// Whether a line of this reason may be logged now: `Some(lines suppressed before it)`.
pub fn allow(reason: u16) -> Option<u64> {
    static LIMITS: LazyLock<Mutex<HashMap<u16, Limit>>> = LazyLock::new(Mutex::default);
    let mut limits = LIMITS.lock().expect("no panic while held");
    limits
        .entry(reason)
        .or_insert_with(|| Limit::new(Instant::now()))
        .allow(Instant::now())
}

struct Limit {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled: now,
            suppressed: 0,
        }
    }

    fn allow(&mut self, now: Instant) -> Option<u64> {
        let earned = now.duration_since(self.refilled).as_secs() / REFILL.as_secs();
        if earned > 0 {
            self.tokens = BURST.min(
                self.tokens
                    .saturating_add(earned.min(u64::from(BURST)) as u32),
            );
            self.refilled = now;
        }
        if self.tokens == 0 {
            self.suppressed += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Logs a warning, which starts with its code, unless too many of this reason came lately.
pub fn warn(reason: u16, text: &str) {
    if let Some(suppressed) = allow(reason) {
        tracing::warn!(
            code = underpass_abi::reason::name(reason),
            suppressed,
            "{text}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_limited_and_says_what_it_left_out() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        for _ in 0..BURST {
            assert_eq!(limit.allow(start), Some(0));
        }
        assert_eq!(limit.allow(start), None);
        assert_eq!(limit.allow(start), None);
        assert_eq!(limit.allow(start + REFILL), Some(2));
        assert_eq!(limit.allow(start + REFILL), None);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, _lines) = mpsc::sync_channel(1);
        let queue = Queue(queue);
        let before = dropped();
        for _ in 0..3 {
            queue.make_writer().write_all(b"line\n").unwrap();
        }
        assert_eq!(dropped() - before, 2);
    }
}

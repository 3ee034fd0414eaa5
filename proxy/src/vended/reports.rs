//! The thread that writes what the shards have counted to where the agent reads it.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::fstat;
use tokio::sync::oneshot;
use underpass_api::report::halves;

use crate::metrics::reporter::Reporter;

/// Between two reports.
const EVERY: Duration = Duration::from_secs(1);

enum Word {
    File {
        tenant: String,
        /// Only what is the tenant's goes there.
        shared: bool,
        file: File,
    },
    /// Once more, since this worker ends.
    Last(oneshot::Sender<()>),
}

/// The main task's end of it.
pub(super) struct Reports(Sender<Word>);

struct Target {
    shared: bool,
    file: File,
    size: u64,
    sequence: u64,
}

impl Reports {
    /// # Errors
    /// If there may be no thread.
    pub fn start(reporter: Reporter) -> io::Result<Self> {
        let (sender, words) = channel();
        let name = "report".to_owned();
        thread::Builder::new()
            .name(name)
            .spawn(move || write_all(reporter, &words))?;
        Ok(Self(sender))
    }

    /// The tenant's reports go there from now on.
    pub fn to(&self, tenant: String, shared: bool, file: File) {
        // The thread ends with the process only.
        let _ = self.0.send(Word::File {
            tenant,
            shared,
            file,
        });
    }

    /// Until the last one is written, a moment at most.
    pub async fn last(&self) {
        let (sender, done) = oneshot::channel();
        let _ = self.0.send(Word::Last(sender));
        let _ = tokio::time::timeout(EVERY / 4, done).await;
    }
}

fn write_all(mut reporter: Reporter, words: &Receiver<Word>) {
    let mut targets: BTreeMap<String, Target> = BTreeMap::new();
    let mut next = Instant::now() + EVERY;
    loop {
        let mut done = None;
        match words.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Word::File {
                tenant,
                shared,
                file,
            }) => {
                if let Ok(target) = Target::new(file, shared) {
                    targets.insert(tenant, target);
                }
                continue;
            }
            Ok(Word::Last(sender)) => done = Some(sender),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        next = Instant::now() + EVERY;
        for (tenant, target) in &mut targets {
            let owner = target.shared.then_some(tenant.as_str());
            let (file, size) = (&target.file, target.size);
            // The agent sees that it is old; there is nobody else to tell.
            let _ = reporter.write(file, size, &mut target.sequence, owner);
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

impl Target {
    fn new(file: File, shared: bool) -> io::Result<Self> {
        let size = u64::try_from(fstat(&file)?.st_size).unwrap_or_default();
        let sequence = halves::next_sequence(&file, size)?;
        Ok(Self {
            shared,
            file,
            size,
            sequence,
        })
    }
}

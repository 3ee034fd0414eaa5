//! The last good version of each manifest, kept in the state directory: if a file is broken when the
//! agent starts, what it said before stays in force.

use std::{
    cell::OnceCell,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use underpass_abi::reason::code;

use crate::{log, problem::Problem};

/// Writes that wait for the disk at most; then the control loop waits too.
const QUEUE: usize = 256;

/// A file's name and its new text, or `None` to forget it.
type Write = (String, Option<String>);

/// One mesh directory's files. A thread of its own writes them: a thousand files take half a second
/// that no plan should wait for. Dropping it waits for what is queued.
#[derive(Debug)]
pub struct LastGood {
    dir: PathBuf,
    /// Started by the first write: capabilities are dropped per thread, before there are others.
    writer: OnceCell<(SyncSender<Write>, JoinHandle<()>)>,
}

impl LastGood {
    /// `mesh` tells apart agents that share a state directory.
    pub fn open(state: &Path, mesh: &Path) -> Result<Self, Problem> {
        let mesh = mesh.canonicalize().unwrap_or_else(|_| mesh.to_owned());
        let dir = state
            .join("last-good")
            .join(mesh.to_string_lossy().replace(['/', '\0'], "_"));
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        made.map_err(|e| Problem::error(code::STATE_DIR, format!("{}: {e}", dir.display()), ""))?;
        Ok(Self {
            dir,
            writer: OnceCell::new(),
        })
    }

    /// Name and text of each file.
    pub fn load(&self) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match fs::read_to_string(entry.path()) {
                // An empty file is what a crash can leave; a manifest without objects says nothing.
                Ok(text) if !name.starts_with('.') && !text.is_empty() => files.push((name, text)),
                _ => {}
            }
        }
        files.sort_unstable();
        files
    }

    pub fn keep(&self, name: &str, text: &str) {
        self.queue((name.to_owned(), Some(text.to_owned())));
    }

    pub fn forget(&self, name: &str) {
        self.queue((name.to_owned(), None));
    }

    fn queue(&self, write: Write) {
        let (queue, _) = self.writer.get_or_init(|| {
            let (queue, writes) = sync_channel(QUEUE);
            let dir = self.dir.clone();
            (queue, thread::spawn(move || write_all(&dir, &writes)))
        });
        // The writer only ends when this is dropped.
        let _ = queue.send(write);
    }
}

impl Drop for LastGood {
    fn drop(&mut self) {
        if let Some((queue, writer)) = self.writer.take() {
            drop(queue);
            let _ = writer.join();
        }
    }
}

fn write_all(dir: &Path, writes: &Receiver<Write>) {
    for (name, text) in writes {
        let done = match text {
            Some(text) => keep(dir, &name, &text),
            None => fs::remove_file(dir.join(name)),
        };
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let text = format!("{}: {error}", dir.display());
                let problem = Problem::error(code::STATE_DIR, text, "");
                log::warn(code::STATE_DIR, &problem.to_string());
            }
            _ => {}
        }
    }
}

fn keep(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let new = dir.join(format!(".{name}.new"));
    fs::write(&new, text)?;
    fs::rename(new, dir.join(name))
}

/// Removes everything that agents kept below `state`. True if there was something.
pub fn remove(state: &Path) -> io::Result<bool> {
    match fs::remove_dir_all(state.join("last-good")) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_replaces_and_forgets() {
        let state = std::env::temp_dir().join(format!("up-last-good-{}", std::process::id()));
        let kept = LastGood::open(&state, Path::new("/etc/mesh")).unwrap();
        kept.keep("a.yaml", "one");
        kept.keep("b.yaml", "two");
        kept.keep("a.yaml", "three");
        kept.forget("b.yaml");
        kept.forget("never.yaml");
        drop(kept);
        let other = LastGood::open(&state, Path::new("/etc/other")).unwrap();
        assert_eq!(other.load(), []);
        let again = LastGood::open(&state, Path::new("/etc/mesh")).unwrap();
        assert_eq!(again.load(), [("a.yaml".to_owned(), "three".to_owned())]);
        assert!(remove(&state).unwrap());
        assert!(!remove(&state).unwrap());
        fs::remove_dir_all(state).unwrap();
    }
}

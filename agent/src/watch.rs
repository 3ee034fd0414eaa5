//! The directory source: reads each file once and again only when it changed. inotify tells at once;
//! a slow sweep finds what inotify cannot see (targets of symlinks, a directory that was replaced).
//!
//! A Kubernetes ConfigMap volume swaps the symlink `..data`; editors write a new file and rename it.
//! Both appear as another inode behind the same name.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use underpass_abi::reason::code;

use crate::problem::Problem;

/// Largest file that is read, in bytes.
pub const MAX_FILE: u64 = 32 << 20;
/// Files of the directory that are read, at most.
pub const MAX_FILES: usize = 20_000;
/// How long a file that is rewritten in place must rest before a sweep reads it.
const SETTLE: Duration = Duration::from_millis(20);

/// One difference between the directory and what was read before.
#[derive(Debug, PartialEq, Eq)]
pub enum FileChange {
    Content { name: String, text: String },
    Removed { name: String },
}

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("inotify: {0}")]
    Inotify(#[from] rustix::io::Errno),
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    fn same_file(&self, other: &Self) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}

pub struct Watch {
    dir: PathBuf,
    inotify: OwnedFd,
    /// Watch descriptor and inode of the directory; `None` while it is gone.
    watched: Option<(i32, u64)>,
    files: BTreeMap<String, Stamp>,
    problems: BTreeMap<String, Problem>,
}

impl Watch {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts to watch `dir`; the first [`Watch::sweep`] reads it.
    pub fn open(dir: &Path) -> Result<Self, WatchError> {
        let meta = fs::metadata(dir)
            .and_then(|m| {
                if m.is_dir() {
                    Ok(m)
                } else {
                    Err(io::ErrorKind::NotADirectory.into())
                }
            })
            .map_err(|source| WatchError::Unreadable {
                path: dir.to_owned(),
                source,
            })?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut watch = Self {
            dir: dir.to_owned(),
            inotify,
            watched: None,
            files: BTreeMap::new(),
            problems: BTreeMap::new(),
        };
        watch.attach(meta.ino())?;
        Ok(watch)
    }

    /// Readable when [`Watch::changes`] has something to read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Files that cannot be read. Their last content stays in force.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values()
    }

    /// Whether the directory has a file of this name.
    pub fn exists(&self, name: &str) -> bool {
        fs::symlink_metadata(self.dir.join(name)).is_ok()
    }

    /// What changed since the last call, as far as inotify told.
    pub fn changes(&mut self) -> Vec<FileChange> {
        let (names, everything) = self.drain();
        if everything {
            return self.sweep();
        }
        let mut changes = Vec::new();
        for name in names {
            // The writer has closed or renamed it, so it is complete.
            self.look(&name, false, &mut changes);
        }
        changes
    }

    /// Compares the whole directory with what was read.
    pub fn sweep(&mut self) -> Vec<FileChange> {
        let mut changes = Vec::new();
        let place = self.dir.display().to_string();
        let names = match self.list() {
            Ok(names) => names,
            Err(error) => {
                self.watched = None;
                let text = format!("{place}: {error}; what was read before stays in force");
                self.problems
                    .insert(String::new(), Problem::error(code::UNREADABLE, text, place));
                return changes;
            }
        };
        self.problems.remove("");
        if names.len() > MAX_FILES {
            let text = format!(
                "{place}: {} files, {MAX_FILES} are read at most",
                names.len()
            );
            self.problems
                .insert(String::new(), Problem::error(code::TOO_LARGE, text, place));
        }
        for name in names.iter().take(MAX_FILES) {
            self.look(name, true, &mut changes);
        }
        let known: Vec<String> = self
            .files
            .keys()
            .chain(self.problems.keys())
            .cloned()
            .collect();
        for name in known {
            if !name.is_empty() && names.binary_search(&name).is_err() {
                self.forget(&name, &mut changes);
            }
        }
        changes
    }

    /// Sorted names of the manifests, after making sure that the directory at this path is watched.
    fn list(&mut self) -> Result<Vec<String>, WatchError> {
        let unreadable = |source| WatchError::Unreadable {
            path: self.dir.clone(),
            source,
        };
        let inode = fs::metadata(&self.dir).map_err(unreadable)?.ino();
        if self.watched.map(|(_, i)| i) != Some(inode) {
            self.attach(inode)?;
        }
        let unreadable = |source| WatchError::Unreadable {
            path: self.dir.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(unreadable)? {
            let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() else {
                continue;
            };
            if is_manifest(&name) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn attach(&mut self, inode: u64) -> Result<(), WatchError> {
        if let Some((old, _)) = self.watched.take() {
            // Fails if the directory is gone, and then there is nothing to remove.
            let _ = inotify::remove_watch(&self.inotify, old);
        }
        let wanted = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let wd = inotify::add_watch(&self.inotify, &self.dir, wanted)?;
        self.watched = Some((wd, inode));
        Ok(())
    }

    /// Names that inotify reported, and whether only a sweep can tell what happened.
    fn drain(&mut self) -> (Vec<String>, bool) {
        let mut names = Vec::new();
        let mut everything = false;
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let what = event.events();
            let name = event
                .file_name()
                .and_then(|n| n.to_str().ok())
                .unwrap_or_default();
            if what.contains(ReadFlags::IGNORED) {
                continue;
            }
            if is_manifest(name) {
                // A new regular file is complete when it is closed; a new link is complete at once.
                let half_written = what == ReadFlags::CREATE
                    && !fs::symlink_metadata(self.dir.join(name)).is_ok_and(|m| m.is_symlink());
                if !half_written && !names.iter().any(|n| n == name) {
                    names.push(name.to_owned());
                }
            } else if name == "..data" || name.is_empty() {
                everything = true;
            }
        }
        (names, everything)
    }

    fn look(&mut self, name: &str, unsure: bool, changes: &mut Vec<FileChange>) {
        let path = self.dir.join(name);
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.forget(name, changes);
            }
            Err(error) => return self.unreadable(name, code::UNREADABLE, &error.to_string()),
        };
        let stamp = Stamp::of(&meta);
        let known = self.files.get(name);
        if known == Some(&stamp) && !self.problems.contains_key(name) {
            return;
        }
        let in_place = known.is_some_and(|k| k.same_file(&stamp));
        if unsure && in_place && !rested(&meta) {
            return;
        }
        if !meta.is_file() {
            return self.unreadable(name, code::UNREADABLE, "is no regular file");
        }
        if meta.size() > MAX_FILE {
            let text = format!("{} bytes, {MAX_FILE} are read at most", meta.size());
            return self.unreadable(name, code::TOO_LARGE, &text);
        }
        match read_bounded(&path) {
            Ok(text) => {
                self.problems.remove(name);
                self.files.insert(name.to_owned(), stamp);
                changes.push(FileChange::Content {
                    name: name.to_owned(),
                    text,
                });
            }
            Err(error) => self.unreadable(name, code::UNREADABLE, &error.to_string()),
        }
    }

    fn unreadable(&mut self, name: &str, code: u16, text: &str) {
        let problem = Problem::error(code, format!("{name}: {text}"), name);
        self.problems.insert(name.to_owned(), problem);
    }

    fn forget(&mut self, name: &str, changes: &mut Vec<FileChange>) {
        self.problems.remove(name);
        if self.files.remove(name).is_some() {
            changes.push(FileChange::Removed {
                name: name.to_owned(),
            });
        }
    }
}

fn is_manifest(name: &str) -> bool {
    !name.starts_with('.')
        && [".yaml", ".yml", ".json"]
            .iter()
            .any(|ending| name.ends_with(ending))
}

fn rested(meta: &fs::Metadata) -> bool {
    let now = SystemTime::now();
    // A time in the future is no reason to wait.
    meta.modified()
        .is_ok_and(|m| now.duration_since(m).is_ok_and(|age| age >= SETTLE) || m > now)
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    // One byte more than allowed tells a file that grew since its size was read.
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("grew while it was read"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;

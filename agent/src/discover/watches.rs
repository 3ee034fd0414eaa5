//! inotify on the nearest existing directory above what a workload waits for.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsStr,
    mem::MaybeUninit,
    path::Path,
};

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use underpass_mesh::Str;

use super::Discovery;

/// Directories that are watched at most; what does not fit is found by the sweep.
const MAX_WATCHES: usize = 4_096;

impl Discovery {
    /// Watches the nearest existing directory above `target`.
    pub(super) fn watch(&mut self, name: &Str, target: &Path) {
        let mut child = target;
        let mut dir = target.parent();
        while let Some(d) = dir
            && !d.is_dir()
        {
            child = d;
            dir = d.parent();
        }
        let (Some(dir), Some(child)) = (dir, child.file_name()) else {
            return;
        };
        let wanted = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        if self.watches.len() >= MAX_WATCHES {
            return;
        }
        let Ok(wd) = inotify::add_watch(&self.inotify, dir, wanted) else {
            return;
        };
        let anchor = (wd, child.to_owned());
        let old = self.entries.get(name).and_then(|e| e.anchor.as_ref());
        if old != Some(&anchor) {
            self.unwatch(name);
            let names = self
                .watches
                .entry(wd)
                .or_default()
                .entry(anchor.1.clone())
                .or_default();
            names.insert(name.clone());
            if let Some(entry) = self.entries.get_mut(name) {
                entry.anchor = Some(anchor);
            }
        }
    }

    pub(super) fn unwatch(&mut self, name: &Str) {
        let anchor = self.entries.get_mut(name).and_then(|e| e.anchor.take());
        let Some((wd, child)) = anchor else { return };
        let Some(children) = self.watches.get_mut(&wd) else {
            return;
        };
        if let Some(names) = children.get_mut(&child) {
            names.remove(name);
            if names.is_empty() {
                children.remove(&child);
            }
        }
        if children.is_empty() {
            self.watches.remove(&wd);
            // Fails if the directory is gone, and the watch with it.
            let _ = inotify::remove_watch(&self.inotify, wd);
        }
    }

    /// Workloads that an event may concern.
    pub(super) fn drain(&mut self) -> BTreeSet<Str> {
        let mut names = BTreeSet::new();
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut lost = Vec::new();
        while let Ok(event) = reader.next() {
            let children = self.watches.get(&event.wd());
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                names.extend(self.entries.keys().cloned());
            } else if event.events().contains(ReadFlags::IGNORED) {
                // The directory is gone: look for the next one above.
                names.extend(
                    children
                        .into_iter()
                        .flat_map(HashMap::values)
                        .flatten()
                        .cloned(),
                );
                lost.push(event.wd());
            } else if let Some(child) = event.file_name().and_then(|n| n.to_str().ok()) {
                let concerned = children.and_then(|c| c.get(OsStr::new(child)));
                names.extend(concerned.into_iter().flatten().cloned());
            }
        }
        for wd in lost {
            self.watches.remove(&wd);
        }
        names
    }
}

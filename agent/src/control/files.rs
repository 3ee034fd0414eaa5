//! What the loop reads: manifests, and the node's own addresses.

use underpass_mesh::{
    Locator,
    model::{NetnsRef, Outcome},
};

use super::Control;
use crate::{
    discover::{self, Spec},
    log, sys,
    watch::FileChange,
};

impl Control {
    pub(super) fn read(&mut self, changes: Vec<FileChange>) {
        if changes.is_empty() {
            return;
        }
        let before = self.model.problems();
        let mut good = Vec::new();
        for change in changes {
            match change {
                FileChange::Content { name, text } => {
                    if self.model.set_file(&name, &text) == Outcome::Changed {
                        good.push((name, text));
                    }
                }
                FileChange::Removed { name } => {
                    self.model.remove_file(&name);
                    self.last_good.forget(&name);
                }
            }
        }
        for problem in self.model.problems().iter().filter(|p| !before.contains(p)) {
            log::warn(problem.code, &problem.to_string());
        }
        let wanted = self.model.wanted().into_iter().map(|w| {
            let spec = match w.locator {
                Locator::Cgroup(path) => Spec::Cgroup(path.to_string()),
                Locator::SystemdUnit(unit) => Spec::Unit(unit.to_string()),
                Locator::Netns(NetnsRef::Path(path)) => Spec::Netns(path.to_string()),
                Locator::Netns(NetnsRef::Pid(pid)) => Spec::Netns(format!("/proc/{pid}/ns/net")),
            };
            (w.full_name, spec)
        });
        self.discovery.want(wanted.collect());
        sys::memory::has_read();
        self.update();
        // Not before the change is in force.
        for (name, text) in good {
            self.last_good.keep(&name, &text);
        }
    }

    /// The first look at the directory. A file that is broken now has what it said before.
    pub(super) fn read_all(&mut self) {
        for (name, text) in self.last_good.load() {
            if self.watch.exists(&name) {
                self.model.set_file(&name, &text);
            } else {
                self.last_good.forget(&name);
            }
        }
        let changes = self.watch.sweep();
        if changes.is_empty() {
            self.update();
        }
        self.read(changes);
    }

    /// True if they changed.
    pub(super) fn read_addresses(&mut self) -> bool {
        let addresses = discover::addresses();
        if addresses == self.facts.addresses {
            return false;
        }
        self.node.addresses = addresses.iter().copied().collect();
        self.facts.addresses = addresses;
        true
    }
}

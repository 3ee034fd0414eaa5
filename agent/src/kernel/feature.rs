//! Parts of the mesh that a kernel may lack: each is off alone, and says why.

use std::collections::BTreeMap;

use super::KernelError;

pub const CLOSE_RECORDS: &str = "close-records";
pub const UDP: &str = "udp-services";
pub const INBOUND: &str = "inbound-guard";
pub const OPEN_SOCKETS: &str = "open-sockets";
pub const SHORTCUT: &str = "shortcut";
pub const SPLICE_WATCH: &str = "splice-watch";
pub const SPLICE_GUARD: &str = "splice-guard";
pub const WORKERS: &str = "workers";

/// A part of the mesh that a kernel may lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub on: bool,
    /// Why it is off (a code of the registry), 0 if it is on.
    pub code: u16,
    pub detail: String,
}

#[derive(Default)]
pub struct Features(BTreeMap<&'static str, KernelError>);

impl Features {
    /// The first reason stays.
    pub fn off(&mut self, name: &'static str, why: KernelError) {
        self.0.entry(name).or_insert(why);
    }

    pub fn is_off(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn list(self) -> Vec<Feature> {
        let describe = |name| match self.0.get(name) {
            None => Feature {
                name,
                on: true,
                code: 0,
                detail: String::new(),
            },
            Some(e) => Feature {
                name,
                on: false,
                code: e.code,
                detail: e.detail.clone(),
            },
        };
        [
            CLOSE_RECORDS,
            UDP,
            INBOUND,
            OPEN_SOCKETS,
            SHORTCUT,
            SPLICE_WATCH,
            WORKERS,
        ]
        .into_iter()
        .map(describe)
        .collect()
    }
}

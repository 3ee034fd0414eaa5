//! A snapshot as it comes: read, checked, and its routes compiled. This takes time, so it is done off the
//! shards; each makes its [`crate::book::Book`] of the same draft.

use std::{os::fd::OwnedFd, sync::Arc};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use underpass_l7::route::Table;
use underpass_mesh::{
    reason::code,
    snapshot::{FORMAT, Service, Snapshot},
};

/// Bytes of a snapshot.
pub const SNAPSHOT_BYTES: u64 = 32 << 20;

#[derive(Debug)]
pub struct Draft {
    pub snapshot: Snapshot,
    /// Of each of the snapshot's services; `None`: it has no routes.
    pub tables: Vec<Option<Arc<Table>>>,
    /// What it says nothing of is let through, since everything was captured.
    pub passes: bool,
}

/// Why a snapshot is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// A number of `abi::reason::code`.
    pub code: u16,
    pub why: String,
}

fn rejected(code: u16, why: impl Into<String>) -> Rejected {
    let why = why.into();
    Rejected { code, why }
}

impl Rejected {
    /// The process may not have a thread to read it.
    pub fn no_thread() -> Self {
        rejected(code::SNAPSHOT_UNREADABLE, "it was not read")
    }
}

impl Draft {
    /// Whether it is what it is said to be, and no older than what is there.
    ///
    /// # Errors
    /// `SNAPSHOT_FORMAT`.
    pub fn is_for(self, tenant: &str, version: u64, have: u64) -> Result<Self, Rejected> {
        let its = (self.snapshot.tenant.as_str(), self.snapshot.version);
        let why = if its != (tenant, version) {
            format!("it is {} of {}", its.1, its.0)
        } else if version < have {
            format!("this worker has {have}")
        } else {
            return Ok(self);
        };
        Err(rejected(code::SNAPSHOT_FORMAT, why))
    }

    /// From a sealed file, which others may read too: its position is not used.
    ///
    /// # Errors
    /// `SNAPSHOT_UNREADABLE` if it is not sealed, is too large, or cannot be read, and those of
    /// [`Self::read`].
    pub fn load(file: OwnedFd) -> Result<Self, Rejected> {
        let unreadable = |why: &str| rejected(code::SNAPSHOT_UNREADABLE, why);
        let sealed = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
        if !fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(sealed)) {
            return Err(unreadable("it is not sealed"));
        }
        let stat = fstat(&file).map_err(|e| unreadable(&e.to_string()))?;
        let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if len > SNAPSHOT_BYTES {
            return Err(unreadable("it is too large"));
        }
        let mut bytes = vec![0; len as usize];
        let file = std::fs::File::from(file);
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)
            .map_err(|e| unreadable(&e.to_string()))?;
        Self::read(&bytes)
    }

    /// # Errors
    /// `SNAPSHOT_FORMAT` for another format than [`FORMAT`], `SNAPSHOT_UNREADABLE` for what is none, and
    /// the code of a path of a route that no request can match.
    pub fn read(bytes: &[u8]) -> Result<Self, Rejected> {
        // Another format may differ in everything else.
        #[derive(serde::Deserialize)]
        struct Head {
            format: u32,
        }
        let unreadable = |e: serde_json::Error| rejected(code::SNAPSHOT_UNREADABLE, e.to_string());
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        if head.format != FORMAT {
            let why = format!("format {}, this is {FORMAT}", head.format);
            return Err(rejected(code::SNAPSHOT_FORMAT, why));
        }
        Self::new(serde_json::from_slice(bytes).map_err(unreadable)?)
    }

    /// # Errors
    /// As [`Self::read`], for routes.
    pub fn new(snapshot: Snapshot) -> Result<Self, Rejected> {
        let compile = |service: &Service| {
            if service.routes.is_empty() {
                return Ok(None);
            }
            let routes = service.routes.iter().map(AsRef::as_ref);
            match Table::compile(&service.name, service.port, routes) {
                Ok(table) => Ok(Some(Arc::new(table))),
                Err(unusable) => Err(rejected(unusable.why.code(), unusable.to_string())),
            }
        };
        let tables = snapshot.services.iter().map(compile);
        let tables = tables.collect::<Result<_, _>>()?;
        Ok(Self {
            snapshot,
            tables,
            passes: false,
        })
    }
}

//! Memory that is handed to workers: snapshots, which nobody can change any more, and reports, whose
//! size nobody can change.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use underpass_mesh::snapshot::Snapshot;

/// Bytes of a snapshot as JSON.
pub const SNAPSHOT_MAX: usize = 32 << 20;
/// Bytes of a worker's report.
pub const REPORT_BYTES: u64 = 4 << 20;

/// # Errors
/// If there is no memory, or the snapshot is larger than [`SNAPSHOT_MAX`].
pub fn snapshot(snapshot: &Snapshot) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(snapshot)?;
    if text.len() > SNAPSHOT_MAX {
        let text = format!("{} bytes, {SNAPSHOT_MAX} at most", text.len());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let mut file = File::from(create("underpass-snapshot")?);
    file.write_all(&text)?;
    let fd = OwnedFd::from(file);
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&fd, seals)?;
    Ok(fd)
}

/// # Errors
/// If there is no memory.
pub fn report() -> io::Result<OwnedFd> {
    let fd = create("underpass-report")?;
    ftruncate(&fd, REPORT_BYTES)?;
    fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd)
}

fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(memfd_create(name, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn a_snapshot_is_read_and_never_written() {
        let given = Snapshot {
            version: 7,
            tenant: "shop".into(),
            ..Snapshot::default()
        };
        let file = File::from(snapshot(&given).unwrap());
        let mut text = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut text, 0).unwrap();
        let read: Snapshot = serde_json::from_slice(&text).unwrap();
        assert_eq!(read, given);
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn a_report_is_written_and_keeps_its_size() {
        let file = File::from(report().unwrap());
        assert_eq!(file.write_at(b"x", REPORT_BYTES - 1).unwrap(), 1);
        assert!(file.write_at(b"xx", REPORT_BYTES - 1).unwrap_or(0) < 2);
        assert!(file.set_len(REPORT_BYTES + 1).is_err());
        assert_eq!(file.metadata().unwrap().len(), REPORT_BYTES);
    }
}

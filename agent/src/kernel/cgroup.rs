//! The cgroup2 hierarchy: where it is mounted, and what a directory in it is to the kernel.

use std::{
    fs::{self, File},
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::fstatfs;
use underpass_abi::reason::code;

use super::KernelError;

/// `CGROUP2_SUPER_MAGIC`
const CGROUP2: u64 = 0x6367_7270;
/// Inode (and id) of the hierarchy's own root.
const ROOT_ID: u64 = 1;

/// The directory at which programs attach.
#[derive(Debug)]
pub struct CgroupRoot {
    /// Root of the whole hierarchy; levels count from here.
    mount: PathBuf,
    /// Where programs attach and what workloads' `cgroup` is relative to.
    path: PathBuf,
    id: u64,
    dir: File,
}

impl CgroupRoot {
    /// `chosen`: a cgroup2 directory in place of the hierarchy's root (`--cgroup-root`).
    pub fn find(chosen: Option<&Path>) -> Result<Self, KernelError> {
        let info = fs::read_to_string("/proc/self/mountinfo")
            .map_err(KernelError::io(code::NO_CGROUP2, "/proc/self/mountinfo"))?;
        let mount = cgroup2_mounts(&info)
            .into_iter()
            .find(|m| id(m).is_ok_and(|id| id == ROOT_ID))
            .ok_or_else(|| missing(&info))?;
        let path = match chosen {
            None => mount.clone(),
            Some(path) => path
                .canonicalize()
                .map_err(KernelError::io(code::NO_CGROUP2, path.display()))?,
        };
        let error = |e| KernelError::io(code::NO_CGROUP2, path.display())(e);
        let dir = File::open(&path).map_err(error)?;
        let kind = fstatfs(&dir).map_err(|e| error(e.into()))?.f_type;
        if kind as u64 != CGROUP2 {
            let text = format!("{} is no cgroup2 directory", path.display());
            return Err(KernelError::new(code::NO_CGROUP2, text));
        }
        if !path.starts_with(&mount) {
            let text = format!("{} is not below {}", path.display(), mount.display());
            return Err(KernelError::new(code::NO_CGROUP2, text));
        }
        let id = dir.metadata().map_err(error)?.ino();
        Ok(Self {
            mount,
            path,
            id,
            dir,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn dir(&self) -> &File {
        &self.dir
    }

    /// Id of the cgroup at `path`, as `bpf_get_current_cgroup_id` gives it.
    pub fn id_of(&self, path: &Path) -> std::io::Result<u64> {
        id(path)
    }

    /// Levels below the hierarchy's root: what `bpf_get_current_ancestor_cgroup_id` counts.
    pub fn level_of(&self, path: &Path) -> Option<u32> {
        Some(path.strip_prefix(&self.mount).ok()?.components().count() as u32)
    }
}

fn id(path: &Path) -> std::io::Result<u64> {
    fs::metadata(path).map(|m| m.ino())
}

fn missing(mountinfo: &str) -> KernelError {
    let mounts = cgroup2_mounts(mountinfo);
    let text = match mounts.first() {
        None => "only cgroup v1 is mounted".to_owned(),
        Some(m) => format!(
            "{} is not the root of the hierarchy: the agent runs in a cgroup namespace",
            m.display()
        ),
    };
    KernelError::new(code::NO_CGROUP2, text)
}

/// Mount points of cgroup2, in mount order.
fn cgroup2_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo.lines().filter_map(mount_point).collect()
}

/// `41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw`
fn mount_point(line: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    if kind.split(' ').next()? != "cgroup2" {
        return None;
    }
    Some(unescape(mount.split(' ').nth(4)?))
}

/// Space, tab, newline and backslash are octal escapes.
fn unescape(field: &str) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|d| u8::from_str_radix(str::from_utf8(d).ok()?, 8).ok());
        match (b, octal) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(b);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_in_hybrid_and_pure_mounts() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup rw - tmpfs cgroup rw\n\
            32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:2 - cgroup2 none rw\n";
        assert_eq!(
            cgroup2_mounts(hybrid),
            [PathBuf::from("/sys/fs/cgroup/unified")]
        );
        let pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mounts(pure), [PathBuf::from("/sys/fs/cgroup")]);
    }

    #[test]
    fn reads_escapes() {
        let line = r"1 2 0:3 / /mnt/a\040b\134c rw - cgroup2 x rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/a b\c")));
        assert_eq!(unescape(r"a\9\"), PathBuf::from(r"a\9\"));
    }

    #[test]
    fn says_why_there_is_none() {
        let v1 = "32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert!(missing(v1).detail.contains("only cgroup v1"));
        let inside = "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert!(missing(inside).detail.contains("namespace"));
        assert!(mount_point("garbage").is_none() && mount_point("1 2 - cgroup2").is_none());
    }
}

//! Network namespaces: which one a path or process means, and running code inside.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use underpass_abi::reason::code;

use super::KernelError;
use crate::sys;

/// A network namespace, by a path that leads to it and its cookie (unique until reboot). It holds
/// nothing open: an open file would keep a dead namespace alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    pub path: PathBuf,
    pub cookie: u64,
}

impl Netns {
    /// From a file such as `/run/netns/blue` or `/proc/42/ns/net`.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let cookie = within(path, current_cookie)
            .and_then(|r| r)
            .map_err(KernelError::io(code::NETNS_UNREACHABLE, path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            cookie,
        })
    }

    pub fn of_process(pid: u32) -> Result<Self, KernelError> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The agent's own, which is the node's.
    pub fn current() -> Result<Self, KernelError> {
        let path = PathBuf::from("/proc/self/ns/net");
        let cookie =
            current_cookie().map_err(KernelError::io(code::NETNS_UNREACHABLE, path.display()))?;
        Ok(Self { path, cookie })
    }

    /// Runs `f` in the namespace, on a thread of its own. Fails if the path leads elsewhere by now.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, KernelError> {
        let checked = || match current_cookie() {
            Ok(cookie) if cookie == self.cookie => Ok(f()),
            Ok(_) => Err(io::Error::other("the path leads to another namespace now")),
            Err(e) => Err(e),
        };
        within(&self.path, checked)
            .and_then(|r| r)
            .map_err(KernelError::io(
                code::NETNS_UNREACHABLE,
                self.path.display(),
            ))
    }
}

fn within<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::open(path)?;
    let entered = || -> io::Result<T> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(f())
    };
    thread::scope(|s| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(s, entered)?
            .join()
            .map_err(|_| io::Error::other("the work in the namespace panicked"))?
    })
}

/// Cookie of the calling thread's namespace.
fn current_cookie() -> io::Result<u64> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sys::net::netns_cookie(&socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_to_something_else_is_refused() {
        let e = Netns::open(Path::new("/proc/self/ns/uts")).unwrap_err();
        assert_eq!(e.code, code::NETNS_UNREACHABLE);
        let e = Netns::open(Path::new("/nonexistent")).unwrap_err();
        assert!(e.detail.contains("/nonexistent"), "{e}");
    }
}

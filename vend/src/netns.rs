//! Network namespaces: holding one, and making sockets inside.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use underpass_api::vend::Family;

/// Connections that wait for a worker, of each listener.
pub const BACKLOG: i32 = 1024;

/// Which namespace: device and inode of its file. An inode may be used again once the namespace is gone,
/// which it is not while somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    pub device: u64,
    pub inode: u64,
}

/// # Errors
/// If nothing is at `path`.
pub fn at(path: &Path) -> io::Result<Which> {
    fs::metadata(path).map(|m| Which {
        device: m.dev(),
        inode: m.ino(),
    })
}

/// Opens a namespace by its path. Whether it is one of the network shows when it is entered.
///
/// # Errors
/// If nothing is at `path`, or it is no namespace.
pub fn open(path: &Path) -> io::Result<(OwnedFd, Which)> {
    const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
    let file = File::open(path)?;
    if rustix::fs::fstatfs(&file)?.f_type != NSFS_MAGIC {
        return Err(io::Error::other("no namespace"));
    }
    let m = file.metadata()?;
    let which = Which {
        device: m.dev(),
        inode: m.ino(),
    };
    Ok((file.into(), which))
}

/// The calling thread's own.
///
/// # Errors
/// If /proc is not mounted.
pub fn own() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Runs `f` inside, and comes back: a thread that stayed would keep the namespace alive.
///
/// # Errors
/// If it cannot be entered, and those of `f`.
///
/// # Panics
/// If there is no way back: sockets made from then on would be in a wrong namespace.
pub fn inside<T>(
    home: impl AsFd,
    netns: impl AsFd,
    f: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(netns.as_fd(), network)?;
    let done = f();
    move_into_link_name_space(home.as_fd(), network).expect("the way back to the own namespace");
    done
}

/// An unconnected, non-blocking TCP socket of the current namespace.
///
/// This is where the stamp belongs: the agent's programs are to mark each socket that is made in a
/// tenant's cgroup (a program on `cgroup/sock_create`, which sees the namespace and writes
/// `sk_storage`), and never redirect it again. They do not yet (docs/explanation/vendor.md).
///
/// # Errors
/// Of `socket`.
pub fn unconnected(family: Family) -> io::Result<OwnedFd> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    tcp(family)
}

fn tcp(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// A listening, non-blocking TCP socket of the current namespace. `::` takes IPv4 too, and is `0.0.0.0`
/// where there is no IPv6.
///
/// # Errors
/// Of `socket`, `bind` and `listen`.
pub fn listener(address: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let any_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    match listening(address, port) {
        Err(e) if address.is_unspecified() && address.is_ipv6() && no_v6(&e) => {
            listening(any_v4, port)
        }
        done => done,
    }
}

fn no_v6(e: &io::Error) -> bool {
    let code = e.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn listening(address: IpAddr, port: u16) -> io::Result<OwnedFd> {
    let socket = tcp(if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    })?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.is_unspecified())?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_are_opened() {
        let (_, which) = open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(at(Path::new("/proc/self/ns/net")).unwrap(), which);
        assert!(open(Path::new("/proc/self/status")).is_err());
        assert!(open(Path::new("/nonexistent")).is_err());
    }
}

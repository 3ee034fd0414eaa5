//! What a worker sees of itself and what it can do.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{ptrace, signal::kill},
    unistd::{Gid, Pid, Uid, setgid, setuid},
};

/// `key=value` words, read before the sandbox takes the files away.
pub fn facts() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let of = |name: &str| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or("?");
        line.split_whitespace().collect::<Vec<_>>().join("/")
    };
    let rows = |path: &str, head: usize| {
        let text = read(path);
        let names = text
            .lines()
            .skip(head)
            .filter_map(|l| l.split_whitespace().next());
        names
            .map(|n| n.trim_end_matches(':').to_owned())
            .collect::<Vec<_>>()
            .join("/")
    };
    let fds = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let ns = fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let interfaces = rows("/proc/self/net/dev", 2);
    let routes = rows("/proc/self/net/route", 1);
    format!(
        "uid={} gid={} groups={} inh={} prm={} eff={} bnd={} amb={} nnp={} fds={} env={} args={} dir={} \
         netns={} interfaces={interfaces} routes={routes}",
        of("Uid:"),
        of("Gid:"),
        of("Groups:"),
        of("CapInh:"),
        of("CapPrm:"),
        of("CapEff:"),
        of("CapBnd:"),
        of("CapAmb:"),
        of("NoNewPrivs:"),
        // One is the directory that was read.
        fds - 1,
        std::env::vars_os().count(),
        std::env::args_os().count(),
        std::env::current_dir().unwrap_or_default().display(),
        ns.display(),
    )
}

/// `what=errno` words; 0 means that it was possible.
pub fn attempts(vended: Option<OwnedFd>) -> String {
    let here = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
    let io = |done: io::Result<()>| done.err().map_or(0, |e| e.raw_os_error().unwrap_or(-1));
    let nix = |done: nix::Result<()>| done.err().map_or(0, |e| e as i32);
    let parent = Pid::parent();
    // Nobody else's, or EEXIST would be taken for a refusal of another kind.
    let place = format!("/tmp/underpass-tenant-{}", std::process::id());
    let vended = vended.map_or(-1, |socket| {
        let bound = rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 4711));
        bound.err().map_or(0, |e| e.raw_os_error())
    });
    let all = [
        (
            "tcp",
            io(TcpStream::connect_timeout(&here.into(), Duration::from_secs(1)).map(drop)),
        ),
        ("listen", io(TcpListener::bind(here).map(drop))),
        ("udp", io(UdpSocket::bind(here).map(drop))),
        ("unix", io(UnixStream::pair().map(drop))),
        ("bind", vended),
        ("read", io(fs::File::open("/etc/passwd").map(drop))),
        ("proc", io(fs::File::open("/proc/self/status").map(drop))),
        ("write", io(fs::write(format!("{place}-file"), "x"))),
        ("list", io(fs::read_dir("/").map(drop))),
        ("mkdir", io(fs::create_dir(format!("{place}-dir")))),
        ("exec", io(Command::new("/bin/true").status().map(drop))),
        ("setuid", nix(setuid(Uid::from_raw(0)))),
        ("setgid", nix(setgid(Gid::from_raw(0)))),
        ("ptrace", nix(ptrace::attach(parent))),
        ("kill", nix(kill(parent, None))),
        (
            "chroot",
            io(rustix::process::chroot("/").map_err(Into::into)),
        ),
        ("nofile", nix_limit()),
        // Last: a user namespace of one's own changes what follows.
        ("unshare", nix(unshare(CloneFlags::CLONE_NEWUSER))),
    ];
    let words: Vec<String> = all
        .iter()
        .map(|(name, errno)| format!("{name}={errno}"))
        .collect();
    words.join(" ")
}

/// Raising the limit of descriptors.
fn nix_limit() -> i32 {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let most = Some(1 << 30);
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit)
        .err()
        .map_or(0, |e| e.raw_os_error())
}

/// Starts so many threads at a time; how many there were before one was refused.
pub fn threads(wanted: usize) -> String {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let mut all = Vec::new();
    for _ in 0..wanted {
        let held = held.clone();
        let body = move || {
            // Until the sender is gone.
            let _ = held.lock().map(|h| h.recv());
        };
        match thread::Builder::new().stack_size(64 << 10).spawn(body) {
            Ok(thread) => all.push(thread),
            Err(_) => break,
        }
    }
    let count = all.len();
    drop(release);
    for thread in all {
        let _ = thread.join();
    }
    format!("threads {count}")
}

//! Whether this kernel does what the shortcut needs: tried at start on private loopback pairs, with
//! programs and maps of their own. No feature probe can see what these tests see.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use aya::{Ebpf, maps::Map as AyaMap};
use rustix::{
    buffer::spare_capacity,
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    io::{Errno, ioctl_fionread},
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, bind,
        connect, getsockname, listen, recv, send, shutdown, socket_with, sockopt,
    },
    system::uname,
};
use underpass_abi::{
    plain::{self, Plain},
    reason::code,
    shortcut::{End, Pair, end, switch},
    sock::counter,
    tables::{maps, setting},
};

use super::{KernelError, btf, iter, loader, loader::Source, program, totals};
use crate::sys::{
    bpf::{Attach, prog_attach},
    maps::{Map, Put},
};

/// For all tests together.
const LIMIT: Duration = Duration::from_secs(2);
/// Messages of the forced mix.
const MIXED: u32 = 400;

type Tested<T> = Result<T, String>;
type Test = fn(&Bench) -> Tested<()>;

/// Runs every test; the error names the first that failed. `any_level`: whatever the kernel's number.
pub fn run(source: &Source, kernel: &btf::Btf, any_level: bool) -> Result<(), KernelError> {
    let failed = |why: String| KernelError::new(code::SHORTCUT_SELF_TEST, why);
    if !any_level {
        level::check(&uname().release().to_string_lossy()).map_err(failed)?;
    }
    let bench = Bench::new(source, kernel)?;
    let tests: [(&str, Test); 4] = [
        ("queue length", queue_length),
        ("mixed paths", mixed_paths),
        ("end of file", end_of_file),
        ("memory", memory),
    ];
    let start = Instant::now();
    for (name, test) in tests {
        test(&bench).map_err(|why| failed(format!("{name}: {why}")))?;
    }
    tracing::debug!(took_us = start.elapsed().as_micros() as u64, "self-test");
    Ok(())
}

/// Private programs and maps.
struct Bench {
    ebpf: Ebpf,
    iter: OwnedFd,
    settings: Map,
    shortcut: Map,
    ends: Map,
    pairs: Map,
    counters: Map,
    redirect: u64,
    until: Instant,
}

impl Bench {
    fn new(source: &Source, kernel: &btf::Btf) -> Result<Self, KernelError> {
        let mut bench = Self::bare(source, kernel)?;
        bench.attach(program::SK_SKB, Attach::SK_SKB)?;
        bench.attach(program::SK_MSG, Attach::SK_MSG)?;
        Ok(bench)
    }

    /// Without programs on the map.
    fn bare(source: &Source, kernel: &btf::Btf) -> Result<Self, KernelError> {
        let mut ebpf = source.parse_private()?;
        Ok(Self {
            iter: loader::load(&mut ebpf, program::ITER_ENDS, kernel)?,
            settings: private(&ebpf, maps::SETTINGS)?,
            shortcut: private(&ebpf, maps::SHORTCUT)?,
            ends: private(&ebpf, maps::ENDS)?,
            pairs: private(&ebpf, maps::PAIRS)?,
            counters: private(&ebpf, maps::COUNTERS)?,
            redirect: switch::REDIRECT,
            until: Instant::now() + LIMIT,
            ebpf,
        })
    }

    fn attach(&mut self, name: &'static str, at: Attach) -> Result<(), KernelError> {
        let program = loader::load_plain(&mut self.ebpf, name)?;
        prog_attach(&program, &self.shortcut, at).map_err(KernelError::io(
            code::PROGRAM_REFUSED,
            format!("self-test: {name}"),
        ))
    }

    fn set(&self, index: u32, value: u64) -> Tested<()> {
        put(&self.settings, &index, &value)
    }

    /// Whether the next messages are redirected.
    fn redirect(&self, on: bool) -> Tested<()> {
        self.set(setting::SHORTCUT, if on { self.redirect } else { 0 })
    }

    fn taken(&self) -> Tested<u64> {
        let all = totals::counters(&self.counters).map_err(text)?;
        Ok(all[counter::SHORTCUT_TAKEN as usize])
    }

    /// Two ends of a new connection, both in the map.
    fn pair(&self) -> Tested<(OwnedFd, OwnedFd)> {
        let (a, b) = loopback().map_err(text)?;
        for fd in [&a, &b] {
            put(&self.ends, &fd.as_raw_fd().cast_unsigned(), &End::default())?;
        }
        iter::words(&self.iter, &self.ends).map_err(text)?;
        let (cookie_a, cookie_b) = (cookie(&a)?, cookie(&b)?);
        let (end_a, end_b) = (self.end(&a)?, self.end(&b)?);
        let pair = Pair {
            active: end_a.sk,
            passive: end_b.sk,
            active_cookie: cookie_a,
            passive_cookie: cookie_b,
            ..Pair::default()
        };
        put(&self.pairs, &cookie_a, &pair)?;
        let ends = [(&a, end_a, cookie_a, end::ACTIVE), (&b, end_b, cookie_b, 0)];
        for (fd, filled, cookie, flags) in ends {
            let filled = End {
                cookie,
                flags,
                pair: cookie_a,
                ..filled
            };
            put(&self.ends, &fd.as_raw_fd().cast_unsigned(), &filled)?;
            put(&self.shortcut, &cookie, &fd.as_raw_fd().cast_unsigned())?;
        }
        self.set(setting::SHORTCUT_SOCKET, 1 << 20)?;
        self.set(setting::SHORTCUT_NODE, i64::MAX as u64)?;
        self.redirect(true)?;
        Ok((a, b))
    }

    fn end(&self, fd: &OwnedFd) -> Tested<End> {
        let key = fd.as_raw_fd().cast_unsigned();
        let value = self.ends.get(plain::bytes(&key)).map_err(text)?;
        value
            .and_then(|v| plain::from_bytes::<End>(&v))
            .filter(|e| e.sk != 0)
            .ok_or_else(|| "no socket storage".into())
    }

    fn timeout(&self) -> Timespec {
        let left = self.until.saturating_duration_since(Instant::now());
        Timespec::try_from(left.min(Duration::from_millis(200))).unwrap_or_default()
    }
}

fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

fn put<K: Plain, V: Plain>(map: &Map, key: &K, value: &V) -> Tested<()> {
    map.put(plain::bytes(key), plain::bytes(value), Put::Any)
        .map_err(|e| format!("{}: {e}", map.info.name))
}

fn private(ebpf: &Ebpf, name: &str) -> Result<Map, KernelError> {
    let failed = || KernelError::io(code::PROGRAM_REFUSED, format!("self-test: map {name}"));
    let data = match ebpf.map(name) {
        Some(
            AyaMap::Array(d)
            | AyaMap::HashMap(d)
            | AyaMap::PerCpuArray(d)
            | AyaMap::SkStorage(d)
            | AyaMap::SockHash(d),
        ) => d,
        _ => return Err(KernelError::new(code::NO_OBJECT, format!("no map {name}"))),
    };
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(failed())?;
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| failed()(e))?.get() as usize;
    Map::new(fd, cpus).map_err(failed())
}

fn loopback() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let tcp = || {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
    };
    let listener = tcp()?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, 1)?;
    let at = SocketAddr::try_from(getsockname(&listener)?).map_err(|_| Errno::INVAL)?;
    let a = tcp()?;
    match connect(&a, &at) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return Err(e),
    }
    // Loopback answers within the call, unless the node is so busy that `ksoftirqd` does it later.
    let limit = Timespec::try_from(LIMIT).map_err(|_| Errno::INVAL)?;
    poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&limit))?;
    let b = accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    for fd in [&a, &b] {
        sockopt::set_tcp_nodelay(fd, true)?;
    }
    Ok((a, b))
}

fn cookie(fd: &OwnedFd) -> Tested<u64> {
    sockopt::socket_cookie(fd).map_err(text)
}

/// Byte number `at` of every stream here.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

/// Sends the stream's next `len` bytes.
fn say(fd: &OwnedFd, from: usize, len: usize) -> Tested<()> {
    let block: Vec<u8> = (from..from + len).map(byte).collect();
    match send(fd, &block, SendFlags::NOSIGNAL) {
        Ok(n) if n == len => Ok(()),
        Ok(n) => Err(format!("{n} of {len} bytes were taken")),
        Err(e) => Err(format!("send: {e}")),
    }
}

/// Takes up to `room` bytes, which must be the stream's next.
fn hear(fd: &OwnedFd, from: usize, room: usize) -> Tested<Option<usize>> {
    let mut block = vec![0; room];
    match recv(fd, &mut block[..], RecvFlags::empty()) {
        Ok((n, _)) => match block[..n]
            .iter()
            .zip(from..)
            .find(|(b, at)| **b != byte(*at))
        {
            None => Ok(Some(n)),
            Some((_, at)) => Err(format!("byte {at} is wrong")),
        },
        Err(Errno::AGAIN) => Ok(None),
        Err(e) => Err(format!("recv: {e}")),
    }
}

/// FIONREAD tells what is unread, and reading takes away from it.
fn queue_length(bench: &Bench) -> Tested<()> {
    let (a, b) = bench.pair()?;
    let before = bench.taken()?;
    say(&a, 0, 50)?;
    if bench.taken()? != before + 1 {
        return Err("a message was not redirected".into());
    }
    let unread = || ioctl_fionread(&b).map_err(text);
    let first = unread()?;
    hear(&b, 0, 20)?;
    match (first, unread()?) {
        (50, 30) => Ok(()),
        (first, then) => Err(format!("FIONREAD says {first} and {then} for 50 and 30")),
    }
}

/// A reader that waits for an edge whenever a read was short gets every byte, in order, however the
/// paths change.
fn mixed_paths(bench: &Bench) -> Tested<()> {
    let (a, b) = bench.pair()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(text)?;
    let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &b, epoll::EventData::new_u64(0), edges).map_err(text)?;
    let (mut sent, mut heard, mut random) = (0, 0, 1_u32);
    let before = bench.taken()?;
    for _ in 0..MIXED {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bench.redirect(random >> 30 & 1 == 0)?;
        let len = 1 + (random >> 8) as usize % 700;
        say(&a, sent, len)?;
        sent += len;
        if random >> 29 & 3 == 0 {
            heard = read_by_edges(bench, &epoll, &b, heard, sent)?;
        }
    }
    read_by_edges(bench, &epoll, &b, heard, sent)?;
    match bench.taken()? - before {
        n if n == 0 || n >= u64::from(MIXED) => Err(format!("{n} of {MIXED} were redirected")),
        _ => Ok(()),
    }
}

fn read_by_edges(
    bench: &Bench,
    epoll: &OwnedFd,
    fd: &OwnedFd,
    mut heard: usize,
    until: usize,
) -> Tested<usize> {
    const ROOM: usize = 4_096;
    while heard < until {
        let mut events = Vec::with_capacity(1);
        let n = epoll::wait(epoll, spare_capacity(&mut events), Some(&bench.timeout()));
        if n.map_err(text)? == 0 {
            return Err(format!("no edge while {} bytes wait", until - heard));
        }
        // A full read means that there may be more; a short one that there is not.
        while let Some(n) = hear(fd, heard, ROOM)? {
            heard += n;
            if n < ROOM {
                break;
            }
        }
    }
    Ok(heard)
}

/// What was sent before the end is read before it.
fn end_of_file(bench: &Bench) -> Tested<()> {
    let (a, b) = bench.pair()?;
    say(&a, 0, 1_000)?;
    bench.redirect(false)?;
    say(&a, 1_000, 1_000)?;
    shutdown(&a, Shutdown::Write).map_err(text)?;
    let mut heard = 0;
    while Instant::now() < bench.until {
        match hear(&b, heard, 4_096)? {
            Some(0) if heard == 2_000 => return Ok(()),
            Some(0) => return Err(format!("the end comes after {heard} of 2000 bytes")),
            Some(n) => heard += n,
            None => std::thread::yield_now(),
        }
    }
    Err(format!("no end after {heard} bytes"))
}

/// What waits at a reader that does not read is charged to it, so that the bound holds.
fn memory(bench: &Bench) -> Tested<()> {
    const MUCH: u64 = 64 << 20;
    let (a, b) = bench.pair()?;
    // Only the bound that goes by the kernel's own count is left.
    bench.set(setting::SHORTCUT_SOCKET, MUCH)?;
    let block = vec![0_u8; 64 << 10];
    let (before, mut sent) = (bench.taken()?, 0);
    while sent < MUCH {
        match send(&a, &block, SendFlags::NOSIGNAL) {
            Ok(n) => sent += n as u64,
            Err(Errno::AGAIN) => break,
            Err(e) => return Err(format!("send: {e}")),
        }
    }
    if sent >= MUCH {
        return Err(format!(
            "{sent} bytes were taken for a reader that does not read"
        ));
    }
    if bench.taken()? == before {
        return Err("nothing was redirected".into());
    }
    let mut heard = 0;
    while heard < sent {
        let mut block = vec![0_u8; 256 << 10];
        match recv(&b, &mut block[..], RecvFlags::empty()) {
            Ok((n, _)) if n > 0 => heard += n as u64,
            Err(Errno::AGAIN) if Instant::now() < bench.until => std::thread::yield_now(),
            other => return Err(format!("{heard} of {sent} bytes came, then {other:?}")),
        }
    }
    Ok(())
}

pub mod guard;
mod level;
#[cfg(test)]
mod tests;

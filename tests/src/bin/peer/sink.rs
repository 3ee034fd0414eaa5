//! Listeners with an accept log.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use clap::{Args, ValueEnum};
use serde_json::json;

#[derive(Args)]
pub struct SinkArgs {
    #[arg(required = true)]
    listen: Vec<SocketAddr>,
    #[arg(long, value_enum, default_value = "close")]
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    /// Accept and close.
    Close,
    /// Keep every connection open.
    Hold,
    /// Send back what comes.
    Echo,
}

/// What one listener saw.
/// The kernel's own bound, `net.core.somaxconn`, by default.
const BACKLOG: i32 = 4096;

#[derive(Default)]
struct Log {
    accepted: AtomicU64,
    /// Nanoseconds of CLOCK_BOOTTIME.
    last_ns: AtomicU64,
    last_peer: Mutex<Option<SocketAddr>>,
}

pub fn run(args: &SinkArgs) -> io::Result<()> {
    let mut logs = Vec::new();
    for at in &args.listen {
        let listener = TcpListener::bind(at)?;
        // The standard library asks for 128: a client fills that in one time slice of its own, and
        // each SYN beyond it waits a second.
        rustix::net::listen(&listener, BACKLOG)?;
        let at = listener.local_addr()?;
        let log = Arc::new(Log::default());
        logs.push((at, Arc::clone(&log)));
        let mode = args.mode;
        thread::spawn(move || accept(&listener, mode, &log));
    }
    for line in io::stdin().lock().lines() {
        if line?.trim() == "report" {
            println!("{}", report(&logs));
            io::stdout().flush()?;
        }
    }
    Ok(())
}

fn report(logs: &[(SocketAddr, Arc<Log>)]) -> serde_json::Value {
    let rows = logs.iter().map(|(at, log)| {
        let peer = *log.last_peer.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "listen": at.to_string(),
            "accepted": log.accepted.load(Ordering::Relaxed),
            "last_ns": log.last_ns.load(Ordering::Relaxed),
            "last_peer": peer.map(|p| p.to_string()),
        })
    });
    json!({ "listeners": rows.collect::<Vec<_>>() })
}

fn accept(listener: &TcpListener, mode: Mode, log: &Log) {
    let mut held = Vec::new();
    while let Ok((stream, peer)) = listener.accept() {
        log.accepted.fetch_add(1, Ordering::Relaxed);
        log.last_ns.store(now_ns(), Ordering::Relaxed);
        *log.last_peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
        match mode {
            Mode::Close => drop(stream),
            Mode::Hold => held.push(stream),
            Mode::Echo => {
                thread::spawn(move || echo(stream));
            }
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut block = [0; 16 << 10];
    loop {
        let got = stream.read(&mut block)?;
        if got == 0 {
            return Ok(());
        }
        stream.write_all(&block[..got])?;
    }
}

pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

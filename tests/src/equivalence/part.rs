//! What a script's other process does with the socket that is its standard input. Each prints `go`
//! first, then the lines of its transcript.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use super::{script::End, transcript::Log};
use crate::passed::receive;

/// Seeds as a client has them; a server's are the other way round.
const SEEDS: (u64, u64) = (1, 2);

pub fn run(verb: &str, args: &[u64]) -> io::Result<()> {
    let log = Log::default();
    let fd = io::stdin().as_fd().try_clone_to_owned()?;
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    let server = |fd, got| {
        let mut end = End::new("part", fd, &log, (SEEDS.1, SEEDS.0));
        end.got = got;
        end
    };
    match verb {
        // read OFFSET LEN: a server's part that reads on from an offset.
        "read" => {
            begin()?;
            server(fd, arg(0)).recv_all(arg(1), 4096);
        }
        // recv MAX TIMES OFFSET: single calls.
        "recv" => {
            let mut end = server(fd, arg(2));
            begin()?;
            for _ in 0..arg(1) {
                let _ = end.recv(arg(0) as usize);
            }
        }
        // write OFFSET LEN: a client's part that writes on from an offset.
        "write" => {
            let mut end = End::new("part", fd, &log, SEEDS);
            end.sent = arg(0);
            begin()?;
            let _ = end.send_all(arg(1), 1000);
        }
        // signals MAX OFFSET: a blocking recv that a handled signal (SA_RESTART) interrupts.
        "signals" => signals(server(fd, arg(1)), arg(0) as usize)?,
        // passed OFFSET LEN: standard input is a Unix socket that brings the socket.
        "passed" => {
            begin()?;
            server(receive(&UnixStream::from(fd))?, arg(0)).recv_all(arg(1), 4096);
        }
        // hold: until it is killed.
        "hold" => {
            begin()?;
            loop {
                std::thread::park();
            }
        }
        other => return Err(io::Error::other(format!("no part `{other}`"))),
    }
    for line in log.lines() {
        println!("{}", line.trim_start_matches("part: "));
    }
    Ok(())
}

fn begin() -> io::Result<()> {
    println!("go");
    io::stdout().flush()
}

/// tokio installs its handlers with SA_RESTART, as most programs do.
fn signals(mut end: End, max: usize) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _inside = runtime.enter();
    let _handler = signal(SignalKind::user_defined1())?;
    begin()?;
    let _ = end.recv(max);
    Ok(())
}

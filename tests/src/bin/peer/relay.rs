//! A proxy that moves bytes by splice(2), and where that is refused by reading and writing, as Go's
//! `io.Copy` and HAProxy do. All of its sockets are non-blocking.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use serde_json::json;

/// Prints a line of JSON for each connection when it has ended.
#[derive(Args)]
pub struct RelayArgs {
    listen: SocketAddr,
    to: SocketAddr,
}

#[derive(Default)]
struct Moved {
    spliced: u64,
    copied: u64,
    /// Times that splice was refused.
    refused: u64,
}

const BLOCK: usize = 64 << 10;

pub fn run(args: &RelayArgs) -> io::Result<()> {
    let listener = TcpListener::bind(args.listen)?;
    listener.set_nonblocking(true)?;
    loop {
        ready(&listener, PollFlags::IN)?;
        let (near, _) = listener.accept()?;
        near.set_nonblocking(true)?;
        let far = dial(args.to)?;
        let (up, down) = thread::scope(|scope| {
            let up = scope.spawn(|| direction(&near, &far));
            let down = direction(&far, &near);
            (up.join().expect("directions do not panic"), down)
        });
        let (up, down) = (up?, down?);
        let line = json!({
            "spliced": up.spliced + down.spliced,
            "copied": up.copied + down.copied,
            "refused": up.refused + down.refused,
        });
        println!("{line}");
        io::stdout().flush()?;
    }
}

fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match connect(&fd, &to) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => ready(&fd, PollFlags::OUT)?,
        Err(e) => return Err(e.into()),
    }
    Ok(TcpStream::from(fd))
}

fn ready(fd: &impl std::os::fd::AsFd, want: PollFlags) -> io::Result<()> {
    poll(&mut [PollFd::new(fd, want)], None)?;
    Ok(())
}

/// To the end of the stream.
fn direction(from: &TcpStream, to: &TcpStream) -> io::Result<Moved> {
    let mut moved = Moved::default();
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    loop {
        match splice(from, None, &into, None, BLOCK, flags) {
            Ok(0) => break,
            Ok(n) => {
                moved.spliced += n as u64;
                let mut left = n;
                while left > 0 {
                    match splice(&out, None, to, None, left, flags) {
                        Ok(n) => left -= n,
                        Err(Errno::AGAIN) => ready(to, PollFlags::OUT)?,
                        Err(e) => return Err(e.into()),
                    }
                }
            }
            Err(Errno::AGAIN) => ready(from, PollFlags::IN)?,
            Err(Errno::INVAL) => {
                moved.refused += 1;
                moved.copied += copy(from, to)?;
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    // Fails only if the other end has reset.
    let _ = to.shutdown(Shutdown::Write);
    Ok(moved)
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<u64> {
    let (mut block, mut sum) = (vec![0; BLOCK], 0);
    loop {
        let mut rest = match from.read(&mut block) {
            Ok(0) => return Ok(sum),
            Ok(n) => &block[..n],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                ready(from, PollFlags::IN)?;
                continue;
            }
            Err(e) => return Err(e),
        };
        sum += rest.len() as u64;
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready(to, PollFlags::OUT)?,
                Err(e) => return Err(e),
            }
        }
    }
}

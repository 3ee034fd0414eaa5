//! The client: does what it is told, one command at a time.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::Duration,
};

use super::{
    MESSAGE, open,
    protocol::{Answer, Command, Watched},
    run::perform,
    server::answer,
    stall::stall,
};

/// Does what standard input says until it ends.
pub fn run() -> io::Result<()> {
    answer(&Answer::Ready)?;
    let mut stalled = Vec::new();
    for line in io::stdin().lock().lines() {
        let reply = match serde_json::from_str(&line?) {
            Ok(Command::Run(load)) => perform(&load).map(Answer::Ran),
            Ok(Command::RunAt(load, rate)) => open::perform(&load, rate).map(Answer::Ran),
            Ok(Command::Try(target)) => Ok(attempt(target)),
            Ok(Command::Watch {
                target,
                wanted,
                seconds,
                rest_us,
            }) => {
                let (within, rest) = (
                    Duration::from_secs_f64(seconds),
                    Duration::from_micros(rest_us),
                );
                watch(target, wanted, within, rest).map(Answer::Watched)
            }
            Ok(Command::Stall(wanted)) => stall(&wanted).map(|(connections, bytes)| {
                stalled = connections;
                Answer::Stalled(bytes)
            }),
            Ok(Command::Release) => {
                stalled.clear();
                Ok(Answer::Done)
            }
            other => Ok(Answer::Failed(format!("a client does not do {other:?}"))),
        };
        answer(&reply.unwrap_or_else(|e| Answer::Failed(e.to_string())))?;
    }
    Ok(())
}

fn attempt(target: SocketAddrV4) -> Answer {
    match exchange(target) {
        Ok(_) => Answer::Tried {
            errno: None,
            error: None,
        },
        Err(e) => Answer::Tried {
            errno: e.raw_os_error(),
            error: Some(e.to_string()),
        },
    }
}

/// One connect and request; the response, and when the connect call began and returned.
fn exchange(target: SocketAddrV4) -> io::Result<([u8; MESSAGE], Duration, Duration)> {
    let before = super::now();
    let mut stream = TcpStream::connect(target)?;
    let after = super::now();
    let mut message = [b'u'; MESSAGE];
    // The first on its connection.
    message[MESSAGE - 1] = 0;
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok((message, before, after))
}

fn watch(
    target: SocketAddrV4,
    wanted: Ipv4Addr,
    within: Duration,
    rest: Duration,
) -> io::Result<Watched> {
    let end = super::now() + within;
    let (mut connects, mut errors) = (0, 0);
    loop {
        connects += 1;
        match exchange(target) {
            Ok((response, before, after)) if response[..4] == wanted.octets() => {
                return Ok(Watched {
                    before_ns: before.as_nanos() as u64,
                    after_ns: after.as_nanos() as u64,
                    connects,
                    errors,
                });
            }
            Ok(_) => {}
            Err(_) => {
                errors += 1;
                std::thread::sleep(rest);
            }
        }
        if super::now() > end {
            let why = format!("{wanted} did not answer within {within:?} ({connects} connects)");
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}

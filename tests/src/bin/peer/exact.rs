//! The byte-exact runs: every behavior of `underpass_tests::bytes`, counted at both ends.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use clap::Args;
use underpass_tests::bytes::{ALL, Act, Count, Step, plan};

use super::socket::{Tally, connect_tcp, half_close, reset};

#[derive(Args)]
pub struct ServerArgs {
    /// Address and first port.
    #[arg(long)]
    listen: SocketAddr,
}

#[derive(Args)]
pub struct ClientArgs {
    /// Address and first port.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Connections at a time.
    #[arg(long, default_value_t = 8)]
    parallel: usize,
    /// Only this behavior, once: `killed` and `write-and-exit` need a process each.
    #[arg(long)]
    only: Option<String>,
}

pub fn serve(args: &ServerArgs) -> io::Result<()> {
    for act in ALL {
        let at = SocketAddr::new(args.listen.ip(), act.port(args.listen.port()));
        let listener = TcpListener::bind(at)?;
        thread::spawn(move || {
            // The address comes from `accept`: a reset connection has no `peer_addr` any more.
            while let Ok((stream, peer)) = listener.accept() {
                thread::spawn(move || print(act, peer.port(), &answer(act, &stream)));
            }
        });
    }
    // Until standard input closes.
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn print(act: Act, port: u16, tally: &Tally) {
    let Tally {
        sent,
        received,
        errno,
    } = *tally;
    let count = Count {
        act,
        port,
        sent,
        received,
        errno,
    };
    let line = serde_json::to_string(&count).expect("integers and a name");
    let mut out = io::stdout().lock();
    // The test's end of the pipe closes only when the test ends.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The server's side.
fn answer(act: Act, stream: &TcpStream) -> Tally {
    let mut tally = Tally::default();
    match act {
        Act::Empty | Act::Idle | Act::WriteAndExit => tally.receive(stream, u64::MAX),
        Act::HalfClose => {
            if let Some(down) = tally.request(stream) {
                tally.receive(stream, u64::MAX);
                tally.send(stream, down);
            }
        }
        Act::ResetThenRead => {
            thread::sleep(Duration::from_millis(100));
            tally.receive(stream, u64::MAX);
        }
        Act::Unread => {
            if let Some(down) = tally.request(stream) {
                tally.send(stream, down);
                tally.receive(stream, u64::MAX);
            }
        }
        Act::Duplex => {
            if let Some(down) = tally.request(stream) {
                duplex(&mut tally, stream, down);
            }
        }
        Act::Killed => {
            // The client is killed long before; a part is read, the rest is reset by the close.
            thread::sleep(Duration::from_secs(2));
            tally.receive(stream, 100_000);
        }
    }
    tally
}

/// Sends `len` bytes and half-closes while it reads to the end.
fn duplex(tally: &mut Tally, stream: &TcpStream, len: u64) {
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut up = Tally::default();
            up.send(stream, len);
            half_close(stream);
            up
        });
        tally.receive(stream, u64::MAX);
        sender.join().expect("the sender does not panic")
    });
    tally.sent += sent.sent;
    tally.errno = tally.errno.max(sent.errno);
}

pub fn dial(args: &ClientArgs) -> io::Result<()> {
    if let Some(only) = &args.only {
        let act: Act = serde_json::from_value(only.as_str().into())?;
        return alone(act, args);
    }
    let steps = plan(args.seed, args.count);
    let lanes = args.parallel.max(1);
    thread::scope(|scope| {
        let run_lane = |lane: usize| -> io::Result<()> {
            for step in steps.iter().skip(lane).step_by(lanes) {
                one(*step, args.to)?;
            }
            Ok(())
        };
        let handles: Vec<_> = (0..lanes)
            .map(|lane| scope.spawn(move || run_lane(lane)))
            .collect();
        handles
            .into_iter()
            .try_for_each(|h| h.join().expect("lanes do not panic"))
    })
}

/// The behaviors that end the process.
fn alone(act: Act, args: &ClientArgs) -> io::Result<()> {
    let stream = connect(act, args.to)?;
    let port = stream.local_addr()?.port();
    let mut tally = Tally::default();
    match act {
        Act::Killed => {
            stream.set_nonblocking(true)?;
            // Until the kernel's buffers have stopped growing.
            for _ in 0..20 {
                tally.send(&stream, u64::MAX);
                thread::sleep(Duration::from_millis(10));
            }
            print(act, port, &tally);
            loop {
                thread::park();
            }
        }
        Act::WriteAndExit => {
            tally.send(&stream, args.seed % 200_000);
            print(act, port, &tally);
            std::process::exit(0);
        }
        _ => Err(io::Error::other(
            "this behavior needs no process of its own",
        )),
    }
}

fn connect(act: Act, to: SocketAddr) -> io::Result<TcpStream> {
    connect_tcp(SocketAddr::new(to.ip(), act.port(to.port())), None)
}

/// The client's side of one step.
fn one(step: Step, to: SocketAddr) -> io::Result<()> {
    let Step { act, up, down } = step;
    let stream = connect(act, to)?;
    let port = stream.local_addr()?.port();
    let mut tally = Tally::default();
    match act {
        Act::Empty => {}
        Act::Idle => thread::sleep(Duration::from_millis(200)),
        Act::HalfClose => {
            tally.send_request(&stream, up, down);
            half_close(&stream);
            tally.receive(&stream, u64::MAX);
        }
        Act::ResetThenRead => {
            tally.send_request(&stream, up, down);
            print(act, port, &tally);
            return reset(stream);
        }
        Act::Unread => {
            tally.send_request(&stream, up, down);
            tally.receive(&stream, down / 2);
        }
        Act::Duplex => {
            tally.send_request(&stream, 8, down);
            duplex(&mut tally, &stream, up - 8);
        }
        Act::Killed | Act::WriteAndExit => {
            return Err(io::Error::other("needs a process of its own"));
        }
    }
    drop(stream);
    print(act, port, &tally);
    Ok(())
}

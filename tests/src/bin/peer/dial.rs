//! One connect with everything that the application can see of it.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use super::socket::{connect_by, errno, mapped};

#[derive(Args)]
pub struct DialArgs {
    /// Where to; none: one address per line of standard input, until it closes.
    to: Option<SocketAddr>,
    /// Bind to this address first.
    #[arg(long)]
    from: Option<SocketAddr>,
    /// Bind to this device first.
    #[arg(long)]
    device: Option<String>,
    /// Dial the IPv4-mapped form on an IPv6 socket.
    #[arg(long)]
    mapped: bool,
    /// Bytes to send after the connect and to wait for.
    #[arg(long, default_value_t = 0)]
    echo: usize,
    /// Stay connected until the peer ends it or this many seconds passed; prints a second line.
    #[arg(long)]
    hold: Option<f64>,
}

pub fn run(args: &DialArgs) -> io::Result<()> {
    if let Some(to) = args.to {
        let (stream, line) = dial(args, to);
        say(&line)?;
        return match (stream, args.hold) {
            (Some(stream), Some(seconds)) => say(&hold(stream, seconds)?),
            _ => Ok(()),
        };
    }
    for line in io::stdin().lock().lines() {
        let line = line?;
        let to = line
            .trim()
            .parse()
            .map_err(|e| io::Error::other(format!("{line}: {e}")))?;
        say(&dial(args, to).1)?;
    }
    Ok(())
}

fn say(line: &Value) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}

fn dial(args: &DialArgs, to: SocketAddr) -> (Option<TcpStream>, Value) {
    let target = if args.mapped { mapped(to) } else { to };
    let before = Instant::now();
    let result = connect_by(target, args.from, args.device.as_deref());
    let us = before.elapsed().as_nanos() as f64 / 1_000.0;
    let mut stream = match result {
        Ok(stream) => stream,
        Err(e) => {
            let line = json!({"to": to.to_string(), "ok": false, "errno": errno(&e), "error": e.to_string(), "us": us});
            return (None, line);
        }
    };
    let mut block = vec![0x21; args.echo];
    let echoed = stream
        .write_all(&block)
        .and_then(|()| stream.read_exact(&mut block));
    let name = |a: io::Result<SocketAddr>| a.map(|a| a.to_string()).unwrap_or_default();
    let line = json!({
        "to": to.to_string(), "ok": true, "errno": 0, "us": us,
        "local": name(stream.local_addr()),
        "peer": name(stream.peer_addr()),
        "echo_errno": echoed.err().map_or(0, |e| errno(&e)),
    });
    (Some(stream), line)
}

/// Waits for the end of the connection and says how it came.
fn hold(mut stream: TcpStream, seconds: f64) -> io::Result<Value> {
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs_f64(seconds)))?;
    let ended = match stream.read(&mut [0; 1]) {
        Ok(0) => "eof".to_owned(),
        Ok(_) => "data".to_owned(),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) =>
        {
            "open".to_owned()
        }
        Err(e) => errno(&e).to_string(),
    };
    let after_ms = start.elapsed().as_millis() as u64;
    // The row must be seen open before it closes.
    thread::yield_now();
    Ok(json!({"ended": ended, "after_ms": after_ms}))
}

//! UDP echo server and client.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use clap::Args;
use serde_json::json;

use super::socket::{errno, mapped};

#[derive(Args)]
pub struct EchoArgs {
    listen: SocketAddr,
    /// Put in front of each answer, to tell endpoints apart.
    #[arg(long, default_value = "")]
    name: String,
}

#[derive(Args)]
pub struct ClientArgs {
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Connect the socket first.
    #[arg(long)]
    connected: bool,
    #[arg(long)]
    mapped: bool,
}

pub fn echo(args: &EchoArgs) -> io::Result<()> {
    let socket = UdpSocket::bind(args.listen)?;
    println!("{}", json!({"listening": socket.local_addr()?.to_string()}));
    io::stdout().flush()?;
    let mut block = vec![0; 64 << 10];
    loop {
        let (got, from) = socket.recv_from(&mut block)?;
        let answer = [args.name.as_bytes(), &block[..got]].concat();
        socket.send_to(&answer, from)?;
    }
}

/// One JSON line per datagram: the errno of the send, who answered and with what.
pub fn client(args: &ClientArgs) -> io::Result<()> {
    let to = if args.mapped {
        mapped(args.to)
    } else {
        args.to
    };
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    if args.connected
        && let Err(e) = socket.connect(to)
    {
        println!(
            "{}",
            json!({"ok": false, "errno": errno(&e), "call": "connect"})
        );
        return Ok(());
    }
    for i in 0..args.count {
        println!("{}", exchange(&socket, args.connected, to, i));
        io::stdout().flush()?;
    }
    Ok(())
}

fn exchange(socket: &UdpSocket, connected: bool, to: SocketAddr, number: u32) -> serde_json::Value {
    let text = format!("datagram {number}");
    let sent = if connected {
        socket.send(text.as_bytes())
    } else {
        socket.send_to(text.as_bytes(), to)
    };
    if let Err(e) = sent {
        return json!({"ok": false, "errno": errno(&e), "call": "send"});
    }
    let mut block = [0; 2048];
    match socket.recv_from(&mut block) {
        Ok((got, from)) => json!({
            "ok": true,
            "from": from.to_string(),
            "local": socket.local_addr().map(|a| a.to_string()).unwrap_or_default(),
            "peer": socket.peer_addr().map(|a| a.to_string()).unwrap_or_default(),
            "answer": String::from_utf8_lossy(&block[..got]),
        }),
        Err(e) => json!({"ok": false, "errno": errno(&e), "call": "receive"}),
    }
}

//! A worker of a few lines: accepts what the kernel sends to its door, asks what was dialed, and moves
//! bytes between the two connections. All of its sockets are non-blocking and read until they are empty.

use std::{
    io::{self, Write as _},
    net::{Ipv6Addr, SocketAddr},
};

use clap::Args;
use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst, socket_peercred};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

#[derive(Args)]
pub struct DoorArgs {
    port: u16,
    /// Where to forward; none: to where the client dialed.
    to: Option<SocketAddr>,
    /// A steered port: where the client dialed is this socket's own address.
    #[arg(long)]
    inbound: bool,
}

pub fn run(args: &DoorArgs) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_io().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &DoorArgs) -> io::Result<()> {
    let socket = TcpSocket::new_v6()?;
    socket.bind((Ipv6Addr::UNSPECIFIED, args.port).into())?;
    let listener: TcpListener = socket.listen(4096)?;
    say(&json!({"listening": args.port}))?;
    loop {
        let (near, peer) = listener.accept().await?;
        let (to, inbound) = (args.to, args.inbound);
        tokio::spawn(async move {
            // The connection ends with this task, and its line says how.
            let line = match connection(near, peer, to, inbound).await {
                Ok(line) => line,
                Err(e) => {
                    json!({"peer": peer.to_string(), "failed": e.to_string(), "errno": e.raw_os_error()})
                }
            };
            let _ = say(&line);
        });
    }
}

fn say(line: &serde_json::Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// What the client dialed.
fn original(near: &TcpStream) -> io::Result<SocketAddr> {
    let local = near.local_addr()?;
    if local.ip().to_canonical().is_ipv4() {
        Ok(SocketAddr::V4(ip_original_dst(near)?))
    } else {
        Ok(SocketAddr::V6(ipv6_original_dst(near)?))
    }
}

async fn connection(
    mut near: TcpStream,
    peer: SocketAddr,
    to: Option<SocketAddr>,
    inbound: bool,
) -> io::Result<serde_json::Value> {
    let local = near.local_addr()?;
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    let original = if inbound { local } else { original(&near)? };
    // Who dialed a steered connection: kind and workload index.
    let cred = socket_peercred(&near).ok();
    let who = cred.map(|c| (c.pid.as_raw_nonzero().get(), c.uid.as_raw()));
    let accepted = json!({
        "who": who,
        "accepted": local.to_string(),
        "peer": SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string(),
        "original": original.to_string(),
    });
    say(&accepted)?;
    let mut far = TcpStream::connect(to.unwrap_or(original)).await?;
    let (up, down) = tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(json!({"ended": original.to_string(), "up": up, "down": down}))
}

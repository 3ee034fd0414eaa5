//! The smallest HTTP/1.1 client: one GET, to the end of the connection.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;

#[derive(Args)]
pub struct FetchArgs {
    at: SocketAddr,
    path: String,
}

pub fn run(args: &FetchArgs) -> io::Result<()> {
    let mut stream = TcpStream::connect(args.at)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let FetchArgs { at, path } = args;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::InvalidData)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(
            head.lines().next().unwrap_or_default().to_owned(),
        ));
    }
    io::stdout().write_all(body.as_bytes())
}

//! A socket made by one process and connected by another.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::Instant,
};

use clap::Args;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;
use underpass_tests::passed::receive;

use super::socket::{errno, unconnected};

#[derive(Args)]
pub struct SendArgs {
    /// Unix socket on which the other process waits.
    socket: PathBuf,
    #[arg(long)]
    v6: bool,
}

#[derive(Args)]
pub struct DialArgs {
    /// Unix socket to make.
    socket: PathBuf,
    to: SocketAddr,
}

pub fn send(args: &SendArgs) -> io::Result<()> {
    let made = unconnected(args.v6)?;
    let stream = UnixStream::connect(&args.socket)?;
    let fds = [made.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for the descriptor"));
    }
    sendmsg(
        &stream,
        &[IoSlice::new(b"s")],
        &mut control,
        SendFlags::empty(),
    )?;
    // Both processes hold the socket until the other one is done.
    io::copy(&mut &stream, &mut io::sink())?;
    Ok(())
}

pub fn dial(args: &DialArgs) -> io::Result<()> {
    let listener = UnixListener::bind(&args.socket)?;
    println!("{}", json!({"listening": true}));
    let (stream, _) = listener.accept()?;
    let fd = receive(&stream)?;
    let before = Instant::now();
    let result = rustix::net::connect(&fd, &args.to).map_err(io::Error::from);
    let code = result.as_ref().err().map_or(0, errno);
    println!(
        "{}",
        json!({"ok": result.is_ok(), "errno": code, "us": before.elapsed().as_micros() as u64})
    );
    Ok(())
}

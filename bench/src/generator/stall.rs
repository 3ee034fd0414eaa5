//! A client that sends to readers that never read, until the kernel takes no more.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    Exchange,
    protocol::Stall,
    slot::{Dial, Slot},
};

/// Nothing more will be taken if nothing was for so long: a little more than the time after which TCP
/// probes a window that was closed.
const STILL: Duration = Duration::from_millis(400);
const REST: Duration = Duration::from_millis(5);
const WITHIN: Duration = Duration::from_secs(60);

/// The connections, and the bytes that each took.
pub fn stall(wanted: &Stall) -> io::Result<(Vec<OwnedFd>, Vec<u64>)> {
    // All before the first write: what is learnt from one must not keep the next from the shortcut.
    let mut connections = Vec::new();
    for _ in 0..wanted.connections {
        connections.push(dial(wanted)?);
    }
    let mut bytes = vec![0; connections.len()];
    let message = vec![b'u'; wanted.write as usize];
    let begin = Instant::now();
    let mut last = begin;
    while last.elapsed() < STILL {
        let mut moved = false;
        for (fd, bytes) in connections.iter().zip(&mut bytes) {
            let taken = fill(fd, &message)?;
            *bytes += taken;
            moved |= taken > 0;
        }
        if moved {
            last = Instant::now();
        }
        if begin.elapsed() > WITHIN {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it never stalls"));
        }
        std::thread::sleep(REST);
    }
    Ok((connections, bytes))
}

fn dial(wanted: &Stall) -> io::Result<OwnedFd> {
    let mut slot = Slot::default();
    let exchange = Exchange::stream(wanted.write);
    slot.connect(&Dial::Tcp(wanted.target), &exchange, false)?;
    slot.fd.ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// Writes until the kernel takes no more; the bytes that it took.
fn fill(fd: &OwnedFd, message: &[u8]) -> io::Result<u64> {
    let mut bytes = 0;
    loop {
        match rustix::io::write(fd, message) {
            Ok(n) => bytes += n as u64,
            Err(Errno::AGAIN) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

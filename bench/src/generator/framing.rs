//! Messages of one size in a stream of bytes. The last byte of each is its number on the connection
//! (modulo 256): bytes that are lost, doubled or out of place change what stands there.

use std::{io, os::fd::AsFd};

/// What comes in.
#[derive(Debug, Default)]
pub struct Inbound {
    /// Bytes of the current message that have come.
    pub got: usize,
    number: u8,
}

impl Inbound {
    /// Takes what was read; the number of messages that it completed, `None` if one has a wrong number.
    pub fn take(&mut self, bytes: &[u8], message: usize) -> Option<u64> {
        let (mut at, mut complete) = (0, 0);
        while bytes.len() - at >= message - self.got {
            at += message - self.got;
            if bytes[at - 1] != self.number {
                return None;
            }
            self.got = 0;
            self.number = self.number.wrapping_add(1);
            complete += 1;
        }
        self.got += bytes.len() - at;
        Some(complete)
    }
}

/// What goes out.
#[derive(Debug, Default)]
pub struct Outbound {
    /// Bytes that the kernel has not taken, of all messages begun.
    pub unsent: usize,
    number: u8,
}

impl Outbound {
    /// Sends what is due, `write` bytes with each call; false if the kernel takes no more now.
    /// `message` holds the bytes of one message, of which the last is set here.
    pub fn flush(&mut self, fd: impl AsFd, message: &mut [u8], write: usize) -> io::Result<bool> {
        while self.unsent > 0 {
            let left = (self.unsent - 1) % message.len() + 1;
            let from = message.len() - left;
            let to = from - from % write + write;
            message[message.len() - 1] = self.number;
            match rustix::io::write(&fd, &message[from..to]) {
                Ok(n) => {
                    self.unsent -= n;
                    if n == left {
                        self.number = self.number.wrapping_add(1);
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn what_is_sent_in_parts_comes_in_as_messages() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut out = Outbound::default();
        let mut message = vec![b'u'; 64];
        out.unsent = 3 * 64;
        assert!(out.flush(&ours, &mut message, 16).unwrap());
        let mut bytes = [0; 192];
        theirs.read_exact(&mut bytes).unwrap();
        let mut inbound = Inbound::default();
        let counts: Vec<_> = [&bytes[..10], &bytes[10..64], &bytes[64..191], &bytes[191..]]
            .map(|part| inbound.take(part, 64))
            .into();
        assert_eq!(counts, [Some(0), Some(1), Some(1), Some(1)]);
        assert_eq!(inbound.got, 0);
    }

    #[test]
    fn a_byte_that_is_lost_or_out_of_place_is_noticed() {
        let (mut first, mut second) = ([b'u'; 64], [b'u'; 64]);
        (first[63], second[63]) = (0, 1);
        let take = |bytes: &[u8]| Inbound::default().take(bytes, 64);
        assert_eq!(take(&[first, second].concat()), Some(2));
        assert_eq!(take(&[second, first].concat()), None);
        assert_eq!(take(&[&first[1..], &second[..]].concat()), None);
        assert_eq!(take(&[first, first].concat()), None);
    }

    #[test]
    fn a_full_socket_keeps_the_rest_for_later() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (mut out, mut inbound) = (Outbound::default(), Inbound::default());
        let mut message = vec![b'u'; 1 << 20];
        out.unsent = 2 << 20;
        let (mut complete, mut waits) = (0, 0);
        let mut bytes = vec![0; 100_000];
        while complete < 2 {
            waits += u32::from(!out.flush(&ours, &mut message, 1 << 20).unwrap());
            while let Ok(n) = theirs.read(&mut bytes) {
                complete += inbound.take(&bytes[..n], 1 << 20).unwrap();
            }
        }
        assert!(waits > 0);
        assert_eq!((out.unsent, inbound.got), (0, 0));
    }
}

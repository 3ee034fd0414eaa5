//! Frames and descriptors over a SOCK_SEQPACKET Unix socket. Never blocks.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with, socketpair,
        sockopt,
    },
};

use super::frame::{FDS_MAX, Frame, MESSAGE_MAX, Malformed};

/// Bytes that wait in the kernel for a peer that does not read: some twenty messages with their
/// descriptors. What does not fit is told to the sender.
const SEND_BUFFER: usize = 32 << 10;

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Why nothing could be read.
#[derive(Debug)]
pub enum Broken {
    Io(io::Error),
    Malformed(Malformed),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Malformed(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Broken {}

impl From<Malformed> for Broken {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e)
    }
}

/// What one look at the socket gave.
#[derive(Debug)]
pub enum Received {
    Frame(Frame, Vec<OwnedFd>),
    /// Nothing is there.
    Empty,
    /// The peer has closed, or ended.
    Closed,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl Channel {
    /// Two ends, closed on exec unless handed on as standard input.
    ///
    /// # Errors
    /// Of `socketpair`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        for end in [&a, &b] {
            sockopt::set_socket_send_buffer_size(end, SEND_BUFFER)?;
        }
        Ok((Self(a), Self(b)))
    }

    /// # Errors
    /// If the descriptor is no SEQPACKET socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if sockopt::socket_type(&fd)? != SocketType::SEQPACKET {
            return Err(io::Error::other("no SEQPACKET socket"));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(fd))
    }

    /// The end that the process was started with.
    ///
    /// # Errors
    /// If standard input is no such socket.
    pub fn from_stdin() -> io::Result<Self> {
        Self::from_fd(io::stdin().as_fd().try_clone_to_owned()?)
    }

    /// # Errors
    /// If nobody listens at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = unix_socket(SocketFlags::CLOEXEC)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::from_fd(socket)
    }

    /// Sends whole or not at all.
    ///
    /// # Errors
    /// `WouldBlock` if the peer has not read what it was sent before; `InvalidInput` for more than
    /// [`FDS_MAX`] descriptors or too long a text.
    pub fn send(&self, frame: &Frame, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let invalid = |e: Malformed| io::Error::new(io::ErrorKind::InvalidInput, e);
        let bytes = frame.encode().map_err(invalid)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // Alignment leaves room for one more.
        if fds.len() > FDS_MAX {
            return Err(invalid(Malformed::Descriptors));
        }
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(invalid(Malformed::Descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.0, &[io::IoSlice::new(&bytes)], &mut control, flags)?;
        Ok(())
    }

    /// One message. Descriptors of a message that is refused are closed.
    ///
    /// # Errors
    /// For bytes that are no message, and whatever `recvmsg` refuses.
    pub fn recv(&self) -> Result<Received, Broken> {
        let mut bytes = [0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut into = [io::IoSliceMut::new(&mut bytes)];
        let got = loop {
            match recvmsg(&self.0, &mut into, &mut control, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                Err(Errno::CONNRESET) => return Ok(Received::Closed),
                other => break other.map_err(|e| Broken::Io(e.into()))?,
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 {
            return Ok(Received::Closed);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(Malformed::Length.into());
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Malformed::Descriptors.into());
        }
        Ok(Received::Frame(Frame::decode(&bytes[..got.bytes])?, fds))
    }
}

/// A listening control socket.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Replaces whatever socket is at `path`; mode 0600.
    ///
    /// # Errors
    /// If the path cannot be bound.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = unix_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        // Before `listen` nobody can connect, whatever the umask was.
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        listen(&socket, 16)?;
        Ok(Self(socket))
    }

    /// A client and its user id; `None` if there is none yet.
    ///
    /// # Errors
    /// Of `accept`.
    pub fn accept(&self) -> io::Result<Option<(Channel, u32)>> {
        match accept_with(&self.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => {
                let uid = sockopt::socket_peercred(&fd)?.uid.as_raw();
                Ok(Some((Channel(fd), uid)))
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

fn unix_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_descriptors_arrive_together() {
        let (a, b) = Channel::pair().unwrap();
        assert!(matches!(a.recv(), Ok(Received::Empty)));
        let frame = Frame {
            id: 7,
            text: "hello".into(),
            ..Frame::of(3)
        };
        let null = fs::File::open("/dev/null").unwrap();
        b.send(&frame, &[null.as_fd(), null.as_fd()]).unwrap();
        let Ok(Received::Frame(got, fds)) = a.recv() else {
            panic!("nothing came")
        };
        assert_eq!((got, fds.len()), (frame.clone(), 2));
        let many = vec![null.as_fd(); FDS_MAX + 1];
        assert_eq!(
            b.send(&frame, &many).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        drop(b);
        assert!(matches!(a.recv(), Ok(Received::Closed)));
    }

    #[test]
    fn who_does_not_read_is_not_waited_for() {
        let (a, b) = Channel::pair().unwrap();
        let sent = (0..10_000)
            .take_while(|_| a.send(&Frame::of(1), &[]).is_ok())
            .count();
        assert!((8..1000).contains(&sent), "{sent}");
        let full = a.send(&Frame::of(1), &[]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(b.recv(), Ok(Received::Frame(..))));
    }

    #[test]
    fn a_packet_that_is_too_long_is_refused() {
        let (a, b) = Channel::pair().unwrap();
        let long = [1_u8; MESSAGE_MAX + 1];
        rustix::net::send(&a, &long, SendFlags::empty()).unwrap();
        assert!(matches!(
            b.recv(),
            Err(Broken::Malformed(Malformed::Length))
        ));
    }
}

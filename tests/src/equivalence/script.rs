//! One end of a connection: each call writes its result to the transcript.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, ioctl_fionread},
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt},
};

use super::{
    pattern::Pattern,
    transcript::{Log, done, errno, polled, shown},
};

/// How long a script waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must come before a script takes it that nothing will.
pub const QUIET_MS: i64 = 250;

pub struct End {
    pub name: String,
    fd: OwnedFd,
    pub log: Log,
    mine: Pattern,
    theirs: Pattern,
    pub sent: u64,
    pub got: u64,
    /// The last read gave the end or an error.
    pub ended: bool,
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl End {
    /// `seeds`: of the bytes that this end sends and of those that it gets.
    pub fn new(name: &str, fd: OwnedFd, log: &Log, seeds: (u64, u64)) -> Self {
        Self {
            name: name.to_owned(),
            fd,
            log: log.clone(),
            mine: Pattern::new(seeds.0),
            theirs: Pattern::new(seeds.1),
            sent: 0,
            got: 0,
            ended: false,
        }
    }

    /// Another descriptor of the same socket, at the same place in both streams.
    pub fn dup(&self, name: &str) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            fd: self.fd.try_clone()?,
            log: self.log.clone(),
            ..*self
        })
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn note(&self, what: impl std::fmt::Display) {
        self.log.line(&self.name, what);
    }

    // --- sending ---

    pub fn send(&mut self, len: usize) -> Result<usize, Errno> {
        self.send_flags(len, SendFlags::empty(), "")
    }

    /// `how` names the flags in the transcript.
    pub fn send_flags(&mut self, len: usize, flags: SendFlags, how: &str) -> Result<usize, Errno> {
        let bytes = self.mine.bytes(self.sent, len);
        let result = send(&self.fd, &bytes, flags | SendFlags::NOSIGNAL);
        self.sent += result.unwrap_or(0) as u64;
        self.note(format!("send{how} {len} = {}", shown(result)));
        result
    }

    pub fn send_vectored(&mut self, lens: &[usize]) -> io::Result<usize> {
        let total = lens.iter().sum();
        let bytes = self.mine.bytes(self.sent, total);
        let mut rest = &bytes[..];
        let mut slices = Vec::new();
        for len in lens {
            let (slice, after) = rest.split_at(*len);
            slices.push(IoSlice::new(slice));
            rest = after;
        }
        let result = rustix::io::writev(&self.fd, &slices);
        self.sent += result.unwrap_or(0) as u64;
        self.note(format!("writev {lens:?} = {}", shown(result)));
        Ok(result?)
    }

    pub fn mine(&self) -> Pattern {
        self.mine
    }

    pub fn theirs(&self) -> Pattern {
        self.theirs
    }

    /// The bytes that a call outside this type is about to send.
    pub fn next_bytes(&self, len: usize) -> Vec<u8> {
        self.mine.bytes(self.sent, len)
    }

    /// Sends until the kernel takes no more; how much that was is not noted, since buffers grow by
    /// measured times. A first refusal counts only when it lasts: TCP frees memory with each ACK.
    pub fn fill(&mut self, chunk: usize, limit: u64) -> u64 {
        let (before, mut refused) = (self.sent, None);
        let why = loop {
            let bytes = self.mine.bytes(self.sent, chunk);
            match send(&self.fd, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => {
                    self.sent += n as u64;
                    refused = None;
                }
                Err(Errno::AGAIN) => {
                    let since = *refused.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_millis(100) {
                        break "EAGAIN".to_owned();
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Err(e) => break errno(&e.into()),
            }
            if self.sent - before > limit {
                break format!("more than {limit}");
            }
        };
        self.note(format!("fill {chunk} ends with {why}"));
        self.sent - before
    }

    /// Sends all of `len`, waiting for room.
    pub fn send_all(&mut self, len: u64, chunk: usize) -> io::Result<()> {
        let mut left = len;
        let result = loop {
            if left == 0 {
                break Ok(());
            }
            let bytes = self.mine.bytes(self.sent, chunk.min(left as usize));
            match send(&self.fd, &bytes, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.sent += n as u64;
                    left -= n as u64;
                }
                Err(Errno::AGAIN) => {
                    if !self.ready(PollFlags::OUT, PATIENCE) {
                        break Err(io::Error::other("no room in time"));
                    }
                }
                Err(e) => break Err(e.into()),
            }
        };
        let why = result.as_ref().err().map_or("ok".to_owned(), errno);
        self.note(format!("send all {len}: {} left, {why}", left));
        result
    }

    // --- receiving ---

    pub fn recv(&mut self, max: usize) -> Result<usize, Errno> {
        self.recv_flags(max, RecvFlags::empty(), "")
    }

    pub fn recv_flags(&mut self, max: usize, flags: RecvFlags, how: &str) -> Result<usize, Errno> {
        let mut buffer = vec![0; max];
        let result = recv(&self.fd, &mut buffer, flags).map(|(n, _)| n);
        let len = result.unwrap_or(0);
        self.ended = max > 0 && !matches!(result, Ok(1..) | Err(Errno::AGAIN));
        let check = if flags.contains(RecvFlags::TRUNC) {
            "".to_owned()
        } else {
            self.check(&buffer[..len.min(max)])
        };
        if !flags.contains(RecvFlags::PEEK) {
            self.got += len as u64;
        }
        self.note(format!("recv{how} {max} = {}{check}", shown(result)));
        result
    }

    pub fn recv_vectored(&mut self, lens: &[usize]) -> io::Result<usize> {
        let mut buffers: Vec<Vec<u8>> = lens.iter().map(|l| vec![0; *l]).collect();
        let mut slices: Vec<IoSliceMut> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let result = rustix::io::readv(&self.fd, &mut slices);
        let mut bytes = buffers.concat();
        bytes.truncate(result.unwrap_or(0));
        let check = self.check(&bytes);
        self.got += bytes.len() as u64;
        self.note(format!("readv {lens:?} = {}{check}", shown(result)));
        Ok(result?)
    }

    /// Marks received bytes that are not those sent; takes the place in the stream from `got`.
    pub fn check(&self, bytes: &[u8]) -> String {
        match self.theirs.wrong(self.got, bytes) {
            None => String::new(),
            Some(at) => format!(" WRONG at {at}"),
        }
    }

    /// Receives until `len` bytes, the end, or an error that is not EAGAIN. Notes only what is
    /// missing: where a stream is cut, and how much a full socket held, is chance.
    pub fn recv_all(&mut self, len: u64, chunk: usize) -> u64 {
        let mut buffer = vec![0; chunk];
        let (mut sum, mut wrong) = (0, String::new());
        let why = loop {
            if sum == len {
                break "all".to_owned();
            }
            let part = chunk.min((len - sum) as usize);
            match recv(&self.fd, &mut buffer[..part], RecvFlags::empty()) {
                Ok((0, _)) => break "end".to_owned(),
                Ok((n, _)) => {
                    wrong += &self.check(&buffer[..n]);
                    self.got += n as u64;
                    sum += n as u64;
                }
                Err(Errno::AGAIN) => {
                    if !self.ready(PollFlags::IN, PATIENCE) {
                        break "nothing more comes".to_owned();
                    }
                }
                Err(e) => break errno(&e.into()),
            }
            if wrong.len() > 100 {
                break "stopped".to_owned();
            }
        };
        self.note(format!("recv all: {} missing, {why}{wrong}", len - sum));
        sum
    }

    /// As [`End::recv_all`] to the end of the stream.
    pub fn drain(&mut self, expected: u64) {
        self.recv_all(expected, 64 << 10);
        let mut buffer = [0; 4096];
        let more = self
            .ready(PollFlags::IN, PATIENCE)
            .then(|| recv(&self.fd, &mut buffer, RecvFlags::empty()).map(|(n, _)| n));
        let more = more.map_or("nothing".to_owned(), shown);
        self.note(format!("after the last byte: {more}"));
    }

    pub fn fionread(&self) {
        self.note(format!("FIONREAD = {}", shown(ioctl_fionread(&self.fd))));
    }

    /// Lets what was sent arrive. Delivery over loopback happens inside `send`, unless the kernel
    /// puts it off under load.
    pub fn arrived(&self, unread: u64) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            if ioctl_fionread(&self.fd).is_ok_and(|n| n >= unread) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    // --- waiting ---

    pub fn poll(&self, want: PollFlags, ms: i64) {
        let (_, found) = self.poll_now(want, Duration::from_millis(ms as u64));
        self.note(format!("poll {} = {}", polled(want), polled(found)));
    }

    pub fn ready(&self, want: PollFlags, limit: Duration) -> bool {
        self.poll_now(want, limit).0 > 0
    }

    fn poll_now(&self, want: PollFlags, limit: Duration) -> (usize, PollFlags) {
        let mut fds = [PollFd::new(&self.fd, want)];
        let limit = Timespec::try_from(limit).expect("a few seconds");
        let count = poll(&mut fds, Some(&limit)).unwrap_or(0);
        (count, fds[0].revents())
    }

    // --- the rest ---

    pub fn shutdown(&self, how: Shutdown) {
        self.note(format!(
            "shutdown {how:?} = {}",
            done(shutdown(&self.fd, how))
        ));
    }

    pub fn error(&self) {
        let error = sockopt::socket_error(&self.fd).and_then(|e| e);
        self.note(format!("SO_ERROR = {}", done(error)));
    }

    pub fn close(self) {
        self.note("close");
    }

    /// Closes with a reset.
    pub fn abort(self) {
        let set = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
        self.note(format!("linger 0 = {}, close", done(set)));
    }

    pub fn blocking(&self, blocking: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&self.fd)?;
        flags.set(OFlags::NONBLOCK, !blocking);
        Ok(fcntl_setfl(&self.fd, flags)?)
    }
}

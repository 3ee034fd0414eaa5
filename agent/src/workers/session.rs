//! One connection to the vendor: a question, its answer.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt,
};
use underpass_abi::reason::code;
use underpass_api::vend::{
    channel::{Channel, Received},
    control::{Reply, Request},
};

use crate::problem::Problem;

/// How long an answer may take: a workload's end waits for its worker, 0.8 s at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A line of the status, word by word.
pub type Line = BTreeMap<String, String>;

/// What a vendor says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VendorLine {
    pub pid: u32,
    /// The cgroup2 directory below which the tenants' are; empty: it does not say.
    pub cgroup: PathBuf,
    /// All tenants have one worker.
    pub shared: bool,
    pub line: Line,
}

/// What became of a question.
#[derive(Debug)]
pub enum Answer {
    Done(Vec<String>),
    /// A code of the registry, and what failed.
    Refused(u16, String),
}

/// A connected vendor that runs as root.
pub struct Session(Channel);

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Session {
    /// # Errors
    /// If nobody listens there, or somebody else than root does.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let failed = |e: io::Error| {
            let text = format!("{}: {e}", path.display());
            Problem::warning(code::VENDOR_UNREACHABLE, text, "vendor")
        };
        let channel = Channel::connect(path).map_err(failed)?;
        // Who can bind the path could hand workers' sockets to others, and snapshots to anybody.
        let peer = sockopt::socket_peercred(&channel).map_err(|e| failed(e.into()))?;
        if !peer.uid.is_root() {
            let text = format!("{} is served by user {}", path.display(), peer.uid.as_raw());
            return Err(Problem::error(code::VEND_FORBIDDEN, text, "vendor"));
        }
        Ok(Self(channel))
    }

    /// # Errors
    /// If the vendor is lost; the session is of no use any more.
    pub fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Answer> {
        self.0.send(&request.frame(), fds)?;
        let until = Instant::now() + ANSWER_WITHIN;
        let mut lines = Vec::new();
        loop {
            match self.0.recv().map_err(io::Error::other)? {
                Received::Empty => self.wait(until)?,
                Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Received::Frame(frame, _) => match Reply::read(&frame).map_err(io::Error::other)? {
                    Reply::Done => return Ok(Answer::Done(lines)),
                    Reply::Refused { code, why } => return Ok(Answer::Refused(code, why)),
                    Reply::Line(line) => lines.push(line),
                },
            }
        }
    }

    fn wait(&self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The vendor, and its tenants by name.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub fn status(&self) -> io::Result<(VendorLine, BTreeMap<String, Line>)> {
        let lines = match self.ask(&Request::Status, &[])? {
            Answer::Done(lines) => lines,
            Answer::Refused(_, why) => return Err(io::Error::other(why)),
        };
        let mut vendor = VendorLine::default();
        let mut tenants = BTreeMap::new();
        for line in lines {
            let found = words(&line);
            if let Some(name) = found.get("tenant") {
                tenants.insert(name.clone(), found);
            } else if line.starts_with("vendor ") {
                vendor = VendorLine::of(found);
            }
        }
        Ok((vendor, tenants))
    }
}

impl VendorLine {
    fn of(line: Line) -> Self {
        let word = |key: &str| line.get(key).map(String::as_str).unwrap_or_default();
        Self {
            pid: word("pid").parse().unwrap_or(0),
            cgroup: word("cgroup").into(),
            shared: word("shared") == "yes",
            line,
        }
    }
}

fn words(line: &str) -> Line {
    let pair = |word: &str| {
        word.split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
    };
    line.split_whitespace().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_understood_word_by_word() {
        let vendor = VendorLine::of(words("vendor pid=12 cgroup=/sys/a shared=yes codes="));
        assert_eq!((vendor.pid, vendor.shared), (12, true));
        assert_eq!(vendor.cgroup, PathBuf::from("/sys/a"));
        assert_eq!(vendor.line.get("codes").map(String::as_str), Some(""));
        assert!(!VendorLine::of(words("vendor shared=no")).shared);
    }
}

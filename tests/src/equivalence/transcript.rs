//! What a script saw, line by line, for each of its actors.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::event::{PollFlags, epoll};

/// Shared by all actors of a case. Lines of one actor keep their order; actors are told apart,
/// since the order between threads is chance.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<(String, String)>>>);

impl Log {
    pub fn line(&self, who: &str, what: impl fmt::Display) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push((who.to_owned(), what.to_string()));
    }

    /// `who: what`, actors in the order of their names.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        lines
            .into_iter()
            .map(|(w, t)| format!("{w}: {t}"))
            .collect()
    }
}

/// A result as a transcript shows it: the value or the name of the error.
pub fn shown<T: fmt::Display, E: Into<io::Error>>(result: Result<T, E>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(e) => errno(&e.into()),
    }
}

/// As [`shown`] for calls without a value.
pub fn done<E: Into<io::Error>>(result: Result<(), E>) -> String {
    shown(result.map(|()| "ok"))
}

const NAMES: &[(i32, &str)] = &[
    (libc::EAGAIN, "EAGAIN"),
    (libc::EBADF, "EBADF"),
    (libc::ECONNABORTED, "ECONNABORTED"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::ECONNRESET, "ECONNRESET"),
    (libc::EACCES, "EACCES"),
    (libc::EINPROGRESS, "EINPROGRESS"),
    (libc::EINTR, "EINTR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EALREADY, "EALREADY"),
    (libc::EISCONN, "EISCONN"),
    (libc::ENOBUFS, "ENOBUFS"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::ENOTCONN, "ENOTCONN"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::EPERM, "EPERM"),
    (libc::EPIPE, "EPIPE"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
];

pub fn errno(e: &io::Error) -> String {
    let Some(number) = e.raw_os_error() else {
        return e.to_string();
    };
    let name = NAMES.iter().find(|(n, _)| *n == number);
    name.map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}

pub fn events(flags: epoll::EventFlags) -> String {
    polled(PollFlags::from_bits_retain(flags.bits() as u16))
}

pub fn polled(flags: PollFlags) -> String {
    let all = [
        (PollFlags::IN, "IN"),
        (PollFlags::PRI, "PRI"),
        (PollFlags::OUT, "OUT"),
        (PollFlags::ERR, "ERR"),
        (PollFlags::HUP, "HUP"),
        (PollFlags::RDHUP, "RDHUP"),
    ];
    let set = all.iter().filter(|(f, _)| flags.contains(*f));
    let names: Vec<&str> = set.map(|(_, n)| *n).collect();
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join("|")
    }
}

/// The lines that are only in one of two transcripts, marked `-` (TCP) and `+` (here). Transcripts
/// are short: what differs is what lies between the common start and the common end.
pub fn diff(tcp: &[String], here: &[String]) -> Vec<String> {
    let start = tcp.iter().zip(here).take_while(|(a, b)| a == b).count();
    let (tcp, here) = (&tcp[start..], &here[start..]);
    let end = tcp
        .iter()
        .rev()
        .zip(here.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let minus = tcp[..tcp.len() - end].iter().map(|l| format!("- {l}"));
    let plus = here[..here.len() - end].iter().map(|l| format!("+ {l}"));
    minus.chain(plus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_without_what_is_common() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(diff(&lines("a b c"), &lines("a b c")).is_empty());
        assert_eq!(diff(&lines("a b c"), &lines("a x c")), ["- b", "+ x"]);
        assert_eq!(diff(&lines("a b"), &lines("a")), ["- b"]);
    }
}

//! The equivalence suite: what an application can see of its sockets, as scripts of system calls.
//! Each case runs over plain TCP, in the map without redirection, and over the shortcut; its
//! transcript must be the same, or the difference is in [`exceptions`], from which a page of docs
//! is generated.
//!
//! Most scripts drive both ends from one thread: over loopback every call has then one possible
//! result, and nothing but the path of the bytes can make a difference. Threads and processes are
//! used where a call must block, or where the sharing is what is tested.

pub mod engine;
pub mod exceptions;
pub mod fixture;
pub mod opts;
pub mod part;
pub mod path;
pub mod pattern;
pub mod play;
pub mod poller;
pub mod report;
pub mod script;
pub mod stage;
pub mod task;
pub mod transcript;

mod cases_accept;
mod cases_close;
mod cases_edge;
mod cases_late;
mod cases_move;
mod cases_net;
mod cases_odd;
mod cases_open;
mod cases_read;
mod cases_share;
mod cases_unread;
mod cases_uring;
mod cases_wake;
mod cases_write;

pub use path::Path;
pub use stage::Stage;

/// Why a script could not go on; the transcript ends with it.
pub type Broken = std::io::Error;
pub type Done = std::result::Result<(), Broken>;

/// One script.
pub struct Case {
    pub name: &'static str,
    /// What is looked at, for people.
    pub about: &'static str,
    pub takes: Takes,
    pub run: fn(&mut Stage) -> Done,
}

/// Whether a message of the case must take the shortcut when it is on; else the comparison would
/// show nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Shortcut,
    /// Blocking sockets, or a case of which nothing needs to be redirected.
    Either,
}

pub fn cases() -> Vec<&'static Case> {
    [
        cases_edge::CASES,
        cases_read::CASES,
        cases_write::CASES,
        cases_odd::CASES,
        cases_wake::CASES,
        cases_late::CASES,
        cases_move::CASES,
        cases_close::CASES,
        cases_unread::CASES,
        cases_open::CASES,
        cases_accept::CASES,
        cases_share::CASES,
        cases_uring::CASES,
        cases_net::CASES,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The cases that other kernels go through in emulation: what the rule of the shortcut rests on, and
/// nothing that waits for things not to happen.
pub const CORE: &[&str] = &[
    "mix_edge_short_read",
    "mix_edge_until_eagain",
    "mix_level",
    "mix_back_and_forth",
    "mix_while_reading",
    "edge_partial_read",
    "fionread",
    "peek",
    "peek_across_mix",
    "waitall_nonblocking",
    "small_reads",
    "rcvbuf_mid_stream",
    "large_message",
    "stalled_reader",
    "sizes",
    "pipelining",
    "request_response",
    "nonblock_toggled",
    "late_blocking_stream",
    "sendfile",
    "splice_in",
    "splice_out",
    "splice_after_recv",
    "end_after_data",
    "end_after_mix",
    "half_close",
    "close_unread",
    "reset_with_pending",
    "shutdown_both",
    "killed_writer",
    "same_tuple",
    "ipv6",
    "v4_mapped",
    "data_before_accept",
    "fork_reads",
    "passed",
    "both_ways",
    "veth_bulk",
    "equal_addresses",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_exceptions_name_cases() {
        let cases = cases();
        let mut names: Vec<&str> = cases.iter().map(|c| c.name).collect();
        names.sort_unstable();
        let total = names.len();
        names.dedup();
        assert_eq!(names.len(), total);
        for name in CORE {
            assert!(names.contains(name), "{name} is no case");
        }
        for exception in exceptions::EXCEPTIONS {
            for case in exception.cases {
                assert!(names.contains(case), "{case} is no case");
            }
        }
    }
}

//! What an application can notice of the shortcut. Nothing else may differ, and what is listed here
//! and does not differ is an error as well. `docs/reference/shortcut-differences.md` is generated
//! from this file, which therefore uses nothing but the core library.

pub struct Exception {
    /// What differs, as an application sees it.
    pub what: &'static str,
    /// TCP against a socket that the shortcut has.
    pub tcp: &'static str,
    pub here: &'static str,
    pub cases: &'static [&'static str],
    /// Also without redirection, as long as the socket is in the map.
    pub mapped: bool,
    pub shortcut: bool,
    pub reason: &'static str,
    /// What keeps it from harming a user.
    pub protection: &'static str,
}

pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        what: "splice from the socket",
        tcp: "moves the bytes",
        here: "EAGAIN, whatever has come; then the connection is reset. Where splice is guarded: EINVAL, at the end \
               of the stream too",
        cases: &["splice_out", "splice_after_recv", "uring_splice_out"],
        mapped: true,
        shortcut: true,
        reason: "the kernel's splice reads TCP's queue, and bytes of a socket in the map are in another one; \
                 a fix was proposed to the kernel, not merged",
        protection: "the first splice ends in a reset of the connection, which names the program (SPLICED): \
                     nothing hangs; from then on the program takes no part (SHORTCUT_SPLICES). Splice by \
                     io_uring is not seen. `auto` takes only programs that were tested; `on` is the \
                     owner's word that the workload does not splice",
    },
    Exception {
        what: "when the reset of a close with unread bytes comes",
        tcp: "when close returns",
        here: "some milliseconds later, by the agent; until then a send succeeds. If the agent is away: \
               end of file, some 200 ms after the close; end of file also if the writer has answered a \
               stray or repeated segment in the second before",
        cases: &["close_unread_at_once"],
        mapped: true,
        shortcut: true,
        reason: "TCP looks into its own queue to decide between FIN and RST, and unread bytes are in another \
                 one; so the FIN is held back and the agent makes the socket send the reset",
        protection: "between two nodes a reset takes its time as well; `shortcut_unread_lost` counts those that \
                     came to nothing, and the log names them (UNREAD_LOST)",
    },
    Exception {
        what: "close with unread bytes, when one end had shut down its sending side before",
        tcp: "resets",
        here: "the end of the stream as after a close without unread bytes",
        cases: &["close_unread_half_closed", "close_unread_after_shutdown"],
        mapped: true,
        shortcut: true,
        reason: "there is no FIN left to hold back, or no state from which the kernel would send a reset",
        protection: "if the writer had shut down, `shortcut_unread_lost` and the log tell of it; a writer that \
                     goes on is reset by its next bytes, as over TCP",
    },
    Exception {
        what: "urgent data (MSG_OOB)",
        tcp: "POLLPRI, MSG_OOB gives the urgent byte, reads stop at the mark",
        here: "the byte is in the stream like any other; MSG_OOB reads ordinary bytes; POLLPRI only while \
               nothing is redirected",
        cases: &["oob", "oob_inline"],
        mapped: true,
        shortcut: true,
        reason: "the queue of a socket in the map has no mark",
        protection: "urgent data is used by telnet and rlogin, which are on no list for `auto`; under `on` the \
                     workload's owner must know",
    },
    Exception {
        what: "SO_PEEK_OFF",
        tcp: "each MSG_PEEK goes on where the last one ended",
        here: "each MSG_PEEK begins at the first unread byte",
        cases: &["peek_off"],
        mapped: true,
        shortcut: true,
        reason: "the kernel does not look at the option there",
        protection: "TCP has the option only since Linux 6.10; a reader that sees bytes twice in a peek \
                     still reads each byte once",
    },
    Exception {
        what: "recv of 0 bytes on a socket without data",
        tcp: "EAGAIN",
        here: "0",
        cases: &["zero_reads"],
        mapped: true,
        shortcut: true,
        reason: "the kernel answers before it looks for data",
        protection: "a program that takes 0 for the end of the stream must have asked for more than 0 bytes",
    },
    Exception {
        what: "the error of a reset, when send has reported it",
        tcp: "recv then gives 0, and send EPIPE",
        here: "they report ECONNRESET once more",
        cases: &["reset_idle", "close_unread_then_send"],
        mapped: true,
        shortcut: true,
        reason: "send of a socket in the map reads the pending error without taking it",
        protection: "the connection is dead in either case, and both answers say so",
    },
    Exception {
        what: "a socket that is made blocking after it has entered the map",
        tcp: "recv waits for data, the end or a reset, through signals; MSG_WAITALL waits for all",
        here: "recv gives EAGAIN on a reset, on shutdown(RD) by another thread, on a signal (also SIGSTOP and \
               SIGCONT), and when a send buffer that was full has room again, as after a big request; \
               MSG_WAITALL returns what the first wake-up brings",
        cases: &[
            "late_blocking_reset",
            "late_blocking_shutdown",
            "late_blocking_signal",
            "late_blocking_stop",
            "late_blocking_waitall",
            "late_blocking_room",
        ],
        mapped: true,
        shortcut: true,
        reason: "the kernel's recv for sockets in the map waits once",
        protection: "only sockets that are non-blocking at both ends enter; one that is found blocking takes no \
                     part in redirection any more (SHORTCUT_BLOCKING)",
    },
    Exception {
        what: "TCP_INFO, and what `ss -i` shows of it",
        tcp: "counts every byte",
        here: "does not count redirected bytes",
        cases: &["tcp_info_bytes"],
        mapped: false,
        shortcut: true,
        reason: "no segment is sent for them",
        protection: "`underpass conns` shows the bytes of both paths",
    },
    Exception {
        what: "TCP_CORK and MSG_MORE",
        tcp: "hold small messages back, up to 200 ms",
        here: "the reader has each message at once",
        cases: &["cork", "more"],
        mapped: false,
        shortcut: true,
        reason: "there is no segment to fill",
        protection: "both are hints about packets; a stream has no message borders, so a reader must take \
                     bytes as they come over TCP as well",
    },
];

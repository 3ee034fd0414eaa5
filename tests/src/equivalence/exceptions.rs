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
        what: "close, or death by a signal, with unread bytes",
        tcp: "resets: the writer gets ECONNRESET, then EPIPE",
        here: "the writer reads end of file; a later send succeeds, or gets EPIPE; a writer that waits for room \
               waits until TCP gives the other end up (tcp_fin_timeout, 60 s)",
        cases: &[
            "close_unread",
            "close_unread_then_send",
            "close_unread_part",
            "close_unread_full",
            "killed_with_unread",
            "in_flight",
        ],
        mapped: true,
        shortcut: true,
        reason: "TCP looks into its own queue to decide between FIN and RST, and unread bytes are in another one",
        protection: "the end of the stream is seen at once in either case, so a program that watches for it \
                     while it writes leaves; protocols that must know what was read acknowledge it themselves",
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
        tcp: "recv then gives 0",
        here: "recv reports ECONNRESET once more",
        cases: &["reset_idle"],
        mapped: true,
        shortcut: true,
        reason: "send of a socket in the map reads the pending error without taking it",
        protection: "the connection is dead in either case, and both answers say so",
    },
    Exception {
        what: "a socket that is made blocking after it has entered the map",
        tcp: "recv waits for data, the end or a reset, through signals; MSG_WAITALL waits for all",
        here: "recv gives EAGAIN on a reset, on shutdown(RD) by another thread and on a signal (also \
               SIGSTOP and SIGCONT); MSG_WAITALL returns what the first wake-up brings",
        cases: &[
            "late_blocking_reset",
            "late_blocking_shutdown",
            "late_blocking_signal",
            "late_blocking_stop",
            "late_blocking_waitall",
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

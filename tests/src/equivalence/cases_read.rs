//! The many ways of reading.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    net::{RecvFlags, Shutdown, sockopt},
};

use super::{
    Case, Done, Stage, Takes,
    script::{End, QUIET_MS},
    stage::{BLOCKING, NONBLOCKING},
    task::Task,
};

pub const CASES: &[Case] = &[
    Case {
        name: "fionread",
        about: "FIONREAD before, after a peek and after a part was read",
        takes: Takes::Shortcut,
        run: fionread,
    },
    Case {
        name: "peek",
        about: "MSG_PEEK of a part and of more than there is, then reading",
        takes: Takes::Shortcut,
        run: peek,
    },
    Case {
        name: "peek_across_mix",
        about: "MSG_PEEK over a redirected message and a TCP message behind it",
        takes: Takes::Shortcut,
        run: peek_across_mix,
    },
    Case {
        name: "trunc",
        about: "MSG_TRUNC throws bytes away",
        takes: Takes::Shortcut,
        run: trunc,
    },
    Case {
        name: "waitall_nonblocking",
        about: "MSG_WAITALL on a non-blocking socket, with and across a change of path",
        takes: Takes::Shortcut,
        run: waitall_nonblocking,
    },
    Case {
        name: "waitall_blocking",
        about: "a blocking MSG_WAITALL gets two messages that come apart",
        takes: Takes::Either,
        run: waitall_blocking,
    },
    Case {
        name: "waitall_blocking_reader",
        about: "the same, only the reader blocks",
        takes: Takes::Either,
        run: waitall_blocking_reader,
    },
    Case {
        name: "dontwait",
        about: "MSG_DONTWAIT on a blocking socket",
        takes: Takes::Either,
        run: dontwait,
    },
    Case {
        name: "small_reads",
        about: "one byte at a time over three messages; readv over their borders",
        takes: Takes::Shortcut,
        run: small_reads,
    },
    Case {
        name: "zero_reads",
        about: "recv of 0 bytes: without data, with data, after the end",
        takes: Takes::Shortcut,
        run: zero_reads,
    },
    Case {
        name: "rcvtimeo",
        about: "SO_RCVTIMEO ends a blocking recv; data before it ends it too",
        takes: Takes::Either,
        run: rcvtimeo,
    },
    Case {
        name: "rcvbuf_mid_stream",
        about: "SO_RCVBUF made smaller and larger under unread bytes, reader slow",
        takes: Takes::Shortcut,
        run: rcvbuf_mid_stream,
    },
    Case {
        name: "rcvbuf_small",
        about: "SO_RCVBUF of 4 KB at both ends, 20 KB each way",
        takes: Takes::Shortcut,
        run: rcvbuf_small,
    },
    Case {
        name: "large_message",
        about: "one send of 2 MB, read with buffers of 1 KB, 64 KB and 4 MB",
        takes: Takes::Shortcut,
        run: large_message,
    },
];

fn fionread(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    server.fionread();
    let _ = client.send(50);
    server.arrived(50);
    server.fionread();
    let _ = server.recv_flags(50, RecvFlags::PEEK, " peek");
    server.fionread();
    let _ = server.recv(20);
    server.fionread();
    let _ = server.recv(50);
    server.fionread();
    Ok(())
}

fn peek(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = server.recv_flags(10, RecvFlags::PEEK, " peek");
    let _ = client.send(100);
    server.arrived(100);
    for size in [10, 100, 4096] {
        let _ = server.recv_flags(size, RecvFlags::PEEK, " peek");
    }
    let _ = server.recv(60);
    let _ = server.recv_flags(4096, RecvFlags::PEEK, " peek");
    let _ = server.recv(4096);
    client.shutdown(Shutdown::Write);
    server.poll(PollFlags::IN, QUIET_MS);
    let _ = server.recv_flags(4096, RecvFlags::PEEK, " peek");
    Ok(())
}

fn peek_across_mix(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    stage.engine.redirect(false)?;
    let _ = client.send(100);
    server.arrived(200);
    let _ = server.recv_flags(4096, RecvFlags::PEEK, " peek");
    let _ = server.recv(150);
    let _ = server.recv_flags(4096, RecvFlags::PEEK, " peek");
    let _ = server.recv(4096);
    Ok(())
}

fn trunc(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv_flags(40, RecvFlags::TRUNC, " trunc");
    let _ = server.recv(4096);
    Ok(())
}

fn waitall_nonblocking(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv_flags(200, RecvFlags::WAITALL, " waitall");
    let _ = client.send(100);
    stage.engine.redirect(false)?;
    let _ = client.send(100);
    server.arrived(200);
    let _ = server.recv_flags(200, RecvFlags::WAITALL, " waitall");
    let _ = server.recv_flags(200, RecvFlags::WAITALL, " waitall");
    Ok(())
}

/// A reader that waits for all gets it in two parts.
pub fn waitall(mut client: End, server: End) -> Done {
    let reader = Task::start(server, |end| {
        let _ = end.recv_flags(200, RecvFlags::WAITALL, " waitall");
    })?;
    reader.blocks();
    let _ = client.send(100);
    reader.blocks();
    let _ = client.send(100);
    reader.join()?;
    Ok(())
}

fn waitall_blocking(stage: &mut Stage) -> Done {
    let (client, server) = stage.blocking_pair()?;
    waitall(client, server)
}

fn waitall_blocking_reader(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair_of(NONBLOCKING, BLOCKING)?;
    let reader = Task::start(server, |end| {
        let _ = end.recv_flags(200, RecvFlags::WAITALL, " waitall");
    })?;
    reader.blocks();
    let _ = client.send(100);
    reader.blocks();
    stage.engine.redirect(false)?;
    let _ = client.send(100);
    reader.join()?;
    Ok(())
}

fn dontwait(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.blocking_pair()?;
    let _ = server.recv_flags(100, RecvFlags::DONTWAIT, " dontwait");
    let _ = client.send(100);
    server.arrived(100);
    stage.engine.redirect(false)?;
    let _ = client.send(100);
    server.arrived(200);
    let _ = server.recv_flags(300, RecvFlags::DONTWAIT, " dontwait");
    let _ = server.recv_flags(300, RecvFlags::DONTWAIT, " dontwait");
    Ok(())
}

fn small_reads(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for len in [3, 1, 5] {
        let _ = client.send(len);
    }
    server.arrived(9);
    for _ in 0..9 {
        let _ = server.recv(1);
    }
    for len in [3, 100, 5] {
        let _ = client.send(len);
    }
    server.arrived(108);
    server.recv_vectored(&[1, 50, 0, 40])?;
    server.recv_vectored(&[10, 100])?;
    Ok(())
}

fn zero_reads(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = server.recv(0);
    let _ = client.send(10);
    server.arrived(10);
    let _ = server.recv(0);
    let _ = server.recv(10);
    client.shutdown(Shutdown::Write);
    server.poll(PollFlags::IN, QUIET_MS);
    let _ = server.recv(0);
    let _ = server.recv(10);
    let _ = server.recv(10);
    Ok(())
}

fn rcvtimeo(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.blocking_pair()?;
    let limit = Duration::from_millis(200);
    sockopt::set_socket_timeout(&server, sockopt::Timeout::Recv, Some(limit))?;
    let start = Instant::now();
    let _ = server.recv(100);
    stage.note(format!("in time: {}", start.elapsed() >= limit));
    let reader = Task::start(server, |end| {
        let _ = end.recv(100);
    })?;
    thread::sleep(Duration::from_millis(20));
    let _ = client.send(100);
    reader.join()?;
    Ok(())
}

fn rcvbuf_mid_stream(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(30_000);
    server.arrived(30_000);
    for (size, len) in [
        (32 << 10, 60_000),
        (256 << 10, 400_000),
        (64 << 10, 100_000),
    ] {
        sockopt::set_socket_recv_buffer_size(&server, size)?;
        server.recv_all((client.sent - server.got) / 2, 4096);
        let unread = client.sent - server.got;
        let writer = Task::start(client, move |end| {
            let _ = end.send_all(len, 50_000);
        })?;
        thread::sleep(Duration::from_millis(30));
        server.recv_all(unread / 2 + len, 4096);
        client = writer.join()?;
    }
    Ok(())
}

fn rcvbuf_small(stage: &mut Stage) -> Done {
    let (client, server) = stage.pair()?;
    for end in [&client, &server] {
        sockopt::set_socket_recv_buffer_size(end, 4096)?;
    }
    let (mut client, mut server) = (client, server);
    for _ in 0..2 {
        let writer = Task::start(client, |end| {
            let _ = end.send_all(20_000, 7_000);
        })?;
        server.recv_all(20_000, 64 << 10);
        client = writer.join()?;
        let writer = Task::start(server, |end| {
            let _ = end.send_all(20_000, 1_000);
        })?;
        client.recv_all(20_000, 4096);
        server = writer.join()?;
    }
    Ok(())
}

fn large_message(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for chunk in [1 << 10, 64 << 10, 4 << 20] {
        let writer = Task::start(client, |end| {
            let _ = end.send_all(2 << 20, 2 << 20);
        })?;
        server.recv_all(2 << 20, chunk);
        client = writer.join()?;
    }
    Ok(())
}

//! splice, sendfile and tee: bytes that no user buffer holds.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use rustix::{
    event::PollFlags,
    fs::{MemfdFlags, memfd_create, sendfile},
    io::Errno,
    net::Shutdown,
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice, tee},
};

use super::{
    Case, Done, Stage, Takes,
    script::{End, PATIENCE, QUIET_MS},
    task::Task,
    transcript::shown,
};

pub const CASES: &[Case] = &[
    Case {
        name: "sendfile",
        about: "sendfile of 3 MB into the socket, between ordinary sends",
        takes: Takes::Shortcut,
        run: sendfile_between,
    },
    Case {
        name: "splice_in",
        about: "splice from a pipe into the socket, also across a change of path",
        takes: Takes::Either,
        run: splice_in,
    },
    Case {
        name: "tee_in",
        about: "tee and splice: one pipe's bytes into two sockets",
        takes: Takes::Either,
        run: tee_in,
    },
    Case {
        name: "splice_out",
        about: "splice from a non-blocking socket to a pipe",
        takes: Takes::Either,
        run: splice_out,
    },
    Case {
        name: "splice_out_blocking",
        about: "splice from a blocking socket to a pipe waits and returns the bytes",
        takes: Takes::Either,
        run: splice_out_blocking,
    },
    Case {
        name: "splice_out_end",
        about: "splice from a socket at its end gives 0",
        takes: Takes::Either,
        run: splice_out_end,
    },
    Case {
        name: "splice_after_recv",
        about: "a reader that used recv goes over to splice in mid-stream, as Go's io.Copy does",
        takes: Takes::Either,
        run: splice_after_recv,
    },
];

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)
}

/// Moves `len` bytes of the end's own stream through `step`, waiting for room.
fn push(
    end: &mut End,
    len: usize,
    what: &str,
    mut step: impl FnMut(&End, usize) -> Result<usize, Errno>,
) {
    let mut left = len;
    let why = loop {
        if left == 0 {
            break "all".to_owned();
        }
        match step(end, left) {
            Ok(0) => break "0".to_owned(),
            Ok(n) => left -= n,
            Err(Errno::AGAIN) => {
                if !end.ready(PollFlags::OUT, PATIENCE) {
                    break "no room in time".to_owned();
                }
            }
            Err(e) => break shown::<u8, _>(Err(e)),
        }
    };
    end.sent += (len - left) as u64;
    end.note(format!("{what} {len}: {left} left, {why}"));
}

fn sendfile_between(stage: &mut Stage) -> Done {
    let (client, mut server) = stage.pair()?;
    const LEN: usize = 3 << 20;
    let writer = Task::start(client, |end| {
        let _ = end.send(100);
        let file = memfd_create("equivalence", MemfdFlags::CLOEXEC).map(File::from);
        let Ok(mut file) = file else { return };
        if file.write_all(&end.next_bytes(LEN)).is_err() {
            return;
        }
        let mut offset = 0;
        push(end, LEN, "sendfile", |end, left| {
            sendfile(end, &file, Some(&mut offset), left)
        });
        let _ = end.send(100);
    })?;
    server.recv_all(LEN as u64 + 200, 64 << 10);
    writer.join()?;
    Ok(())
}

fn splice_in(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let (out, into) = pipe()?;
    for round in 0..4 {
        stage.engine.redirect(round % 2 == 0)?;
        let _ = client.send(100);
        let bytes = client.next_bytes(20_000);
        rustix::io::write(&into, &bytes)?;
        push(&mut client, bytes.len(), "splice in", |end, left| {
            splice(&out, None, end, None, left, SpliceFlags::NONBLOCK)
        });
    }
    server.recv_all(4 * 20_100, 4096);
    Ok(())
}

fn tee_in(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let (mut client2, mut server2) = stage.pair()?;
    let ((out, into), (out2, into2)) = (pipe()?, pipe()?);
    rustix::io::write(&into, &client.next_bytes(10_000))?;
    stage.note(format!(
        "tee = {}",
        shown(tee(&out, &into2, 10_000, SpliceFlags::NONBLOCK))
    ));
    for (end, from) in [(&mut client, &out), (&mut client2, &out2)] {
        push(end, 10_000, "splice in", |end, left| {
            splice(from, None, end, None, left, SpliceFlags::NONBLOCK)
        });
    }
    server.recv_all(10_000, 4096);
    server2.recv_all(10_000, 4096);
    Ok(())
}

fn pull(end: &mut End, into: &OwnedFd, out: &OwnedFd, max: usize, flags: SpliceFlags) {
    let moved = splice(&*end, None, into, None, max, flags);
    let mut buffer = vec![0; moved.unwrap_or(0)];
    let read = if buffer.is_empty() {
        Ok(0)
    } else {
        rustix::io::read(out, &mut buffer)
    };
    let check = end.check(&buffer[..read.unwrap_or(0)]);
    end.got += buffer.len() as u64;
    end.note(format!("splice out {max} = {}{check}", shown(moved)));
}

fn splice_out(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let (out, into) = pipe()?;
    pull(&mut server, &into, &out, 1000, SpliceFlags::NONBLOCK);
    for _ in 0..2 {
        let _ = client.send(100);
        server.arrived(100);
        server.poll(PollFlags::IN, QUIET_MS);
        pull(&mut server, &into, &out, 1000, SpliceFlags::NONBLOCK);
    }
    let _ = server.recv(1000);
    Ok(())
}

fn splice_out_blocking(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.blocking_pair()?;
    let (out, into) = pipe()?;
    let reader = Task::start(server, move |end| {
        pull(end, &into, &out, 1000, SpliceFlags::empty());
        pull(end, &into, &out, 1000, SpliceFlags::empty());
    })?;
    reader.blocks();
    let _ = client.send(100);
    reader.blocks();
    let _ = client.send(100);
    reader.join()?;
    Ok(())
}

fn splice_out_end(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let (out, into) = pipe()?;
    let _ = client.send(100);
    client.shutdown(Shutdown::Write);
    server.arrived(100);
    let _ = server.recv(1000);
    server.poll(PollFlags::IN | PollFlags::RDHUP, QUIET_MS);
    pull(&mut server, &into, &out, 1000, SpliceFlags::NONBLOCK);
    Ok(())
}

fn splice_after_recv(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let (out, into) = pipe()?;
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv(40);
    pull(&mut server, &into, &out, 1000, SpliceFlags::NONBLOCK);
    let _ = client.send(100);
    server.arrived(100);
    pull(&mut server, &into, &out, 1000, SpliceFlags::NONBLOCK);
    stage.note(format!("{} of {} read", server.got, client.sent));
    Ok(())
}

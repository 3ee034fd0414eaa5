//! io_uring: its requests wait also on sockets with O_NONBLOCK.

use std::{io, os::fd::OwnedFd, time::Duration};

use compio_buf::{BufResult, IntoInner as _};
use compio_driver::{
    Key, OpCode, Proactor, PushEntry,
    op::{Interest, PollOnce, Recv, Send, SendZc, Splice},
};
use rustix::{
    net::{RecvFlags, SendFlags, Shutdown},
    pipe::{PipeFlags, SpliceFlags, pipe_with},
};

use super::{
    Case, Done, Stage, Takes,
    script::{End, PATIENCE},
    stage::{BLOCKING, Kind, NONBLOCKING},
    transcript::shown,
};

pub const CASES: &[Case] = &[
    Case {
        name: "uring_send_recv",
        about: "IORING_OP_SEND and RECV on non-blocking sockets, also across a change of path",
        takes: Takes::Shortcut,
        run: send_recv,
    },
    Case {
        name: "uring_recv_waits",
        about: "a RECV on a blocking socket is completed by data, by the end, by a reset",
        takes: Takes::Either,
        run: |s| recv_waits(s, BLOCKING),
    },
    Case {
        name: "uring_recv_waits_nonblocking",
        about: "the same on a non-blocking socket",
        takes: Takes::Shortcut,
        run: |s| recv_waits(s, NONBLOCKING),
    },
    Case {
        name: "uring_poll",
        about: "IORING_OP_POLL_ADD is completed by data that comes later",
        takes: Takes::Shortcut,
        run: uring_poll,
    },
    Case {
        name: "uring_waitall",
        about: "RECV with MSG_WAITALL over two messages that come apart",
        takes: Takes::Either,
        run: waitall,
    },
    Case {
        name: "uring_splice_in",
        about: "IORING_OP_SPLICE from a pipe into the socket",
        takes: Takes::Either,
        run: splice_in,
    },
    Case {
        name: "uring_splice_out",
        about: "IORING_OP_SPLICE from the socket to a pipe",
        takes: Takes::Either,
        run: splice_out,
    },
    Case {
        name: "uring_send_zc",
        about: "IORING_OP_SEND_ZC: bytes, result and notification",
        takes: Takes::Either,
        run: send_zc,
    },
];

/// A request under way.
struct Request<O: OpCode + 'static>(PushEntry<Key<O>, BufResult<usize, O>>);

fn start<O: OpCode + 'static>(ring: &mut Proactor, op: O) -> Request<O> {
    let pushed = ring.push(op);
    ring.flush();
    Request(pushed)
}

impl<O: OpCode + 'static> Request<O> {
    /// Waits for the completion, as long as a script waits for anything.
    fn wait(self, ring: &mut Proactor, limit: Duration) -> Option<(io::Result<usize>, O)> {
        let mut key = match self.0 {
            PushEntry::Ready(BufResult(result, op)) => return Some((result, op)),
            PushEntry::Pending(key) => key,
        };
        let start = std::time::Instant::now();
        while start.elapsed() < limit {
            // Err: nothing came within the time given.
            let _ = ring.poll(Some(Duration::from_millis(50)));
            match ring.pop(key) {
                PushEntry::Ready(BufResult(result, op)) => return Some((result, op)),
                PushEntry::Pending(pending) => key = pending,
            }
        }
        ring.cancel(key);
        None
    }
}

fn fd(end: &End) -> io::Result<OwnedFd> {
    Ok(end.dup("uring")?.into_fd())
}

fn send(ring: &mut Proactor, end: &mut End, len: usize) -> io::Result<()> {
    let op = Send::new(fd(end)?, end.next_bytes(len), SendFlags::NOSIGNAL);
    let done = start(ring, op).wait(ring, PATIENCE);
    let result = done.map_or(Err(io::Error::other("HANGS")), |(result, _)| result);
    end.sent += *result.as_ref().unwrap_or(&0) as u64;
    end.note(format!("uring send {len} = {}", shown(result)));
    Ok(())
}

type Receive = Request<Recv<Vec<u8>, OwnedFd>>;

fn recv(ring: &mut Proactor, end: &End, max: usize, flags: RecvFlags) -> io::Result<Receive> {
    Ok(start(ring, Recv::new(fd(end)?, vec![0; max], flags)))
}

fn received(ring: &mut Proactor, end: &mut End, request: Receive) {
    let Some((result, op)) = request.wait(ring, PATIENCE) else {
        return end.note("uring recv HANGS");
    };
    let buffer = op.into_inner();
    let len = *result.as_ref().unwrap_or(&0);
    let check = end.check(&buffer[..len]);
    end.got += len as u64;
    end.note(format!("uring recv = {}{check}", shown(result)));
}

fn recv_now(ring: &mut Proactor, end: &mut End, max: usize) -> io::Result<()> {
    let request = recv(ring, end, max, RecvFlags::empty())?;
    received(ring, end, request);
    Ok(())
}

fn send_recv(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let mut ring = Proactor::new()?;
    for round in 0..3 {
        stage.engine.redirect(true)?;
        send(&mut ring, &mut client, 100)?;
        stage.engine.redirect(round != 1)?;
        send(&mut ring, &mut client, 100)?;
        server.arrived(200);
        recv_now(&mut ring, &mut server, 150)?;
        recv_now(&mut ring, &mut server, 4096)?;
    }
    Ok(())
}

fn recv_waits(stage: &mut Stage, kind: Kind) -> Done {
    let mut ring = Proactor::new()?;
    for how in 0..3 {
        let (mut client, mut server) = stage.pair_of(kind, kind)?;
        let request = recv(&mut ring, &server, 4096, RecvFlags::empty())?;
        match how {
            0 => drop(client.send(100)),
            1 => client.shutdown(Shutdown::Write),
            _ => client.abort(),
        }
        received(&mut ring, &mut server, request);
    }
    Ok(())
}

fn uring_poll(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let mut ring = Proactor::new()?;
    for round in 0..3 {
        stage.engine.redirect(round != 1)?;
        let request = start(&mut ring, PollOnce::new(fd(&server)?, Interest::Readable));
        let _ = client.send(100);
        let came = request.wait(&mut ring, PATIENCE).is_some();
        server.note(format!("uring poll completes: {came}"));
        server.arrived(100);
        recv_now(&mut ring, &mut server, 4096)?;
    }
    Ok(())
}

fn waitall(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.blocking_pair()?;
    let mut ring = Proactor::new()?;
    let request = recv(&mut ring, &server, 200, RecvFlags::WAITALL)?;
    let _ = client.send(100);
    std::thread::sleep(Duration::from_millis(20));
    ring.flush();
    let _ = client.send(100);
    received(&mut ring, &mut server, request);
    Ok(())
}

fn splice_in(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let mut ring = Proactor::new()?;
    let (out, into) = pipe_with(PipeFlags::CLOEXEC)?;
    let _ = client.send(100);
    rustix::io::write(&into, &client.next_bytes(20_000))?;
    let op = Splice::new(out, -1, fd(&client)?, -1, 20_000, SpliceFlags::empty());
    let moved = start(&mut ring, op).wait(&mut ring, PATIENCE);
    let moved = moved.map_or(Err(io::Error::other("HANGS")), |(result, _)| result);
    client.sent += *moved.as_ref().unwrap_or(&0) as u64;
    client.note(format!("uring splice in 20000 = {}", shown(moved)));
    let _ = client.send(100);
    server.recv_all(client.sent, 4096);
    Ok(())
}

fn splice_out(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let mut ring = Proactor::new()?;
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let _ = client.send(100);
    server.arrived(100);
    let op = Splice::new(fd(&server)?, -1, into, -1, 1000, SpliceFlags::NONBLOCK);
    let moved = start(&mut ring, op).wait(&mut ring, Duration::from_secs(2));
    let moved = moved.map_or(Err(io::Error::other("HANGS")), |(result, _)| result);
    let mut buffer = vec![0; *moved.as_ref().unwrap_or(&0)];
    if !buffer.is_empty() {
        rustix::io::read(&out, &mut buffer)?;
    }
    let check = server.check(&buffer);
    server.got += buffer.len() as u64;
    server.note(format!("uring splice out 1000 = {}{check}", shown(moved)));
    let _ = server.recv(1000);
    Ok(())
}

fn send_zc(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let mut ring = Proactor::new()?;
    for len in [1000, 50_000] {
        let op = SendZc::new(fd(&client)?, client.next_bytes(len), SendFlags::NOSIGNAL);
        let done = start(&mut ring, op).wait(&mut ring, PATIENCE);
        let result = done.map_or(Err(io::Error::other("HANGS")), |(result, _)| result);
        client.sent += *result.as_ref().unwrap_or(&0) as u64;
        client.note(format!("uring send_zc {len} = {}", shown(result)));
        let unread = client.sent - server.got;
        server.recv_all(unread, 64 << 10);
    }
    Ok(())
}

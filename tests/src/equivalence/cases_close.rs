//! How connections end.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    net::{Shutdown, sockopt},
};

use super::{
    Case, Done, Stage, Takes,
    script::{End, QUIET_MS},
    task::{Part, Task},
};

pub const ALL: PollFlags = PollFlags::from_bits_retain(
    PollFlags::IN.bits() | PollFlags::OUT.bits() | PollFlags::RDHUP.bits(),
);

pub const CASES: &[Case] = &[
    Case {
        name: "end_after_data",
        about: "close right after 1 MB; the reader gets every byte, then the end",
        takes: Takes::Shortcut,
        run: end_after_data,
    },
    Case {
        name: "end_after_mix",
        about: "close after a redirected and a TCP message, both unread",
        takes: Takes::Shortcut,
        run: end_after_mix,
    },
    Case {
        name: "half_close",
        about: "shutdown(WR) at one end; the other end goes on sending",
        takes: Takes::Shortcut,
        run: half_close,
    },
    Case {
        name: "send_after_shutdown",
        about: "send after shutdown(WR) gives EPIPE and nothing arrives",
        takes: Takes::Shortcut,
        run: send_after_shutdown,
    },
    Case {
        name: "send_after_peer_closed",
        about: "the peer closed with nothing unread: first send succeeds, later ones fail",
        takes: Takes::Shortcut,
        run: send_after_peer_closed,
    },
    Case {
        name: "reset_with_pending",
        about: "reset by linger 0 behind unread bytes",
        takes: Takes::Shortcut,
        run: reset_with_pending,
    },
    Case {
        name: "reset_idle",
        about: "reset on an idle connection: poll, SO_ERROR, recv, send at the other end",
        takes: Takes::Shortcut,
        run: reset_idle,
    },
    Case {
        name: "shutdown_read",
        about: "shutdown(RD): what is queued can be read, then 0; the peer may go on sending",
        takes: Takes::Shortcut,
        run: shutdown_read,
    },
    Case {
        name: "shutdown_both",
        about: "shutdown(RDWR) at one end",
        takes: Takes::Shortcut,
        run: shutdown_both,
    },
    Case {
        name: "poll_bits",
        about: "poll's bits at both ends through all states of a connection's end",
        takes: Takes::Shortcut,
        run: poll_bits,
    },
    Case {
        name: "linger_close",
        about: "SO_LINGER of 1 s: close of a blocking socket waits for a stalled reader, at most so long",
        takes: Takes::Either,
        run: linger_close,
    },
    Case {
        name: "killed_writer",
        about: "kill -9 of a writer; the reader gets what was sent, then the end",
        takes: Takes::Shortcut,
        run: killed_writer,
    },
    Case {
        name: "end_behind_full",
        about: "close by a writer that filled all buffers; a slow reader gets every byte, then the end",
        takes: Takes::Shortcut,
        run: end_behind_full,
    },
];

fn end_after_data(stage: &mut Stage) -> Done {
    let (client, mut server) = stage.pair()?;
    let writer = Task::start(client, |end| {
        let _ = end.send_all(1 << 20, 100_000);
        end.shutdown(Shutdown::Both);
    })?;
    server.drain(1 << 20);
    writer.join()?.close();
    let _ = server.recv(100);
    Ok(())
}

fn end_after_mix(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(1000);
    stage.engine.redirect(false)?;
    let _ = client.send(1000);
    client.close();
    server.arrived(2000);
    server.drain(2000);
    Ok(())
}

fn half_close(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    client.shutdown(Shutdown::Write);
    server.drain(100);
    for _ in 0..3 {
        let _ = server.send(100);
        client.arrived(100);
        let _ = client.recv(4096);
    }
    server.send_all(200_000, 10_000).ok();
    server.shutdown(Shutdown::Write);
    client.drain(200_000);
    client.poll(ALL, QUIET_MS);
    Ok(())
}

fn send_after_shutdown(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(10);
    client.shutdown(Shutdown::Write);
    let _ = client.send(10);
    client.poll(PollFlags::OUT, QUIET_MS);
    let _ = client.send(10);
    server.drain(10);
    let _ = client.send(10);
    let _ = server.recv(10);
    Ok(())
}

fn send_after_peer_closed(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(10);
    server.arrived(10);
    let _ = server.recv(10);
    server.close();
    client.poll(ALL, QUIET_MS);
    let _ = client.send(10);
    // The reset that answers the first send.
    client.ready(PollFlags::HUP, Duration::from_secs(1));
    thread::sleep(Duration::from_millis(20));
    let _ = client.send(10);
    let _ = client.send(10);
    let _ = client.recv(10);
    client.error();
    Ok(())
}

fn reset_with_pending(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    client.abort();
    server.poll(ALL, QUIET_MS);
    let _ = server.recv(40);
    let _ = server.recv(100);
    let _ = server.recv(100);
    let _ = server.send(10);
    Ok(())
}

fn reset_idle(stage: &mut Stage) -> Done {
    for look in 0..3 {
        let (mut client, mut server) = stage.pair()?;
        let _ = client.send(10);
        server.arrived(10);
        let _ = server.recv(10);
        client.abort();
        server.poll(ALL, QUIET_MS);
        match look {
            0 => server.error(),
            1 => drop(server.recv(10)),
            _ => drop(server.send(10)),
        }
        let _ = server.recv(10);
        let _ = server.send(10);
    }
    Ok(())
}

fn shutdown_read(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    server.shutdown(Shutdown::Read);
    server.poll(PollFlags::IN | PollFlags::RDHUP, QUIET_MS);
    let _ = server.recv(60);
    let _ = server.recv(60);
    let _ = server.recv(60);
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv(4096);
    let _ = server.send(10);
    client.arrived(10);
    let _ = client.recv(10);
    Ok(())
}

fn shutdown_both(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    server.shutdown(Shutdown::Both);
    server.poll(ALL, QUIET_MS);
    client.poll(ALL, QUIET_MS);
    let _ = server.recv(4096);
    let _ = server.recv(4096);
    let _ = server.send(10);
    let _ = client.recv(10);
    let _ = client.send(10);
    Ok(())
}

fn poll_bits(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let both = |client: &End, server: &End| {
        thread::sleep(Duration::from_millis(5));
        client.poll(ALL, QUIET_MS);
        server.poll(ALL, QUIET_MS);
    };
    both(&client, &server);
    let _ = client.send(10);
    both(&client, &server);
    client.shutdown(Shutdown::Write);
    both(&client, &server);
    let _ = server.recv(10);
    both(&client, &server);
    server.shutdown(Shutdown::Write);
    both(&client, &server);
    let _ = client.recv(10);
    both(&client, &server);
    Ok(())
}

fn linger_close(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.blocking_pair()?;
    sockopt::set_socket_linger(&client, Some(Duration::from_secs(1)))?;
    let sent = client.fill(64 << 10, 16 << 20);
    let start = Instant::now();
    client.close();
    stage.note(format!(
        "waited: {}",
        start.elapsed() >= Duration::from_millis(900)
    ));
    server.blocking(false)?;
    server.drain(sent);
    Ok(())
}

fn killed_writer(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    stage.engine.redirect(false)?;
    let _ = client.send(100);
    let part = Part::start(&client, "writer", "hold", &[])?;
    drop(client);
    part.kill()?;
    server.drain(200);
    Ok(())
}

fn end_behind_full(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let sent = client.fill(64 << 10, 16 << 20);
    client.close();
    thread::sleep(Duration::from_millis(100));
    server.drain(sent);
    Ok(())
}

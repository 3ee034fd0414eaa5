//! Connections that are closed while bytes are unread: TCP resets them.

use std::time::Duration;

use rustix::{
    event::PollFlags,
    net::{SendFlags, Shutdown},
};

use super::{
    Case, Done, Stage, Takes,
    cases_close::ALL,
    script::{End, QUIET_MS},
    task::Part,
};

pub const CASES: &[Case] = &[
    Case {
        name: "close_unread",
        about: "close with unread bytes resets: the writer learns that they were lost",
        takes: Takes::Shortcut,
        run: close_unread,
    },
    Case {
        name: "close_unread_then_send",
        about: "the same; the writer sends on, and learns it so",
        takes: Takes::Shortcut,
        run: close_unread_then_send,
    },
    Case {
        name: "close_unread_at_once",
        about: "the same; what the writer can do before it has learnt it",
        takes: Takes::Shortcut,
        run: close_unread_at_once,
    },
    Case {
        name: "close_unread_half_closed",
        about: "close with unread bytes when the writer has shut down its side",
        takes: Takes::Shortcut,
        run: close_unread_half_closed,
    },
    Case {
        name: "close_unread_after_shutdown",
        about: "shutdown(WR), then close with unread bytes",
        takes: Takes::Shortcut,
        run: close_unread_after_shutdown,
    },
    Case {
        name: "close_unread_part",
        about: "close after reading a part of the bytes",
        takes: Takes::Shortcut,
        run: close_unread_part,
    },
    Case {
        name: "close_unread_full",
        about: "the reader closes while the writer waits for room; the writer is woken",
        takes: Takes::Shortcut,
        run: close_unread_full,
    },
    Case {
        name: "killed_with_unread",
        about: "kill -9 of a reader with unread bytes",
        takes: Takes::Shortcut,
        run: killed_with_unread,
    },
];

fn close_unread(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    server.close();
    reset(&mut client);
    let _ = client.recv(100);
    let _ = client.recv(100);
    let _ = client.send(100);
    Ok(())
}

fn close_unread_then_send(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    server.close();
    reset(&mut client);
    let _ = client.send(100);
    let _ = client.send(100);
    client.error();
    Ok(())
}

/// Whether the writer can send on, at once after the close, in one of many tries.
fn close_unread_at_once(stage: &mut Stage) -> Done {
    let mut taken = false;
    for _ in 0..20 {
        let (mut client, server) = stage.pair()?;
        let _ = client.send(100);
        server.arrived(100);
        server.close();
        taken |= rustix::net::send(&client, &[0; 100], SendFlags::NOSIGNAL).is_ok();
    }
    stage.note(format!("a send was taken: {taken}"));
    Ok(())
}

/// The other end has shut down its side before.
fn close_unread_half_closed(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let _ = client.send(100);
    client.shutdown(Shutdown::Write);
    server.arrived(100);
    server.close();
    client.ready(PollFlags::HUP, Duration::from_secs(2));
    let _ = client.recv(100);
    Ok(())
}

/// The closing end has shut down its own side before.
fn close_unread_after_shutdown(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    server.shutdown(Shutdown::Write);
    client.arrived(0);
    let _ = client.recv(100);
    // The agent looks at the socket when it shuts down; closed by then, it is reset as over TCP.
    std::thread::sleep(Duration::from_millis(300));
    server.close();
    let reset = client.ready(PollFlags::HUP, Duration::from_millis(500));
    client.note(format!("reset: {reset}"));
    Ok(())
}

fn close_unread_part(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = server.send(50);
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv(60);
    server.close();
    reset(&mut client);
    let _ = client.recv(100);
    let _ = client.recv(100);
    Ok(())
}

fn close_unread_full(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    client.fill(64 << 10, 16 << 20);
    server.close();
    let woken = client.ready(PollFlags::OUT, Duration::from_secs(2));
    client.note(format!("woken: {woken}"));
    let _ = client.send(100);
    Ok(())
}

fn killed_with_unread(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    let part = Part::start(&server, "reader", "hold", &[])?;
    drop(server);
    part.kill()?;
    reset(&mut client);
    let _ = client.recv(100);
    let _ = client.send(100);
    Ok(())
}

/// Waits for a reset, which the shortcut's agent sends a moment later.
fn reset(end: &mut End) {
    let reset = end.ready(PollFlags::HUP, Duration::from_secs(2));
    end.note(format!("reset: {reset}"));
    end.poll(ALL, QUIET_MS);
}

//! Sockets that entered the map as non-blocking ones and were made blocking later. Such a connection
//! takes no part in the shortcut any more, but stays in the map until it closes.

use rustix::{
    net::{Shutdown, shutdown},
    process::Signal,
};

use super::{
    Broken, Case, Done, Stage, Takes, cases_read, cases_wake,
    script::End,
    task::{Part, Task},
};

pub const CASES: &[Case] = &[
    Case {
        name: "late_blocking_data",
        about: "made blocking in mid-stream: data wakes recv",
        takes: Takes::Shortcut,
        run: |s| {
            wake(s, |c| {
                let _ = c.send(10);
            })
        },
    },
    Case {
        name: "late_blocking_end",
        about: "made blocking in mid-stream: the peer's shutdown(WR) ends recv with 0",
        takes: Takes::Shortcut,
        run: |s| wake(s, |c| c.shutdown(Shutdown::Write)),
    },
    Case {
        name: "late_blocking_reset",
        about: "made blocking in mid-stream: the peer's reset ends recv with ECONNRESET",
        takes: Takes::Shortcut,
        run: reset,
    },
    Case {
        name: "late_blocking_shutdown",
        about: "made blocking in mid-stream: shutdown(RD) on another thread ends recv with 0",
        takes: Takes::Shortcut,
        run: local_shutdown,
    },
    Case {
        name: "late_blocking_signal",
        about: "made blocking in mid-stream: a handled signal (SA_RESTART) does not end recv",
        takes: Takes::Shortcut,
        run: signal,
    },
    Case {
        name: "late_blocking_stop",
        about: "made blocking in mid-stream: SIGSTOP and SIGCONT do not end recv",
        takes: Takes::Shortcut,
        run: stop,
    },
    Case {
        name: "late_blocking_waitall",
        about: "made blocking in mid-stream: MSG_WAITALL over two messages that come apart",
        takes: Takes::Shortcut,
        run: waitall,
    },
    Case {
        name: "late_blocking_room",
        about: "made blocking with a full send buffer: room in it does not end recv",
        takes: Takes::Shortcut,
        run: room,
    },
    Case {
        name: "late_blocking_stream",
        about: "made blocking in mid-stream at both ends, 4 MB each way",
        takes: Takes::Shortcut,
        run: stream,
    },
];

/// A pair that has used the shortcut, its server now blocking.
fn late_pair(stage: &Stage) -> Result<(End, End), Broken> {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    let _ = server.recv(4096);
    server.blocking(true)?;
    Ok((client, server))
}

fn wake(stage: &mut Stage, by: fn(&mut End)) -> Done {
    cases_wake::woken(late_pair(stage)?, by)
}

fn reset(stage: &mut Stage) -> Done {
    cases_wake::woken_by_reset(late_pair(stage)?)
}

fn local_shutdown(stage: &mut Stage) -> Done {
    let (_client, server) = late_pair(stage)?;
    let other = server.dup("other")?;
    let reader = Task::start(server, |end| {
        let _ = end.recv(100);
    })?;
    reader.blocks();
    shutdown(&other, Shutdown::Read)?;
    reader.join()?;
    Ok(())
}

fn signal(stage: &mut Stage) -> Done {
    let (mut client, server) = late_pair(stage)?;
    let part = Part::start(&server, "reader", "signals", &[100, server.got])?;
    part.blocks();
    part.signal(Signal::USR1)?;
    part.blocks();
    let _ = client.send(10);
    part.finish()
}

fn stop(stage: &mut Stage) -> Done {
    let (mut client, server) = late_pair(stage)?;
    let part = Part::start(&server, "reader", "recv", &[100, 1, server.got])?;
    part.blocks();
    part.signal(Signal::STOP)?;
    part.wait_state('T');
    part.signal(Signal::CONT)?;
    part.blocks();
    let _ = client.send(10);
    part.finish()
}

fn waitall(stage: &mut Stage) -> Done {
    let (client, server) = late_pair(stage)?;
    cases_read::waitall(client, server)
}

fn room(stage: &mut Stage) -> Done {
    let (mut client, mut server) = late_pair(stage)?;
    server.blocking(false)?;
    let sent = server.fill(64 << 10, 16 << 20);
    server.blocking(true)?;
    let reader = Task::start(server, |end| {
        let _ = end.recv(100);
    })?;
    reader.blocks();
    client.recv_all(sent, 1 << 20);
    reader.blocks();
    let _ = client.send(10);
    reader.join()?;
    Ok(())
}

fn stream(stage: &mut Stage) -> Done {
    const LEN: u64 = 4 << 20;
    let (mut client, mut server) = late_pair(stage)?;
    client.blocking(true)?;
    for _ in 0..2 {
        let writer = Task::start(client, |end| {
            let _ = end.send_all(LEN, 100_000);
        })?;
        server.recv_all(LEN, 30_000);
        client = writer.join()?;
        std::mem::swap(&mut client, &mut server);
    }
    Ok(())
}

//! What wakes a call that waits.

use std::time::Duration;

use rustix::{
    event::PollFlags,
    net::{RecvFlags, Shutdown, shutdown},
    process::Signal,
};

use super::{
    Case, Done, Stage, Takes,
    script::{End, QUIET_MS},
    stage::{BLOCKING, NONBLOCKING},
    task::{Part, Task},
};

pub const CASES: &[Case] = &[
    Case {
        name: "wake_data",
        about: "data wakes a blocking recv",
        takes: Takes::Either,
        run: |s| {
            wake(s, |c| {
                let _ = c.send(10);
            })
        },
    },
    Case {
        name: "wake_peer_shutdown",
        about: "the peer's shutdown(WR) ends a blocking recv with 0",
        takes: Takes::Either,
        run: |s| wake(s, |c| c.shutdown(Shutdown::Write)),
    },
    Case {
        name: "wake_peer_reset",
        about: "the peer's reset ends a blocking recv with ECONNRESET",
        takes: Takes::Either,
        run: wake_reset,
    },
    Case {
        name: "wake_local_shutdown",
        about: "another thread's shutdown(RD) and shutdown(RDWR) end a blocking recv with 0",
        takes: Takes::Either,
        run: wake_local_shutdown,
    },
    Case {
        name: "wake_signal",
        about: "a handled signal (SA_RESTART) does not end a blocking recv",
        takes: Takes::Either,
        run: wake_signal,
    },
    Case {
        name: "wake_stop",
        about: "SIGSTOP and SIGCONT do not end a blocking recv",
        takes: Takes::Either,
        run: wake_stop,
    },
    Case {
        name: "wake_poll",
        about: "poll on another thread is woken by data, by shutdown, by reset",
        takes: Takes::Shortcut,
        run: wake_poll,
    },
    Case {
        name: "blocking_one_side",
        about: "a blocking reader and a non-blocking writer",
        takes: Takes::Either,
        run: |s| one_side(s, false),
    },
    Case {
        name: "blocking_other_side",
        about: "a blocking writer and a non-blocking reader",
        takes: Takes::Either,
        run: |s| one_side(s, true),
    },
    Case {
        name: "nonblock_toggled",
        about: "O_NONBLOCK taken off and put on at both ends between messages",
        takes: Takes::Shortcut,
        run: nonblock_toggled,
    },
    Case {
        name: "nonblock_set_while_waiting",
        about: "O_NONBLOCK is set while a blocking MSG_WAITALL waits on another thread",
        takes: Takes::Either,
        run: nonblock_while_waiting,
    },
    Case {
        name: "nonblock_by_flag",
        about: "blocking sockets that are only used with MSG_DONTWAIT",
        takes: Takes::Either,
        run: nonblock_by_flag,
    },
];

fn wake(stage: &mut Stage, by: fn(&mut End)) -> Done {
    woken(stage.blocking_pair()?, by)
}

/// A blocking recv of the server, ended by what the client does.
pub fn woken((mut client, server): (End, End), by: fn(&mut End)) -> Done {
    let reader = Task::start(server, |end| {
        let _ = end.recv(100);
    })?;
    reader.blocks();
    by(&mut client);
    reader.join()?;
    Ok(())
}

fn wake_reset(stage: &mut Stage) -> Done {
    woken_by_reset(stage.blocking_pair()?)
}

/// The same by the client's reset; then recv once more.
pub fn woken_by_reset((client, server): (End, End)) -> Done {
    let reader = Task::start(server, |end| {
        let _ = end.recv(100);
    })?;
    reader.blocks();
    client.abort();
    let mut server = reader.join()?;
    let _ = server.recv(100);
    Ok(())
}

fn wake_local_shutdown(stage: &mut Stage) -> Done {
    for how in [Shutdown::Read, Shutdown::Both] {
        let (_client, server) = stage.blocking_pair()?;
        let other = server.dup("other")?;
        let reader = Task::start(server, |end| {
            let _ = end.recv(100);
        })?;
        reader.blocks();
        shutdown(&other, how)?;
        reader.join()?;
    }
    Ok(())
}

fn wake_signal(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.blocking_pair()?;
    let part = Part::start(&server, "server", "signals", &[100])?;
    drop(server);
    part.blocks();
    for _ in 0..3 {
        part.signal(Signal::USR1)?;
        part.blocks();
    }
    let _ = client.send(10);
    part.finish()
}

fn wake_stop(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.blocking_pair()?;
    let part = Part::start(&server, "server", "recv", &[100, 1])?;
    drop(server);
    part.blocks();
    part.signal(Signal::STOP)?;
    part.wait_state('T');
    part.signal(Signal::CONT)?;
    part.blocks();
    let _ = client.send(10);
    part.finish()
}

fn wake_poll(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair()?;
    let want = PollFlags::IN | PollFlags::RDHUP;
    let wait = move |end: &mut super::script::End| {
        end.note(format!(
            "ready: {}",
            end.ready(want, super::script::PATIENCE)
        ));
    };
    let reader = Task::start(server, wait)?;
    reader.blocks();
    let _ = client.send(10);
    let mut server = reader.join()?;
    server.arrived(10);
    let _ = server.recv(100);
    let reader = Task::start(server, wait)?;
    reader.blocks();
    client.shutdown(Shutdown::Write);
    let mut server = reader.join()?;
    server.poll(want, QUIET_MS);
    let _ = server.recv(100);
    client.abort();
    server.poll(PollFlags::empty(), QUIET_MS);
    server.error();
    Ok(())
}

fn one_side(stage: &mut Stage, writer_blocks: bool) -> Done {
    let (client, server) = if writer_blocks {
        stage.pair_of(BLOCKING, NONBLOCKING)?
    } else {
        stage.pair_of(NONBLOCKING, BLOCKING)?
    };
    let writer = Task::start(client, |end| {
        let _ = end.send_all(1 << 20, 40_000);
        end.shutdown(Shutdown::Write);
    })?;
    let mut server = server;
    server.drain(1 << 20);
    writer.join()?;
    Ok(())
}

fn nonblock_toggled(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for round in 0_usize..12 {
        client.blocking(round % 2 == 1)?;
        server.blocking(round % 3 == 1)?;
        let _ = client.send(100 + round);
        let _ = client.send(200);
        server.arrived(300 + round as u64);
        let _ = server.recv_flags(4096, RecvFlags::DONTWAIT, " dontwait");
        let _ = server.send(50);
        client.arrived(50);
        let _ = client.recv_flags(4096, RecvFlags::DONTWAIT, " dontwait");
    }
    Ok(())
}

fn nonblock_while_waiting(stage: &mut Stage) -> Done {
    let (mut client, server) = stage.pair_of(NONBLOCKING, BLOCKING)?;
    let other = server.dup("other")?;
    let reader = Task::start(server, |end| {
        let _ = end.recv_flags(300, RecvFlags::WAITALL, " waitall");
    })?;
    reader.blocks();
    other.blocking(false)?;
    for _ in 0..3 {
        let _ = client.send(100);
        std::thread::sleep(Duration::from_millis(20));
    }
    reader.join()?;
    Ok(())
}

fn nonblock_by_flag(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.blocking_pair()?;
    for _ in 0..5 {
        let _ = client.send_flags(100, rustix::net::SendFlags::DONTWAIT, " dontwait");
        server.arrived(100);
        let _ = server.recv_flags(4096, RecvFlags::DONTWAIT, " dontwait");
        let _ = server.recv_flags(4096, RecvFlags::DONTWAIT, " dontwait");
    }
    Ok(())
}

//! Readers behind epoll, when the path changes under unread bytes and when it does not.

use rustix::event::epoll::EventFlags;

use super::{
    Case, Done, Stage, Takes,
    poller::{Poller, Reader},
    script::QUIET_MS,
};

pub const CASES: &[Case] = &[
    Case {
        name: "mix_edge_short_read",
        about: "TCP bytes behind unread redirected bytes; edge-triggered reader that takes a short read for the end",
        takes: Takes::Shortcut,
        run: |s| mix(s, Reader::EdgeShortRead),
    },
    Case {
        name: "mix_edge_until_eagain",
        about: "the same, reader goes on until EAGAIN",
        takes: Takes::Shortcut,
        run: |s| mix(s, Reader::EdgeUntilEagain),
    },
    Case {
        name: "mix_level",
        about: "the same, level-triggered reader",
        takes: Takes::Shortcut,
        run: |s| mix(s, Reader::Level),
    },
    Case {
        name: "mix_back_and_forth",
        about: "the path changes before every one of 40 messages, all unread, then all are read",
        takes: Takes::Shortcut,
        run: back_and_forth,
    },
    Case {
        name: "mix_while_reading",
        about: "the path changes before each message while a short-read reader follows",
        takes: Takes::Shortcut,
        run: while_reading,
    },
    Case {
        name: "edge_events",
        about: "one event for each message that meets an empty queue; none without a message",
        takes: Takes::Shortcut,
        run: edge_events,
    },
    Case {
        name: "edge_partial_read",
        about: "edge-triggered: what a reader leaves unread gives no event until more comes",
        takes: Takes::Shortcut,
        run: partial_read,
    },
    Case {
        name: "level_partial_read",
        about: "level-triggered: what is left unread is announced again",
        takes: Takes::Shortcut,
        run: level_partial_read,
    },
    Case {
        name: "oneshot",
        about: "EPOLLONESHOT: one event, then none until it is armed again",
        takes: Takes::Shortcut,
        run: oneshot,
    },
    Case {
        name: "epoll_after_data",
        about: "a socket with unread bytes is added to epoll; events come at once",
        takes: Takes::Shortcut,
        run: after_data,
    },
    Case {
        name: "two_epolls",
        about: "two epoll instances, both edge-triggered, both see each message",
        takes: Takes::Shortcut,
        run: two_epolls,
    },
];

fn mix(stage: &mut Stage, reader: Reader) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let poller = Poller::new(&server, reader.flags())?;
    let _ = client.send(100);
    stage.engine.redirect(false)?;
    let _ = client.send(100);
    server.arrived(200);
    poller.read(&mut server, reader, 4096);
    stage.engine.redirect(true)?;
    let _ = client.send(50);
    server.arrived(50);
    poller.read(&mut server, reader, 4096);
    stage.note(format!("{} of {} read", server.got, client.sent));
    Ok(())
}

fn back_and_forth(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    for i in 0..40 {
        stage.engine.redirect(i % 2 == 0)?;
        let _ = client.send(10 + 7 * i);
    }
    server.arrived(client.sent);
    server.fionread();
    let _ = server.recv(8192);
    let _ = server.recv(8192);
    Ok(())
}

fn while_reading(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let poller = Poller::new(&server, Reader::EdgeShortRead.flags())?;
    for i in 0..100 {
        stage.engine.redirect(i % 3 != 0)?;
        let _ = client.send(1 + 37 * i);
        // Every other time there is something unread when the path changes.
        if i % 2 == 1 {
            server.arrived(client.sent - server.got);
            if poller.wait(&server, QUIET_MS).is_some() {
                while server.recv(2048) == Ok(2048) {}
            }
        }
    }
    stage.note(format!("{} of {} read", server.got, client.sent));
    Ok(())
}

fn edge_events(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let poller = Poller::new(&server, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
    poller.wait(&server, QUIET_MS);
    poller.quiet(&server);
    for _ in 0..3 {
        let _ = client.send(100);
        server.arrived(100);
        poller.wait(&server, QUIET_MS);
        let _ = server.recv(4096);
        poller.quiet(&server);
    }
    Ok(())
}

fn partial_read(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let poller = Poller::new(&server, EventFlags::IN | EventFlags::ET)?;
    let _ = client.send(100);
    server.arrived(100);
    poller.wait(&server, QUIET_MS);
    let _ = server.recv(30);
    poller.quiet(&server);
    let _ = client.send(5);
    server.arrived(75);
    poller.wait(&server, QUIET_MS);
    let _ = server.recv(4096);
    poller.quiet(&server);
    Ok(())
}

fn level_partial_read(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let poller = Poller::new(&server, EventFlags::IN)?;
    let _ = client.send(100);
    server.arrived(100);
    for size in [30, 30, 40] {
        poller.wait(&server, QUIET_MS);
        let _ = server.recv(size);
    }
    poller.quiet(&server);
    Ok(())
}

fn oneshot(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let flags = EventFlags::IN | EventFlags::ONESHOT;
    let poller = Poller::new(&server, flags)?;
    let _ = client.send(100);
    server.arrived(100);
    poller.wait(&server, QUIET_MS);
    let _ = client.send(100);
    poller.quiet(&server);
    poller.modify(&server, flags)?;
    poller.wait(&server, QUIET_MS);
    server.arrived(200);
    let _ = server.recv(4096);
    poller.modify(&server, flags)?;
    poller.quiet(&server);
    Ok(())
}

fn after_data(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let _ = client.send(100);
    server.arrived(100);
    let poller = Poller::new(&server, EventFlags::IN | EventFlags::ET)?;
    poller.wait(&server, QUIET_MS);
    poller.modify(&server, EventFlags::IN | EventFlags::OUT | EventFlags::ET)?;
    poller.wait(&server, QUIET_MS);
    let _ = server.recv(4096);
    poller.quiet(&server);
    Ok(())
}

fn two_epolls(stage: &mut Stage) -> Done {
    let (mut client, mut server) = stage.pair()?;
    let flags = EventFlags::IN | EventFlags::ET;
    let both = [Poller::new(&server, flags)?, Poller::new(&server, flags)?];
    for _ in 0..2 {
        let _ = client.send(100);
        server.arrived(100);
        for poller in &both {
            poller.wait(&server, QUIET_MS);
        }
        let _ = server.recv(4096);
        for poller in &both {
            poller.quiet(&server);
        }
    }
    Ok(())
}

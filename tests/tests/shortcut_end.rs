//! Connections of the shortcut that end in a reset, as over TCP or because they would hang.

use std::fs;

use serde_json::Value;
use underpass_tests::{
    Result,
    lab::{
        Proc,
        cli::{number, text},
    },
    manifest::{self, Source, Target},
    rpc::{counter, row},
    scene::{LIMIT, PORT, Scene, service_at},
};

/// Two connections in a row, of which each program has one end: `accept|dial JOB IP PORT`. What the
/// socket says after the job is printed with whether it took less than a second.
const ENDS: &str = "
import os, select, socket, sys, time
role, job, ip, port = sys.argv[1:]
at = (ip, int(port))
if role == 'accept':
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    listener.bind(at)
    listener.listen()
    print('listening', flush=True)
def end():
    if role == 'accept':
        select.select([listener], [], [])
        s = listener.accept()[0]
        s.setblocking(False)
        return s
    s = socket.socket()
    s.setblocking(False)
    try: s.connect(at)
    except BlockingIOError: pass
    select.select([], [s], [])
    time.sleep(0.05)
    return s
def errno(f):
    try: return f()
    except OSError as e: return -e.errno
def look(s):
    start = time.monotonic()
    select.select([s], [], [], 5)
    got = errno(lambda: s.recv(100))
    print('sees', got, 'soon' if time.monotonic() - start < 1 else 'late', flush=True)
for n in range(2):
    s = end()
    if job == 'splice':
        select.select([s], [], [])
        r, w = os.pipe()
        got = errno(lambda: os.splice(s.fileno(), w, 100))
        print('spliced', got, flush=True)
        if got > 0: s.send(b'ok')
    elif job in ('close', 'read', 'wait'):
        select.select([s], [], [])
        if job == 'read': s.recv(100)
        if job == 'wait':
            # It has sent something, as most that close have.
            s.send(b'!')
            print('peer', *s.getpeername(), flush=True)
            sys.stdin.readline()
        s.close()
    elif job == 'send':
        s.send(b'12345678')
        look(s)
    elif job == 'twice':
        s.send(b'12345678')
        select.select([s], [], [])
        s.recv(100)
        look(s)
    elif job == 'answer':
        select.select([s], [], [])
        s.recv(100)
        s.send(b'ok')
        select.select([s], [], [])
    elif job == 'block':
        s.setblocking(n == 0)
        s.send(b'12345678')
        select.select([s], [], [])
        print('answer', s.recv(100), flush=True)
        s.close()
";

/// Python under a name that no other node has: who splices is known by its name, and each node's watch
/// sees every process of this machine.
fn python(scene: &Scene) -> Result<String> {
    let name = scene.lab.dir.file_name().unwrap_or_default();
    let path = scene.lab.dir.join(name);
    if !path.exists() {
        fs::copy(fs::canonicalize("/usr/bin/python3")?, &path)?;
    }
    Ok(path.to_string_lossy().into_owned())
}

/// A program with one end, and one with the other.
fn ends(scene: &Scene, accepts: &str, dials: &str) -> Result<(Proc, Proc)> {
    let (port, python) = (PORT.to_string(), python(scene)?);
    let start = |place, role, job, ip: String| {
        let command = [&python, "-c", ENDS, role, job, &ip, &port];
        scene.lab.run(place, &command)
    };
    let mut server = start(
        &scene.server.place,
        "accept",
        accepts,
        scene.server.v4.to_string(),
    )?;
    server.line(0, "listening", LIMIT)?;
    // The watch for splice is there.
    scene.agent.cli.status()?;
    let client = start(
        &scene.client.place,
        "dial",
        dials,
        service_at().ip().to_string(),
    )?;
    Ok((server, client))
}

/// As programs do that connect with a timeout and block from then on.
#[test]
fn a_program_that_turns_blocking_keeps_out_of_it_from_then_on() -> Result<()> {
    let scene = Scene::new("scblk", &["--shortcut", "on"])?;
    let (_server, mut client) = ends(&scene, "answer", "block")?;
    client.line(0, "answer", LIMIT)?;
    client.line(1, "answer", LIMIT)?;
    let closed = |r: &Value| text(r, "/state") == "closed";
    let filters = ["--from", "app/client"];
    for row in scene.agent.cli.rows("both", &filters, 2, closed)? {
        // The second one is non-blocking at both ends, and would take it.
        assert_eq!(text(&row, "/shortcut_reason"), "SHORTCUT_BLOCKING", "{row}");
        assert_eq!(number(&row, "/bytes_shortcut"), Some(0), "{row}");
    }
    Ok(())
}

#[test]
fn a_first_splice_ends_the_connection_and_the_next_goes_by_tcp() -> Result<()> {
    for (name, accepts, dials) in [("scspla", "splice", "send"), ("scspld", "send", "splice")] {
        let scene = Scene::new(name, &["--shortcut", "on"])?;
        let (server, client) = ends(&scene, accepts, dials)?;
        let (mut splices, mut sends) = match dials {
            "send" => (server, client),
            _ => (client, server),
        };
        splices.line(0, "spliced -11", LIMIT)?;
        sends.line(0, "sees -104 soon", LIMIT)?;
        splices.line(0, "spliced 8", LIMIT)?;
        sends.line(0, "sees b'ok' soon", LIMIT)?;
        let sent = if dials == "send" { 8 } else { 0 };
        let first = row(&scene, "closed", sent)?;
        assert_eq!(text(&first, "/close_reason"), "SPLICED", "{first}");
        assert_eq!(text(&first, "/shortcut_reason"), "SHORTCUT_SPLICES");
        assert_eq!(counter(&scene, "shortcut_resets")?, 1);
        assert_eq!(counter(&scene, "shortcut_resets_failed")?, 0);
        let log = scene.agent.log();
        assert!(log.contains("code=\"SPLICED\""), "{log}");
        let program = scene.lab.dir.file_name().unwrap_or_default();
        assert!(log.contains(&*program.to_string_lossy()), "{log}");
    }
    Ok(())
}

#[test]
fn a_close_with_unread_bytes_resets_the_writer() -> Result<()> {
    for (name, accepts, dials, reason) in [
        ("scunra", "close", "send", "RESET_BY_PEER"),
        ("scunrd", "send", "close", "RESET_LOCALLY"),
    ] {
        let scene = Scene::new(name, &["--shortcut", "on"])?;
        // What the writer's kernel answers passes the guard of the other end's namespace.
        let client = Source::Account("app", "client");
        let policy = manifest::allow("app", "who", Target::Workload("server"), &[client]);
        scene.policies(&[policy])?;
        let (mut server, mut client) = ends(&scene, accepts, dials)?;
        let (sends, sent) = match dials {
            "send" => (&mut client, 8),
            _ => (&mut server, 0),
        };
        // An accepting program has said that it listens.
        let first = usize::from(dials != "send");
        for n in 0..2 {
            sends.line(first + n, "sees -104 soon", LIMIT)?;
        }
        let cli = &scene.agent.cli;
        let ended = |r: &serde_json::Value| text(r, "/state") == "closed";
        let rows = cli.rows("both rows", &["--from", "app/client"], 2, ended)?;
        for row in rows {
            assert_eq!(text(&row, "/close_reason"), reason, "{row}");
            assert_eq!(row["bytes_sent"], sent, "{row}");
        }
        let log = scene.agent.log();
        assert!(!log.contains("refused"), "{log}");
        assert_eq!(counter(&scene, "shortcut_unread_resets")?, 2);
        assert_eq!(counter(&scene, "shortcut_unread_lost")?, 0);
    }
    Ok(())
}

#[test]
fn without_an_agent_it_is_the_end_of_the_stream_and_told_later() -> Result<()> {
    let scene = Scene::new("sclost", &["--shortcut", "on"])?;
    let (port, python) = (PORT.to_string(), python(&scene)?);
    let (at, to) = (scene.server.v4.to_string(), service_at().ip().to_string());
    let command = [&python, "-c", ENDS, "accept", "close", &at, &port];
    let mut server = scene.lab.run(&scene.server.place, &command)?;
    server.line(0, "listening", LIMIT)?;
    scene.agent.cli.status()?;
    scene.agent.stop()?;
    let command = [&python, "-c", ENDS, "dial", "send", &to, &port];
    let mut client = scene.lab.run(&scene.client.place, &command)?;
    for n in 0..2 {
        client.line(n, "sees b'' soon", LIMIT)?;
    }
    scene.agent.go_on()?;
    let told = |s: &serde_json::Value| s["counters"]["shortcut_unread_lost"] == 2;
    scene.agent.wait_status("what was lost", told)?;
    assert_eq!(counter(&scene, "shortcut_unread_resets")?, 0);
    let log = scene.agent.log();
    assert!(log.contains("code=\"UNREAD_LOST\""), "{log}");
    Ok(())
}

/// The reset comes behind the FIN that was held back, so TCP asks for an exact one, but not more than once
/// in half a second. Who cannot ask is told by an ordinary FIN.
#[test]
fn a_writer_that_may_not_ask_for_the_reset_sees_the_end_of_the_stream() -> Result<()> {
    let scene = Scene::new("scdeaf", &["--shortcut", "on"])?;
    let (mut server, client) = ends(&scene, "wait", "twice")?;
    for n in 0..2 {
        let peer = server.line(n + 1, "peer", LIMIT)?;
        let words: Vec<_> = peer.split(' ').collect();
        let (from, to) = (
            format!("{}:{PORT}", scene.server.v4),
            format!("{}:{}", words[1], words[2]),
        );
        // Out of the window: it is answered, which uses up the half second.
        let stray = ["underpass-peer", "segment", &from, &to, "--flags", "ack"];
        scene.lab.json(&scene.server.place, &stray, LIMIT)?;
        server.tell("close")?;
    }
    let done = client.finish(LIMIT)?;
    let seen: Vec<_> = done.stdout.lines().collect();
    assert_eq!(seen, ["sees b'' soon"; 2], "{}", done.stderr);
    assert_eq!(counter(&scene, "shortcut_unread_lost")?, 2);
    Ok(())
}

#[test]
fn a_close_after_all_was_read_is_none_of_this() -> Result<()> {
    for (name, accepts, dials) in [("scalla", "read", "send"), ("scalld", "send", "read")] {
        let scene = Scene::new(name, &["--shortcut", "on"])?;
        let (mut server, mut client) = ends(&scene, accepts, dials)?;
        let sends = if dials == "send" {
            &mut client
        } else {
            &mut server
        };
        // An accepting program has said that it listens.
        let first = usize::from(dials != "send");
        for n in 0..2 {
            sends.line(first + n, "sees b'' soon", LIMIT)?;
        }
        let cli = &scene.agent.cli;
        let ended = |r: &serde_json::Value| text(r, "/state") == "closed";
        for row in cli.rows("both rows", &["--from", "app/client"], 2, ended)? {
            assert_eq!(row["bytes_shortcut"], 8, "{row}");
        }
        assert_eq!(counter(&scene, "shortcut_unread_resets")?, 0);
        assert_eq!(counter(&scene, "shortcut_unread_lost")?, 0);
    }
    Ok(())
}

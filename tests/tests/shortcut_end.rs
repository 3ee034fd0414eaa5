//! Connections of the shortcut that end in a reset, as over TCP or because they would hang.

use underpass_tests::{
    Result,
    lab::{Proc, cli::text},
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
    elif job == 'send':
        s.send(b'12345678')
        look(s)
";

/// A program with one end, and one with the other.
fn ends(scene: &Scene, accepts: &str, dials: &str) -> Result<(Proc, Proc)> {
    let port = PORT.to_string();
    let start = |place, role, job, ip: String| {
        let command = ["python3", "-c", ENDS, role, job, &ip, &port];
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
        assert!(log.contains("python3"), "{log}");
    }
    Ok(())
}

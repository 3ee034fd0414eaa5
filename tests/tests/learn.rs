//! What the shortcut learns: streams that cost less by TCP leave it and are kept out, others stay.

use std::fs;

use underpass_abi::{
    VERSION, plain,
    shortcut::{PairKey, learn},
    tables::maps,
};
use underpass_agent::sys::{
    bpf::obj_get,
    maps::{Map, Put},
};
use underpass_tests::{
    Result,
    lab::{
        Proc,
        cli::{number, text},
    },
    scene::{LIMIT, PORT, Scene, service_at},
};

const WINDOW: u64 = learn::WINDOW as u64;

/// Both ends of connections in one process, so that it is given who has read what when. Commands come
/// on standard input; each byte that arrives is compared.
const ENDS: &str = r#"
import json, socket, sys
at = (sys.argv[1], int(sys.argv[2]))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setblocking(False)
listener.bind(at)
listener.listen()
sent, read = {}, {}

def dial():
    a = socket.socket()
    a.setblocking(False)
    try: a.connect(at)
    except BlockingIOError: pass
    while True:
        try: b = listener.accept()[0]
        except BlockingIOError: continue
        break
    b.setblocking(False)
    for s in (a, b): sent[s], read[s] = 0, 0
    return a, b

def pattern(at, size):
    return bytes((at + i) % 251 for i in range(min(size, 251))) * (size // 251 + 1)

def send(s, size):
    try: n = s.send(pattern(sent[s], size)[:size])
    except BlockingIOError: return 0
    sent[s] += n
    return n

def recv(s, peer, size):
    while size:
        try: got = s.recv(size)
        except BlockingIOError: continue
        assert got == pattern(read[s], len(got))[:len(got)], 'bytes differ'
        read[s] += len(got)
        size -= len(got)

def drain(s, peer): recv(s, peer, sent[peer] - read[s])

a = b = None
print('ready', flush=True)
for line in sys.stdin:
    verb, *n = line.split()
    n = [int(x) for x in n]
    if verb == 'dial': a, b = dial()
    # Messages that nobody reads yet.
    if verb == 'push':
        for _ in range(n[0]): assert send(a, n[1]) == n[1]
    if verb == 'drain': drain(b, a)
    # As many requests in flight.
    if verb == 'ask':
        for _ in range(n[0]):
            for _ in range(n[2]): send(a, n[1])
            for _ in range(n[2]): recv(b, a, n[1]); send(b, n[1])
            drain(a, b)
    # Always more to send than the reader has read.
    if verb == 'flood':
        done = 0
        while done < n[0]:
            if send(a, n[1]) == n[1]: done += 1
            else: recv(b, a, 10000)
    print(json.dumps({'sent': sent[a], 'read': read[b]}), flush=True)
"#;

struct Ends<'a> {
    scene: &'a Scene,
    process: Proc,
}

impl<'a> Ends<'a> {
    fn start(scene: &'a Scene) -> Result<Self> {
        let place = &scene.server.place;
        let (ip, port) = (scene.server.v4.to_string(), PORT.to_string());
        let python = python(scene)?;
        let command = [python.as_str(), "-c", ENDS, &ip, &port];
        let mut process = scene.lab.run(place, &command)?;
        process.line(0, "ready", LIMIT)?;
        Ok(Self { scene, process })
    }

    /// How much was sent and read of the current connection.
    fn say(&mut self, line: &str) -> Result<(u64, u64)> {
        let answer = self.process.ask(line)?;
        let at = |name: &str| answer[name].as_u64().unwrap_or(u64::MAX);
        Ok((at("sent"), at("read")))
    }

    /// The row of the connection that has sent so much.
    fn row(&self, sent: u64) -> Result<serde_json::Value> {
        let is = |r: &serde_json::Value| number(r, "/bytes_sent") == Some(sent);
        let filter = ["--from", "app/server"];
        let rows = self.scene.agent.cli.rows("the row", &filter, 1, is)?;
        Ok(rows[0].clone())
    }
}

/// Python under a name of its own: programs that splice are told by name, on the whole machine.
fn python(scene: &Scene) -> Result<String> {
    let path = scene.lab.dir.join("learn-python");
    if !path.exists() {
        fs::copy("/usr/bin/python3", &path)?;
    }
    Ok(path.to_string_lossy().into_owned())
}

fn counter(scene: &Scene, name: &str) -> Result<u64> {
    let status = scene.agent.cli.status()?;
    // Shown if the test fails.
    println!("{}", status["counters"]);
    Ok(status["counters"][name].as_u64().unwrap_or(u64::MAX))
}

fn learnt(scene: &Scene) -> Result<(Map, Vec<(PairKey, u64)>)> {
    let dir = scene.lab.pin_dir.join(format!("v{VERSION}/maps"));
    let map = Map::new(obj_get(&dir.join(maps::LEARNT))?, 1)?;
    let mut all = Vec::new();
    map.each(|key, value| all.extend(plain::from_bytes(key).zip(plain::from_bytes(value))))?;
    Ok((map, all))
}

#[test]
fn a_stream_of_small_writes_leaves_and_comes_back_as_requests() -> Result<()> {
    let scene = Scene::new("lrnback", &["--shortcut", "on"])?;
    let mut ends = Ends::start(&scene)?;
    ends.say("dial")?;
    // The first window begins with a reader that has nothing unread: learnt, but not left yet.
    ends.say(&format!("push {WINDOW} 1000"))?;
    assert_eq!(learnt(&scene)?.1.len(), 1);
    ends.say(&format!("push {} 1000", WINDOW + 44))?;
    assert_eq!(counter(&scene, "shortcut_taken")?, 2 * WINDOW);
    assert_eq!(counter(&scene, "shortcut_small_writes")?, 44);
    let (sent, read) = ends.say("drain")?;
    assert_eq!(sent, read);
    let row = ends.row(sent)?;
    assert_eq!(text(&row, "/shortcut_reason"), "SHORTCUT_SMALL_WRITES");
    assert_eq!(number(&row, "/bytes_received"), Some(0), "{row}");
    assert_eq!(number(&row, "/bytes_shortcut"), Some(2 * WINDOW * 1000));
    // The rest of the window is requests, and after it the connection takes the shortcut again.
    let rest = WINDOW - 44;
    ends.say(&format!("ask {rest} 1000 1"))?;
    assert_eq!(counter(&scene, "shortcut_small_writes")?, WINDOW);
    let before = counter(&scene, "shortcut_taken")?;
    let (sent, read) = ends.say("ask 50 1000 1")?;
    assert_eq!(sent, read);
    assert_eq!(counter(&scene, "shortcut_taken")?, before + 100);
    Ok(())
}

#[test]
fn requests_are_never_learnt_also_16_in_flight() -> Result<()> {
    let scene = Scene::new("lrnreq", &["--shortcut", "on"])?;
    let mut ends = Ends::start(&scene)?;
    ends.say("dial")?;
    ends.say("ask 1000 64 1")?;
    ends.say("ask 100 1000 16")?;
    let (sent, read) = ends.say("ask 20 200000 1")?;
    assert_eq!(sent, read);
    let row = ends.row(sent)?;
    assert_eq!(number(&row, "/bytes_shortcut"), Some(2 * sent), "{row}");
    assert!(learnt(&scene)?.1.is_empty());
    Ok(())
}

#[test]
fn a_reader_that_stays_behind_keeps_the_next_out() -> Result<()> {
    let scene = Scene::new("lrnover", &["--shortcut", "on"])?;
    let mut ends = Ends::start(&scene)?;
    ends.say("dial")?;
    ends.say(&format!("flood {} 40000", learn::WINDOWS * learn::WINDOW))?;
    let (sent, read) = ends.say("drain")?;
    assert_eq!(sent, read);
    assert!(counter(&scene, "shortcut_unread")? > u64::from(learn::BY_TCP));
    ends.say("dial")?;
    let (sent, _) = ends.say("ask 10 1000 1")?;
    let row = ends.row(sent)?;
    assert_eq!(text(&row, "/shortcut_reason"), "SHORTCUT_OVERFLOWS");
    assert_eq!(number(&row, "/bytes_shortcut"), Some(0), "{row}");
    Ok(())
}

#[test]
fn zero_seconds_learn_nothing() -> Result<()> {
    let scene = Scene::new("lrnzero", &["--shortcut", "on", "--shortcut-keep-out", "0"])?;
    let mut ends = Ends::start(&scene)?;
    ends.say("dial")?;
    ends.say(&format!("push {} 100", 4 * WINDOW))?;
    let (sent, read) = ends.say("drain")?;
    assert_eq!(sent, read);
    assert_eq!(counter(&scene, "shortcut_taken")?, 4 * WINDOW);
    assert!(learnt(&scene)?.1.is_empty());
    Ok(())
}

/// Reads nothing of a connection before as much is there as it was told, then says so.
const LATE: &str = r#"
import array, fcntl, socket, sys, termios
listener = socket.socket()
listener.setblocking(False)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen()
want, open = int(sys.argv[3]), []
print('ready', flush=True)
while True:
    try: s = listener.accept()[0]
    except BlockingIOError: continue
    s.setblocking(False)
    there = array.array('i', [0])
    while there[0] < want: fcntl.ioctl(s, termios.FIONREAD, there)
    got = s.recv(want)
    s.send(b'ok' if got == bytes(i % 251 for i in range(want)) else b'no')
    open.append(s)
"#;

/// Sends as much in messages of 100 bytes.
const BURST: &str = r#"
import socket, sys, time
s = socket.socket()
s.setblocking(False)
try: s.connect((sys.argv[1], int(sys.argv[2])))
except BlockingIOError: pass
time.sleep(0.1)
data = bytes(i % 251 for i in range(int(sys.argv[3])))
for at in range(0, len(data), 100): s.send(data[at:at + 100])
while True:
    try: print('answer', s.recv(2).decode(), flush=True)
    except BlockingIOError: continue
    break
sys.stdin.read()
"#;

#[test]
fn the_next_of_the_pair_stays_on_tcp_until_it_is_tried_again() -> Result<()> {
    let scene = Scene::new("lrnnext", &["--shortcut", "on"])?;
    let sends = 130 * 100;
    let (ip, port) = (scene.server.v4.to_string(), PORT.to_string());
    let size = sends.to_string();
    let python = python(&scene)?;
    let server = [python.as_str(), "-c", LATE, &ip, &port, &size];
    let mut server = scene.lab.run(&scene.server.place, &server)?;
    server.line(0, "ready", LIMIT)?;
    let to = service_at().ip().to_string();
    let burst = |from: &str| -> Result<(u64, String)> {
        let pod = if from == "app/other" {
            &scene.other
        } else {
            &scene.client
        };
        let command = [python.as_str(), "-c", BURST, &to, &port, &size];
        let mut client = scene.lab.run(&pod.place, &command)?;
        client.line(0, "answer ok", LIMIT)?;
        let is = |r: &serde_json::Value| {
            text(r, "/state") == "established" && number(r, "/bytes_received") == Some(2)
        };
        let rows = scene.agent.cli.rows("the row", &["--from", from], 1, is)?;
        let row = &rows[0];
        assert_eq!(number(row, "/bytes_sent"), Some(sends), "{row}");
        let said = (
            number(row, "/bytes_shortcut").unwrap_or(u64::MAX),
            text(row, "/shortcut_reason").to_owned(),
        );
        let id = text(row, "/id").to_owned();
        client.kill9()?;
        let ended = |r: &serde_json::Value| text(r, "/state") == "closed" && text(r, "/id") == id;
        scene
            .agent
            .cli
            .rows("its end", &["--from", from], 1, ended)?;
        Ok(said)
    };
    let all = (sends + 2, String::new());
    assert_eq!(burst("app/client")?, all);
    let by_tcp = (0, "SHORTCUT_SMALL_WRITES".to_owned());
    assert_eq!(burst("app/client")?, by_tcp);
    // Others are not concerned.
    assert_eq!(burst("app/other")?, all);
    // As after ten minutes.
    let (map, entries) = learnt(&scene)?;
    assert_eq!(entries.len(), 2);
    for (key, value) in entries {
        let code_only = value & 0xffff_ffff;
        map.put(plain::bytes(&key), plain::bytes(&code_only), Put::Any)?;
    }
    assert_eq!(burst("app/client")?, all);
    assert_eq!(burst("app/client")?, by_tcp);
    Ok(())
}

//! What the shortcut learns: streams that cost less by TCP leave it and are kept out, others stay.

use underpass_abi::{
    plain,
    shortcut::{bound, learn},
};
use underpass_agent::sys::maps::Put;
use underpass_tests::{
    Result,
    ends::{Ends, counter, learnt, python},
    lab::cli::{number, text},
    scene::{LIMIT, PORT, Scene, service_at},
};

const WINDOW: u64 = learn::WINDOW as u64;

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
    ends.short(learn::SHORTS)?;
    assert_eq!(ends.tried(501)?, (1002, String::new()));
    assert!(learnt(&scene)?.1.is_empty());
    Ok(())
}

/// Each message costs the kernel a kibibyte that it charges to nobody, however small it is.
#[test]
fn many_small_messages_fill_the_queue() -> Result<()> {
    let scene = Scene::new("lrnpile", &["--shortcut", "on", "--shortcut-keep-out", "0"])?;
    let mut ends = Ends::start(&scene)?;
    // The last one finds a byte of room.
    let most = (bound::SOCKET - 1) / (bound::MESSAGE + 1) + 1;
    for _ in 0..2 {
        let before = counter(&scene, "shortcut_taken")?;
        ends.say("dial")?;
        ends.say(&format!("push {} 1", most + 500))?;
        let taken = counter(&scene, "shortcut_taken")? - before;
        assert_eq!(taken, most);
        let (sent, read) = ends.say("drain")?;
        assert_eq!(sent, read);
        // What was read makes room.
        ends.say("ask 1 100 1")?;
        assert_eq!(counter(&scene, "shortcut_taken")?, before + most + 2);
        ends.say("hang")?;
    }
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
    scene.agent.cli.status()?;
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

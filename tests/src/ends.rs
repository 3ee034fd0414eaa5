//! Both ends of connections in one process that is told who sends and reads what, and what the shortcut
//! has learnt of them.

use std::{fs, path::PathBuf};

use underpass_abi::{VERSION, plain, shortcut::PairKey, tables::maps};
use underpass_agent::sys::{bpf::obj_get, maps::Map};

use crate::{
    Result,
    lab::{
        Pod, Proc,
        cli::{number, text},
    },
    scene::{LIMIT, PORT, Scene},
};

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
    if verb == 'hang': a.close(); b.close()
    # Where something is unread the other end is reset.
    if verb == 'drop': b.close(); a.close()
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

/// A running process of them.
pub struct Ends<'a> {
    scene: &'a Scene,
    process: Proc,
}

impl<'a> Ends<'a> {
    /// In the server's pod.
    pub fn start(scene: &'a Scene) -> Result<Self> {
        Self::of(scene, &scene.server)
    }

    pub fn of(scene: &'a Scene, pod: &Pod) -> Result<Self> {
        let place = &pod.place;
        let (ip, port) = (pod.v4.to_string(), PORT.to_string());
        let python = python(scene)?;
        let command = [python.as_str(), "-c", ENDS, &ip, &port];
        let mut process = scene.lab.run(place, &command)?;
        process.line(0, "ready", LIMIT)?;
        // After this answer the watch for splice is attached, so the first connection may enter.
        scene.agent.cli.status()?;
        Ok(Self { scene, process })
    }

    /// Tells it one command. How much was sent and read of the current connection.
    pub fn say(&mut self, line: &str) -> Result<(u64, u64)> {
        let answer = self.process.ask(line)?;
        let at = |name: &str| answer[name].as_u64().unwrap_or(u64::MAX);
        Ok((at("sent"), at("read")))
    }

    /// Connections of 6 messages each.
    pub fn short(&mut self, number: u64) -> Result<()> {
        for _ in 0..number {
            self.say("dial")?;
            self.say("ask 3 100 1")?;
            self.say("hang")?;
        }
        Ok(())
    }

    /// What one more connection, which sends one message of `size` (of its own) and has it answered, had of
    /// the shortcut, and why not.
    pub fn tried(&mut self, size: u64) -> Result<(u64, String)> {
        self.say("dial")?;
        self.say(&format!("ask 1 {size} 1"))?;
        let row = self.row(size)?;
        self.say("hang")?;
        let shortcut = number(&row, "/bytes_shortcut").unwrap_or(u64::MAX);
        Ok((shortcut, text(&row, "/shortcut_reason").to_owned()))
    }

    /// The row of the connection that has sent so much.
    pub fn row(&self, sent: u64) -> Result<serde_json::Value> {
        let is = |r: &serde_json::Value| number(r, "/bytes_sent") == Some(sent);
        let filter = ["--from", "app/server"];
        let rows = self.scene.agent.cli.rows("the row", &filter, 1, is)?;
        Ok(rows[0].clone())
    }
}

/// Python under a name of its own: programs that splice are told by name, on the whole machine.
pub fn python(scene: &Scene) -> Result<String> {
    let path = scene.lab.dir.join("learn-python");
    if !path.exists() {
        fs::copy("/usr/bin/python3", &path)?;
    }
    Ok(path.to_string_lossy().into_owned())
}

/// One of the counters of `underpass status`.
pub fn counter(scene: &Scene, name: &str) -> Result<u64> {
    let status = scene.agent.cli.status()?;
    // Shown if the test fails.
    println!("{}", status["counters"]);
    Ok(status["counters"][name].as_u64().unwrap_or(u64::MAX))
}

/// Where the maps are pinned.
pub fn pins(scene: &Scene) -> PathBuf {
    scene.lab.pin_dir.join(format!("v{VERSION}/maps"))
}

/// The map of what is learnt, and what is in it.
pub fn learnt(scene: &Scene) -> Result<(Map, Vec<(PairKey, u64)>)> {
    let map = Map::new(obj_get(&pins(scene).join(maps::LEARNT))?, 1)?;
    let mut all = Vec::new();
    map.each(|key, value| all.extend(plain::from_bytes(key).zip(plain::from_bytes(value))))?;
    Ok((map, all))
}

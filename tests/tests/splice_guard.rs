//! Mode `auto` where splice is guarded. The switch is set by hand, so that this runs on kernels that
//! refuse the guard itself; `cargo xtask vm` shows that one at work.

use underpass_abi::{VERSION, shortcut::switch};
use underpass_agent::kernel::shortcut::set_switches;
use underpass_tests::{
    Result,
    lab::cli::{number, text},
    scene::{LIMIT, PORT, Scene},
};

const GUARDED: u64 = switch::INSERT | switch::REDIRECT | switch::GUARDED;

/// Two connections that stay open, the second after the program has made itself an io_uring.
const CLIENT: &str = "
import ctypes, socket, sys, time
def ask():
    s = socket.socket()
    s.setblocking(False)
    try: s.connect((sys.argv[1], int(sys.argv[2])))
    except BlockingIOError: pass
    time.sleep(0.1)
    s.send(bytes([0, 0, 0, 4]) + b'abcd')
    time.sleep(0.2)
    print('got', len(s.recv(100)), flush=True)
    return s
first = ask()
IO_URING_SETUP = 425
ring = ctypes.CDLL(None).syscall(IO_URING_SETUP, 8, ctypes.create_string_buffer(120))
print('ring', ring >= 0, flush=True)
second = ask()
sys.stdin.read()
";

#[test]
fn auto_takes_what_is_not_listed_but_for_users_of_io_uring() -> Result<()> {
    let scene = Scene::new("sguard", &["--shortcut", "auto"])?;
    let maps = scene.lab.pin_dir.join(format!("v{VERSION}/maps"));
    set_switches(&maps, GUARDED)?;
    let (ip, port) = (scene.server.v4.to_string(), PORT.to_string());
    let at = format!("{ip}:{port}");
    let server = ["underpass-peer", "rpc-server", &at];
    let server = scene.lab.run(&scene.server.place, &server)?;
    server.wait_listening(at.parse().expect("an address"))?;
    let client = ["python3", "-c", CLIENT, &ip, &port];
    let mut client = scene.lab.run(&scene.client.place, &client)?;
    client.line(0, "got 8", LIMIT)?;
    client.line(1, "ring True", LIMIT)?;
    client.line(2, "got 8", LIMIT)?;
    let rows = |reason: &'static str, shortcut: u64| {
        let is = move |r: &serde_json::Value| {
            text(r, "/shortcut_reason") == reason
                && number(r, "/bytes_shortcut") == Some(shortcut)
                && number(r, "/bytes_sent") == Some(8)
        };
        scene
            .agent
            .cli
            .rows(reason, &["--from", "app/client"], 1, is)
    };
    rows("", 16)?;
    rows("SHORTCUT_NOT_LISTED", 0)?;
    Ok(())
}

#[test]
fn the_agent_says_whether_splice_is_guarded() -> Result<()> {
    let scene = Scene::new("sgsays", &["--shortcut", "auto"])?;
    let status = scene.agent.cli.status()?;
    let features = status["features"].as_array().cloned().unwrap_or_default();
    let guard = features.iter().find(|f| f["name"] == "splice-guard");
    let guard = guard.expect("a feature of every agent");
    let link = scene
        .lab
        .pin_dir
        .join(format!("v{VERSION}/links/up_splice_guard"));
    assert_eq!(guard["on"] == true, link.exists(), "{guard}");
    assert!(!text(guard, "/reason").is_empty(), "{guard}");
    Ok(())
}

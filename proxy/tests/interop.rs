//! gRPC's interoperability cases between grpcio's client and server, through the program.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// As gRPC describes them, without those of compression and of credentials.
const CASES: usize = 14;

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// And the number at the end of the first line that it says.
    fn start(command: &mut Command) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let said = child.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        assert!(!port.is_empty(), "{command:?} has said nothing");
        (Self(child), port)
    }
}

/// grpcio as `cargo xtask setup` has unpacked it.
fn peer(args: &[&str]) -> Command {
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    let tools = std::env::var_os("UNDERPASS_TOOLS");
    let tools = tools.map_or_else(|| home.join(".cache/underpass/tools"), PathBuf::from);
    let package = tools.join("grpcio");
    assert!(
        package.join("grpc").is_dir(),
        "{} is missing. Try: cargo xtask setup",
        package.display()
    );
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", package)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/interop/peer.py"
    ));
    command.args(args);
    command
}

fn pass(protocol: &str) {
    let (_server, endpoint) = Running::start(&mut peer(&["serve"]));
    let mut proxy = Command::new(env!("CARGO_BIN_EXE_underpass-proxy"));
    proxy.args(["--listen", "127.0.0.1:0"]);
    proxy.arg(format!("--backend=grpc:80{protocol}=127.0.0.1:{endpoint}"));
    let (_proxy, port) = Running::start(&mut proxy);
    let out = peer(&["all", &port]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let why = String::from_utf8_lossy(&out.stderr);
    let passed = said.lines().filter(|l| l.starts_with("ok ")).count();
    assert!(out.status.success() && passed == CASES, "{said}{why}");
}

#[test]
fn cases_of_grpc_pass_when_the_protocol_is_detected() {
    pass("");
}

#[test]
fn cases_of_grpc_pass_when_it_is_declared() {
    pass("/h2c");
}

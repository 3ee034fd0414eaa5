//! The program itself between curl and nginx: what comes through is what comes without it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const FILE: usize = 5_000_000;

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    dir: PathBuf,
    direct: String,
    proxied: String,
    _running: Vec<Running>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A program that `cargo xtask setup` has unpacked.
fn packaged(path: &str) -> Command {
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    let tools = std::env::var_os("UNDERPASS_TOOLS");
    let prefix = tools
        .map_or_else(|| home.join(".cache/underpass/tools"), PathBuf::from)
        .join("debs-prefix");
    let program = prefix.join(path);
    assert!(
        program.is_file(),
        "{} is missing: cargo xtask setup",
        program.display()
    );
    let arch = std::env::consts::ARCH;
    let libraries = ["usr/lib", "lib"].map(|d| prefix.join(d).join(format!("{arch}-linux-gnu")));
    let mut command = Command::new(program);
    command.env(
        "LD_LIBRARY_PATH",
        libraries.map(|d| d.display().to_string()).join(":"),
    );
    command
}

fn nginx(dir: &Path, port: u16, other: u16) -> Running {
    let d = dir.display();
    let conf = format!(
        "daemon off; master_process off; user root; pid {d}/pid; error_log {d}/error.log;\n\
         events {{ worker_connections 100; }}\n\
         http {{ access_log off; client_body_temp_path {d}/1; proxy_temp_path {d}/2;\n\
           fastcgi_temp_path {d}/3; uwsgi_temp_path {d}/4; scgi_temp_path {d}/5;\n\
           default_type application/octet-stream; client_max_body_size 0;\n\
           server {{ listen 127.0.0.1:{port}; root {d}/root;\n\
             location /up/ {{ dav_methods PUT; create_full_put_path on; }}\n\
             location /packed/ {{ gzip on; gzip_types *; alias {d}/root/; }} }}\n\
           server {{ listen 127.0.0.1:{other}; location / {{ return 200 'other\\n'; }} }} }}\n"
    );
    fs::write(dir.join("nginx.conf"), conf).unwrap();
    let mut command = packaged("usr/sbin/nginx");
    command
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .arg("-e")
        .arg(dir.join("early.log"));
    let running = Running(command.spawn().unwrap());
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "nginx does not listen"
        );
        sleep(Duration::from_millis(20));
    }
    running
}

impl Stage {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("underpass-proxy-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("root")).unwrap();
        // No two pieces of it are alike, and it packs well.
        let file: String = (0..FILE / 10).map(|i| format!("{i:09}\n")).collect();
        fs::write(dir.join("root/file"), file).unwrap();
        let (port, other) = (free_port(), free_port());
        let server = nginx(&dir, port, other);
        let route = "metadata: {name: r}\n\
             spec:\n  parentRefs: [{kind: Service, group: '', name: files}]\n  rules:\n\
             \x20 - matches: [{path: {value: /other}}]\n    backendRefs: [{name: other, port: 80}]\n\
             \x20 - backendRefs: [{name: files, port: 80}]\n";
        fs::write(dir.join("route.yaml"), route).unwrap();
        let mut proxy = Command::new(env!("CARGO_BIN_EXE_underpass-proxy"))
            .args(["--listen", "127.0.0.1:0", "--route"])
            .arg(dir.join("route.yaml"))
            .arg(format!("--backend=files:80/http=127.0.0.1:{port}"))
            .arg(format!("--backend=other:80/http=127.0.0.1:{other}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let proxied = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap()
            .to_owned();
        Self {
            dir,
            direct: format!("127.0.0.1:{port}"),
            proxied,
            _running: vec![Running(proxy), server],
        }
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join("root").join(name)).unwrap()
    }

    /// What curl prints of the proxied way; `URL` stands for the server.
    fn curl(&self, args: &[&str]) -> Vec<u8> {
        self.curl_at(&self.proxied, args, &[])
    }

    fn curl_at(&self, at: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
        let url = format!("http://{at}");
        let args = args.iter().map(|a| a.replace("URL", &url));
        let mut child = Command::new("curl")
            .args(["-sS", "--max-time", "20"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeding = std::thread::spawn(move || stdin.write_all(&input));
        let out = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "curl {}: {stderr}", out.status);
        feeding.join().unwrap().unwrap();
        out.stdout
    }

    fn text(&self, args: &[&str]) -> String {
        String::from_utf8(self.curl(args)).unwrap()
    }
}

/// A response's head without what differs each time.
fn head(text: &str) -> Vec<&str> {
    let differs = |l: &str| l.starts_with("Date:") || l.starts_with("Connection:");
    text.lines().filter(|l| !differs(l)).collect()
}

#[test]
fn files_come_down_as_they_are() {
    let stage = Stage::new("down");
    let file = stage.file("file");
    assert_eq!(stage.curl(&["URL/file"]), file);
    assert_eq!(stage.curl(&["-0", "URL/file"]), file);
    assert_eq!(stage.curl(&["--limit-rate", "20M", "URL/file"]), file);
    // Chunks.
    let packed = stage.text(&["--compressed", "-D-", "-o/dev/null", "URL/packed/file"]);
    assert!(packed.contains("Transfer-Encoding: chunked"), "{packed}");
    assert_eq!(stage.curl(&["--compressed", "URL/packed/file"]), file);
    // Three on one connection.
    let counts = [
        "-w",
        "%{num_connects}\n",
        "-o/dev/null",
        "URL/file",
        "-o/dev/null",
        "URL/other",
        "-o/dev/null",
        "URL/file",
    ];
    assert_eq!(stage.text(&counts), "1\n0\n0\n");
    assert_eq!(stage.text(&["URL/other/x"]), "other\n");
    let closed = stage.text(&["-H", "Connection: close", "-D-", "URL/other"]);
    assert!(closed.contains("\r\nConnection: close\r\n"), "{closed}");
    let kept = stage.text(&["-D-", "URL/other"]);
    assert!(!kept.contains("Connection:"), "{kept}");
}

#[test]
fn heads_are_those_of_the_server() {
    let stage = Stage::new("heads");
    let direct =
        |args: &[&str]| String::from_utf8(stage.curl_at(&stage.direct, args, &[])).unwrap();
    let tag = direct(&["-I", "URL/file"]);
    let tag = tag
        .lines()
        .find_map(|l| l.strip_prefix("ETag: "))
        .unwrap()
        .trim();
    let condition = format!("If-None-Match: {tag}");
    for args in [
        &["-I", "URL/file"][..],
        &["-D-", "-o/dev/null", "-H", &condition, "URL/file"],
        &["-D-", "-o/dev/null", "-r", "5-9", "URL/file"],
        &["-D-", "-o/dev/null", "URL/none"],
        &["-D-", "-o/dev/null", "-X", "DELETE", "URL/file"],
    ] {
        let (with, without) = (stage.text(args), direct(args));
        assert_eq!(head(&with), head(&without), "{args:?}");
        assert!(with.starts_with("HTTP/1.1 "), "{with}");
    }
    let unchanged = stage.text(&["-D-", "-H", &condition, "URL/file"]);
    assert!(unchanged.starts_with("HTTP/1.1 304 "), "{unchanged}");
}

#[test]
fn files_go_up_as_they_are() {
    let stage = Stage::new("up");
    let file = stage.file("file");
    let path = stage.dir.join("root/file").display().to_string();
    let trace = stage.dir.join("trace").display().to_string();
    // curl asks for 100 at this size; nginx answers it.
    let put = [
        "-T",
        &path,
        "-H",
        "Expect: 100-continue",
        "--trace-ascii",
        &trace,
        "URL/up/a",
    ];
    stage.curl(&put);
    assert_eq!(stage.file("up/a"), file);
    let trace = fs::read_to_string(trace).unwrap();
    assert!(
        trace.contains("HTTP/1.1 100 Continue"),
        "{}",
        &trace[..trace.len().min(2000)]
    );
    let at = stage.proxied.clone();
    stage.curl_at(&at, &["-T", "-", "URL/up/b"], &file);
    assert_eq!(stage.file("up/b"), file);
    stage.curl(&["-T", &path, "-0", "URL/up/c"]);
    assert_eq!(stage.file("up/c"), file);
}

#[test]
fn curl_with_prior_knowledge_of_http2() {
    let stage = Stage::new("h2");
    let url = format!("http://{}/file", stage.proxied);
    let out = Command::new("curl")
        .args([
            "-sS",
            "-w",
            "%{http_version}",
            "--http2-prior-knowledge",
            &url,
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(
        out.stdout.ends_with(b"2"),
        "{:?}",
        String::from_utf8_lossy(&out.stdout)
    );
}

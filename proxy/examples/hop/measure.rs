//! CPU of each way for one request, measured in turn.

use std::{
    error::Error,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use crate::{WAYS, WAYS_H2};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes of each response's body.
const BODY: usize = 1024;
/// Clients and backend on one CPU, the way on the other.
const OTHERS_CPU: &str = "0";
const WAY_CPU: &str = "1";

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `h2`: the ways of HTTP/2.
pub fn run(h2: bool, rounds: usize, seconds: u64) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("underpass-hop-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let done = measure(h2, rounds, seconds, &dir);
    fs::remove_dir_all(&dir)?;
    done
}

fn measure(h2: bool, rounds: usize, seconds: u64, dir: &Path) -> Result<()> {
    let names = if h2 { WAYS_H2 } else { WAYS };
    let backend = free_port()?;
    let _nginx = nginx(h2, backend, dir)?;
    sleep(Duration::from_millis(300));
    let mut ways = Vec::new();
    for way in names {
        let port = free_port()?;
        let mut command = Command::new("taskset");
        command.args(["-c", WAY_CPU]).arg(std::env::current_exe()?);
        command.args([*way, &local(port), &local(backend)]);
        ways.push((way, port, Running(command.spawn()?)));
    }
    sleep(Duration::from_millis(500));
    println!(
        "proxy CPU in µs per request, {BODY} bytes of body, {rounds} rounds of {seconds} s each, in turn"
    );
    // Connections, and of HTTP/2 the streams of each.
    let loads = if h2 {
        [(1, 100), (4, 8)]
    } else {
        [(1, 1), (16, 1)]
    };
    for (connections, streams) in loads {
        let mut costs = vec![Vec::new(); names.len()];
        for round in 0..rounds {
            for step in 0..names.len() {
                // Each begins a round in its turn.
                let at = (step + round) % names.len();
                let (_, port, running) = &ways[at];
                let before = cpu_ns(running.0.id())?;
                let requests = match h2 {
                    true => h2load(*port, connections, streams, seconds)?,
                    false => wrk(*port, connections, seconds)?,
                };
                let used = cpu_ns(running.0.id())? - before;
                costs[at].push(used as f64 / 1000.0 / requests as f64);
            }
        }
        println!(
            "c={connections:<3} m={streams:<3} {:>8} {:>8} {:>8} {:>26}",
            "way", "min", "median", "ratio to copy, same round"
        );
        for (way, of) in names.iter().zip(&costs) {
            let ratios: Vec<f64> = of.iter().zip(&costs[0]).map(|(a, b)| a / b).collect();
            let (low, middle, high) = spread(&ratios);
            let (min, median, _) = spread(of);
            println!("{way:>20} {min:8.2} {median:8.2} {middle:12.2} ({low:.2} to {high:.2})");
        }
    }
    Ok(())
}

/// Smallest, median, largest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (
        sorted[0],
        sorted[sorted.len() / 2],
        sorted[sorted.len() - 1],
    )
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Of the process's only thread.
fn cpu_ns(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let first = text.split(' ').next().unwrap_or_default();
    Ok(first.parse()?)
}

/// A program that `cargo xtask setup` has unpacked, with its libraries.
fn packaged(path: &str) -> Result<Command> {
    let home = std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    let tools = std::env::var_os("UNDERPASS_TOOLS");
    let tools = tools.map_or_else(|| home.join(".cache/underpass/tools"), PathBuf::from);
    let prefix = tools.join("debs-prefix");
    let program = prefix.join(path);
    if !program.is_file() {
        return Err(format!("{} is missing. Try: cargo xtask setup", program.display()).into());
    }
    let arch = std::env::consts::ARCH;
    let libraries = ["usr/lib", "lib"].map(|d| prefix.join(d).join(format!("{arch}-linux-gnu")));
    let mut command = Command::new("taskset");
    command.args(["-c", OTHERS_CPU]).arg(program);
    command.env(
        "LD_LIBRARY_PATH",
        libraries.map(|d| d.display().to_string()).join(":"),
    );
    Ok(command)
}

fn nginx(h2: bool, port: u16, dir: &Path) -> Result<Running> {
    let d = dir.display();
    let body = "x".repeat(BODY);
    let conf = format!(
        "daemon off; master_process off; pid {d}/pid; error_log {d}/error.log;\n\
         events {{ worker_connections 1000; }}\n\
         http {{ access_log off; client_body_temp_path {d}/1; proxy_temp_path {d}/2;\n\
           fastcgi_temp_path {d}/3; uwsgi_temp_path {d}/4; scgi_temp_path {d}/5;\n\
           keepalive_requests 1000000000;\n\
           server {{ listen {}{}; location / {{ return 200 '{body}'; }} }} }}\n",
        local(port),
        if h2 { " http2" } else { "" },
    );
    fs::write(dir.join("nginx.conf"), conf)?;
    let mut command = packaged("usr/sbin/nginx")?;
    command
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .arg("-e")
        .arg(dir.join("early.log"));
    Ok(Running(command.spawn()?))
}

/// Requests that were answered well.
fn wrk(port: u16, connections: u32, seconds: u64) -> Result<u64> {
    let mut command = packaged("usr/bin/wrk")?;
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    let out = command
        .arg(format!("http://{}/", local(port)))
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    if text.contains("Non-2xx") || text.contains("Socket errors") || !out.status.success() {
        return Err(format!("wrk: {text}").into());
    }
    let line = text
        .lines()
        .find(|l| l.contains("requests in"))
        .ok_or("wrk counted nothing")?;
    let count = line.split_whitespace().next().unwrap_or_default();
    Ok(count.parse()?)
}

/// Likewise.
fn h2load(port: u16, connections: u32, streams: u32, seconds: u64) -> Result<u64> {
    let mut command = packaged("usr/bin/h2load")?;
    command.args([&format!("-c{connections}"), &format!("-m{streams}")]);
    let out = command
        .args([&format!("-D{seconds}"), &format!("http://{}/", local(port))])
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8(out.stdout)?;
    let line = text.lines().find(|l| l.starts_with("status codes: "));
    let line = line.ok_or("h2load counted nothing")?;
    let good = line["status codes: ".len()..].split(' ').next();
    if !line.contains(" 0 4xx, 0 5xx") || !out.status.success() {
        return Err(format!("h2load: {text}").into());
    }
    Ok(good.unwrap_or_default().parse()?)
}

//! An HTTP/1.1 server that keeps connections, says who it is, and tells what it saw.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};

const HEAD_MAX: usize = 64 << 10;

#[derive(Args)]
pub struct ServerArgs {
    /// Said in the answers.
    #[arg(long)]
    name: String,
    listen: Vec<SocketAddr>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
}

pub fn run(args: &ServerArgs) -> io::Result<()> {
    let counts = Arc::new(Counts::default());
    for at in &args.listen {
        let listener = TcpListener::bind(at)?;
        let (counts, name) = (counts.clone(), args.name.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counts, name) = (counts.clone(), name.clone());
                counts.connections.fetch_add(1, Relaxed);
                // A client that goes away is its own affair.
                thread::spawn(move || serve(&name, &stream, &counts).ok());
            }
        });
    }
    for line in io::stdin().lock().lines() {
        if line?.trim() == "report" {
            let line = json!({
                "connections": counts.connections.load(Relaxed),
                "requests": counts.requests.load(Relaxed),
            });
            println!("{line}");
            io::stdout().flush()?;
        }
    }
    Ok(())
}

fn serve(name: &str, stream: &TcpStream, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut from = BufReader::new(stream);
    loop {
        let Some(request) = head(&mut from)? else {
            return Ok(());
        };
        let word = |at: usize| request[0].split(' ').nth(at).unwrap_or_default().to_owned();
        let (method, path) = (word(0), word(1));
        let length = field(&request, "content-length").and_then(|v| v.parse().ok());
        let length: u64 = length.unwrap_or(0);
        io::copy(&mut from.by_ref().take(length), &mut io::sink())?;
        counts.requests.fetch_add(1, Relaxed);
        let asked = |key: &str| {
            let (_, query) = path.split_once('?')?;
            let mut pairs = query.split('&').filter_map(|p| p.split_once('='));
            pairs.find(|(k, _)| *k == key)?.1.parse::<u64>().ok()
        };
        thread::sleep(Duration::from_millis(asked("ms").unwrap_or(0)));
        let headers: Vec<&String> = request.iter().skip(1).collect();
        let body: Value = json!({
            "name": name, "method": method, "path": path, "headers": headers, "body": length,
            "peer": stream.peer_addr()?.to_string(), "local": stream.local_addr()?.to_string(),
        });
        let mut body = body.to_string();
        if let Some(bytes) = asked("bytes") {
            body = "x".repeat(bytes as usize);
        }
        let status = asked("status").unwrap_or(200);
        let head = format!(
            "HTTP/1.1 {status} Said\r\nx-pod: {name}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let body = if method == "HEAD" { "" } else { body.as_str() };
        (&mut &*stream).write_all((head + body).as_bytes())?;
        if field(&request, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
}

/// Lines of a head, the first not empty; `None` at the end of the stream.
pub fn head(from: &mut impl io::BufRead) -> io::Result<Option<Vec<String>>> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        bytes += from.read_line(&mut line)?;
        if line.is_empty() && lines.is_empty() {
            return Ok(None);
        }
        if line.is_empty() || bytes > HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match line.trim_end() {
            "" if lines.is_empty() => {}
            "" => return Ok(Some(lines)),
            text => lines.push(text.to_owned()),
        }
    }
}

/// The first of a head's fields with this name.
pub fn field<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let fields = head.iter().skip(1).filter_map(|l| l.split_once(':'));
    fields
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .next()
}

//! The demo's shop: one HTTP/1.1 program that serves, calls other services for each request and
//! counts every byte itself; and its load generator. One connection per call.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

/// Longest request or answer head.
const HEAD_MAX: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "A small shop over HTTP, and load for it")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// One service of the shop.
    Serve(Serve),
    /// Calls a URL at a steady rate until standard input says `stop` or closes.
    Load(Load),
}

#[derive(Args)]
struct Serve {
    #[arg(long)]
    name: String,
    #[arg(long, default_value = "v1")]
    version: String,
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// http://ADDR:PORT or redis://ADDR:PORT, called for each request, in order.
    #[arg(long)]
    call: Vec<String>,
}

#[derive(Args)]
struct Load {
    url: String,
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
}

/// What happened at one URL.
#[derive(Clone, Default)]
struct Tally {
    opened: u64,
    sent: u64,
    received: u64,
    /// Failures of `connect` by errno.
    refused: BTreeMap<i32, u64>,
    /// Failures after it.
    broken: u64,
    /// Answers by `name version`.
    answers: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Book {
    served: u64,
    calls: BTreeMap<String, Tally>,
}

type Shared = Arc<Mutex<Book>>;

fn main() -> ExitCode {
    let book = Shared::default();
    let done = match Cli::parse().verb {
        Verb::Serve(args) => serve(args, &book),
        Verb::Load(args) => load(args, &book),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("underpass-shop: {e}");
            ExitCode::FAILURE
        }
    }
}

fn lock(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(args: Serve, book: &Shared) -> io::Result<()> {
    let args = Arc::new(args);
    for at in &args.listen {
        let listener = TcpListener::bind(at)?;
        let (args, book) = (Arc::clone(&args), Arc::clone(book));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (args, book) = (Arc::clone(&args), Arc::clone(&book));
                // A client that goes away is its own affair.
                thread::spawn(move || answer(&args, &book, stream).ok());
            }
        });
    }
    obey(book)
}

/// Commands on standard input: `report`, `stop`.
fn obey(book: &Shared) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            "report" => println!("{}", report(&lock(book))),
            "stop" => break,
            other => eprintln!("`{other}` is not understood"),
        }
        io::stdout().flush()?;
    }
    Ok(())
}

fn report(book: &Book) -> Value {
    let calls: serde_json::Map<String, Value> = book
        .calls
        .iter()
        .map(|(url, t)| {
            let refused: BTreeMap<String, u64> =
                t.refused.iter().map(|(e, n)| (e.to_string(), *n)).collect();
            let row = json!({
                "opened": t.opened, "sent": t.sent, "received": t.received,
                "refused": refused, "broken": t.broken, "answers": t.answers,
            });
            (url.clone(), row)
        })
        .collect();
    json!({"served": book.served, "calls": calls})
}

/// One request: calls what it needs, then answers.
fn answer(args: &Serve, book: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    read_head(&mut stream)?;
    let failed: Vec<&String> = args.call.iter().filter(|url| !call(url, book)).collect();
    let status = if failed.is_empty() {
        "200 OK"
    } else {
        "502 Bad Gateway"
    };
    let body = json!({"name": args.name, "version": args.version, "failed": failed}).to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\nserver: {} {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        args.name,
        args.version,
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    lock(book).served += 1;
    Ok(())
}

/// Reads to the empty line; what follows it stays in the result.
fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut block = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let got = stream.read(&mut block)?;
        if got == 0 || head.len() > HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&block[..got]);
    }
    Ok(head)
}

/// Calls a URL and books it; true if the answer is good.
fn call(url: &str, book: &Shared) -> bool {
    let mut tally = Tally::default();
    let result = exchange(url, &mut tally);
    if result.is_err() && tally.opened == 1 {
        tally.broken = 1;
    }
    let mut book = lock(book);
    let sum = book.calls.entry(url.to_owned()).or_default();
    sum.opened += tally.opened;
    sum.sent += tally.sent;
    sum.received += tally.received;
    sum.broken += tally.broken;
    for (errno, n) in tally.refused {
        *sum.refused.entry(errno).or_default() += n;
    }
    for (name, n) in tally.answers {
        *sum.answers.entry(name).or_default() += n;
    }
    result.unwrap_or(false)
}

fn exchange(url: &str, tally: &mut Tally) -> io::Result<bool> {
    let (scheme, rest) = url.split_once("://").ok_or(io::ErrorKind::InvalidInput)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let at: SocketAddr = host.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(at).inspect_err(|e| {
        tally.refused.insert(e.raw_os_error().unwrap_or(-1), 1);
    })?;
    tally.opened = 1;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = match scheme {
        "redis" => "INCR visits\r\nQUIT\r\n".to_owned(),
        _ => format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
    };
    stream.write_all(request.as_bytes())?;
    tally.sent = request.len() as u64;
    let mut answer = Vec::new();
    let mut block = [0; 16 << 10];
    loop {
        let got = stream.read(&mut block)?;
        if got == 0 {
            break;
        }
        tally.received += got as u64;
        answer.extend_from_slice(&block[..got.min(HEAD_MAX.saturating_sub(answer.len()))]);
    }
    let text = String::from_utf8_lossy(&answer);
    if scheme == "redis" {
        tally.answers.insert("redis".into(), 1);
        return Ok(text.starts_with(':'));
    }
    if let Some(server) = text.lines().find_map(|l| {
        l.to_ascii_lowercase()
            .strip_prefix("server: ")
            .map(str::to_owned)
    }) {
        tally.answers.insert(server, 1);
    }
    Ok(text.starts_with("HTTP/1.1 200"))
}

fn load(args: Load, book: &Shared) -> io::Result<()> {
    let gap = Duration::from_secs_f64(1.0 / args.rate.max(0.01));
    let pause = Arc::new(Mutex::new(()));
    let (url, background, gate) = (args.url, Arc::clone(book), Arc::clone(&pause));
    thread::spawn(move || {
        let mut next = Instant::now();
        loop {
            // Held while the load is paused.
            let turn = gate.lock().unwrap_or_else(PoisonError::into_inner);
            call(&url, &background);
            drop(turn);
            next += gap;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    let mut held = None;
    for line in io::stdin().lock().lines() {
        match line?.trim() {
            // The call under way ends first, so that all counts are final.
            "pause" => held = Some(pause.lock().unwrap_or_else(PoisonError::into_inner)),
            "go" => held = None,
            "report" => println!("{}", report(&lock(book))),
            "stop" => break,
            other => eprintln!("`{other}` is not understood"),
        }
        io::stdout().flush()?;
    }
    drop(held);
    Ok(())
}

//! An HTTP/1.1 client that forgives nothing: whatever is not a whole answer to a request that it sent is
//! counted as a failure, but for a connection that the other side said it would close.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    http_server::{field, head},
    socket::connect_tcp,
};

/// Failures that are told in words.
const TOLD_MAX: usize = 20;

#[derive(Args, Clone)]
pub struct ClientArgs {
    to: SocketAddr,
    /// Requests at a time, each on a connection of its own.
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Of all connections together; without it until standard input says `stop`.
    #[arg(long)]
    requests: Option<u64>,
    /// Requests per second of all connections together; 0: as fast as they are answered.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// A connection for each request.
    #[arg(long)]
    new: bool,
    #[arg(long, default_value = "/")]
    path: String,
    #[arg(long, default_value = "GET")]
    method: String,
    #[arg(long)]
    host: Option<String>,
    /// `name: value`
    #[arg(long)]
    header: Vec<String>,
    /// Bytes of the request's body.
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// Bind to this address first.
    #[arg(long)]
    from: Option<SocketAddr>,
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
}

#[derive(Default)]
struct Book {
    ok: u64,
    failed: u64,
    connections: u64,
    /// The other side said `connection: close`.
    closed: u64,
    by_status: BTreeMap<u16, u64>,
    by_pod: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    told: Vec<String>,
    times_us: Vec<u64>,
    last: String,
    last_ends: (String, String),
    last_failure: Option<Instant>,
    first_ok_after: Option<Instant>,
}

type Shared = Arc<Mutex<Book>>;

fn lock(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn run(args: &ClientArgs) -> io::Result<()> {
    let (book, over) = (Shared::default(), Arc::new(AtomicBool::new(false)));
    let lanes: Vec<_> = (0..args.connections)
        .map(|n| {
            let (args, book, over) = (args.clone(), book.clone(), over.clone());
            thread::spawn(move || lane(&args, n, &book, &over))
        })
        .collect();
    if args.requests.is_none() {
        for line in io::stdin().lock().lines() {
            match line?.trim() {
                "report" => say(&report(&lock(&book)))?,
                "reset" => *lock(&book) = Book::default(),
                "stop" => break,
                other => eprintln!("`{other}` is not understood"),
            }
        }
        over.store(true, Relaxed);
    }
    for lane in lanes {
        let _ = lane.join();
    }
    say(&report(&lock(&book)))
}

fn say(line: &Value) -> io::Result<()> {
    println!("{line}");
    io::stdout().flush()
}

fn report(book: &Book) -> Value {
    let mut times = book.times_us.clone();
    times.sort_unstable();
    let quantile = |q: f64| {
        let at = (times.len() as f64 * q).ceil() as usize;
        times.get(at.max(1) - 1).copied()
    };
    let back_us = match (book.last_failure, book.first_ok_after) {
        (Some(bad), Some(good)) => Some(good.saturating_duration_since(bad).as_micros() as u64),
        _ => None,
    };
    json!({
        "ok": book.ok, "failed": book.failed, "connections": book.connections, "closed": book.closed,
        "by_status": book.by_status, "by_pod": book.by_pod,
        "errors": book.errors, "told": book.told,
        "p50_us": quantile(0.5), "p95_us": quantile(0.95), "p99_us": quantile(0.99),
        "max_us": times.last(), "last": book.last, "back_us": back_us,
        "local": book.last_ends.0, "peer": book.last_ends.1,
    })
}

fn lane(args: &ClientArgs, number: u64, book: &Shared, over: &AtomicBool) {
    let start = Instant::now();
    let share = args.requests.map_or(u64::MAX, |all| {
        all / args.connections + u64::from(number < all % args.connections)
    });
    let gap =
        (args.rate > 0.0).then(|| Duration::from_secs_f64(args.connections as f64 / args.rate));
    let mut connection = None;
    for n in 0..share {
        if over.load(Relaxed) {
            break;
        }
        if let Some(gap) = gap {
            let due = gap.mul_f64(n as f64 + number as f64 / args.connections as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        let before = Instant::now();
        let result = one(args, &mut connection, book);
        let mut book = lock(book);
        match result {
            Ok(()) => {
                book.ok += 1;
                book.times_us.push(before.elapsed().as_micros() as u64);
                if book.last_failure.is_some() && book.first_ok_after.is_none() {
                    book.first_ok_after = Some(Instant::now());
                }
            }
            Err((at, e)) => {
                connection = None;
                book.failed += 1;
                book.last_failure = Some(before);
                book.first_ok_after = None;
                *book.errors.entry(format!("{at}: {e}")).or_default() += 1;
                if book.told.len() < TOLD_MAX {
                    let ms = start.elapsed().as_millis();
                    book.told.push(format!(
                        "{ms} ms, request {n} of connection {number}, {at}: {e}"
                    ));
                }
            }
        }
        if args.new {
            connection = None;
        }
    }
}

type Failed = (&'static str, String);

fn at(what: &'static str) -> impl Fn(io::Error) -> Failed {
    move |e| (what, e.to_string())
}

fn one(
    args: &ClientArgs,
    connection: &mut Option<BufReader<TcpStream>>,
    book: &Shared,
) -> Result<(), Failed> {
    if connection.is_none() {
        *connection = Some(open(args, book)?);
    }
    let stream = connection.as_mut().expect("just opened");
    let mut text = format!("{} {} HTTP/1.1\r\n", args.method, args.path);
    let host = args.host.clone().unwrap_or_else(|| args.to.to_string());
    text += &format!("host: {host}\r\n");
    for header in &args.header {
        text += &format!("{header}\r\n");
    }
    if args.body > 0 {
        text += &format!("content-length: {}\r\n", args.body);
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len() + args.body, b'x');
    stream.get_mut().write_all(&bytes).map_err(at("send"))?;
    let answer = head(stream).map_err(at("answer"))?;
    let answer = answer.ok_or(("answer", "the connection ended".to_owned()))?;
    let length = field(&answer, "content-length").and_then(|v| v.parse().ok());
    let length: usize = length.ok_or(("answer", format!("no length: {answer:?}")))?;
    let mut body = vec![0; if args.method == "HEAD" { 0 } else { length }];
    stream.read_exact(&mut body).map_err(at("body"))?;
    let status: u16 = answer[0]
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or(("answer", answer[0].clone()))?;
    let closes = field(&answer, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    if closes {
        *connection = None;
    }
    note(book, &answer, status, closes, &body);
    // Who asks for a status gets it.
    if status >= 500 && !args.path.contains("status=") {
        let why = String::from_utf8_lossy(&body[..body.len().min(160)]).into_owned();
        return Err(("status", format!("{status} {}", why.trim())));
    }
    Ok(())
}

fn note(book: &Shared, answer: &[String], status: u16, closes: bool, body: &[u8]) {
    let mut book = lock(book);
    book.closed += u64::from(closes);
    *book.by_status.entry(status).or_default() += 1;
    let pod = field(answer, "x-pod").unwrap_or("-").to_owned();
    *book.by_pod.entry(pod).or_default() += 1;
    book.last = answer.join("\n") + "\n\n" + &String::from_utf8_lossy(body);
}

fn open(args: &ClientArgs, book: &Shared) -> Result<BufReader<TcpStream>, Failed> {
    let stream = connect_tcp(args.to, args.from).map_err(at("connect"))?;
    let patience = Some(Duration::from_millis(args.timeout_ms));
    stream.set_read_timeout(patience).map_err(at("timeout"))?;
    stream.set_nodelay(true).map_err(at("nodelay"))?;
    let name = |a: io::Result<SocketAddr>| a.map(|a| a.to_string()).unwrap_or_default();
    let mut book = lock(book);
    book.connections += 1;
    book.last_ends = (name(stream.local_addr()), name(stream.peer_addr()));
    Ok(BufReader::new(stream))
}

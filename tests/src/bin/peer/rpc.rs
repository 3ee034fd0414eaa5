//! Request and response over one connection, by tokio (non-blocking) or by blocking sockets: the
//! server gives back what came, the client compares every byte.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[derive(Args)]
pub struct ServerArgs {
    listen: SocketAddr,
    /// Blocking sockets, a thread for each connection.
    #[arg(long)]
    blocking: bool,
}

/// Each line of standard input, `COUNT SIZE`, is that many requests of that many bytes; the answer is
/// a line of JSON. The end of standard input closes the connection.
#[derive(Args)]
pub struct ClientArgs {
    to: SocketAddr,
    #[arg(long)]
    blocking: bool,
}

/// Length in front of each request and response.
const HEAD: usize = 4;

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

pub fn serve(args: &ServerArgs) -> io::Result<()> {
    if args.blocking {
        let listener = TcpListener::bind(args.listen)?;
        loop {
            let (stream, _) = listener.accept()?;
            thread::spawn(move || echo_blocking(stream));
        }
    }
    runtime()?.block_on(async {
        let listener = tokio::net::TcpListener::bind(args.listen).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream));
        }
    })
}

async fn echo(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = vec![0; HEAD];
    loop {
        stream.read_exact(&mut message[..HEAD]).await?;
        let len = length(&message);
        message.resize(HEAD + len, 0);
        stream.read_exact(&mut message[HEAD..]).await?;
        stream.write_all(&message).await?;
    }
}

fn echo_blocking(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = vec![0; HEAD];
    loop {
        stream.read_exact(&mut message[..HEAD])?;
        let len = length(&message);
        message.resize(HEAD + len, 0);
        stream.read_exact(&mut message[HEAD..])?;
        stream.write_all(&message)?;
    }
}

fn length(head: &[u8]) -> usize {
    u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize
}

enum Connection {
    Async(tokio::runtime::Runtime, tokio::net::TcpStream),
    Blocking(TcpStream),
}

impl Connection {
    fn open(args: &ClientArgs) -> io::Result<Self> {
        if args.blocking {
            let stream = TcpStream::connect(args.to)?;
            stream.set_nodelay(true)?;
            return Ok(Self::Blocking(stream));
        }
        let runtime = runtime()?;
        let stream = runtime.block_on(tokio::net::TcpStream::connect(args.to))?;
        stream.set_nodelay(true)?;
        Ok(Self::Async(runtime, stream))
    }

    fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Async(_, stream) => stream.local_addr(),
            Self::Blocking(stream) => stream.local_addr(),
        }
    }

    fn exchange(&mut self, request: &[u8], response: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Async(runtime, stream) => runtime.block_on(async {
                stream.write_all(request).await?;
                stream.read_exact(response).await?;
                Ok(())
            }),
            Self::Blocking(stream) => {
                stream.write_all(request)?;
                stream.read_exact(response)
            }
        }
    }
}

pub fn dial(args: &ClientArgs) -> io::Result<()> {
    let mut connection = Connection::open(args)?;
    println!("{}", json!({"local": connection.local()?.to_string()}));
    let mut number = 0;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace().map(str::parse::<usize>);
        let (Some(Ok(count)), Some(Ok(size))) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("`{line}`: COUNT SIZE")));
        };
        println!("{}", run(&mut connection, count, size, &mut number)?);
        io::stdout().flush()?;
    }
    Ok(())
}

fn run(
    connection: &mut Connection,
    count: usize,
    size: usize,
    number: &mut u64,
) -> io::Result<serde_json::Value> {
    let mut request = vec![0; HEAD + size];
    request[..HEAD].copy_from_slice(&(size as u32).to_be_bytes());
    let mut response = vec![0; request.len()];
    let mut times = Vec::with_capacity(count);
    let (start, cpu) = (Instant::now(), cpu_ns());
    for _ in 0..count {
        *number += 1;
        fill(&mut request[HEAD..], *number);
        let before = Instant::now();
        connection.exchange(&request, &mut response)?;
        times.push(before.elapsed());
        if response != request {
            return Err(io::Error::other(format!("answer {number} differs")));
        }
    }
    times.sort_unstable();
    let at = |share: f64| {
        let i = (times.len() as f64 * share) as usize;
        times.get(i).map_or(0.0, |t| t.as_nanos() as f64 / 1_000.0)
    };
    Ok(json!({
        "bytes": count * request.len(),
        "seconds": start.elapsed().as_secs_f64(),
        "cpu_seconds": (cpu_ns() - cpu) as f64 / 1e9,
        "p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(0.999_999),
    }))
}

/// Other bytes in every request and at every place.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_mut(64) {
        x = x.wrapping_mul(0xd129_0ddb_53c4_3e49).wrapping_add(1);
        for (byte, from) in chunk.iter_mut().zip(x.to_le_bytes().iter().cycle()) {
            *byte = *from;
        }
    }
}

fn cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

//! The client: requests in closed or open loop, each of which is compared with its response.

use std::{
    error::Error,
    io::{self, BufRead as _},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};
use tonic::codegen::{BoxFuture, Context, Poll, Service};

use super::{
    Protocol, WebLoad,
    echo::{self, echo_client::EchoClient},
    pace::{Pace, paces},
    runtime, visit,
};
use crate::generator::{
    Latency, Outcome,
    protocol::{Answer, Command},
    server::answer,
};

/// Until a connection without requests must have ended.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of an answer that is no success.
const SHOWN: usize = 120;
const AUTHORITY: &str = "bench";
const URI: &str = "http://bench/";

pub type Failure = Box<dyn Error + Send + Sync>;

/// Does what standard input says until it ends.
pub fn run() -> io::Result<()> {
    let runtime = runtime()?;
    answer(&Answer::Ready)?;
    for line in io::stdin().lock().lines() {
        let reply = match serde_json::from_str(&line?) {
            Ok(Command::RunWeb(load)) => match runtime.block_on(perform(&load)) {
                Ok(outcome) => Answer::Ran(outcome),
                Err(why) => Answer::Failed(why.to_string()),
            },
            Ok(Command::Visit(load)) => match runtime.block_on(visit::perform(&load)) {
                Ok(outcome) => Answer::Ran(outcome),
                Err(why) => Answer::Failed(why.to_string()),
            },
            other => Answer::Failed(format!("a web client does not do {other:?}")),
        };
        answer(&reply)?;
    }
    Ok(())
}

/// What makes requests; each has a place for one at a time.
enum Caller {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
    Grpc(EchoClient<Channel>),
}

/// Latencies of all callers. One histogram for each would cost more than many requests.
type Shared = Arc<Mutex<Histogram<u64>>>;

async fn perform(load: &WebLoad) -> Result<Outcome, Failure> {
    let mut connections = JoinSet::new();
    let callers = open(load, &mut connections).await?;
    let opened = connections.len() as u64;
    let shared = Shared::new(Mutex::new(Latency::histogram()));
    let begin = Instant::now();
    let mut running = JoinSet::new();
    let paces = paces(load.concurrency, load.rate, load.seconds, begin)?;
    for (number, (caller, pace)) in (0..).zip(callers.into_iter().zip(paces)) {
        running.spawn(caller.repeat(number, pace, begin, load.bytes, shared.clone()));
    }
    let (mut errors, mut first_error) = (0, None);
    while let Some(ended) = running.join_next().await {
        let error = ended?.err();
        errors += u64::from(error.is_some());
        first_error = first_error.or(error);
    }
    let mut seconds = begin.elapsed().as_secs_f64();
    if load.rate.is_some() {
        // A schedule that was kept has taken its time, also after its last request.
        seconds = seconds.max(load.seconds);
    }
    // Nobody can make a request any more, so they end.
    let ended = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(CLOSED_WITHIN, ended).await?;
    let latency = shared.lock().map_err(|e| e.to_string())?;
    Ok(Outcome {
        operations: latency.len(),
        connections: opened,
        errors,
        first_error,
        seconds,
        latency: Latency::of(&latency),
        distribution: Latency::distribution(&latency),
    })
}

/// Dials; each connection becomes a task.
async fn open(load: &WebLoad, connections: &mut JoinSet<()>) -> Result<Vec<Caller>, Failure> {
    let mut callers = Vec::new();
    let each = load.concurrency / load.connections.max(1);
    let one = load.protocol != Protocol::Http1 || each == 1;
    if each == 0 || each * load.connections != load.concurrency || !one {
        return Err(format!("so many requests do not share so many connections: {load:?}").into());
    }
    for _ in 0..load.connections {
        match &load.unix {
            Some(path) => {
                let stream = UnixStream::connect(path).await?;
                callers.extend(greet(load, stream, connections).await?);
            }
            None => {
                let stream = TcpStream::connect(load.target).await?;
                stream.set_nodelay(true)?;
                callers.extend(greet(load, stream, connections).await?);
            }
        }
    }
    Ok(callers)
}

/// The callers of one connection.
async fn greet<S>(
    load: &WebLoad,
    stream: S,
    connections: &mut JoinSet<()>,
) -> Result<Vec<Caller>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let callers = 0..load.concurrency / load.connections;
    Ok(match load.protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::handshake(io).await?;
            connections.spawn(async { drop(connection.await) });
            vec![Caller::Http1(sender)]
        }
        Protocol::Http2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            connections.spawn(async { drop(connection.await) });
            callers.map(|_| Caller::Http2(sender.clone())).collect()
        }
        Protocol::Grpc => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            connections.spawn(async { drop(connection.await) });
            let client = EchoClient::with_origin(Channel(sender), URI.parse()?);
            callers.map(|_| Caller::Grpc(client.clone())).collect()
        }
    })
}

impl Caller {
    /// Until its pace ends, or a request fails.
    async fn repeat(
        mut self,
        caller: u32,
        mut pace: Pace,
        begin: Instant,
        bytes: u32,
        shared: Shared,
    ) -> Result<(), String> {
        let mut last = begin;
        for number in 0_u32.. {
            let Some(due) = pace.next(last).await.map_err(|e| e.to_string())? else {
                break;
            };
            let body = message(caller, number, bytes);
            let back = self.call(body.clone()).await.map_err(|e| e.to_string())?;
            if back != body {
                return Err("a response differs from its request".into());
            }
            last = Instant::now();
            let took = last.saturating_duration_since(due);
            let mut latency = shared.lock().map_err(|e| e.to_string())?;
            latency.saturating_record(took.as_nanos() as u64);
        }
        Ok(())
    }

    async fn call(&mut self, body: Bytes) -> Result<Bytes, Failure> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                let request = Request::post("/").header(header::HOST, AUTHORITY);
                whole(sender.send_request(request.body(Full::new(body))?).await?).await
            }
            Self::Http2(sender) => {
                let request = Request::post(URI).body(Full::new(body))?;
                whole(sender.send_request(request).await?).await
            }
            Self::Grpc(client) => Ok(client.call(echo::Body { body }).await?.into_inner().body),
        }
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status == StatusCode::OK {
        return Ok(body);
    }
    // A worker's begins with its code.
    let said = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).into_owned();
    Err(format!("{status}: {said}").into())
}

/// No two requests of a run are alike; at least eight bytes.
fn message(caller: u32, number: u32, bytes: u32) -> Bytes {
    let mut message = vec![b'u'; bytes.max(8) as usize];
    message[..4].copy_from_slice(&caller.to_be_bytes());
    let tail = message.len() - 4;
    message[tail..].copy_from_slice(&number.to_be_bytes());
    message.into()
}

/// hyper's connection as what tonic's client calls.
#[derive(Clone)]
struct Channel(http2::SendRequest<tonic::body::Body>);

impl Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

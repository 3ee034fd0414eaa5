//! Requests to a server that is none of ours: any answer that says success will do.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{
    client::Failure,
    pace::{Pace, paces},
};
use crate::generator::{Latency, Outcome};

/// Until a connection must stand, and an answer must have come.
const PATIENCE: Duration = Duration::from_secs(5);
/// A call without a message: a length of 0, not compressed.
const NO_MESSAGE: &[u8] = &[0; 5];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Talk {
    /// GET on kept connections
    Http1,
    /// GET, all on one connection
    Http2,
    /// A unary call with an empty message, all on one connection
    Grpc,
    /// Connect and close
    Tcp,
}

impl Talk {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// What is asked for unless something else is.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Grpc => "/grpc.health.v1.Health/Check",
            _ => "/",
        }
    }
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Visits {
    pub talk: Talk,
    pub target: SocketAddr,
    pub authority: String,
    pub path: String,
    /// Requests under way.
    pub concurrency: u32,
    /// Requests in a second by a schedule; closed loop without.
    pub rate: Option<f64>,
    pub seconds: f64,
}

/// Latencies of all, and connections opened.
#[derive(Clone)]
struct Seen {
    latency: Arc<Mutex<Histogram<u64>>>,
    connections: Arc<Mutex<u64>>,
}

type H1 = http1::SendRequest<Full<Bytes>>;
type H2 = http2::SendRequest<Full<Bytes>>;

enum Visitor {
    /// A server may close a kept connection after so many requests, so it is opened anew.
    Http1(Option<H1>),
    Http2(H2),
    Tcp,
}

pub async fn perform(visits: &Visits) -> Result<Outcome, Failure> {
    let seen = Seen {
        latency: Arc::new(Mutex::new(Latency::histogram())),
        connections: Arc::default(),
    };
    let visits = Arc::new(visits.clone());
    let mut visitors = Vec::new();
    let shared = match visits.talk {
        Talk::Http2 | Talk::Grpc => Some(dial_http2(&visits, &seen).await?),
        Talk::Http1 | Talk::Tcp => None,
    };
    for _ in 0..visits.concurrency {
        visitors.push(match (visits.talk, &shared) {
            (_, Some(sender)) => Visitor::Http2(sender.clone()),
            (Talk::Tcp, _) => Visitor::Tcp,
            _ => Visitor::Http1(Some(dial_http1(&visits, &seen).await?)),
        });
    }
    drop(shared);
    let begin = Instant::now();
    let paces = paces(visits.concurrency, visits.rate, visits.seconds, begin)?;
    let mut running = JoinSet::new();
    for (visitor, pace) in visitors.into_iter().zip(paces) {
        running.spawn(visitor.repeat(visits.clone(), pace, begin, seen.clone()));
    }
    let (mut errors, mut first_error) = (0, None);
    while let Some(ended) = running.join_next().await {
        let error = ended?.err().map(|why| why.to_string());
        errors += u64::from(error.is_some());
        first_error = first_error.or(error);
    }
    let mut seconds = begin.elapsed().as_secs_f64();
    if visits.rate.is_some() {
        seconds = seconds.max(visits.seconds);
    }
    let latency = seen.latency.lock().map_err(|e| e.to_string())?;
    let connections = *seen.connections.lock().map_err(|e| e.to_string())?;
    Ok(Outcome {
        operations: latency.len(),
        connections,
        errors,
        first_error,
        seconds,
        latency: Latency::of(&latency),
        distribution: Latency::distribution(&latency),
    })
}

async fn dial(visits: &Visits, seen: &Seen) -> Result<TcpStream, Failure> {
    let stream = timeout(PATIENCE, TcpStream::connect(visits.target)).await;
    let stream = stream.map_err(|_| "a connection did not stand within 5 s")??;
    stream.set_nodelay(true)?;
    *seen.connections.lock().map_err(|e| e.to_string())? += 1;
    Ok(stream)
}

async fn dial_http1(visits: &Visits, seen: &Seen) -> Result<H1, Failure> {
    let io = TokioIo::new(dial(visits, seen).await?);
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}

async fn dial_http2(visits: &Visits, seen: &Seen) -> Result<H2, Failure> {
    let io = TokioIo::new(dial(visits, seen).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(async { drop(connection.await) });
    Ok(sender)
}

impl Visitor {
    /// Until its pace ends, or a request fails.
    async fn repeat(
        mut self,
        visits: Arc<Visits>,
        mut pace: Pace,
        begin: Instant,
        seen: Seen,
    ) -> Result<(), Failure> {
        let mut last = begin;
        while let Some(due) = pace.next(last).await? {
            let done = timeout(PATIENCE, self.visit(&visits, &seen)).await;
            done.map_err(|_| "an answer did not come within 5 s")??;
            last = Instant::now();
            let took = last.saturating_duration_since(due);
            let mut latency = seen.latency.lock().map_err(|e| e.to_string())?;
            latency.saturating_record(took.as_nanos() as u64);
        }
        Ok(())
    }

    async fn visit(&mut self, visits: &Visits, seen: &Seen) -> Result<(), Failure> {
        match self {
            Self::Tcp => dial(visits, seen).await.map(drop),
            Self::Http2(sender) => answered(sender.send_request(visits.request()?).await?).await,
            Self::Http1(kept) => {
                let fresh = kept.as_ref().is_none_or(H1::is_closed);
                if fresh {
                    *kept = Some(dial_http1(visits, seen).await?);
                }
                let sender = kept.as_mut().ok_or("no connection")?;
                let sent = match sender.ready().await {
                    Ok(()) => sender.send_request(visits.request()?).await,
                    Err(e) => Err(e),
                };
                let response = match sent {
                    // It was closed while it waited; once, on a new one.
                    Err(e) if !fresh && (e.is_canceled() || e.is_closed() || ended(&e)) => {
                        let sender = kept.insert(dial_http1(visits, seen).await?);
                        sender.send_request(visits.request()?).await?
                    }
                    sent => sent?,
                };
                answered(response).await
            }
        }
    }
}

/// Closed before a byte of the answer came.
fn ended(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
}

impl Visits {
    fn request(&self) -> Result<Request<Full<Bytes>>, Failure> {
        let of = |scheme: &str| format!("{scheme}{}{}", self.authority, self.path);
        Ok(match self.talk {
            Talk::Grpc => Request::post(of("http://"))
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers")
                .body(Full::new(Bytes::from_static(NO_MESSAGE)))?,
            Talk::Http2 => Request::get(of("http://")).body(Full::default())?,
            Talk::Http1 | Talk::Tcp => Request::get(&self.path)
                .header(header::HOST, &self.authority)
                .body(Full::default())?,
        })
    }
}

/// Reads it whole: anything but 2xx, and a `grpc-status` that is not 0, is a failure.
async fn answered(response: Response<Incoming>) -> Result<(), Failure> {
    let status = response.status();
    let early = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await?;
    if !status.is_success() {
        return Err(format!("the answer is {status}").into());
    }
    let late = body.trailers().and_then(|t| t.get("grpc-status")).cloned();
    match late.or(early) {
        Some(code) if code != "0" => Err(format!("grpc-status {code:?}").into()),
        _ => Ok(()),
    }
}

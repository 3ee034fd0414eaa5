//! The server: speaks on new connections what it was last told.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader},
    net::{TcpListener, UnixListener, unix::pipe},
};

use super::{
    Protocol,
    echo::{
        Body,
        echo_server::{Echo, EchoServer},
    },
    runtime,
};
use crate::generator::{
    protocol::{Answer, Command, Counted},
    server::answer,
};

/// Since they were last asked for.
#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
    wrong: AtomicU64,
    /// Bytes that each body must have.
    bytes: AtomicU64,
}

impl Counts {
    fn came(&self, body: &Bytes) {
        self.requests.fetch_add(1, Relaxed);
        if body.len() as u64 != self.bytes.load(Relaxed) {
            self.wrong.fetch_add(1, Relaxed);
        }
    }

    fn take(&self) -> Counted {
        Counted {
            connections: self.connections.swap(0, Relaxed),
            requests: self.requests.swap(0, Relaxed),
            wrong: self.wrong.swap(0, Relaxed),
            addresses: 0,
        }
    }
}

/// Serves until standard input ends.
pub fn serve(port: u16, unix: &Path) -> io::Result<()> {
    runtime()?.block_on(listen(port, unix))
}

async fn listen(port: u16, unix: &Path) -> io::Result<()> {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    let mut tcp = Some(bind().await?);
    let unix = UnixListener::bind(unix)?;
    let stdin = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut commands = BufReader::new(stdin).lines();
    let counts = Arc::new(Counts::default());
    let mut protocol = Protocol::Http1;
    answer(&Answer::Ready)?;
    loop {
        tokio::select! {
            line = commands.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let reply = match serde_json::from_str(&line) {
                    Ok(Command::Speak(wanted, bytes)) => {
                        protocol = wanted;
                        counts.bytes.store(bytes.into(), Relaxed);
                        Answer::Done
                    }
                    Ok(Command::Listen) => {
                        // The port must be free first.
                        drop(tcp.take());
                        tcp = Some(bind().await?);
                        Answer::Done
                    }
                    Ok(Command::Count) => Answer::Counted(counts.take()),
                    other => Answer::Failed(format!("a web server does not do {other:?}")),
                };
                answer(&reply)?;
            }
            accepted = async { tcp.as_ref().expect("renewed above").accept().await } => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                tokio::spawn(talk(protocol, stream, counts.clone()));
            }
            accepted = unix.accept() => {
                tokio::spawn(talk(protocol, accepted?.0, counts.clone()));
            }
        }
    }
}

async fn talk<S>(protocol: Protocol, stream: S, counts: Arc<Counts>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    counts.connections.fetch_add(1, Relaxed);
    let io = TokioIo::new(stream);
    let plain = service_fn(|request| back(request, &counts));
    // An end that comes early is an error to the client, which waits for an answer.
    let _ = match protocol {
        Protocol::Http1 => http1::Builder::new().serve_connection(io, plain).await,
        Protocol::Http2 => {
            let h2 = http2::Builder::new(TokioExecutor::new());
            let plain = service_fn(|request| {
                let counts = counts.clone();
                async move { back(request, &counts).await }
            });
            h2.serve_connection(io, plain).await
        }
        Protocol::Grpc => {
            let h2 = http2::Builder::new(TokioExecutor::new());
            let echo = EchoServer::from_arc(counts.clone());
            h2.serve_connection(io, TowerToHyperService::new(echo))
                .await
        }
    };
}

async fn back(
    request: Request<Incoming>,
    counts: &Counts,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    counts.came(&body);
    Ok(Response::new(Full::new(body)))
}

#[tonic::async_trait]
impl Echo for Counts {
    async fn call(
        &self,
        request: tonic::Request<Body>,
    ) -> Result<tonic::Response<Body>, tonic::Status> {
        let message = request.into_inner();
        self.came(&message.body);
        Ok(tonic::Response::new(message))
    }
}

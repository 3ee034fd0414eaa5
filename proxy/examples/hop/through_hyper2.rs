//! hyper's server and client of HTTP/2, with one connection to the backend. It judges nothing.

use std::{io, net::SocketAddr};

use hyper::{
    Request, body::Incoming, client::conn::http2 as client, rt::Executor,
    server::conn::http2 as server, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::spawn_local};

use crate::forward_dial;

#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

pub async fn listen(listener: TcpListener, backend: SocketAddr) -> io::Result<()> {
    let backend = TokioIo::new(forward_dial(backend).await?);
    let handshake = client::handshake(Local, backend).await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    spawn_local(async { drop(connection.await) });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let sender: client::SendRequest<Incoming> = sender.clone();
        spawn_local(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let mut sender = sender.clone();
                async move { sender.send_request(request).await }
            });
            let mut builder = server::Builder::new(Local);
            builder.max_concurrent_streams(100);
            // A client that goes away is no news.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

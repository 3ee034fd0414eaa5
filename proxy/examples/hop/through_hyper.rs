//! hyper's server and client, with a pool of connections between.

use std::{cell::RefCell, convert::Infallible, io, net::SocketAddr, rc::Rc};

use http_body_util::{Either, Empty};
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Bytes, Incoming},
    client::conn::http1::{Builder, SendRequest},
    header::{CONNECTION, HeaderMap, HeaderName, TE, UPGRADE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, time::Instant};
use underpass_l7::{
    head,
    limit::{Limits, check},
};
use underpass_proxy::plan::{Plan, Ticket};

use crate::forward_dial;

struct Hop {
    backend: SocketAddr,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
    /// Judge as the worker does.
    plan: Option<Rc<Plan>>,
    start: Instant,
}

type Body = Either<Incoming, Empty<Bytes>>;

pub async fn listen(
    listener: TcpListener,
    backend: SocketAddr,
    plan: Option<Rc<Plan>>,
) -> io::Result<()> {
    let hop = Rc::new(Hop {
        backend,
        idle: RefCell::default(),
        plan,
        start: Instant::now(),
    });
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        let hop = hop.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| {
                let hop = hop.clone();
                async move { Ok::<_, Infallible>(hop.forward(request).await) }
            });
            let mut builder = http1::Builder::new();
            builder.preserve_header_case(true).pipeline_flush(false);
            // A client that goes away is no news.
            let _ = builder
                .serve_connection(TokioIo::new(client), service)
                .await;
        });
    }
}

impl Hop {
    async fn forward(&self, mut request: Request<Incoming>) -> Response<Body> {
        let refuse = |status| {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = status;
            response
        };
        let mut ticket = match &self.plan {
            None => None,
            Some(plan) => match self.judge(plan, &request) {
                Ok(ticket) => Some(ticket),
                Err(status) => return refuse(status),
            },
        };
        strip(request.headers_mut());
        let waiting = self.idle.borrow_mut().pop();
        let mut sender = match waiting {
            Some(sender) => sender,
            None => match self.connect().await {
                Ok(sender) => sender,
                Err(_) => return refuse(StatusCode::SERVICE_UNAVAILABLE),
            },
        };
        if sender.ready().await.is_err() {
            return refuse(StatusCode::BAD_GATEWAY);
        }
        let Ok(mut response) = sender.send_request(request).await else {
            return refuse(StatusCode::BAD_GATEWAY);
        };
        if let Some(ticket) = &mut ticket {
            ticket.answered(response.status().as_u16());
        }
        strip(response.headers_mut());
        self.idle.borrow_mut().push(sender);
        response.map(Either::Left)
    }

    fn judge(&self, plan: &Plan, request: &Request<Incoming>) -> Result<Ticket, StatusCode> {
        let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let version = match request.version() {
            Version::HTTP_10 => head::Version::Http10,
            _ => head::Version::Http11,
        };
        let method = request.method().as_str().as_bytes();
        let head = head::Request::http1(version, method, target.as_bytes(), request.headers());
        let bad = |_| StatusCode::BAD_REQUEST;
        let accepted = check(&head, &Limits::default()).map_err(bad)?;
        let picked = plan
            .pick(&head, &accepted, || 7, self.start)
            .map_err(|_| StatusCode::BAD_REQUEST)?;
        Ok(picked.ticket)
    }

    async fn connect(&self) -> io::Result<SendRequest<Incoming>> {
        let io = TokioIo::new(forward_dial(self.backend).await?);
        let mut builder = Builder::new();
        let handshake = builder.preserve_header_case(true).handshake(io);
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async { drop(connection.await) });
        Ok(sender)
    }
}

/// Fields of one hop.
fn strip(fields: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    for name in [CONNECTION, KEEP_ALIVE, TE, UPGRADE] {
        fields.remove(name);
    }
}

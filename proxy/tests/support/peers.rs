//! Mock peers of HTTP/2: with the `h2` crate where they behave, frame by frame where they do not.
#![allow(clippy::unwrap_used, reason = "of tests, which fail there")]

use std::rc::Rc;

use bytes::Bytes;
use h2::{
    RecvStream,
    client::{self, ResponseFuture, SendRequest},
    server::{self, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};
use underpass_mesh::snapshot::Protocol;
use underpass_proxy::plan::{Backend, Plan};

use super::rig::{self, Rig};

/// A client, connected.
pub async fn client(rig: &Rig) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(rig.at).await.unwrap();
    let (send, connection) = client::handshake(stream).await.unwrap();
    tokio::task::spawn_local(async move {
        // How it ends is for the streams to say.
        let _ = connection.await;
    });
    send
}

/// What an endpoint has been asked.
pub type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// An endpoint's connections, and what comes over any of them.
pub struct Endpoint {
    pub asked: UnboundedReceiver<(usize, Asked)>,
}

/// Serves every connection that comes to the listener, as `builder` says; the first has number 0.
pub fn endpoint(listener: TcpListener, builder: server::Builder) -> Endpoint {
    let (to, asked) = unbounded_channel();
    tokio::task::spawn_local(async move {
        let mut number = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (to, builder, at) = (to.clone(), builder.clone(), number);
            number += 1;
            tokio::task::spawn_local(async move {
                let Ok(mut connection) = builder.handshake(stream).await else {
                    return;
                };
                while let Some(Ok(asked)) = connection.accept().await {
                    if to.send((at, asked)).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Endpoint { asked }
}

impl Endpoint {
    pub async fn next(&mut self) -> Asked {
        self.asked.recv().await.unwrap().1
    }
}

/// One endpoint that is served like this.
pub async fn rig_of(builder: server::Builder) -> (Rig, Endpoint) {
    let mut rig = Rig::start().await;
    let endpoint = endpoint(rig.endpoints.remove(0), builder);
    (rig, endpoint)
}

/// All requests go to the rig's first endpoint, which speaks this.
pub fn speak(rig: &Rig, protocol: Protocol) {
    let at = rig.endpoints[0].local_addr().unwrap();
    let backend = Backend::new(9, [(0, at, 1)]).speaking(protocol);
    let service = ("default/shop".into(), 80);
    rig.shard.set_plan(Plan {
        authority: "shop".into(),
        default: service.clone(),
        backends: Rc::new([(service, Rc::new(backend))].into()),
        ..rig::plan(&[])
    });
}

pub fn get(path: &str) -> Request<()> {
    let uri = format!("http://shop{path}");
    Request::builder().uri(uri).body(()).unwrap()
}

pub fn post(path: &str) -> Request<()> {
    let mut request = get(path);
    *request.method_mut() = http::Method::POST;
    request
}

pub fn grpc(path: &str) -> Request<()> {
    let mut request = post(path);
    let kind = "application/grpc".parse().unwrap();
    request.headers_mut().insert("content-type", kind);
    request
        .headers_mut()
        .insert("te", "trailers".parse().unwrap());
    request
}

pub fn ok() -> Response<()> {
    Response::new(())
}

pub fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let parsed = pairs
        .iter()
        .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
    parsed.collect()
}

/// The body and the trailers.
pub async fn all(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, body.trailers().await?))
}

/// Status, body and trailers.
pub async fn answer(response: ResponseFuture) -> (Response<()>, Vec<u8>, Option<HeaderMap>) {
    let (parts, mut body) = response.await.unwrap().into_parts();
    let (bytes, trailers) = all(&mut body).await.unwrap();
    (Response::from_parts(parts, ()), bytes, trailers)
}

/// A peer that writes what it wants.
pub struct Raw(pub TcpStream);

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub id: u32,
    pub payload: Vec<u8>,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

/// A GET, in HPACK: `:method GET`, `:scheme http`, `:path /`, `:authority shop`.
pub const HEAD: &[u8] = b"\x82\x86\x84\x41\x04shop";
/// Likewise a POST.
pub const POST_HEAD: &[u8] = b"\x83\x86\x84\x41\x04shop";

impl Raw {
    /// A client that has shaken hands.
    pub async fn client(rig: &Rig) -> Self {
        let mut raw = Self(TcpStream::connect(rig.at).await.unwrap());
        raw.0.set_nodelay(true).unwrap();
        raw.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.frame(SETTINGS, 0, 0, b"").await;
        raw
    }

    /// An endpoint that has been connected to and has shaken hands, with these SETTINGS.
    pub async fn endpoint(listener: &TcpListener, settings: &[u8]) -> Self {
        let mut raw = Self(listener.accept().await.unwrap().0);
        raw.0.set_nodelay(true).unwrap();
        let mut preface = [0; 24];
        raw.0.read_exact(&mut preface).await.unwrap();
        raw.frame(SETTINGS, 0, 0, settings).await;
        raw.frame(SETTINGS, ACK, 0, b"").await;
        raw
    }

    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    pub fn encode(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        frame
    }

    pub async fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        self.bytes(&Self::encode(kind, flags, id, payload)).await;
    }

    /// `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            id: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The next frame of this kind; others are passed over.
    pub async fn expect(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection has ended");
            if frame.kind == kind && !(kind == SETTINGS && frame.flags & ACK != 0) {
                return frame;
            }
        }
    }

    /// The code of the GOAWAY after which the connection ends.
    pub async fn expect_goaway(&mut self) -> u32 {
        let frame = self.expect(GOAWAY).await;
        while self.next().await.is_some() {}
        word(&frame.payload[4..])
    }
}

pub fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

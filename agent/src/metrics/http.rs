//! The smallest HTTP that a scraper needs: one GET per connection, bounded in bytes, time and number.
//! The agent is privileged, so it links no general HTTP parser for TCP.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// Bytes of a request head.
pub const MAX_HEAD: usize = 4096;
/// Connections at a time; more wait in the backlog.
pub const MAX_CLIENTS: usize = 16;
/// For reading the head, and for writing the answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a path answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: Status,
    pub content_type: &'static str,
    pub body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    Unavailable,
}

impl Status {
    const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

impl Answer {
    pub fn text(status: Status, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }
}

/// Serves until the future is dropped.
pub async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(String) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
    let answer = Arc::new(answer);
    loop {
        let Ok(permit) = clients.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: come back when some are free.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let _ = one(stream, &*answer).await;
            drop(permit);
        });
    }
}

async fn one<F, A>(mut stream: TcpStream, answer: &F) -> std::io::Result<()>
where
    F: Fn(String) -> A,
    A: Future<Output = Answer>,
{
    let mut head = Vec::with_capacity(512);
    let complete = timeout(PATIENCE, read_head(&mut stream, &mut head)).await??;
    let answer = match request_path(&head, complete) {
        Ok(path) => answer(path).await,
        Err(refusal) => refusal,
    };
    let response = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        answer.status.line(),
        answer.content_type,
        answer.body.len(),
        answer.body,
    );
    timeout(PATIENCE, stream.write_all(response.as_bytes())).await??;
    timeout(PATIENCE, stream.shutdown()).await?
}

/// Reads up to the empty line; false if the head is too long or ends early.
async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> std::io::Result<bool> {
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || stream.read_buf(head).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The path of `GET path HTTP/1.x`, without its query.
fn request_path(head: &[u8], complete: bool) -> Result<String, Answer> {
    let bad = || Answer::text(Status::BadRequest, "bad request\n");
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| bad())?;
    let mut words = line.split(' ');
    let (method, target, version, rest) = (words.next(), words.next(), words.next(), words.next());
    let version_known = version.is_some_and(|v| v == "HTTP/1.1" || v == "HTTP/1.0");
    let (Some(target), None, true, true) = (target, rest, version_known, complete) else {
        return Err(bad());
    };
    if method != Some("GET") {
        return Err(Answer::text(Status::MethodNotAllowed, "only GET\n"));
    }
    Ok(target.split('?').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, |path| async move {
            Answer::text(Status::Ok, format!("path {path}"))
        }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn answers_a_get() {
        let answer = ask(b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\npath /metrics"), "{answer}");
    }

    #[tokio::test]
    async fn refuses_everything_else() {
        let status =
            async |request: &[u8]| ask(request).await.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(status(b"POST / HTTP/1.1\r\n\r\n").await, "405");
        for bad in [
            &b"GET /\r\n\r\n"[..],
            b"GET / HTTP/2.0\r\n\r\n",
            b"\xff\xfe / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(status(bad).await, "400");
        }
        let long = [&b"GET / HTTP/1.1\r\n"[..], &vec![b'a'; MAX_HEAD - 16]].concat();
        assert_eq!(status(&long).await, "400");
    }
}

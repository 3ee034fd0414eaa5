//! The node API over a Unix socket. Only root and the agent's own user may ask.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{
    Code, Request, Response, Status, service::interceptor::InterceptedService,
    transport::server::UdsConnectInfo,
};
use underpass_abi::reason::code;
use underpass_api::{
    MAX_MESSAGE, MAX_REQUEST,
    v1alpha1::{self as api, node_server},
};

use crate::{
    control::{Handle, Unavailable},
    explain::explain,
    problem::{Problem, coded},
    telemetry::filter::Filter,
};

/// Clients that watch at a time.
pub const MAX_WATCHERS: usize = 16;
/// Rows that wait for one watching client; what changes meanwhile is sent once, as it is then.
pub const WATCH_BUFFER: usize = 1_024;
/// How long a watching client may take no row before its stream ends.
pub const WATCH_PATIENCE: Duration = Duration::from_secs(10);
/// How often a watch looks for changes.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(250);

static SLOW_WATCHERS: AtomicU64 = AtomicU64::new(0);

/// The server's counters: name, help, value.
pub fn own_counters() -> [(&'static str, &'static str, u64); 1] {
    let help = "Watching clients whose stream was ended because they did not read.";
    [(
        "underpass_watchers_ended",
        help,
        SLOW_WATCHERS.load(Ordering::Relaxed),
    )]
}

/// Binds the socket, in place of one that nobody serves any more.
pub fn bind(path: &Path) -> io::Result<Listener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another agent serves it",
            ));
        }
        fs::remove_file(path)?;
    }
    let socket = std::os::unix::net::UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    socket.set_nonblocking(true)?;
    let socket = UnixListener::from_std(socket)?;
    Ok(Listener {
        socket,
        path: path.to_owned(),
    })
}

#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

/// Serves until `stop` resolves, then removes the socket.
pub async fn serve(
    listener: Listener,
    control: Handle,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let own = rustix::process::geteuid().as_raw();
    let service = node_server::NodeServer::new(Service {
        control,
        watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
    });
    let service = InterceptedService::new(
        service
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_REQUEST),
        move |request: Request<()>| check_peer(request, own),
    );
    let served = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(32)
        .serve_with_incoming_shutdown(service, UnixListenerStream::new(listener.socket), stop)
        .await;
    // A successor may have replaced it; then this removes nothing of ours, so failing is fine.
    let _ = fs::remove_file(&listener.path);
    served
}

fn check_peer(request: Request<()>, own: u32) -> Result<Request<()>, Status> {
    let info = request.extensions().get::<UdsConnectInfo>();
    match info.and_then(|i| i.peer_cred) {
        Some(peer) if peer.uid() == 0 || peer.uid() == own => Ok(request),
        Some(peer) => {
            let text = format!("uid {}", peer.uid());
            Err(Status::permission_denied(coded(code::API_FORBIDDEN, &text)))
        }
        None => Err(Status::permission_denied(coded(
            code::API_FORBIDDEN,
            "unknown user",
        ))),
    }
}

struct Service {
    control: Handle,
    watchers: Arc<Semaphore>,
}

#[tonic::async_trait]
impl node_server::Node for Service {
    async fn list_connections(
        &self,
        request: Request<api::ListConnectionsRequest>,
    ) -> Result<Response<api::ListConnectionsResponse>, Status> {
        let request = request.into_inner();
        let answer = self
            .control
            .ask(move |c| c.list_connections(&request))
            .await;
        Ok(Response::new(answer.map_err(unavailable)?.map_err(status)?))
    }

    type WatchConnectionsStream =
        Pin<Box<dyn Stream<Item = Result<api::Connection, Status>> + Send>>;

    async fn watch_connections(
        &self,
        request: Request<api::ListConnectionsRequest>,
    ) -> Result<Response<Self::WatchConnectionsStream>, Status> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let filter = Filter::parse(&filter).map_err(status)?;
        let permit = self.watchers.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_WATCHERS} clients watch already"))
        })?;
        let (rows, stream) = mpsc::channel(WATCH_BUFFER);
        let control = self.control.clone();
        tokio::spawn(async move {
            if let Err(end) = watch(control, filter, &rows).await {
                // Only if there is room: the client may be gone or stuck.
                let _ = rows.try_send(Err(end));
            }
            drop(permit);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_service_stats(
        &self,
        request: Request<api::ListServiceStatsRequest>,
    ) -> Result<Response<api::ListServiceStatsResponse>, Status> {
        let request = request.into_inner();
        let answer = self.control.ask(move |c| c.service_stats(&request)).await;
        Ok(Response::new(answer.map_err(unavailable)?.map_err(status)?))
    }

    async fn get_status(
        &self,
        _: Request<api::GetStatusRequest>,
    ) -> Result<Response<api::Status>, Status> {
        let answer = self.control.ask(crate::control::Control::status).await;
        Ok(Response::new(answer.map_err(unavailable)?))
    }

    async fn explain(
        &self,
        request: Request<api::ExplainRequest>,
    ) -> Result<Response<api::ExplainResponse>, Status> {
        let plan = self
            .control
            .ask(|c| c.plan.clone())
            .await
            .map_err(unavailable)?;
        let answer = explain(&plan, request.get_ref()).map_err(status)?;
        Ok(Response::new(answer))
    }
}

/// Sends every row, then each again when it changes, until the client is gone or does not read.
async fn watch(
    control: Handle,
    filter: Filter,
    rows: &mpsc::Sender<Result<api::Connection, Status>>,
) -> Result<(), Status> {
    let mut since = 0;
    // What was sent of connections that are still open.
    let mut open: HashMap<String, api::Connection> = HashMap::new();
    loop {
        let by = filter.clone();
        let looked = control
            .ask(move |c| c.list(&by, since))
            .await
            .map_err(unavailable)?;
        let listing = looked.map_err(status)?;
        since = listing.changes;
        let mut still_open = HashMap::new();
        for row in listing.rows {
            let ended = matches!(row.state.as_str(), "closed" | "failed" | "refused");
            let same = open.get(&row.id).is_some_and(|sent| {
                api::Connection {
                    duration_ms: row.duration_ms,
                    ..sent.clone()
                } == row
            });
            if !same {
                match timeout(WATCH_PATIENCE, rows.send(Ok(row.clone()))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => {
                        SLOW_WATCHERS.fetch_add(1, Ordering::Relaxed);
                        return Err(Status::resource_exhausted("the client does not read"));
                    }
                }
            }
            if !ended {
                still_open.insert(row.id.clone(), row);
            }
        }
        open = still_open;
        tokio::select! {
            () = rows.closed() => return Ok(()),
            () = sleep(WATCH_INTERVAL) => {}
        }
    }
}

/// A problem as a gRPC status that carries the code.
fn status(problem: Problem) -> Status {
    let code = match problem.code {
        code::BAD_FILTER | code::BAD_ARGUMENT => Code::InvalidArgument,
        code::NOT_FOUND => Code::NotFound,
        code::NOT_IMPLEMENTED => Code::Unimplemented,
        _ => Code::FailedPrecondition,
    };
    Status::new(code, problem.to_string())
}

fn unavailable(error: Unavailable) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir()
            .join(format!("up-api-{name}-{}", std::process::id()))
            .join("a.sock")
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let path = path("bind");
        let first = bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(bind(&path).is_ok());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let path = path("file");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn only_root_and_the_agents_user_may_ask() {
        let asked_by = |peer_cred| {
            let mut request = Request::new(());
            request.extensions_mut().insert(UdsConnectInfo {
                peer_addr: None,
                peer_cred,
            });
            check_peer(request, rustix::process::geteuid().as_raw())
        };
        let (ours, _peer) = UnixStream::pair().unwrap();
        assert!(asked_by(Some(ours.peer_cred().unwrap())).is_ok());
        let refused = asked_by(None).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(
            refused.message().starts_with("UP0411 API_FORBIDDEN"),
            "{}",
            refused.message()
        );
    }

    #[tokio::test]
    async fn a_question_that_is_too_long_is_not_read() {
        let path = path("long");
        let listener = bind(&path).unwrap();
        // Nobody answers: what gets past the limit waits.
        let (control, _jobs) = crate::control::queue().unwrap();
        let served = tokio::spawn(serve(listener, control, std::future::pending()));
        let mut client = underpass_api::connect(&path).await.unwrap();
        let question = |len| api::ExplainRequest {
            source: "x".repeat(len),
            ..api::ExplainRequest::default()
        };
        let refused = client.explain(question(MAX_REQUEST)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        let short = client.explain(question(MAX_REQUEST - 100));
        assert!(timeout(Duration::from_millis(100), short).await.is_err());
        served.abort();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}

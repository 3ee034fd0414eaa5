//! A Node server that follows a script, and the binary that asks it.

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use underpass_api::v1alpha1::{
    self as api,
    node_server::{Node, NodeServer},
};

/// What the server answers, and what it was asked last.
#[derive(Default)]
pub struct Script {
    pub rows: Vec<api::Connection>,
    pub events_lost: u64,
    pub truncated: bool,
    pub status: api::Status,
    pub asked: Mutex<Option<api::ListConnectionsRequest>>,
}

struct Mock(Arc<Script>);

type Rows = tokio_stream::Iter<std::vec::IntoIter<Result<api::Connection, Status>>>;

#[tonic::async_trait]
impl Node for Mock {
    async fn list_connections(
        &self,
        request: Request<api::ListConnectionsRequest>,
    ) -> Result<Response<api::ListConnectionsResponse>, Status> {
        let request = request.into_inner();
        if request.filter.as_ref().is_some_and(|f| f.to == "forbidden") {
            return Err(Status::permission_denied("uid 1000 may not ask"));
        }
        *self.0.asked.lock().expect("not poisoned") = Some(request);
        Ok(Response::new(api::ListConnectionsResponse {
            items: self.0.rows.clone(),
            truncated: self.0.truncated,
            events_lost: self.0.events_lost,
        }))
    }

    type WatchConnectionsStream = Rows;

    async fn watch_connections(
        &self,
        _: Request<api::ListConnectionsRequest>,
    ) -> Result<Response<Rows>, Status> {
        let rows: Vec<_> = self.0.rows.iter().cloned().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(rows)))
    }

    async fn list_service_stats(
        &self,
        _: Request<api::ListServiceStatsRequest>,
    ) -> Result<Response<api::ListServiceStatsResponse>, Status> {
        let service = |name: &str| api::ServiceStats {
            service: name.into(),
            protocol: "tcp".into(),
            opened: 3,
            ..Default::default()
        };
        let items = vec![
            service("-"),
            service("shop/web:80"),
            service("bank/ledger:8080"),
        ];
        Ok(Response::new(api::ListServiceStatsResponse { items }))
    }

    async fn get_status(
        &self,
        _: Request<api::GetStatusRequest>,
    ) -> Result<Response<api::Status>, Status> {
        Ok(Response::new(self.0.status.clone()))
    }

    async fn explain(
        &self,
        request: Request<api::ExplainRequest>,
    ) -> Result<Response<api::ExplainResponse>, Status> {
        let request = request.into_inner();
        if request.source == "nobody" {
            return Err(Status::not_found(
                "UP0502 NOT_FOUND: no workload `nobody`. Try: `underpass status`",
            ));
        }
        let item = api::Explanation {
            verdict: "denied".into(),
            policy: "AuthorizationPolicy shop/ledger".into(),
            reason: "POLICY_DENIED".into(),
            outbound_layer: "kernel".into(),
            outbound_reason: "NO_L7_NEEDED".into(),
            inbound_layer: "kernel".into(),
            inbound_reason: "NO_L7_NEEDED".into(),
            ..Default::default()
        };
        Ok(Response::new(api::ExplainResponse {
            source: request.source,
            destination: format!("{}:{}/tcp", request.destination, request.port),
            items: vec![item],
        }))
    }
}

/// A served script; its thread ends and its socket goes when this is dropped.
pub struct Agent {
    script: Arc<Script>,
    pub path: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    pub fn serve(script: Script) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("underpass-cli-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let script = Arc::new(script);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (path, script) = (path.clone(), Arc::clone(&script));
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let listener = UnixListener::bind(&path).expect("a fresh path");
                    ready.send(()).expect("the test waits");
                    tonic::transport::Server::builder()
                        .add_service(NodeServer::new(Mock(script)))
                        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                            let _ = stopped.await;
                        })
                        .await
                        .expect("served");
                });
            }
        });
        is_ready.recv().expect("bound");
        Self {
            script,
            path,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn run(&self, args: &[&str]) -> Output {
        underpass(args)
            .arg("--api")
            .arg(&self.path)
            .output()
            .expect("the binary runs")
    }

    pub fn asked(&self) -> api::ListConnectionsRequest {
        self.script
            .asked
            .lock()
            .expect("not poisoned")
            .clone()
            .expect("asked")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The binary, free of this process's settings.
pub fn underpass(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_underpass"));
    command
        .args(args)
        .env_remove("UNDERPASS_API")
        .env_remove("NO_COLOR");
    command
}

fn row(id: u32, from: &str, to: &str, verdict: &str) -> api::Connection {
    let peer = |workload: &str| {
        Some(api::Peer {
            workload: workload.into(),
            ..Default::default()
        })
    };
    let denied = verdict == "denied";
    api::Connection {
        id: format!("demo/{id}"),
        source: peer(from),
        destination: peer(to),
        service: format!("{to}:8080"),
        protocol: "tcp".into(),
        layer: "kernel".into(),
        verdict: verdict.into(),
        reason: if denied {
            "POLICY_DENIED".into()
        } else {
            String::new()
        },
        policy: "AuthorizationPolicy shop/ledger".into(),
        state: if denied {
            "refused".into()
        } else {
            "closed".into()
        },
        opened_at_ms: 1_000 * u64::from(id),
        ..Default::default()
    }
}

/// Three connections and a node that is well.
pub fn shop() -> Script {
    Script {
        // Newest first, to see that the order is ours.
        rows: vec![
            row(3, "bank/teller", "bank/vault", "allowed"),
            row(2, "shop/intruder", "shop/ledger", "denied"),
            row(1, "shop/web", "shop/ledger", "allowed"),
        ],
        status: api::Status {
            node: "demo".into(),
            state: "ready".into(),
            version: "0.1.0".into(),
            ..Default::default()
        },
        ..Default::default()
    }
}

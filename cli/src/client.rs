//! The connection to the agent: one Unix socket, bounded waits, coded errors.

use std::{error::Error, io, path::Path, time::Duration};

use tonic::transport::Channel;
use underpass_abi::reason::code;
use underpass_api::v1alpha1::{self as api, node_client::NodeClient};

use crate::error::CliError;

/// Longest wait for one answer. A stopped agent still accepts connections, so connecting alone
/// proves nothing.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Client {
    path: String,
    node: NodeClient<Channel>,
}

impl Client {
    pub async fn connect(path: &Path) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let node = match tokio::time::timeout(ANSWER_TIMEOUT, underpass_api::connect(path)).await {
            Ok(Ok(node)) => node,
            Ok(Err(error)) => return Err(unreachable_because(&name, &error)),
            Err(_) => return Err(no_answer(&name)),
        };
        Ok(Self { path: name, node })
    }

    pub async fn list(
        &mut self,
        request: api::ListConnectionsRequest,
    ) -> Result<api::ListConnectionsResponse, CliError> {
        answer(&self.path, self.node.list_connections(request)).await
    }

    pub async fn watch(
        &mut self,
        request: api::ListConnectionsRequest,
    ) -> Result<tonic::Streaming<api::Connection>, CliError> {
        answer(&self.path, self.node.watch_connections(request)).await
    }

    pub async fn stats(&mut self, service: &str) -> Result<Vec<api::ServiceStats>, CliError> {
        let request = api::ListServiceStatsRequest {
            service: service.to_owned(),
        };
        Ok(answer(&self.path, self.node.list_service_stats(request))
            .await?
            .items)
    }

    pub async fn status(&mut self) -> Result<api::Status, CliError> {
        answer(&self.path, self.node.get_status(api::GetStatusRequest {})).await
    }

    pub async fn explain(
        &mut self,
        request: api::ExplainRequest,
    ) -> Result<api::ExplainResponse, CliError> {
        answer(&self.path, self.node.explain(request)).await
    }

    /// What a broken stream means to the user.
    pub fn stream_error(&self, status: &tonic::Status) -> CliError {
        CliError::from_status(&self.path, status)
    }

    pub fn stream_ended(&self) -> CliError {
        CliError::failed(
            code::API_UNREACHABLE,
            format!(
                "{}: the agent ended the stream (was it stopped?)",
                self.path
            ),
        )
    }
}

async fn answer<T>(
    path: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CliError::from_status(path, &status)),
        Err(_) => Err(no_answer(path)),
    }
}

fn no_answer(path: &str) -> CliError {
    let seconds = ANSWER_TIMEOUT.as_secs();
    CliError::failed(
        code::API_UNREACHABLE,
        format!("{path}: no answer within {seconds} s"),
    )
}

fn unreachable_because(path: &str, error: &tonic::transport::Error) -> CliError {
    match io_cause(error) {
        Some(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            CliError::failed(code::API_FORBIDDEN, format!("{path}: {e}"))
        }
        Some(e) => CliError::failed(code::API_UNREACHABLE, format!("{path}: {e}")),
        None => CliError::failed(code::API_UNREACHABLE, format!("{path}: {error}")),
    }
}

fn io_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = e.source();
    }
    None
}

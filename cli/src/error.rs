//! What goes wrong, as the user reads it: a code of the registry, the failing input, a hint.

use std::io;

use tonic::Status;
use underpass_abi::reason::{Code, code};

/// Exit code of a run that failed or found something.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a command line that cannot be run.
pub const EXIT_USAGE: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{}", coded(*code, message))]
    Usage { code: u16, message: String },
    #[error("{}", coded(*code, message))]
    Failed { code: u16, message: String },
    /// The agent's answer, which carries its own code.
    #[error("{message}")]
    Agent { message: String, exit: u8 },
    #[error("cannot write or start: {0}")]
    Output(#[from] io::Error),
}

impl CliError {
    pub fn usage(code: u16, message: impl Into<String>) -> Self {
        Self::Usage {
            code,
            message: message.into(),
        }
    }

    pub fn failed(code: u16, message: impl Into<String>) -> Self {
        Self::Failed {
            code,
            message: message.into(),
        }
    }

    /// From an answer of the agent at `path`.
    pub fn from_status(path: &str, status: &Status) -> Self {
        let message = status.message();
        let exit = match status.code() {
            tonic::Code::InvalidArgument => EXIT_USAGE,
            _ => EXIT_FAILED,
        };
        if message.starts_with("UP0") {
            return Self::Agent {
                message: message.to_owned(),
                exit,
            };
        }
        match status.code() {
            tonic::Code::InvalidArgument => Self::usage(code::BAD_ARGUMENT, message),
            tonic::Code::NotFound => Self::failed(code::NOT_FOUND, message),
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
                Self::failed(code::API_FORBIDDEN, format!("{path}: {message}"))
            }
            tonic::Code::Unimplemented => Self::usage(
                code::NOT_IMPLEMENTED,
                format!("the agent at {path} cannot do this"),
            ),
            other => Self::failed(
                code::API_UNREACHABLE,
                format!("{path}: {other:?}: {message}"),
            ),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => EXIT_USAGE,
            Self::Agent { exit, .. } => *exit,
            // A reader that has seen enough (`| head`) is no failure.
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Failed { .. } | Self::Output(_) => EXIT_FAILED,
        }
    }
}

/// `UP0410 API_UNREACHABLE: message. Try: hint`.
pub fn coded(number: u16, message: &str) -> String {
    let Some(entry) = Code::find(number) else {
        return format!("UP{number:04}: {message}");
    };
    let message = message.trim_end_matches('.');
    let line = format!("UP{number:04} {}: {message}", entry.name);
    if entry.hint.is_empty() {
        line
    } else {
        format!("{line}. Try: {}", entry.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_code_is_kept() {
        let status = Status::invalid_argument("UP0501 BAD_FILTER: verdict `maybe`. Try: allowed");
        let error = CliError::from_status("/s", &status);
        assert_eq!(error.to_string(), status.message());
        assert_eq!(error.exit_code(), EXIT_USAGE);
    }

    #[test]
    fn an_uncoded_answer_gets_one() {
        let error = CliError::from_status("/s", &Status::not_found("no workload `x`"));
        assert!(
            error
                .to_string()
                .starts_with("UP0502 NOT_FOUND: no workload `x`. Try: ")
        );
        assert_eq!(error.exit_code(), EXIT_FAILED);
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(error.exit_code(), 0);
    }
}

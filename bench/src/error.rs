//! What can go wrong in a benchmark. A row that cannot be measured is an error, never a blank.

use std::fmt::Display;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{what}: {source}")]
    Io {
        what: String,
        source: std::io::Error,
    },
    #[error("{0}")]
    Setup(String),
    /// A party of the load: client or server.
    #[error("{party}: {why}")]
    Party { party: String, why: String },
    #[error("agent: {0}")]
    Agent(String),
    #[error("{case}: {why}")]
    Row { case: String, why: String },
}

pub type Result<T> = std::result::Result<T, BenchError>;

/// Says what was attempted.
pub trait Context<T> {
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|e| BenchError::Io {
            what: what.to_string(),
            source: e.into(),
        })
    }
}

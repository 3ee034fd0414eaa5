//! The node agent: loads and pins the BPF programs, finds local workloads, applies plans to the maps,
//! keeps telemetry and serves the node API.
#![deny(unsafe_code)]

pub mod api_server;
pub mod check;
pub mod control;
pub mod discover;
pub mod explain;
pub mod kernel;
pub mod last_good;
pub mod log;
pub mod metrics;
pub mod options;
pub mod problem;
pub mod status;
pub mod sys;
pub mod telemetry;
pub mod watch;
pub mod workers;

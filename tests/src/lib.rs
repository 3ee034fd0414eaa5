//! The lab: nodes and pods made of network namespaces and cgroup2 directories, real programs in
//! them, and what the end-to-end tests and the demo share.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod doors;
pub mod ends;
pub mod equivalence;
pub mod foreign;
pub mod http;
pub mod installed;
pub mod lab;
pub mod manifest;
pub mod packages;
pub mod passed;
pub mod programs;
pub mod rpc;
pub mod scene;
pub mod soak;
pub mod stats;

pub use lab::{Failure, Lab, Result};

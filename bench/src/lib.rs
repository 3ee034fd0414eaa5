//! Load generator, statistics and report: what the mesh costs, measured against no mesh in the same
//! round. `docs/how-to/benchmark.md` and `docs/how-to/compare.md` say how to read the
//! result.
#![forbid(unsafe_code)]

pub mod agent;
pub mod apps;
pub mod backstage;
pub mod cases;
pub mod compare;
pub mod cpu;
pub mod ends;
pub mod environment;
pub mod error;
pub mod generator;
pub mod lab;
pub mod limits;
pub mod manifests;
pub mod party;
pub mod plan;
pub mod programs;
pub mod report;
pub mod rig;
pub mod service;
pub mod stats;
pub mod systems;
pub mod vendor;
pub mod way;
pub mod web;

pub use error::{BenchError, Context, Result};

//! The model of the mesh and its compiler: Kubernetes objects in, a node's plan out, and the smallest
//! change of kernel tables that puts a plan in force. Pure: no I/O, no clock, no threads.
//!
//! `parse` reads files → [`Model`] holds objects by file → [`Model::compile`] with the node's
//! [`Facts`] gives a [`Plan`] → [`Tables::lay_out`] gives a [`Change`] for the kernel maps.
#![forbid(unsafe_code)]

pub mod facts;
pub mod k8s;
pub mod model;
pub mod parse;
pub mod path;
pub mod plan;
pub mod problem;
pub mod snapshot;
pub mod tables;

mod compile;

pub use facts::{Cgroup, DefaultPolicy, Facts, Place};
pub use model::{Locator, Model, Wanted};
pub use plan::{Choice, Decision, DestRef, Explained, Plan, SourceRef};
pub use problem::{Problem, Severity};
pub use tables::{Batch, Change, Deletes, Dump, Names, Round, Tables, TablesError};

/// The registry of codes and the workers' ports, for rooms that use `mesh` only.
pub use underpass_abi::{reason, tables::door, worker};

/// A shared string, one word wide: names occur in many places of a plan.
pub type Str = arcstr::ArcStr;

/// The parts of `namespace/name`; what is in no namespace has an empty one.
pub fn split_name(full_name: &str) -> (&str, &str) {
    full_name.split_once('/').unwrap_or(("", full_name))
}

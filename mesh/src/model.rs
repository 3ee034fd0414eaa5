//! Objects by file, and the way from them to a plan.
use std::sync::Arc;
use crate::{Str, facts::Facts, plan::Plan, problem::Problem};

/// Where a workload of this node is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Locator {
    /// Path below the cgroup2 root, without a leading slash.
    Cgroup(Str),
    Netns(NetnsRef),
    /// As `web.service`.
    SystemdUnit(Str),
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsRef {
    /// A file that refers to it, as `/run/netns/web`.
    Path(Str),
    /// A process in it.
    Pid(u32),
}

/// A workload that the agent must find on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `namespace/name`; the key of [`Facts::places`].
    pub full_name: Str,
    pub locator: Locator,
    /// In the mesh: its namespace needs a guard.
    pub enrolled: bool,
}

/// What reading a file did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same objects as before.
    Unchanged,
    Changed,
    /// Not usable: the file's last good version stays; [`Model::problems`] tells why.
    Rejected,
}

/// All objects, by the file that they are in.
#[derive(Debug, Default)]
pub struct Model {}

impl Model {
    /// Reads a file's new text. A file that cannot be used keeps its last good version.
    pub fn set_file(&mut self, _name: &str, _text: &str) -> Outcome { todo!() }
    /// Keeps the last good version and notes that the file could not be read (`code`: UNREADABLE or TOO_LARGE).
    pub fn unreadable(&mut self, _name: &str, _code: u16, _message: String) { todo!() }
    /// True if the file was known.
    pub fn remove_file(&mut self, _name: &str) -> bool { todo!() }
    /// Workloads to be found on this node.
    pub fn wanted(&self) -> Vec<Wanted> { todo!() }
    /// The plan for these objects and facts. Without a change since the last call the same plan.
    pub fn compile(&mut self, _facts: &Facts) -> Arc<Plan> { todo!() }
    /// What is wrong with single files, by file and line.
    pub fn problems(&self) -> Vec<Problem> { todo!() }
    /// Also what is wrong between objects: the offline check.
    pub fn check(&self) -> Vec<Problem> { todo!() }
}

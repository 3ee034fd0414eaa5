//! The vendor: starts one worker for each tenant and gives it sockets of the tenant's workloads. It holds
//! privilege and never reads a byte of traffic (docs/explanation/vendor.md).
//!
//! Three processes, one program: the *vendor* itself ([`vendor`]), a *child* for each tenant that makes
//! the sockets ([`child`]), and the short stage in which a worker loses everything before its own program
//! begins ([`enter`]).
#![forbid(unsafe_code)]

pub mod answers;
pub mod caps;
pub mod cgroup;
pub mod child;
pub mod clients;
pub mod ctl;
pub mod desk;
pub mod enter;
pub mod inner;
pub mod life;
pub mod log;
pub mod netns;
pub mod options;
pub mod outbox;
pub mod process;
pub mod proof;
pub mod state;
pub mod tenant;
pub mod vendor;

//! Between the vendor (`underpass-vend`) and those who talk to it: its workers and, on its control
//! socket, root. Messages are single packets of a fixed form on a SOCK_SEQPACKET Unix socket, so no
//! stream has to be cut into messages; descriptors travel beside them (SCM_RIGHTS).
//!
//! Not protobuf: the vendor holds privilege and a worker may be hostile, so the reader is one page long
//! and has nothing that can grow.

pub mod control;
pub mod frame;
pub mod message;

#[cfg(feature = "vend")]
pub mod channel;
#[cfg(feature = "worker")]
pub mod sandbox;
#[cfg(feature = "worker")]
pub mod worker;

pub use frame::{Frame, Malformed};
pub use message::{Family, ToVendor, ToWorker};

/// Where the vendor's control socket is unless `--control` says otherwise.
pub const DEFAULT_CONTROL: &str = "/run/underpass-vend/control.sock";

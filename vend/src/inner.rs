//! What the vendor and a tenant's child say to each other, in frames of the same form. Both ends are one
//! program, so a message that is not understood ends the child.

use std::net::IpAddr;

use underpass_api::vend::{Frame, Malformed};

/// From the vendor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToChild {
    /// With the namespace's descriptor. Answered by `Done` or `Failed`.
    Add { id: u64, name: String },
    /// It is about to end.
    Drain { id: u64 },
    /// Answered by `Done` when all is closed.
    Remove { id: u64 },
    /// Answered by `Done` or `Failed`.
    Listen { id: u64, port: u16, address: IpAddr },
    /// With two descriptors: the tenant's worker is to have them, also a later one.
    Snapshot { tenant: String, version: u64 },
    /// No worker is to have the tenant's snapshot any more.
    Forget { tenant: String },
    /// With the vendor's end of a new worker's socket.
    Adopt { pid: u32 },
    /// The worker's process is gone.
    Ended,
    /// Say it to the worker.
    Stop { within_ms: u32 },
}

/// To the vendor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Done {
        id: u64,
    },
    /// `port`: of the listener; 0 if the workload itself is not to be had.
    Failed {
        id: u64,
        port: u16,
        code: u16,
        why: String,
    },
    /// A connection waits and there is no worker.
    Need,
    /// The worker said `Hello`. `missing`: what is not in force of what is not allowed to be missing;
    /// `allowed`: of what is. It is named in this and the following, since there may be another by the
    /// time that the vendor reads it.
    Hello {
        pid: u32,
        missing: u32,
        allowed: u32,
    },
    Leaving {
        pid: u32,
    },
    /// The worker has closed its socket.
    Closed {
        pid: u32,
    },
    /// The worker said what no worker says, or is behind for good.
    Unruly {
        pid: u32,
        why: String,
    },
    /// The worker took a snapshot of the tenant, or (`code` is not 0) would not.
    Snapshot {
        pid: u32,
        tenant: String,
        version: u64,
        code: u16,
    },
    /// The worker has not done in time what it has to.
    Silent {
        pid: u32,
    },
    /// Sums since the child's start: refused requests (`id`: the last one's workload), sockets given,
    /// sockets that could not be given.
    Counts {
        id: u64,
        refused: u32,
        given: u32,
        failed: u32,
    },
}

const ADD: u8 = 128;
const REMOVE: u8 = 129;
const LISTEN: u8 = 130;
const ADOPT: u8 = 131;
const STOP: u8 = 132;
const ENDED: u8 = 133;
const DRAIN: u8 = 134;
const SNAPSHOT: u8 = 135;
const FORGET: u8 = 136;
const DONE: u8 = 160;
const FAILED: u8 = 161;
const NEED: u8 = 162;
const HELLO: u8 = 163;
const LEAVING: u8 = 164;
const UNRULY: u8 = 165;
const SILENT: u8 = 166;
const COUNTS: u8 = 167;
const CLOSED: u8 = 168;
const ANSWERED: u8 = 169;

impl ToChild {
    pub fn frame(&self) -> Frame {
        match self {
            Self::Add { id, name } => Frame {
                id: *id,
                text: name.clone(),
                ..Frame::of(ADD)
            },
            Self::Drain { id } => Frame {
                id: *id,
                ..Frame::of(DRAIN)
            },
            Self::Remove { id } => Frame {
                id: *id,
                ..Frame::of(REMOVE)
            },
            Self::Listen { id, port, address } => Frame {
                id: *id,
                a: (*port).into(),
                text: address.to_string(),
                ..Frame::of(LISTEN)
            },
            Self::Snapshot { tenant, version } => Frame {
                id: *version,
                text: tenant.clone(),
                ..Frame::of(SNAPSHOT)
            },
            Self::Forget { tenant } => Frame {
                text: tenant.clone(),
                ..Frame::of(FORGET)
            },
            Self::Adopt { pid } => Frame {
                a: *pid,
                ..Frame::of(ADOPT)
            },
            Self::Ended => Frame::of(ENDED),
            Self::Stop { within_ms } => Frame {
                a: *within_ms,
                ..Frame::of(STOP)
            },
        }
    }

    /// # Errors
    /// For what the vendor does not say.
    pub fn read(frame: Frame) -> Result<Self, Malformed> {
        let id = frame.id;
        Ok(match frame.kind {
            ADD => Self::Add {
                id,
                name: frame.text,
            },
            DRAIN => Self::Drain { id },
            REMOVE => Self::Remove { id },
            LISTEN => Self::Listen {
                id,
                port: frame.a.try_into().map_err(|_| Malformed::Number)?,
                address: frame.text.parse().map_err(|_| Malformed::Text)?,
            },
            SNAPSHOT => Self::Snapshot {
                tenant: frame.text,
                version: id,
            },
            FORGET => Self::Forget { tenant: frame.text },
            ADOPT => Self::Adopt { pid: frame.a },
            ENDED => Self::Ended,
            STOP => Self::Stop { within_ms: frame.a },
            other => return Err(Malformed::Kind(other)),
        })
    }
}

impl Report {
    pub fn frame(&self) -> Frame {
        let about = |kind, id: u64| Frame {
            id,
            ..Frame::of(kind)
        };
        match self {
            Self::Done { id } => about(DONE, *id),
            Self::Failed {
                id,
                port,
                code,
                why,
            } => Frame {
                a: (*code).into(),
                b: (*port).into(),
                text: why.chars().take(200).collect(),
                ..about(FAILED, *id)
            },
            Self::Need => Frame::of(NEED),
            Self::Hello {
                pid,
                missing,
                allowed,
            } => Frame {
                a: *missing,
                b: *allowed,
                ..about(HELLO, (*pid).into())
            },
            Self::Leaving { pid } => about(LEAVING, (*pid).into()),
            Self::Closed { pid } => about(CLOSED, (*pid).into()),
            Self::Unruly { pid, why } => Frame {
                text: why.chars().take(200).collect(),
                ..about(UNRULY, (*pid).into())
            },
            Self::Silent { pid } => about(SILENT, (*pid).into()),
            Self::Snapshot {
                pid,
                tenant,
                version,
                code,
            } => Frame {
                a: *pid,
                b: (*code).into(),
                text: tenant.clone(),
                ..about(ANSWERED, *version)
            },
            Self::Counts {
                id,
                refused,
                given,
                failed,
            } => Frame {
                a: *refused,
                b: *given,
                text: failed.to_string(),
                ..about(COUNTS, *id)
            },
        }
    }

    /// # Errors
    /// For what no child says.
    pub fn read(frame: Frame) -> Result<Self, Malformed> {
        let id = frame.id;
        let pid = || u32::try_from(id).map_err(|_| Malformed::Number);
        Ok(match frame.kind {
            DONE => Self::Done { id },
            FAILED => Self::Failed {
                id,
                port: frame.b.try_into().map_err(|_| Malformed::Number)?,
                code: frame.a.try_into().map_err(|_| Malformed::Number)?,
                why: frame.text,
            },
            NEED => Self::Need,
            HELLO => Self::Hello {
                pid: pid()?,
                missing: frame.a,
                allowed: frame.b,
            },
            LEAVING => Self::Leaving { pid: pid()? },
            CLOSED => Self::Closed { pid: pid()? },
            UNRULY => Self::Unruly {
                pid: pid()?,
                why: frame.text,
            },
            SILENT => Self::Silent { pid: pid()? },
            ANSWERED => Self::Snapshot {
                pid: frame.a,
                tenant: frame.text,
                version: id,
                code: frame.b.try_into().map_err(|_| Malformed::Number)?,
            },
            COUNTS => Self::Counts {
                id,
                refused: frame.a,
                given: frame.b,
                failed: frame.text.parse().map_err(|_| Malformed::Text)?,
            },
            other => return Err(Malformed::Kind(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_understand_each_other() {
        let address: IpAddr = "fd00::7".parse().unwrap();
        for message in [
            ToChild::Add {
                id: 7,
                name: "a/b".into(),
            },
            ToChild::Drain { id: 3 },
            ToChild::Remove { id: u64::MAX },
            ToChild::Listen {
                id: 1,
                port: 65535,
                address,
            },
            ToChild::Snapshot {
                tenant: "blue".into(),
                version: u64::MAX,
            },
            ToChild::Forget {
                tenant: "blue".into(),
            },
            ToChild::Adopt { pid: 42 },
            ToChild::Ended,
            ToChild::Stop { within_ms: 5 },
        ] {
            assert_eq!(ToChild::read(message.frame()), Ok(message));
        }
        for report in [
            Report::Done { id: 1 },
            Report::Failed {
                id: 1,
                port: 80,
                code: 430,
                why: "no".into(),
            },
            Report::Need,
            Report::Hello {
                pid: 9,
                missing: 1,
                allowed: 2,
            },
            Report::Leaving { pid: 9 },
            Report::Closed { pid: 9 },
            Report::Unruly {
                pid: 9,
                why: "x".into(),
            },
            Report::Silent { pid: 3 },
            Report::Snapshot {
                pid: u32::MAX,
                tenant: "blue".into(),
                version: 1 << 60,
                code: 447,
            },
            Report::Counts {
                id: 1,
                refused: 2,
                given: 3,
                failed: 4,
            },
        ] {
            assert_eq!(Report::read(report.frame()), Ok(report.clone()));
            assert!(ToChild::read(report.frame()).is_err());
        }
    }
}

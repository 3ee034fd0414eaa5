//! What a worker and the vendor say to each other. Pure.
//!
//! ```text
//! worker                                vendor
//!   Hello ───────────────────────────────►      which restrictions are missing
//!   ◄──── Welcome, Snapshot*, Workload*, Listener*
//!   Applied or Rejected ─────────────────►      of each Snapshot; the next one comes after it
//!   Want ────────────────────────────────►
//!   ◄────────────────── Stock or Refused
//!   ◄────────────────────────────── Drain       the pod is about to end
//!   ◄─────────────────────────────── Gone       it has
//!   GoneDone ────────────────────────────►      all of it is closed
//!   Leaving ─────────────────────────────►      idle; listeners stay with the vendor
//! ```
//! The vendor says `Stop` when it ends itself; the worker then finishes and exits.

use super::{
    control::NAME_MAX,
    frame::{FDS_MAX, Frame, Malformed},
};

/// Of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    fn read(number: u32) -> Result<Self, Malformed> {
        match number {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            _ => Err(Malformed::Number),
        }
    }
}

/// From a worker. None carries descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToVendor {
    /// The first message. `missing`: bits of `sandbox::Missing`, 0 if every restriction is in force.
    Hello { missing: u32 },
    /// Unconnected TCP sockets of a workload, 1 to [`FDS_MAX`] of them.
    Want {
        workload: u64,
        family: Family,
        count: u16,
    },
    /// Everything of the workload is closed; also of one that the worker never heard of.
    GoneDone { workload: u64 },
    /// The worker has no connection and takes no more. The vendor closes its end, then the worker exits.
    Leaving,
    /// Requests go by this snapshot of the tenant from now on.
    Applied { tenant: String, version: u64 },
    /// They go by the one before, for this reason of the registry.
    Rejected {
        tenant: String,
        version: u64,
        code: u16,
    },
}

/// To a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// The answer to `Hello`. Leave after `idle_ms` without a connection; 0: never.
    Welcome { idle_ms: u32, tenant: String },
    /// A workload of the tenant. Ids are never used again.
    Workload { id: u64, name: String },
    /// As many sockets as descriptors, in the workload's namespace, unconnected and non-blocking.
    Stock { workload: u64, family: Family },
    /// One descriptor: a listening, non-blocking socket of the workload.
    Listener { workload: u64, port: u16 },
    /// Two descriptors: what the tenant's requests go by, in a sealed file, and the file that takes the
    /// worker's report. Answered by `Applied` or `Rejected`.
    Snapshot { tenant: String, version: u64 },
    /// The workload is about to end: finish what is under way, begin nothing. `Gone` follows.
    Drain { workload: u64 },
    /// The workload has ended: close everything of it and say `GoneDone`.
    Gone { workload: u64 },
    /// What was asked for `workload` is refused with a code of the registry.
    Refused { workload: u64, code: u16 },
    /// Finish what is under way and exit within so many milliseconds; then the vendor ends it.
    Stop { within_ms: u32 },
}

const HELLO: u8 = 1;
const WANT: u8 = 2;
const GONE_DONE: u8 = 3;
const LEAVING: u8 = 4;
const APPLIED: u8 = 5;
const REJECTED: u8 = 6;
const WELCOME: u8 = 16;
const WORKLOAD: u8 = 17;
const STOCK: u8 = 18;
const LISTENER: u8 = 19;
const GONE: u8 = 20;
const REFUSED: u8 = 21;
const STOP: u8 = 22;
const DRAIN: u8 = 23;
const SNAPSHOT: u8 = 24;

impl ToVendor {
    pub fn frame(&self) -> Frame {
        let of_tenant = |kind, tenant: &String, version: &u64| Frame {
            id: *version,
            text: tenant.clone(),
            ..Frame::of(kind)
        };
        match self {
            Self::Hello { missing } => Frame {
                a: *missing,
                ..Frame::of(HELLO)
            },
            Self::Want {
                workload,
                family,
                count,
            } => Frame {
                id: *workload,
                a: family.number(),
                b: (*count).into(),
                ..Frame::of(WANT)
            },
            Self::GoneDone { workload } => Frame {
                id: *workload,
                ..Frame::of(GONE_DONE)
            },
            Self::Leaving => Frame::of(LEAVING),
            Self::Applied { tenant, version } => of_tenant(APPLIED, tenant, version),
            Self::Rejected {
                tenant,
                version,
                code,
            } => Frame {
                a: (*code).into(),
                ..of_tenant(REJECTED, tenant, version)
            },
        }
    }

    /// # Errors
    /// What no honest worker sends.
    pub fn read(frame: &Frame, descriptors: usize) -> Result<Self, Malformed> {
        if descriptors != 0 {
            return Err(Malformed::Descriptors);
        }
        let of_tenant = matches!(frame.kind, APPLIED | REJECTED);
        if frame.text.is_empty() == of_tenant || frame.text.len() > NAME_MAX {
            return Err(Malformed::Text);
        }
        Ok(match frame.kind {
            HELLO => Self::Hello { missing: frame.a },
            WANT => Self::Want {
                workload: frame.id,
                family: Family::read(frame.a)?,
                count: u16::try_from(frame.b)
                    .ok()
                    .filter(|n| (1..=FDS_MAX).contains(&usize::from(*n)))
                    .ok_or(Malformed::Number)?,
            },
            GONE_DONE => Self::GoneDone { workload: frame.id },
            LEAVING => Self::Leaving,
            APPLIED => Self::Applied {
                tenant: frame.text.clone(),
                version: frame.id,
            },
            REJECTED => Self::Rejected {
                tenant: frame.text.clone(),
                version: frame.id,
                code: u16::try_from(frame.a).map_err(|_| Malformed::Number)?,
            },
            other => return Err(Malformed::Kind(other)),
        })
    }
}

impl ToWorker {
    /// The frame's number is a workload's.
    pub fn is_about_workload(frame: &Frame) -> bool {
        frame.kind != SNAPSHOT
    }

    pub fn frame(&self) -> Frame {
        let about = |kind, id, a: u32| Frame {
            id,
            a,
            ..Frame::of(kind)
        };
        match self {
            Self::Welcome { idle_ms, tenant } => Frame {
                text: tenant.clone(),
                ..about(WELCOME, 0, *idle_ms)
            },
            Self::Workload { id, name } => Frame {
                text: name.clone(),
                ..about(WORKLOAD, *id, 0)
            },
            Self::Stock { workload, family } => about(STOCK, *workload, family.number()),
            Self::Listener { workload, port } => about(LISTENER, *workload, (*port).into()),
            Self::Snapshot { tenant, version } => Frame {
                text: tenant.clone(),
                ..about(SNAPSHOT, *version, 0)
            },
            Self::Drain { workload } => about(DRAIN, *workload, 0),
            Self::Gone { workload } => about(GONE, *workload, 0),
            Self::Refused { workload, code } => about(REFUSED, *workload, (*code).into()),
            Self::Stop { within_ms } => about(STOP, 0, *within_ms),
        }
    }

    /// # Errors
    /// What no vendor of this version sends.
    pub fn read(frame: &Frame, descriptors: usize) -> Result<Self, Malformed> {
        let short = || u16::try_from(frame.a).map_err(|_| Malformed::Number);
        let (message, allowed) = match frame.kind {
            WELCOME => (
                Self::Welcome {
                    idle_ms: frame.a,
                    tenant: frame.text.clone(),
                },
                0..=0,
            ),
            WORKLOAD => (
                Self::Workload {
                    id: frame.id,
                    name: frame.text.clone(),
                },
                0..=0,
            ),
            STOCK => (
                Self::Stock {
                    workload: frame.id,
                    family: Family::read(frame.a)?,
                },
                1..=FDS_MAX,
            ),
            LISTENER => (
                Self::Listener {
                    workload: frame.id,
                    port: short()?,
                },
                1..=1,
            ),
            SNAPSHOT => (
                Self::Snapshot {
                    tenant: frame.text.clone(),
                    version: frame.id,
                },
                2..=2,
            ),
            DRAIN => (Self::Drain { workload: frame.id }, 0..=0),
            GONE => (Self::Gone { workload: frame.id }, 0..=0),
            REFUSED => (
                Self::Refused {
                    workload: frame.id,
                    code: short()?,
                },
                0..=0,
            ),
            STOP => (Self::Stop { within_ms: frame.a }, 0..=0),
            other => return Err(Malformed::Kind(other)),
        };
        if !allowed.contains(&descriptors) {
            return Err(Malformed::Descriptors);
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn family() -> impl Strategy<Value = Family> {
        prop_oneof![Just(Family::V4), Just(Family::V6)]
    }

    fn to_vendor() -> impl Strategy<Value = ToVendor> {
        prop_oneof![
            any::<u32>().prop_map(|missing| ToVendor::Hello { missing }),
            (any::<u64>(), family(), 1..=64_u16).prop_map(|(workload, family, count)| {
                ToVendor::Want {
                    workload,
                    family,
                    count,
                }
            }),
            any::<u64>().prop_map(|workload| ToVendor::GoneDone { workload }),
            Just(ToVendor::Leaving),
            ("[a-z]{1,60}", any::<u64>())
                .prop_map(|(tenant, version)| ToVendor::Applied { tenant, version }),
            ("[a-z]{1,60}", any::<u64>(), any::<u16>()).prop_map(|(tenant, version, code)| {
                ToVendor::Rejected {
                    tenant,
                    version,
                    code,
                }
            }),
        ]
    }

    /// With the number of descriptors that it carries.
    fn to_worker() -> impl Strategy<Value = (ToWorker, usize)> {
        prop_oneof![
            (any::<u32>(), ".{0,60}")
                .prop_map(|(idle_ms, tenant)| (ToWorker::Welcome { idle_ms, tenant }, 0)),
            (any::<u64>(), ".{0,60}").prop_map(|(id, name)| (ToWorker::Workload { id, name }, 0)),
            (any::<u64>(), family(), 1..=FDS_MAX)
                .prop_map(|(workload, family, n)| (ToWorker::Stock { workload, family }, n)),
            (any::<u64>(), any::<u16>())
                .prop_map(|(workload, port)| (ToWorker::Listener { workload, port }, 1)),
            (".{0,60}", any::<u64>())
                .prop_map(|(tenant, version)| (ToWorker::Snapshot { tenant, version }, 2)),
            any::<u64>().prop_map(|workload| (ToWorker::Gone { workload }, 0)),
            any::<u64>().prop_map(|workload| (ToWorker::Drain { workload }, 0)),
            (any::<u64>(), any::<u16>())
                .prop_map(|(workload, code)| (ToWorker::Refused { workload, code }, 0)),
            any::<u32>().prop_map(|within_ms| (ToWorker::Stop { within_ms }, 0)),
        ]
    }

    proptest! {
        #[test]
        fn what_a_worker_says_is_understood(message in to_vendor()) {
            prop_assert_eq!(ToVendor::read(&message.frame(), 0), Ok(message.clone()));
            prop_assert_eq!(ToVendor::read(&message.frame(), 1), Err(Malformed::Descriptors));
        }

        #[test]
        fn what_the_vendor_says_is_understood((message, fds) in to_worker()) {
            prop_assert_eq!(ToWorker::read(&message.frame(), fds), Ok(message.clone()));
            prop_assert_eq!(ToWorker::read(&message.frame(), FDS_MAX + 1), Err(Malformed::Descriptors));
        }

        // A forged worker: each frame is one of the messages above or refused, and one end's messages
        // are never taken for the other's.
        #[test]
        fn no_frame_is_taken_for_more_than_it_says(
            kind: u8, id: u64, a in 0..70_u32, b in 0..70_u32, text in "[a-z]{0,2}", fds in 0..3_usize
        ) {
            let frame = Frame { kind, id, a, b, text };
            if let Ok(ToVendor::Want { count, .. }) = ToVendor::read(&frame, fds) {
                prop_assert!((1..=FDS_MAX).contains(&usize::from(count)));
                prop_assert_eq!(u32::from(count), frame.b);
            }
            prop_assert!(ToVendor::read(&frame, fds).is_err() || ToWorker::read(&frame, fds).is_err());
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        let want = |a, b| Frame {
            id: 1,
            a,
            b,
            ..Frame::of(WANT)
        };
        for (a, b) in [(4, 0), (4, 65), (4, 1 << 16), (5, 1), (0, 1)] {
            assert_eq!(
                ToVendor::read(&want(a, b), 0),
                Err(Malformed::Number),
                "{a} {b}"
            );
        }
        assert!(ToVendor::read(&want(4, 64), 0).is_ok());
        let listener = Frame {
            a: 1 << 16,
            ..Frame::of(LISTENER)
        };
        assert_eq!(ToWorker::read(&listener, 1), Err(Malformed::Number));
        let snapshot = ToWorker::Snapshot {
            tenant: "blue".into(),
            version: 1,
        };
        for descriptors in [0, 1, 3] {
            let read = ToWorker::read(&snapshot.frame(), descriptors);
            assert_eq!(read, Err(Malformed::Descriptors), "{descriptors}");
        }
        for tenant in [String::new(), "x".repeat(NAME_MAX + 1)] {
            let version = 1;
            let frame = ToVendor::Applied { tenant, version }.frame();
            assert_eq!(ToVendor::read(&frame, 0), Err(Malformed::Text));
        }
    }
}

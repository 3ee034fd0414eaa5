//! What root says to the vendor on its control socket: one message, one answer, but for `Status`, whose
//! answer is a line for each tenant and then `Done`. Pure.

use std::net::IpAddr;

use super::frame::{Frame, Malformed};

/// Bytes of a workload's or a tenant's name.
pub const NAME_MAX: usize = 253;
/// Bytes of a path.
pub const PATH_MAX: usize = 400;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A workload of a tenant, in the network namespace at `netns`.
    Add {
        name: String,
        tenant: String,
        netns: String,
    },
    /// It is about to end; its worker is told.
    Drain {
        name: String,
    },
    /// It has ended. Answered when everything of it is closed.
    Gone {
        name: String,
    },
    /// A listener in its namespace; a tenant's worker starts with the first connection to one. The
    /// unspecified IPv6 address takes IPv4 too.
    Listen {
        name: String,
        address: IpAddr,
        port: u16,
    },
    /// What the tenant's requests go by from now on, whose file must be sealed, and the file that takes
    /// its worker's report: two descriptors, which the vendor keeps for later workers and never reads. The
    /// tenant has a workload. Answered before the worker has it; the status says what became of it.
    Snapshot {
        tenant: String,
        version: u64,
    },
    /// Start the tenant's worker now.
    Start {
        tenant: String,
    },
    Status,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// A code of the registry, and what failed.
    Refused {
        code: u16,
        why: String,
    },
    /// `key=value` words.
    Line(String),
}

const ADD: u8 = 64;
const GONE: u8 = 65;
const LISTEN: u8 = 66;
const START: u8 = 67;
const STATUS: u8 = 68;
const DRAIN: u8 = 69;
const SNAPSHOT: u8 = 70;
const DONE: u8 = 80;
const REFUSED: u8 = 81;
const LINE: u8 = 82;

impl Request {
    pub fn frame(&self) -> Frame {
        let say = |kind, text: String| Frame {
            text,
            ..Frame::of(kind)
        };
        match self {
            Self::Add {
                name,
                tenant,
                netns,
            } => say(ADD, format!("{name}\n{tenant}\n{netns}")),
            Self::Drain { name } => say(DRAIN, name.clone()),
            Self::Gone { name } => say(GONE, name.clone()),
            Self::Listen {
                name,
                address,
                port,
            } => Frame {
                a: (*port).into(),
                ..say(LISTEN, format!("{name}\n{address}"))
            },
            Self::Snapshot { tenant, version } => Frame {
                id: *version,
                ..say(SNAPSHOT, tenant.clone())
            },
            Self::Start { tenant } => say(START, tenant.clone()),
            Self::Status => Frame::of(STATUS),
        }
    }

    /// # Errors
    /// What no client of this version sends, and names that are no names.
    pub fn read(frame: &Frame, descriptors: usize) -> Result<Self, Malformed> {
        if descriptors != if frame.kind == SNAPSHOT { 2 } else { 0 } {
            return Err(Malformed::Descriptors);
        }
        let words: Vec<&str> = frame.text.split('\n').collect();
        Ok(match (frame.kind, words.as_slice()) {
            (ADD, [name, tenant, netns]) => {
                let absolute = netns.starts_with('/') && netns.len() <= PATH_MAX;
                if !absolute || netns.contains(char::is_control) {
                    return Err(Malformed::Text);
                }
                Self::Add {
                    name: named(name)?,
                    tenant: single(tenant)?,
                    netns: (*netns).to_owned(),
                }
            }
            (DRAIN, [name]) => Self::Drain { name: named(name)? },
            (GONE, [name]) => Self::Gone { name: named(name)? },
            (LISTEN, [name, address]) => Self::Listen {
                name: named(name)?,
                address: address.parse().map_err(|_| Malformed::Text)?,
                port: u16::try_from(frame.a)
                    .ok()
                    .filter(|p| *p != 0)
                    .ok_or(Malformed::Number)?,
            },
            (SNAPSHOT, [tenant]) => Self::Snapshot {
                tenant: single(tenant)?,
                version: frame.id,
            },
            (START, [tenant]) => Self::Start {
                tenant: single(tenant)?,
            },
            (STATUS, [""]) => Self::Status,
            (ADD | DRAIN | GONE | LISTEN | SNAPSHOT | START | STATUS, _) => {
                return Err(Malformed::Text);
            }
            (other, _) => return Err(Malformed::Kind(other)),
        })
    }
}

/// A name makes a cgroup's directory and a line of a file, so it has no slash, no dot in front and
/// nothing unprintable: letters, digits, `-`, `_`, `.`, and `/` only between namespace and name.
fn named(text: &str) -> Result<String, Malformed> {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let part =
        |p: &str| p.starts_with(|c: char| c.is_ascii_alphanumeric()) && p.chars().all(letter);
    let good = text.len() <= NAME_MAX && text.split('/').count() <= 2 && text.split('/').all(part);
    if good {
        Ok(text.to_owned())
    } else {
        Err(Malformed::Text)
    }
}

/// A tenant's name is one part.
fn single(text: &str) -> Result<String, Malformed> {
    named(text).and_then(|t| {
        if t.contains('/') {
            Err(Malformed::Text)
        } else {
            Ok(t)
        }
    })
}

impl Reply {
    pub fn frame(&self) -> Frame {
        match self {
            Self::Done => Frame::of(DONE),
            Self::Refused { code, why } => Frame {
                a: (*code).into(),
                text: cut(why),
                ..Frame::of(REFUSED)
            },
            Self::Line(text) => Frame {
                text: cut(text),
                ..Frame::of(LINE)
            },
        }
    }

    /// # Errors
    /// What no vendor of this version answers.
    pub fn read(frame: &Frame) -> Result<Self, Malformed> {
        Ok(match frame.kind {
            DONE => Self::Done,
            REFUSED => Self::Refused {
                code: u16::try_from(frame.a).map_err(|_| Malformed::Number)?,
                why: frame.text.clone(),
            },
            LINE => Self::Line(frame.text.clone()),
            other => return Err(Malformed::Kind(other)),
        })
    }
}

/// The first characters that fit.
fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(super::frame::TEXT_MAX);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_are_understood(name in "[a-z0-9]{1,20}(/[a-z0-9][a-z0-9.-]{0,20})?", tenant in "[a-z0-9-]{1,9}", port in 1..=u16::MAX) {
            let tenant = format!("t{tenant}");
            let all = [
                Request::Add { name: name.clone(), tenant: tenant.clone(), netns: "/run/netns/a b".into() },
                Request::Gone { name: name.clone() },
                Request::Drain { name: name.clone() },
                Request::Listen { name, address: "::".parse().unwrap(), port },
                Request::Start { tenant: tenant.clone() },
                Request::Snapshot { tenant, version: u64::from(port) },
                Request::Status,
            ];
            for request in all {
                let mine = if matches!(request, Request::Snapshot { .. }) { 2 } else { 0 };
                for count in 0..4 {
                    let read = Request::read(&request.frame(), count);
                    let good = if count == mine { Ok(request.clone()) } else { Err(Malformed::Descriptors) };
                    prop_assert_eq!(read, good, "{} descriptors", count);
                }
            }
        }

        #[test]
        fn names_never_lead_elsewhere(text in ".{0,12}") {
            if let Ok(name) = named(&text) {
                prop_assert!(!name.contains("..") || !name.starts_with('.'), "{}", name);
                prop_assert!(!name.starts_with('/') && !name.contains('\n'), "{}", name);
            }
        }
    }

    #[test]
    fn bad_names_and_paths_are_refused() {
        for bad in [
            "", ".", "..", "../x", "a/../b", "/a", "a/", "a/b/c", "a b", "a\tb", "-a", "ä",
        ] {
            assert_eq!(named(bad), Err(Malformed::Text), "{bad:?}");
        }
        let add = |netns: &str| {
            let netns = netns.to_owned();
            Request::read(
                &Request::Add {
                    name: "a/b".into(),
                    tenant: "a".into(),
                    netns,
                }
                .frame(),
                0,
            )
        };
        assert!(add("/run/netns/x").is_ok());
        for bad in [
            "",
            "run",
            "/a\nb",
            "/a\tb",
            &format!("/{}", "x".repeat(PATH_MAX)),
        ] {
            assert_eq!(add(bad), Err(Malformed::Text), "{bad:?}");
        }
    }

    #[test]
    fn long_answers_are_cut() {
        let reply = Reply::Line("ä".repeat(1000));
        let frame = reply.frame();
        assert!(frame.encode().is_ok());
        assert!(matches!(Reply::read(&frame), Ok(Reply::Line(text)) if text.starts_with("ää")));
    }
}

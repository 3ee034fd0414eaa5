//! What protects a port of a workload: rules that allow requests, and a limit of their rate. A rule that
//! cannot be evaluated denies.

use underpass_mesh::{
    Str,
    snapshot::{Allow, Inbound, Sources},
};

use crate::{
    Refusal,
    head::{Fields, Request},
    limit::Accepted,
    path,
    rate::Bucket,
    target::Target,
};

/// Who sends a request, as far as the connection tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer<'a> {
    /// It is not known, so that no rule that asks for an identity holds.
    #[default]
    Unknown,
    /// Off this node and no workload.
    Outside,
    /// A process of this node that is no workload.
    Host,
    Workload {
        /// SPIFFE id.
        identity: &'a str,
        namespace: &'a str,
    },
}

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    pub why: Refusal,
    /// When there is a token again: whole seconds, as Retry-After has them.
    pub retry_after: Option<u32>,
}

impl From<Refusal> for Denied {
    fn from(why: Refusal) -> Self {
        Self {
            why,
            retry_after: None,
        }
    }
}

/// Of one port, for one shard.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// `None`: all are allowed.
    allow: Option<Box<[Rule]>>,
    bucket: Option<Bucket>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// `None`: whoever comes.
    sources: Option<Sources>,
    methods: Box<[Str]>,
    paths: Box<[Pattern]>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(Str),
    Prefix(Str),
}

impl Guard {
    /// `shards` share the rate evenly. A limit that stays as it is goes on where it was `before`: a new
    /// snapshot gives no new burst.
    pub fn new(inbound: &Inbound, shards: u32, before: Option<&Guard>) -> Self {
        let allow = inbound.allow.as_ref();
        let new = inbound.rate.map(|rate| Bucket::new(&rate, shards));
        let kept = before.and_then(|guard| guard.bucket);
        Self {
            allow: allow.map(|rules| rules.iter().map(Rule::new).collect()),
            bucket: new.map(|new| kept.filter(|kept| kept.is_same(&new)).unwrap_or(new)),
        }
    }

    /// Nothing is asked of a request, so that bytes that are none may pass.
    pub fn is_open(&self) -> bool {
        self.allow.is_none() && self.bucket.is_none()
    }

    /// `now_ns` is of a clock that does not go back. What is not allowed takes no token from others.
    ///
    /// # Errors
    /// If the request is denied.
    pub fn judge<F: Fields + ?Sized>(
        &mut self,
        head: &Request<'_, F>,
        accepted: &Accepted<'_>,
        peer: Peer<'_>,
        now_ns: u64,
    ) -> Result<(), Denied> {
        if let Some(rules) = &self.allow {
            allowed(rules, head.method, &accepted.target, peer).map_err(Denied::from)?;
        }
        let Some(bucket) = &mut self.bucket else {
            return Ok(());
        };
        bucket.take(now_ns).map_err(|wait_ns| Denied {
            why: Refusal::RateLimited,
            retry_after: Some(whole_seconds(wait_ns)),
        })
    }
}

fn allowed(
    rules: &[Rule],
    method: &[u8],
    target: &Target<'_>,
    peer: Peer<'_>,
) -> Result<(), Refusal> {
    let mut why = Refusal::NotAllowed;
    for rule in rules.iter().filter(|r| r.matches(method, target)) {
        if rule.admits(peer) {
            return Ok(());
        }
        if peer == Peer::Unknown {
            why = Refusal::PeerUnknown;
        }
    }
    Err(why)
}

/// Rounded up, and at least 1.
fn whole_seconds(ns: u64) -> u32 {
    u32::try_from(ns.div_ceil(1_000_000_000).max(1)).unwrap_or(u32::MAX)
}

impl Rule {
    fn new(allow: &Allow) -> Self {
        Self {
            sources: allow.sources.clone(),
            methods: allow.methods.clone().into(),
            paths: allow.paths.iter().map(Pattern::new).collect(),
        }
    }

    fn matches(&self, method: &[u8], target: &Target<'_>) -> bool {
        let path = match target {
            Target::Path { path, .. } => Some(&**path),
            // They have none: only a rule for each path holds.
            Target::Asterisk | Target::Authority(_) => None,
        };
        let methods =
            self.methods.is_empty() || self.methods.iter().any(|m| m.as_bytes() == method);
        let paths = &self.paths;
        methods && (paths.is_empty() || path.is_some_and(|p| paths.iter().any(|of| of.holds(p))))
    }

    fn admits(&self, peer: Peer<'_>) -> bool {
        let Some(sources) = &self.sources else {
            return true;
        };
        match peer {
            Peer::Workload {
                identity,
                namespace,
            } => {
                sources.identities.iter().any(|i| *i == identity)
                    || sources.namespaces.iter().any(|n| *n == namespace)
            }
            // Its address is not asked for, so no block holds.
            Peer::Outside => sources.outside,
            Peer::Host => sources.host,
            Peer::Unknown => false,
        }
    }
}

impl Pattern {
    /// A path that has no normal form holds for nothing.
    fn new(text: &Str) -> Self {
        match text.strip_suffix('*') {
            // As it stands: the normal form of a part of a path may allow more than is written.
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(path::normalize(text.as_bytes()).map_or(text.clone(), Str::from)),
        }
    }

    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
        }
    }
}

#[cfg(test)]
mod tests;

//! Which rule of a service's HTTPRoutes a request falls under, and which backend it goes to.
//!
//! Precedence is Gateway API v1's (HTTPRouteSpec.hostnames and HTTPRouteRule.matches): the host named in
//! full before the longest `*.` before none, then the exact path before the longest prefix, a method,
//! more header fields, more of the query, the older route, its name, the earlier rule. A request that no
//! rule of the first host matches is tried with the next.

use std::{collections::HashMap, fmt, time::Duration};

use underpass_mesh::{
    Str,
    k8s::route::{Backend, Hostname, HttpRoute, Match, PathMatch},
};

use crate::{
    Refusal,
    head::{Fields, Request},
    limit::Accepted,
    matching::Conditions,
    path,
    target::Target,
};

/// The routes of one service port, compiled. Compile a new one for each change; it is never changed.
#[derive(Debug, Default)]
pub struct Table {
    /// By name in lower case, sorted.
    exact: Vec<(Str, Paths)>,
    /// By the part after `*`, sorted.
    suffixes: Vec<(Str, Paths)>,
    any: Paths,
    rules: Vec<Rule>,
}

/// A rule as it is obeyed.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `namespace/name` of its route.
    pub route: Str,
    /// Its place in the route, from 0.
    pub index: usize,
    pub name: Option<Str>,
    /// Over the whole of request and response.
    pub request_timeout: Option<Duration>,
    backends: Box<[Backend]>,
    /// Of the weights up to and with each backend's.
    sums: Box<[u64]>,
}

/// The matches for one host, by path; the best first.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<Entry>>,
    /// Without the slash at the end, so that `/` is the empty text.
    prefixes: HashMap<Box<str>, Vec<Entry>>,
    /// Bytes of the longest of them: longer parts of a path need not be looked up.
    longest: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    conditions: Conditions,
    /// In [`Table::rules`].
    rule: usize,
}

/// A route's path has no normal form, so that no request could ever match it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusablePath {
    /// `namespace/name`.
    pub route: Str,
    pub path: Str,
    pub why: Refusal,
}

impl fmt::Display for UnusablePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.route, self.path, self.why)
    }
}

impl std::error::Error for UnusablePath {}

impl Table {
    /// Of those routes that are attached to the service (`namespace/name`) and port.
    pub fn compile<'a>(
        service: &str,
        port: u16,
        routes: impl IntoIterator<Item = &'a HttpRoute>,
    ) -> Result<Self, UnusablePath> {
        let is_parent = |route: &HttpRoute| {
            let mut parents = route.parents.iter();
            parents.any(|p| p.service == service && p.port.is_none_or(|p| p == port))
        };
        let mut routes: Vec<_> = routes.into_iter().filter(|r| is_parent(r)).collect();
        // Oldest first; what no API server has made is the youngest. From here on earlier is better.
        routes.sort_by_key(|r| (r.created.is_none(), &r.created, &r.full_name));
        let mut table = Self::default();
        for route in routes {
            table.add(route)?;
        }
        table.exact.sort_by(|a, b| a.0.cmp(&b.0));
        table.suffixes.sort_by(|a, b| a.0.cmp(&b.0));
        let named = table.exact.iter_mut().chain(&mut table.suffixes);
        for paths in named.map(|(_, paths)| paths).chain([&mut table.any]) {
            paths.sort();
        }
        Ok(table)
    }

    fn add(&mut self, route: &HttpRoute) -> Result<(), UnusablePath> {
        let first = self.rules.len();
        for (index, rule) in route.rules.iter().enumerate() {
            self.rules.push(Rule {
                route: route.full_name.clone(),
                index,
                name: rule.name.clone(),
                request_timeout: rule.request_timeout,
                sums: sums(&rule.backends),
                backends: rule.backends.clone().into(),
            });
        }
        let matches = route.rules.iter().enumerate();
        let matches = matches.flat_map(|(i, rule)| rule.matches.iter().map(move |m| (i, m)));
        for (i, m) in matches {
            if route.hostnames.is_empty() {
                self.any.add(route, m, first + i)?;
            }
            for host in &route.hostnames {
                let (hosts, name) = match host {
                    Hostname::Exact(name) => (&mut self.exact, name),
                    Hostname::Suffix(suffix) => (&mut self.suffixes, suffix),
                };
                let at = hosts.iter().position(|(known, _)| known == name);
                let at = at.unwrap_or_else(|| {
                    hosts.push((name.clone(), Paths::default()));
                    hosts.len() - 1
                });
                hosts[at].1.add(route, m, first + i)?;
            }
        }
        Ok(())
    }

    /// The rule that a request falls under.
    pub fn route<F: Fields + ?Sized>(
        &self,
        head: &Request<'_, F>,
        accepted: &Accepted<'_>,
    ) -> Result<&Rule, Refusal> {
        let (path, query) = match &accepted.target {
            Target::Path { path, query } => (&**path, *query),
            // Neither has a path; a rule for every request holds for them.
            Target::Asterisk | Target::Authority(_) => ("", None),
        };
        let host = accepted.host.map_or("", |host| host.name);
        let find = |paths: &Paths| paths.find(path, |c| c.hold(head, query));
        // The longest suffix begins at the first dot.
        let dots = host.match_indices('.');
        let rule = get(&self.exact, host)
            .and_then(find)
            .or_else(|| {
                dots.filter_map(|(at, _)| get(&self.suffixes, &host[at..]))
                    .find_map(find)
            })
            .or_else(|| find(&self.any))
            .ok_or(Refusal::NoRoute)?;
        Ok(&self.rules[rule])
    }
}

/// By a name of any case.
fn get<'a>(hosts: &'a [(Str, Paths)], name: &str) -> Option<&'a Paths> {
    let lower = || name.bytes().map(|b| b.to_ascii_lowercase());
    let at = hosts.binary_search_by(|(known, _)| known.bytes().cmp(lower()));
    Some(&hosts[at.ok()?].1)
}

impl Paths {
    fn add(&mut self, route: &HttpRoute, m: &Match, rule: usize) -> Result<(), UnusablePath> {
        let (paths, given) = match &m.path {
            PathMatch::Exact(path) => (&mut self.exact, path),
            PathMatch::Prefix(path) => (&mut self.prefixes, path),
        };
        let normal = path::normalize(given.as_bytes()).map_err(|why| UnusablePath {
            route: route.full_name.clone(),
            path: given.clone(),
            why,
        })?;
        let mut key = &*normal;
        if let PathMatch::Prefix(_) = m.path {
            key = key.trim_end_matches('/');
            self.longest = self.longest.max(key.len());
        }
        paths.entry(key.into()).or_default().push(Entry {
            conditions: Conditions::of(m),
            rule,
        });
        Ok(())
    }

    /// Best first; of equals the one that was added first.
    fn sort(&mut self) {
        for entries in self.exact.values_mut().chain(self.prefixes.values_mut()) {
            entries.sort_by_key(|e| e.conditions.rank());
        }
    }

    fn find(&self, path: &str, holds: impl Fn(&Conditions) -> bool) -> Option<usize> {
        let first = |entries: &Vec<Entry>| {
            let found = entries.iter().find(|e| holds(&e.conditions));
            found.map(|e| e.rule)
        };
        let mut slashes = path.bytes().enumerate().rev();
        let ends = std::iter::once(path.len())
            .chain(std::iter::from_fn(|| {
                slashes.find(|(_, b)| *b == b'/').map(|(i, _)| i)
            }))
            .filter(|end| *end <= self.longest);
        self.exact.get(path).and_then(first).or_else(|| {
            let mut prefixes = ends.filter_map(|end| self.prefixes.get(&path[..end]));
            prefixes.find_map(first)
        })
    }
}

fn sums(backends: &[Backend]) -> Box<[u64]> {
    let mut sum = 0;
    let sums = backends.iter().map(|b| {
        sum += u64::from(b.weight);
        sum
    });
    sums.collect()
}

impl Rule {
    /// A backend by its weight; `random` is evenly distributed over all of `u32`.
    pub fn pick(&self, random: u32) -> Result<&Backend, Refusal> {
        let total = self.sums.last().copied().unwrap_or(0);
        // Below `total`, and below 2^56: weights are at most 1,000,000 and backends 16.
        let point = (u64::from(random) * total) >> 32;
        let at = self.sums.partition_point(|sum| *sum <= point);
        self.backends.get(at).ok_or(Refusal::NoBackend)
    }
}

#[cfg(test)]
mod tests;

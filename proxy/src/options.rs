//! The command line, and the plan that it describes.

use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use serde_yaml_ng::Value;
use thiserror::Error;
use underpass_l7::route::{Table, UnusablePath};
use underpass_mesh::{
    Str,
    k8s::route::{HttpRoute, Manifest},
    reason::code,
    snapshot::Protocol,
};
use underpass_proxy::{
    plan::{Backend, Plan},
    shard::Settings,
    vended,
};

/// Forwards HTTP/1, HTTP/2 without TLS, and gRPC to the endpoints of a service by its HTTPRoutes. SIGUSR1
/// prints the counters.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// Where clients connect. Without it standard input is the socket of the vendor that started this
    /// process.
    #[arg(long, value_name = "ADDR:PORT", requires = "backend")]
    pub listen: Option<SocketAddr>,
    /// Threads that serve connections, for a vendor or as a sidecar.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub shards: usize,
    /// Serve the workload in whose network namespace this process runs, on ports 15001 and 15006.
    #[arg(long, requires_all = ["mesh", "workload"], conflicts_with = "listen")]
    pub sidecar: bool,
    /// Directory of manifests, for a sidecar.
    #[arg(long, value_name = "DIR", requires = "sidecar")]
    pub mesh: Option<PathBuf>,
    /// The workload of a sidecar.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "sidecar")]
    pub workload: Option<String>,
    /// Rules of nftables that lead this network namespace's TCP connections to its sidecar.
    #[arg(long, value_name = "WHAT", requires = "capture_uid")]
    pub capture: Option<Capture>,
    /// The user id that the sidecar has: its own connections are not led to it.
    #[arg(long, value_name = "UID", requires = "capture")]
    pub capture_uid: Option<u32>,
    /// A service port and its endpoints; the first is what clients dial. NAME may be NAMESPACE/NAME.
    /// PROTOCOL is what the endpoints speak: `http`, `h2c`, or as the client does.
    #[arg(
        long,
        value_name = "NAME:PORT[/PROTOCOL]=ADDR:PORT,…",
        requires = "listen",
        value_parser = parse_backend
    )]
    backend: Vec<NamedBackend>,
    /// HTTPRoutes, as a YAML list or as documents.
    #[arg(long, value_name = "FILE")]
    route: Option<PathBuf>,
    /// Seconds for a request's head.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    head_timeout: u64,
    /// Seconds that a client may wait between two requests.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    idle_timeout: u64,
    /// Seconds for more of a request's body.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    body_timeout: u64,
}

/// What to do with the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Capture {
    Print,
    /// With nft, as root; those that are there are replaced.
    Apply,
    Remove,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedBackend {
    name: Str,
    port: u16,
    protocol: Protocol,
    endpoints: Vec<SocketAddr>,
}

#[derive(Debug, Error)]
pub enum Problem {
    #[error("UP{code:04} BAD_ARGUMENT: {file}: {why}. Try: mend the file", code = code::BAD_ARGUMENT)]
    Route { file: String, why: String },
    /// The path's own refusal names its code.
    #[error("{0}")]
    Path(UnusablePath),
    #[error(transparent)]
    Vended(#[from] vended::Problem),
    #[error("UP{code:04} BAD_ARGUMENT: {what}: {why}", code = code::BAD_ARGUMENT)]
    Sidecar { what: &'static str, why: io::Error },
    #[error(
        "UP{code:04} BAD_ARGUMENT: {what}: {why}. Try: another --listen ADDR:PORT",
        code = code::BAD_ARGUMENT
    )]
    Start { what: String, why: io::Error },
}

impl Options {
    pub fn settings(&self) -> Settings {
        Settings {
            head: Duration::from_secs(self.head_timeout),
            idle: Duration::from_secs(self.idle_timeout),
            body: Duration::from_secs(self.body_timeout),
            ..Settings::default()
        }
    }

    /// Of what `--backend` names, for clients that connect to `listen`.
    pub fn plan(&self, listen: SocketAddr) -> Result<Plan, Problem> {
        let mut backends = HashMap::new();
        let mut ids = 0..;
        for (identity, backend) in (0..).zip(&self.backend) {
            let endpoints = ids.by_ref().zip(&backend.endpoints);
            let endpoints = endpoints.map(|(id, at)| (id, *at, 1));
            let key = (backend.name.clone(), backend.port);
            let made = Backend::new(identity, endpoints).speaking(backend.protocol);
            backends.insert(key, Rc::new(made));
        }
        let first = &self.backend[0];
        let routes = self.route.as_deref().map(|file| {
            let routes = read(file)?;
            Table::compile(&first.name, first.port, &routes).map_err(Problem::Path)
        });
        Ok(Plan {
            authority: listen.to_string(),
            protocol: first.protocol,
            routes: routes.transpose()?.map(Arc::new),
            default: (first.name.clone(), first.port),
            backends: Rc::new(backends),
            ..Plan::default()
        })
    }
}

fn parse_backend(text: &str) -> Result<NamedBackend, String> {
    let (service, endpoints) = text.split_once('=').ok_or("there is no `=`")?;
    let (name, port) = service.rsplit_once(':').ok_or("the service has no port")?;
    let name = match name.contains('/') {
        true => Str::from(name),
        false => Str::from(format!("default/{name}")),
    };
    let (port, protocol) = match port.split_once('/') {
        None => (port, Protocol::Detect),
        Some((port, "http")) => (port, Protocol::Http1),
        Some((port, "h2c")) => (port, Protocol::Http2),
        Some((_, other)) => return Err(format!("`{other}` is neither http nor h2c")),
    };
    let port = port.parse().map_err(|_| format!("`{port}` is no port"))?;
    let endpoint = |at: &str| at.parse().map_err(|_| format!("`{at}` is no ADDR:PORT"));
    let endpoints = endpoints.split(',').map(endpoint);
    Ok(NamedBackend {
        name,
        port,
        protocol,
        endpoints: endpoints.collect::<Result<_, String>>()?,
    })
}

fn read(file: &Path) -> Result<Vec<HttpRoute>, Problem> {
    let problem = |why: String| Problem::Route {
        file: file.display().to_string(),
        why,
    };
    let text = fs::read_to_string(file).map_err(|e| problem(e.to_string()))?;
    parse(&text).map_err(problem)
}

fn parse(text: &str) -> Result<Vec<HttpRoute>, String> {
    let mut routes = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = <Value as serde::Deserialize>::deserialize(document);
        let values = match value.map_err(|e| e.to_string())? {
            Value::Sequence(list) => list,
            Value::Null => continue,
            one => vec![one],
        };
        for value in values {
            let Manifest(route) = serde_yaml_ng::from_value(value).map_err(|e| e.to_string())?;
            routes.push(route);
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "
metadata: {name: split}
spec:
  parentRefs: [{kind: Service, group: '', name: shop, port: 80}]
  rules:
  - matches: [{path: {value: /v2}}]
    backendRefs: [{name: shop-v2, port: 80}]
";

    #[test]
    fn reads_lists_and_documents() {
        let list = ROUTE.trim_start().replace('\n', "\n  ");
        let list = format!("- {}", list.trim_end());
        for text in [
            ROUTE.to_owned(),
            format!("{ROUTE}---{ROUTE}"),
            format!("{list}\n{list}\n"),
        ] {
            let routes = parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert!(routes.iter().all(|r| r.full_name == "default/split"));
            assert_eq!(routes.len(), text.matches("split").count(), "{text}");
        }
        assert!(parse("spec: {}").is_err());
    }

    #[test]
    fn reads_backends() {
        let backend = parse_backend("shop:80=127.0.0.1:1,[::1]:2").unwrap();
        assert_eq!(backend.name, "default/shop");
        assert_eq!(backend.port, 80);
        assert_eq!(backend.endpoints.len(), 2);
        assert_eq!(parse_backend("a/b:1=1.2.3.4:5").unwrap().name, "a/b");
        for bad in [
            "shop:80",
            "shop=127.0.0.1:1",
            "shop:x=127.0.0.1:1",
            "shop:80=x",
        ] {
            assert!(parse_backend(bad).is_err(), "{bad}");
        }
    }
}

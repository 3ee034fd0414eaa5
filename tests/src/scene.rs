//! The scene of most tests: a client pod and a server pod in namespace `app`, a service in front of
//! the server, and the agent.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::{
    Lab, Result,
    lab::{Agent, Place, Pod, Proc, until},
    manifest::{self, Endpoint, Service},
};

/// Address of the service `app/server`.
pub const SERVICE: &str = "10.96.0.1";
pub const SERVICE_V6: &str = "fd00:96::1";
/// Its port, and the server's.
pub const PORT: u16 = 8080;

pub const LIMIT: Duration = Duration::from_secs(20);

pub const EPERM: u64 = 1;
pub const ECONNABORTED: u64 = 103;
pub const ECONNRESET: u64 = 104;
pub const ETIMEDOUT: u64 = 110;
pub const ECONNREFUSED: u64 = 111;
pub const EHOSTUNREACH: u64 = 113;

pub struct Scene {
    // Ends before the lab.
    pub agent: Agent,
    pub client: Pod,
    pub server: Pod,
    /// A second client, for what is denied.
    pub other: Pod,
    pub lab: Lab,
}

impl Scene {
    pub fn new(name: &str, flags: &[&str]) -> Result<Self> {
        Self::with(name, flags, |_| Ok(String::new()))
    }

    /// `more` adds manifests (and may make further pods) before the agent starts.
    pub fn with(
        name: &str,
        flags: &[&str],
        more: impl FnOnce(&Lab) -> Result<String>,
    ) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, server, other) = (lab.pod("client")?, lab.pod("server")?, lab.pod("other")?);
        let mut objects = vec![manifest::namespace("app")];
        for (name, pod) in [("client", &client), ("server", &server), ("other", &other)] {
            objects.push(manifest::pod_workload("app", name, pod));
        }
        lab.mesh_file("10-workloads.yaml", &manifest::file(&objects))?;
        lab.mesh_file(
            "20-service.yaml",
            &service(&[Endpoint::new(server.v4.to_string())]),
        )?;
        let more = more(&lab)?;
        if !more.is_empty() {
            lab.mesh_file("30-more.yaml", &more)?;
        }
        let agent = lab.agent(flags)?;
        Ok(Self {
            agent,
            client,
            server,
            other,
            lab,
        })
    }

    /// Puts policies in force (replacing those of an earlier call).
    pub fn policies(&self, policies: &[String]) -> Result<()> {
        self.agent.wait_plan(|| {
            self.lab
                .mesh_file("40-policies.yaml", &manifest::file(policies))
        })
    }

    /// A server that counts, proven to be the listener at each address.
    pub fn sink(&self, place: &Place, mode: &str, at: &[SocketAddr]) -> Result<Proc> {
        sink(&self.lab, place, mode, at)
    }

    /// The server pod's echo server on [`PORT`].
    pub fn echo(&self) -> Result<Proc> {
        self.sink(
            &self.server.place,
            "echo",
            &[(self.server.v4, PORT).into(), (self.server.v6, PORT).into()],
        )
    }

    pub fn dial(&self, from: &Place, to: SocketAddr) -> Result<Value> {
        self.dial_with(from, to, &[])
    }

    pub fn dial_with(&self, from: &Place, to: SocketAddr, flags: &[&str]) -> Result<Value> {
        let to = to.to_string();
        self.lab.json(
            from,
            &[&["underpass-peer", "dial", &to], flags].concat(),
            LIMIT,
        )
    }

    /// The errno of one connect, 0 if it succeeded.
    pub fn errno(&self, from: &Place, to: SocketAddr) -> Result<u64> {
        Ok(self.dial(from, to)?["errno"].as_u64().unwrap_or(u64::MAX))
    }
}

pub fn sink(lab: &Lab, place: &Place, mode: &str, at: &[SocketAddr]) -> Result<Proc> {
    let names: Vec<String> = at.iter().map(SocketAddr::to_string).collect();
    let mut command = vec!["underpass-peer", "sink", "--mode", mode];
    command.extend(names.iter().map(String::as_str));
    let server = lab.run(place, &command)?;
    for at in at {
        server.wait_listening(*at)?;
    }
    Ok(server)
}

/// What each listener of a sink accepted, in the order of its addresses.
pub fn accepted(sink: &mut Proc) -> Result<Vec<u64>> {
    let report = sink.ask("report")?;
    let rows = report["listeners"].as_array().cloned().unwrap_or_default();
    Ok(rows
        .iter()
        .map(|r| r["accepted"].as_u64().unwrap_or(0))
        .collect())
}

/// The same, once all of `total` connections have come out of the accept queues.
pub fn accepted_all(sink: &mut Proc, total: u64) -> Result<Vec<u64>> {
    until("accepts", LIMIT, || {
        let seen = accepted(sink).map_err(|f| f.0)?;
        if seen.iter().sum::<u64>() >= total {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    })
}

/// The service `app/server` on [`PORT`] with these endpoints, one slice each.
pub fn service(endpoints: &[Endpoint]) -> String {
    let ports: Vec<(u16, Endpoint)> = endpoints.iter().map(|e| (PORT, e.clone())).collect();
    service_with(&[SERVICE], None, &ports)
}

/// The same with a port for each endpoint.
pub fn service_with(ips: &[&str], affinity: Option<u32>, endpoints: &[(u16, Endpoint)]) -> String {
    let ports = [("main", PORT, "TCP")];
    let mut objects = vec![
        Service {
            namespace: "app",
            name: "server",
            cluster_ips: ips,
            ports: &ports,
            affinity,
        }
        .yaml(),
    ];
    for (i, (port, endpoint)) in endpoints.iter().enumerate() {
        let ports = [("main", *port, "TCP")];
        let endpoint = std::slice::from_ref(endpoint);
        objects.push(manifest::slice(
            "app",
            "server",
            &format!("server-{i}"),
            &ports,
            endpoint,
        ));
    }
    manifest::file(&objects)
}

pub fn service_at() -> SocketAddr {
    SocketAddr::new(SERVICE.parse().expect("a constant"), PORT)
}

/// What the agent's `/metrics` says.
pub fn scrape(scene: &Scene) -> Result<String> {
    scene.lab.output(
        &scene.lab.backstage(),
        &["underpass-peer", "fetch", "127.0.0.1:9464", "/metrics"],
        LIMIT,
    )
}

/// The sum of a metric's samples whose labels contain all of `labels`.
pub fn metric_sum(text: &str, metric: &str, labels: &[&str]) -> Option<f64> {
    let samples = text
        .lines()
        .filter(|l| l.starts_with(metric) && labels.iter().all(|label| l.contains(label)));
    let values: Vec<f64> = samples
        .filter(|l| l[metric.len()..].starts_with(['{', ' ']))
        .filter_map(|l| l.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

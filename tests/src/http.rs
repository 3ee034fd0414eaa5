//! The scene of the HTTP tests: in namespace `app` a client and two versions of a server with a service
//! in front of both and one for each, in namespace `other` a client of its own; the agent, the vendor and
//! its real workers.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::{
    Failure, Lab, Result,
    lab::{Agent, Place, Pod, Proc, Vend, cli, until},
    manifest::{self, Endpoint, Service},
};

/// `app/web`, in front of both versions.
pub const WEB: &str = "10.96.7.1";
pub const WEB_V6: &str = "fd00:96::7:1";
/// `app/web-v1` and `app/web-v2`.
pub const VERSIONS: [&str; 2] = ["10.96.7.11", "10.96.7.12"];
pub const PORT: u16 = 8080;

pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Scene {
    // Programs before the lab: they end first.
    pub agent: Agent,
    pub vend: Vend,
    pub servers: Vec<Proc>,
    pub client: Pod,
    pub versions: [Pod; 2],
    /// In namespace `other`.
    pub other: Pod,
    pub lab: Lab,
}

impl Scene {
    pub fn new(name: &str, flags: &[&str]) -> Result<Self> {
        Self::with(name, flags, &[])
    }

    /// `files` are in the mesh directory before the agent starts.
    pub fn with(name: &str, flags: &[&str], files: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, other) = (lab.pod("client")?, lab.pod("other")?);
        let versions = [lab.pod("v1")?, lab.pod("v2")?];
        lab.mesh_file("10-app.yaml", &objects(&client, &versions, &other))?;
        for (file, text) in files {
            lab.mesh_file(file, text)?;
        }
        let servers = vec![
            serve(&lab, &versions[0], "v1")?,
            serve(&lab, &versions[1], "v2")?,
        ];
        let vend = Vend::meshed(&lab, &[])?;
        let agent = lab.agent(flags)?;
        Ok(Self {
            agent,
            vend,
            servers,
            client,
            versions,
            other,
            lab,
        })
    }

    /// Puts the route in force and waits until new connections of the client are sent to its worker.
    pub fn route(&self, text: &str) -> Result<()> {
        self.lab.mesh_file("50-route.yaml", text)?;
        self.wait_layer("app/client", "app/web", "http")
    }

    pub fn unroute(&self) -> Result<()> {
        self.lab.remove_mesh_file("50-route.yaml")?;
        self.wait_layer("app/client", "app/web", "kernel")
    }

    /// What `explain` says of connections from now on.
    pub fn explain(&self, from: &str, to: &str) -> Result<Value> {
        let to = format!("{to}:{PORT}");
        self.agent.cli.json(&["explain", from, &to])
    }

    pub fn wait_layer(&self, from: &str, to: &str, layer: &str) -> Result<()> {
        let what = format!("layer {layer} from {from} to {to}");
        until(&what, LIMIT, || {
            let said = self.explain(from, to).map_err(|f| f.0)?;
            let items = said["items"].as_array().cloned().unwrap_or_default();
            let is = |i: &Value| cli::text(i, "/outbound/layer") == layer;
            if !items.is_empty() && items.iter().all(is) {
                return Ok(());
            }
            let status = self.agent.cli.status().map_err(|f| f.0)?;
            Err(format!(
                "{said}\nworkers {}\n{}",
                status["workers"],
                self.agent.log()
            ))
        })
    }

    /// A client program at `from`; ends when told `stop`.
    pub fn load(&self, from: &Place, to: SocketAddr, flags: &[&str]) -> Result<Proc> {
        let to = to.to_string();
        let command = [&["underpass-peer", "http", &to], flags].concat();
        self.lab.run(from, &command)
    }

    /// Requests until a number of them is done.
    pub fn requests(
        &self,
        from: &Place,
        to: SocketAddr,
        count: u32,
        flags: &[&str],
    ) -> Result<Value> {
        let (to, count) = (to.to_string(), count.to_string());
        let command = ["underpass-peer", "http", &to, "--requests", &count];
        self.lab.json(from, &[&command, flags].concat(), LIMIT)
    }

    /// One request of the client to the service.
    pub fn ask(&self, flags: &[&str]) -> Result<Value> {
        self.requests(&self.client.place, web(), 1, flags)
    }

    pub fn status(&self) -> Result<Value> {
        self.agent.cli.status()
    }

    /// What the agent's `/metrics` says.
    pub fn scrape(&self) -> Result<String> {
        let command = ["underpass-peer", "fetch", "127.0.0.1:9464", "/metrics"];
        self.lab.output(&self.lab.backstage(), &command, LIMIT)
    }
}

pub fn web() -> SocketAddr {
    SocketAddr::new(WEB.parse().expect("a constant"), PORT)
}

pub fn web_v6() -> SocketAddr {
    SocketAddr::new(WEB_V6.parse().expect("a constant"), PORT)
}

/// Ends a load and gives its report; fails if anything did.
pub fn stop_clean(mut load: Proc) -> Result<Value> {
    let report = stop(&mut load)?;
    if report["failed"] != 0 || report["ok"] == 0 {
        return Err(Failure(format!("{}: {report}", load.name)));
    }
    Ok(report)
}

pub fn stop(load: &mut Proc) -> Result<Value> {
    let from = load.stdout().len();
    load.tell("stop")?;
    Ok(serde_json::from_str(&load.line(from, "{", LIMIT)?)?)
}

/// An answer's body, as the server wrote it.
pub fn body(report: &Value) -> Result<Value> {
    let last = report["last"].as_str().unwrap_or_default();
    let (_, body) = last.split_once("\n\n").unwrap_or(("", ""));
    serde_json::from_str(body).map_err(Failure::at(format_args!("no JSON from a server: {report}")))
}

/// How many of a report's answers a pod gave.
pub fn answers(report: &Value, pod: &str) -> u64 {
    report["by_pod"][pod].as_u64().unwrap_or(0)
}

fn serve(lab: &Lab, pod: &Pod, name: &str) -> Result<Proc> {
    let at = [
        SocketAddr::from((pod.v4, PORT)),
        SocketAddr::from((pod.v6, PORT)),
    ];
    let names = at.map(|a| a.to_string());
    let command = [
        "underpass-peer",
        "http-server",
        "--name",
        name,
        &names[0],
        &names[1],
    ];
    let server = lab.run(&pod.place, &command)?;
    for at in at {
        server.wait_listening(at)?;
    }
    Ok(server)
}

fn objects(client: &Pod, versions: &[Pod; 2], other: &Pod) -> String {
    let mut objects = vec![
        manifest::namespace("app"),
        manifest::namespace("other"),
        manifest::pod_workload("app", "client", client),
        manifest::pod_workload("app", "v1", &versions[0]),
        manifest::pod_workload("app", "v2", &versions[1]),
        manifest::pod_workload("other", "client", other),
    ];
    let ends = |pods: &[&Pod], v6: bool| -> Vec<Endpoint> {
        let address = |p: &&Pod| {
            if v6 {
                p.v6.to_string()
            } else {
                p.v4.to_string()
            }
        };
        pods.iter().map(|p| Endpoint::new(address(p))).collect()
    };
    let both = [&versions[0], &versions[1]];
    let services: [(&str, &[&str], &[&Pod]); 3] = [
        ("web", &[WEB, WEB_V6], &both),
        ("web-v1", &[VERSIONS[0]], &both[..1]),
        ("web-v2", &[VERSIONS[1]], &both[1..]),
    ];
    for (name, cluster_ips, pods) in services {
        let ports = [("http", PORT, "TCP")];
        let (namespace, affinity) = ("app", None);
        let service = Service {
            namespace,
            name,
            cluster_ips,
            ports: &ports,
            affinity,
        };
        objects.push(service.yaml());
        for (family, v6) in [("v4", false), ("v6", true)] {
            let slice = format!("{name}-{family}");
            objects.push(manifest::slice(
                "app",
                name,
                &slice,
                &ports,
                &ends(pods, v6),
            ));
        }
    }
    manifest::file(&objects)
}

/// An HTTPRoute of `app/web`; `rules` is the YAML list below `rules:`, indented by two.
pub fn http_route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{ name: web, namespace: app }}\nspec:\n  \
         parentRefs: [{{ group: \"\", kind: Service, name: web, port: {PORT} }}]\n  rules:\n{rules}"
    )
}

/// All requests, by weight, to the two versions.
pub fn split(first: u32, second: u32) -> String {
    http_route(&format!(
        "  - backendRefs:\n    - {{ name: web-v1, port: {PORT}, weight: {first} }}\n    \
         - {{ name: web-v2, port: {PORT}, weight: {second} }}\n"
    ))
}

//! What the checks play on: a scene with an outside host, servers, and services in front of them.

use std::net::SocketAddr;

use serde_json::Value;
use underpass_tests::{
    Failure, Result,
    bytes::ALL,
    lab::{Pod, Proc},
    manifest::{self, Endpoint, Service},
    scene::{LIMIT, PORT, SERVICE, SERVICE_V6, Scene, service_with},
};

/// The services `app/exact` (one port per behavior) and `app/dns`.
pub const EXACT: &str = "10.96.0.2";
pub const BASE: u16 = 7000;
pub const DNS: [&str; 2] = ["10.96.0.53", "fd00:96::53"];

pub struct Stage {
    pub scene: Scene,
    pub outside: Pod,
    _servers: Vec<Proc>,
}

impl Stage {
    pub fn new() -> Result<Self> {
        let scene = Scene::new("vm", &[])?;
        let outside = scene.lab.outside()?;
        let servers = serve(&scene)?;
        Ok(Self {
            scene,
            outside,
            _servers: servers,
        })
    }

    pub fn dial(&self, to: SocketAddr, flags: &[&str]) -> Result<Value> {
        self.scene.dial_with(&self.scene.client.place, to, flags)
    }
}

/// The service in front of the echo server, on both of its addresses.
pub fn front(scene: &Scene) -> String {
    let addresses = [scene.server.v4.to_string(), scene.server.v6.to_string()];
    let endpoints = addresses.map(|ip| (PORT, Endpoint::new(ip)));
    service_with(&[SERVICE, SERVICE_V6], None, &endpoints)
}

/// The servers, and the services in front of them.
fn serve(scene: &Scene) -> Result<Vec<Proc>> {
    let (v4, v6) = (scene.server.v4.to_string(), scene.server.v6.to_string());
    let names: Vec<String> = (0..ALL.len()).map(|i| format!("act-{i}")).collect();
    let acts: Vec<_> = names
        .iter()
        .zip(BASE..)
        .map(|(n, p)| (n.as_str(), p, "TCP"))
        .collect();
    let service = |name, cluster_ips, ports| Service {
        namespace: "app",
        name,
        cluster_ips,
        ports,
        affinity: None,
    };
    let slice = |service, name: &str, ports, ip: &str| {
        manifest::slice("app", service, name, ports, &[Endpoint::new(ip)])
    };
    let more = manifest::file(&[
        service("exact", &[EXACT], &acts).yaml(),
        slice("exact", "exact-0", &acts, &v4),
        service("dns", &DNS, &[("dns", 53, "UDP")]).yaml(),
        slice("dns", "dns-0", &[("dns", 5353, "UDP")], &v4),
        slice("dns", "dns-1", &[("dns", 5353, "UDP")], &v6),
    ]);
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("20-service.yaml", &front(scene)))?;
    scene
        .agent
        .wait_plan(|| scene.lab.mesh_file("30-more.yaml", &more))?;
    let run = |command: &[&str]| scene.lab.run(&scene.server.place, command);
    let first = format!("{v4}:{BASE}");
    let exact = run(&["underpass-peer", "server", "--listen", &first])?;
    exact.wait_listening(first.parse().map_err(Failure::at(&first))?)?;
    let mut servers = vec![scene.echo()?, exact];
    for at in [
        SocketAddr::from((scene.server.v4, 5353)),
        (scene.server.v6, 5353).into(),
    ] {
        let mut server = run(&["underpass-peer", "udp-echo", &at.to_string()])?;
        server.line(0, "listening", LIMIT)?;
        servers.push(server);
    }
    Ok(servers)
}

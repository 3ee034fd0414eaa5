//! The meshes that are measured, as Kubernetes manifests.

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path};

use serde::Serialize;

use crate::{
    Context as _, Result,
    generator::Targets,
    lab::{CLIENT as CLIENT_ADDRESS, Lab, STRANGER, Side, Wire},
    way::Workers,
};

/// Where the server listens.
pub const SERVER_PORT: u16 = 7000;
/// Where the server of a program listens beside it.
pub const APP_PORT: u16 = 7001;
/// Services' port.
pub const SERVICE_PORT: u16 = 80;
const SERVICE_BASE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const APP_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 100, 1);
/// Addresses of one Workload at most.
pub const WORKLOAD_ADDRESSES: u32 = 64;
/// Kubernetes' default for one EndpointSlice.
const SLICE: u32 = 100;

/// Services, and endpoints of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size {
    pub services: u32,
    pub endpoints: u32,
}

impl Size {
    pub const fn total(self) -> u32 {
        self.services * self.endpoints
    }

    /// What the meshed client dials.
    pub const fn services(self) -> Targets {
        Targets {
            base: SERVICE_BASE,
            count: self.services,
            port: SERVICE_PORT,
        }
    }

    /// The endpoints behind; what the client without mesh dials.
    pub const fn endpoints(self, base: Ipv4Addr) -> Targets {
        Targets {
            base,
            count: self.total(),
            port: SERVER_PORT,
        }
    }
}

/// Whom the server's policy lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    Client,
    /// The server stands for pods of other nodes, and nobody proves to it who calls those.
    Everybody,
}

/// Where clients live, and where what they call does. Each is a tenant: none shares a worker with another.
const CLIENTS: &str = "bench";
const SERVED: &str = "served";

const CLIENT: &str = "[{ serviceAccounts: [{ name: client, namespace: bench }] }]";

/// What makes HTTP of the connections to a service, at its callers' workers, or of those to a workload's
/// services, at its own.
const OBSERVE: &str = "  annotations: { underpass.dev/observe: http }\n";

/// The parties: workloads with identities, and a policy for the server.
pub fn parties(lab: &Lab, addresses: &[Ipv4Addr], callers: Callers, workers: Workers) -> String {
    let server = match lab.wire {
        Wire::Loopback => "cgroup: server".to_owned(),
        Wire::Veth => format!("netns: /run/netns/{}", lab.server_netns(Side::On)),
    };
    // A worker dials from its workload's own address.
    let own = |address| match lab.wire {
        Wire::Loopback => Vec::new(),
        Wire::Veth => vec![address],
    };
    let sources = match callers {
        Callers::Client => CLIENT,
        Callers::Everybody => "[]",
    };
    let allowed = policy("server", SERVER_PORT, sources);
    let mut text = namespace(CLIENTS) + &namespace(SERVED);
    text += &workload(
        (CLIENTS, "client"),
        "cgroup: client",
        &own(CLIENT_ADDRESS),
        "",
    );
    let observed = if workers == Workers::Both {
        OBSERVE
    } else {
        ""
    };
    text += &workload((SERVED, "server"), &server, addresses, observed);
    text += &workload(
        (CLIENTS, "stranger"),
        "cgroup: stranger",
        &own(STRANGER),
        "",
    );
    text + &allowed
}

/// Who may come to a port of the server.
fn policy(name: &str, port: u16, sources: &str) -> String {
    format!(
        "apiVersion: underpass.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: {SERVED} }}\nspec:\n  targetRefs:\n  \
         - {{ kind: Workload, labelSelector: {{ matchLabels: {{ app: server }} }} }}\n  rules:\n  \
         - sources: {sources}\n    ports: [{{ port: {port} }}]\n"
    )
}

fn namespace(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
         underpass.dev/mesh: enabled\n---\n"
    )
}

fn workload(
    (namespace, name): (&str, &str),
    found_by: &str,
    addresses: &[Ipv4Addr],
    annotations: &str,
) -> String {
    let mut text = format!(
        "apiVersion: underpass.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\n  \
         namespace: {namespace}\n  labels: {{ app: {name} }}\n{annotations}spec:\n  \
         serviceAccountName: {name}\n  {found_by}\n"
    );
    if !addresses.is_empty() {
        text += "  addresses:\n";
        for address in addresses {
            let _ = writeln!(text, "  - {address}");
        }
    }
    text + "---\n"
}

/// A service with its slices, in one file.
pub fn service(name: &str, cluster_ip: Ipv4Addr, endpoints: &[Ipv4Addr]) -> String {
    service_to((name, ""), cluster_ip, endpoints, SERVER_PORT)
}

fn service_to(
    (name, annotations): (&str, &str),
    cluster_ip: Ipv4Addr,
    endpoints: &[Ipv4Addr],
    to: u16,
) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {SERVED}\n\
         {annotations}spec:\n  clusterIP: {cluster_ip}\n  clusterIPs: [{cluster_ip}]\n  ports:\n  - name: tcp\n    \
         port: {SERVICE_PORT}\n    protocol: TCP\n"
    );
    for (number, chunk) in endpoints.chunks(SLICE as usize).enumerate() {
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: {name}-{number}\n  namespace: {SERVED}\n  labels:\n    \
             kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n- name: tcp\n  \
             port: {to}\n  protocol: TCP\nendpoints:\n"
        );
        for address in chunk {
            let _ = writeln!(
                text,
                "- addresses: [\"{address}\"]\n  conditions: {{ ready: true }}"
            );
        }
    }
    text
}

/// A pod of another node.
pub fn pod(name: &str, node: &str, address: Ipv4Addr) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {CLIENTS}\n  labels:\n    \
         app: pod\nspec:\n  serviceAccountName: pod\n  nodeName: {node}\nstatus:\n  \
         phase: Running\n  podIPs:\n  - ip: {address}\n---\n"
    )
}

/// Writes the whole mesh of one size: every endpoint is the server on an address of its own.
pub fn write(lab: &Lab, size: Size) -> Result<()> {
    let dir = lab.mesh_dir();
    let all = size.endpoints(lab.wire.base());
    let addresses: Vec<Ipv4Addr> = (0..size.total()).map(|i| *all.at(i).ip()).collect();
    // On loopback the owner of the port is learnt; elsewhere the address says whose it is.
    let own = match lab.wire {
        Wire::Loopback => &[],
        Wire::Veth => &addresses[..],
    };
    let parties = parties(lab, own, Callers::Client, Workers::None);
    put(&dir, "parties.yaml", &parties)?;
    for (i, endpoints) in addresses.chunks(size.endpoints as usize).enumerate() {
        let address = *size.services().at(i as u32).ip();
        let name = format!("service-{i}");
        put(
            &dir,
            &format!("{name}.yaml"),
            &service(&name, address, endpoints),
        )?;
    }
    Ok(())
}

/// The mesh of one service with one endpoint, and that of a program's server, with what makes HTTP of
/// connections to them. `dir`: the mesh's, or that of proxies beside the workloads.
pub fn write_http(lab: &Lab, dir: &Path, workers: Workers) -> Result<()> {
    let endpoint = [lab.wire.base()];
    put(
        dir,
        "parties.yaml",
        &parties(lab, &endpoint, Callers::Client, workers),
    )?;
    let observe = if workers == Workers::None {
        ""
    } else {
        OBSERVE
    };
    let first = service_to(("service-0", observe), SERVICE_BASE, &endpoint, SERVER_PORT);
    put(dir, "service-0.yaml", &first)?;
    put(dir, "app.yaml", &app(lab, observe))
}

/// Adds the service of a program's server, which only the client may use.
pub fn add_app(lab: &Lab) -> Result<()> {
    put(&lab.mesh_dir(), "app.yaml", &app(lab, ""))
}

fn app(lab: &Lab, annotations: &str) -> String {
    let endpoint = app_endpoint(lab.wire.base());
    service_to(
        ("app", annotations),
        APP_SERVICE,
        &[*endpoint.at(0).ip()],
        APP_PORT,
    ) + "---\n"
        + &policy("app", APP_PORT, CLIENT)
}

/// What a program's client dials under the mesh.
pub const fn app_service() -> Targets {
    Targets {
        base: APP_SERVICE,
        count: 1,
        port: SERVICE_PORT,
    }
}

/// And without.
pub const fn app_endpoint(base: Ipv4Addr) -> Targets {
    Targets {
        base,
        count: 1,
        port: APP_PORT,
    }
}

/// Writes beside and renames, so that a reader sees the old file or the new one.
pub fn put(dir: &Path, name: &str, text: &str) -> Result<()> {
    let (hidden, path) = (dir.join(format!(".{name}.new")), dir.join(name));
    fs::write(&hidden, text).context(hidden.display())?;
    fs::rename(&hidden, &path).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_cut_into_slices_that_hold_every_endpoint() {
        let targets = Size {
            services: 1,
            endpoints: 250,
        }
        .endpoints(Wire::Loopback.base());
        let addresses: Vec<_> = (0..250).map(|i| *targets.at(i).ip()).collect();
        let text = service("s", SERVICE_BASE, &addresses);
        assert_eq!(text.matches("kind: EndpointSlice").count(), 3);
        assert!(addresses.iter().all(|a| text.contains(&format!("\"{a}\""))));
    }

    #[test]
    fn services_and_endpoints_do_not_overlap() {
        let size = Size {
            services: 1_000,
            endpoints: 10,
        };
        for wire in [Wire::Loopback, Wire::Veth] {
            let last = *size.endpoints(wire.base()).at(9_999).ip();
            assert_eq!(last.octets()[..2], wire.base().octets()[..2]);
        }
        assert_eq!(size.services().at(999).ip().octets()[..2], [10, 96]);
    }
}

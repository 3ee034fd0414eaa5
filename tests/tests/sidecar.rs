//! The proxy as a sidecar of a client and of two servers: every call goes through two of them.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap, fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, time::Duration,
};

use underpass_tests::{
    Lab, Result,
    lab::{
        Pod, Proc,
        http::{Client, WEB, nginx_saying, packaged},
        place,
    },
    manifest::{self, Endpoint, Service},
};

const UID: &str = "1337";
const SERVICE: &str = "10.96.0.7";
const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: split, namespace: shop }
spec:
  parentRefs: [{ kind: Service, group: '', name: api, port: 80 }]
  rules:
  - backendRefs: [{ name: one, port: 80, weight: 90 }, { name: two, port: 80, weight: 10 }]
";

fn program() -> Result<String> {
    Ok(place::binary("underpass-proxy")?
        .to_string_lossy()
        .into_owned())
}

/// Starts the sidecar of a pod, under a user of its own.
fn sidecar(lab: &Lab, pod: &Pod, name: &str) -> Result<Proc> {
    let (mesh, workload, program) = (lab.mesh_dir(), format!("shop/{name}"), program()?);
    let mesh = mesh.to_string_lossy();
    let words = [
        "setpriv",
        "--reuid",
        UID,
        "--regid",
        UID,
        "--clear-groups",
        &program,
        "--sidecar",
        "--mesh",
        &mesh,
        "--workload",
        &workload,
    ];
    let mut proc = lab.run(&pod.place, &words)?;
    proc.line(0, "sidecar of", Duration::from_secs(10))?;
    Ok(proc)
}

fn capture(lab: &Lab, pod: &Pod, what: &str) -> Result<()> {
    let [env, libraries, nft] = packaged("usr/sbin/nft")?;
    let path = format!("PATH={}", nft.trim_end_matches("/nft"));
    let program = program()?;
    let words = [
        &env,
        &libraries,
        &path,
        &program,
        "--capture",
        what,
        "--capture-uid",
        UID,
    ];
    lab.output(&pod.place, &words, Duration::from_secs(10))?;
    Ok(())
}

fn describe(lab: &Lab, pods: &[(&str, &Pod)]) -> Result<()> {
    let ports = [("http", 80, "TCP")];
    let service = |name: &str, ip: &str| {
        let service = Service {
            namespace: "shop",
            name,
            cluster_ips: &[ip],
            ports: &ports,
            affinity: None,
        };
        service.yaml()
    };
    let mut all = vec![manifest::namespace("shop"), ROUTE.to_owned()];
    all.push(service("api", SERVICE));
    for (n, (name, pod)) in pods.iter().enumerate() {
        all.push(manifest::pod_workload("shop", name, pod));
        if *name != "web" {
            all.push(service(name, &format!("10.96.0.{}", 20 + n)));
            let slice = format!("{name}-1");
            let endpoints = [Endpoint::new(pod.v4.to_string())];
            let ports = [("http", WEB, "TCP")];
            all.push(manifest::slice("shop", name, &slice, &ports, &endpoints));
        }
    }
    lab.mesh_file("shop.yaml", &manifest::file(&all))?;
    for dir in [&lab.dir, &lab.mesh_dir()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[test]
fn a_call_goes_through_two_sidecars_by_the_route() -> Result<()> {
    let lab = Lab::new("sidecar")?;
    let (web, one, two) = (lab.pod("web")?, lab.pod("one")?, lab.pod("two")?);
    let pods = [("web", &web), ("one", &one), ("two", &two)];
    describe(&lab, &pods)?;
    let _servers = [
        nginx_saying(&lab, &one, "one", "one $remote_addr")?,
        nginx_saying(&lab, &two, "two", "two $remote_addr")?,
    ];
    let mut sidecars = Vec::new();
    for (name, pod) in pods {
        sidecars.push(sidecar(&lab, pod, name)?);
        capture(&lab, pod, "apply")?;
    }
    // Its own sidecar dials each server: the second hop.
    let (of_one, of_two) = (format!("one {}", one.v4), format!("two {}", two.v4));
    let netns = web.place.netns_path();
    let api = SocketAddr::new(SERVICE.parse().unwrap(), 80);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..6 {
        let mut client = Client::connect(&netns, api)?;
        for _ in 0..100 {
            let (status, body) = client.get("/")?;
            assert_eq!(status, 200, "{body}");
            *seen.entry(body).or_default() += 1;
        }
    }
    println!("{seen:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");
    // 60 of 600, give or take five times the deviation.
    assert!((24..=96).contains(&seen[&of_two]), "{seen:?}");
    assert_eq!(seen[&of_one] + seen[&of_two], 600);

    // What is no service of the mesh is let through, by both.
    let direct = SocketAddr::new(one.v4.into(), WEB);
    assert_eq!(Client::connect(&netns, direct)?.get("/")?, (200, of_one));
    // A connection to a sidecar's own port is no way to anywhere.
    for port in [15_001, 15_006] {
        let at = SocketAddr::new(one.v4.into(), port);
        Client::connect(&lab.host().netns_path(), at)?.wait_end()?;
    }
    // Another route holds a moment later, for connections that are open too.
    let mut client = Client::connect(&netns, api)?;
    assert_eq!(client.get("/")?.0, 200);
    let text = fs::read_to_string(lab.mesh_dir().join("shop.yaml"))?;
    lab.mesh_file("shop.yaml", &text.replace("weight: 90", "weight: 0"))?;
    underpass_tests::lab::until("the other route", Duration::from_secs(10), || {
        let last: Result<Vec<_>> = (0..20).map(|_| client.get("/")).collect();
        let last = last.map_err(|f| f.0)?;
        match last
            .iter()
            .all(|(status, body)| *status == 200 && *body == of_two)
        {
            true => Ok(()),
            false => Err(format!("{last:?}")),
        }
    })?;

    // Without the rules there is no sidecar on the way.
    for (_, pod) in pods {
        capture(&lab, pod, "remove")?;
    }
    let from_web = format!("one {}", web.v4);
    assert_eq!(Client::connect(&netns, direct)?.get("/")?, (200, from_web));
    Ok(())
}

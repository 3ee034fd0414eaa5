//! UDP to service addresses: connected and unconnected sockets, both families.

use std::net::SocketAddr;

use serde_json::Value;
use underpass_tests::{
    Failure, Result,
    lab::{Place, Proc, until},
    manifest::{self, Endpoint, Service, Source, Target, allow},
    scene::{EPERM, LIMIT, Scene, metric_sum, scrape},
};

const DNS: &str = "10.96.0.53";
const DNS_V6: &str = "fd00:96::53";

/// A scene with the UDP service `app/dns` on port 53, served on port 5353.
fn dns(name: &str) -> Result<(Scene, Vec<Proc>)> {
    let scene = Scene::new(name, &[])?;
    let port = |number| [("dns", number, "UDP")];
    let mut objects = vec![
        Service {
            namespace: "app",
            name: "dns",
            cluster_ips: &[DNS, DNS_V6],
            ports: &port(53),
            affinity: None,
        }
        .yaml(),
    ];
    let addresses = [scene.server.v4.to_string(), scene.server.v6.to_string()];
    for (i, ip) in addresses.iter().enumerate() {
        objects.push(manifest::slice(
            "app",
            "dns",
            &format!("dns-{i}"),
            &port(5353),
            &[Endpoint::new(ip.as_str())],
        ));
    }
    scene.agent.wait_plan(|| {
        scene
            .lab
            .mesh_file("30-dns.yaml", &manifest::file(&objects))
    })?;
    let listen = [
        SocketAddr::from((scene.server.v4, 5353)),
        SocketAddr::from((scene.server.v6, 5353)),
    ];
    let servers = listen.map(|at| -> Result<Proc> {
        let mut server = scene.lab.run(
            &scene.server.place,
            &["underpass-peer", "udp-echo", &at.to_string()],
        )?;
        server.line(0, "listening", LIMIT)?;
        Ok(server)
    });
    Ok((scene, servers.into_iter().collect::<Result<_>>()?))
}

fn exchange(scene: &Scene, from: &Place, to: SocketAddr, flags: &[&str]) -> Result<Vec<Value>> {
    let to = to.to_string();
    let text = scene.lab.output(
        from,
        &[&["underpass-peer", "udp", &to], flags].concat(),
        LIMIT,
    )?;
    text.lines()
        .map(|l| serde_json::from_str(l).map_err(Failure::at(l)))
        .collect()
}

fn both() -> [SocketAddr; 2] {
    [DNS, DNS_V6].map(|ip| SocketAddr::new(ip.parse().expect("a constant"), 53))
}

#[test]
fn answers_come_from_the_address_that_was_asked() -> Result<()> {
    let (scene, _servers) = dns("udp")?;
    for to in both() {
        for flags in [vec!["--count", "3"], vec!["--count", "3", "--connected"]] {
            let answers = exchange(&scene, &scene.client.place, to, &flags)?;
            assert_eq!(answers.len(), 3, "{answers:?}");
            for answer in answers {
                assert_eq!(
                    (&answer["ok"], &answer["from"]),
                    (&true.into(), &to.to_string().into()),
                    "{flags:?} {answer}"
                );
                if flags.contains(&"--connected") {
                    assert_eq!(answer["peer"], to.to_string(), "{answer}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn mapped_addresses_work_for_udp() -> Result<()> {
    let (scene, _servers) = dns("udpmap")?;
    let mapped = format!("[::ffff:{DNS}]:53");
    for flags in [vec!["--mapped"], vec!["--mapped", "--connected"]] {
        let answers = exchange(&scene, &scene.client.place, both()[0], &flags)?;
        assert_eq!(
            (&answers[0]["ok"], &answers[0]["from"]),
            (&true.into(), &mapped.as_str().into()),
            "{answers:?}"
        );
    }
    Ok(())
}

#[test]
fn a_denied_datagram_is_eperm() -> Result<()> {
    let (scene, _servers) = dns("udpdeny")?;
    scene.policies(&[allow(
        "app",
        "callers",
        Target::Workload("server"),
        &[Source::Account("app", "client")],
    )])?;
    for to in both() {
        for flags in [vec![], vec!["--connected"]] {
            let denied = exchange(&scene, &scene.other.place, to, &flags)?;
            assert_eq!(denied[0]["errno"], EPERM, "{to} {flags:?} {denied:?}");
            let allowed = exchange(&scene, &scene.client.place, to, &flags)?;
            assert_eq!(allowed[0]["ok"], true, "{to} {flags:?} {allowed:?}");
        }
    }
    Ok(())
}

#[test]
fn udp_is_counted_per_workload_and_service() -> Result<()> {
    let (scene, _servers) = dns("udpstat")?;
    exchange(&scene, &scene.client.place, both()[0], &["--count", "7"])?;
    exchange(&scene, &scene.client.place, both()[0], &["--connected"])?;
    until("UDP counts", LIMIT, || {
        let text = scrape(&scene).map_err(|f| f.0)?;
        let datagrams = metric_sum(
            &text,
            "udp_datagrams_total",
            &["app/client", "app/server", "app/dns"],
        );
        let stat = scene.agent.cli.stat("app/dns:53").map_err(|f| f.0)?;
        let seen = (datagrams, &stat["protocol"], &stat["opened"], &stat["open"]);
        if seen == (Some(7.0), &"udp".into(), &1.into(), &0.into()) {
            return Ok(());
        }
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("udp_")).collect();
        Err(format!("{seen:?} in\n{}", lines.join("\n")))
    })
}

//! The numbers: what applications counted against what `conns -o json` says, to the byte.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde_json::Value;
use underpass_tests::{
    Failure, Result,
    bytes::{ALL, Act, Count},
    lab::{
        Proc,
        cli::{number, port, text},
        net,
    },
    manifest::{self, Endpoint, Service},
    scene::{ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT, LIMIT, PORT, Scene, service_at},
};

const VIP: &str = "10.96.0.2";
const BASE: u16 = 7000;
/// Connections of the run; 30 more belong to processes that are killed or end without closing.
const CONNECTIONS: usize = 970;

fn counts(proc: &Proc) -> Vec<Count> {
    proc.stdout()
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The client's port and the dialed port. The kernel may give a client port out again.
type Key = (u16, u16);

fn key(row: &Value) -> Key {
    (
        port(row, "/source/address"),
        port(row, "/original_destination"),
    )
}

fn by_key(counts: Vec<Count>) -> BTreeMap<Key, Vec<Count>> {
    let mut all: BTreeMap<Key, Vec<Count>> = BTreeMap::new();
    for count in counts {
        all.entry((count.port, count.act.port(BASE)))
            .or_default()
            .push(count);
    }
    all
}

/// The service `app/exact`: one port per behavior.
fn exact_service(server: &str) -> String {
    let names: Vec<String> = (0..ALL.len()).map(|i| format!("act-{i}")).collect();
    let ports: Vec<(&str, u16, &str)> = names
        .iter()
        .zip(BASE..)
        .map(|(name, port)| (name.as_str(), port, "TCP"))
        .collect();
    manifest::file(&[
        Service {
            namespace: "app",
            name: "exact",
            cluster_ips: &[VIP],
            ports: &ports,
            affinity: None,
        }
        .yaml(),
        manifest::slice("app", "exact", "exact-0", &ports, &[Endpoint::new(server)]),
    ])
}

#[test]
fn a_thousand_connections_are_counted_to_the_byte() -> Result<()> {
    let scene = Scene::new("exact", &[])?;
    let server_ip = scene.server.v4.to_string();
    scene.agent.wait_plan(|| {
        scene
            .lab
            .mesh_file("30-exact.yaml", &exact_service(&server_ip))
    })?;
    let listen = format!("{server_ip}:{BASE}");
    let server = scene.lab.run(
        &scene.server.place,
        &["underpass-peer", "server", "--listen", &listen],
    )?;
    server.wait_listening(listen.parse().expect("an address"))?;
    let to = format!("{VIP}:{BASE}");
    let clients = run_clients(&scene, &to)?;
    assert_eq!(clients.len(), CONNECTIONS + 30);

    let filters = ["--from", "app/client"];
    let is_ours = |row: &Value| {
        text(row, "/service").starts_with("app/exact:") && text(row, "/state") == "closed"
    };
    let cli = &scene.agent.cli;
    let rows = cli.rows("1,000 closed rows", &filters, clients.len(), is_ours)?;
    assert_eq!(rows.len(), clients.len(), "one connection is one row");
    let mut seen: BTreeMap<Key, Vec<(u64, u64)>> = BTreeMap::new();
    for row in &rows {
        let bytes = |field| number(row, field).unwrap_or(u64::MAX);
        let sums = (bytes("/bytes_sent"), bytes("/bytes_received"));
        seen.entry(key(row)).or_default().push(sums);
    }
    for (key, counts) in by_key(clients) {
        let mut expected: Vec<(u64, u64)> = counts.iter().map(|c| (c.sent, c.received)).collect();
        let mut found = seen.remove(&key).unwrap_or_default();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(
            found, expected,
            "(bytes_sent, bytes_received) of {counts:?}"
        );
    }
    assert!(
        seen.is_empty(),
        "rows of connections that nobody made: {seen:?}"
    );
    assert_servers_agree(&server, &rows);
    let sum = |field| rows.iter().filter_map(|r| number(r, field)).sum::<u64>();
    println!(
        "{} connections: {} B sent, {} B received, equal",
        rows.len(),
        sum("/bytes_sent"),
        sum("/bytes_received")
    );
    Ok(())
}

/// All clients; what they counted.
fn run_clients(scene: &Scene, to: &str) -> Result<Vec<Count>> {
    let peer = |flags: &[&str]| {
        scene.lab.run(
            &scene.client.place,
            &[&["underpass-peer", "client", "--to", to], flags].concat(),
        )
    };
    let mut all = Vec::new();
    // Processes that must end badly, ten at a time, each in its own way.
    let mut killed = (0..10)
        .map(|_| peer(&["--only", "killed"]))
        .collect::<Result<Vec<_>>>()?;
    for client in &mut killed {
        client.line(0, "{", LIMIT)?;
        all.extend(counts(client));
        client.kill9()?;
    }
    for seed in 0..20_u64 {
        let seed = (seed * 7_919).to_string();
        let done = peer(&["--only", "write-and-exit", "--seed", &seed])?.finish(LIMIT)?;
        all.extend(
            done.stdout
                .lines()
                .filter_map(|l| serde_json::from_str::<Count>(l).ok()),
        );
    }
    let count = CONNECTIONS.to_string();
    let done = peer(&["--seed", "42", "--count", &count])?.finish(Duration::from_secs(120))?;
    if done.code != Some(0) {
        return Err(Failure(done.stderr));
    }
    all.extend(
        done.stdout
            .lines()
            .filter_map(|l| serde_json::from_str::<Count>(l).ok()),
    );
    Ok(all)
}

/// Where both ends close in order, the server read what was sent, and all of it was delivered. After a
/// reset the server may have read bytes whose acknowledgement never came.
fn assert_servers_agree(server: &Proc, rows: &[Value]) {
    let servers = by_key(counts(server));
    let mut checked = 0;
    for row in rows {
        // A port that was used twice says nothing here.
        let Some([count]) = servers.get(&key(row)).map(Vec::as_slice) else {
            continue;
        };
        let (sent, delivered) = (
            number(row, "/bytes_sent").unwrap_or(0),
            number(row, "/bytes_delivered").unwrap_or(0),
        );
        assert!(
            count.received <= sent && delivered <= sent,
            "server {count:?}: {row}"
        );
        if matches!(count.act, Act::HalfClose | Act::Duplex | Act::WriteAndExit) {
            assert_eq!(
                (count.received, delivered),
                (sent, sent),
                "server {count:?}: {row}"
            );
        }
        checked += 1;
    }
    assert!(
        checked >= CONNECTIONS * 9 / 10,
        "the server counted only {checked} connections"
    );
}

#[test]
fn an_open_connection_is_a_row_with_its_bytes_so_far() -> Result<()> {
    let scene = Scene::new("open", &[])?;
    let _server = scene.echo()?;
    let to = service_at().to_string();
    let mut held = scene.lab.run(
        &scene.client.place,
        &[
            "underpass-peer",
            "dial",
            &to,
            "--echo",
            "5000",
            "--hold",
            "30",
        ],
    )?;
    held.line(0, "\"ok\":true", LIMIT)?;
    let rows = scene
        .agent
        .cli
        .rows("open", &["--state", "established"], 1, |r| {
            number(r, "/bytes_sent") == Some(5000) && number(r, "/bytes_received") == Some(5000)
        })?;
    assert_eq!(
        rows.len(),
        1,
        "both ends are on this node, yet it is one connection"
    );
    let row = &rows[0];
    assert_eq!(text(row, "/source/workload"), "app/client", "{row}");
    assert_eq!(text(row, "/destination/workload"), "app/server", "{row}");
    assert_eq!(text(row, "/service"), "app/server:8080", "{row}");
    assert_eq!(text(row, "/original_destination"), to, "{row}");
    assert_eq!(
        text(row, "/endpoint"),
        format!("{}:{PORT}", scene.server.v4),
        "{row}"
    );
    let fixed = [
        ("/layer", "kernel"),
        ("/protocol", "tcp"),
        ("/leg", "app"),
        ("/parent", ""),
        ("/reporter", "source"),
        ("/node", "lab"),
    ];
    for (field, value) in fixed {
        assert_eq!(text(row, field), value, "{field}: {row}");
    }
    assert!(
        number(row, "/connect_us").is_some() && number(row, "/srtt_us").is_some(),
        "{row}"
    );
    held.kill9()?;
    let row = scene.agent.cli.row("closed", &["--state", "closed"], |r| {
        text(r, "/source/workload") == "app/client"
    })?;
    assert_eq!(number(&row, "/bytes_sent"), Some(5000), "{row}");
    Ok(())
}

#[test]
fn a_connect_that_fails_is_a_row() -> Result<()> {
    let scene = Scene::new("failed", &[])?;
    let pod = &scene.client.place.netns;
    net::sysctl(pod, "ipv4/tcp_syn_retries", "1")?;
    // Nobody answers for the first address; the second has no route.
    net::ip(
        &["-n", pod, "-batch", "-"],
        "neigh add 10.42.9.9 lladdr 02:00:00:00:09:09 dev eth0\nroute add unreachable 198.51.100.0/24\n",
    )?;
    let cases: [(SocketAddr, u64, &str); 3] = [
        ((scene.server.v4, 4444).into(), ECONNREFUSED, "PEER_REFUSED"),
        (([10, 42, 9, 9], 80).into(), ETIMEDOUT, "TIMED_OUT"),
        (([198, 51, 100, 1], 80).into(), EHOSTUNREACH, "UNREACHABLE"),
    ];
    for (to, errno, reason) in cases {
        assert_eq!(scene.errno(&scene.client.place, to)?, errno, "{to}");
        let row = scene
            .agent
            .cli
            .row(reason, &["--from", "app/client"], |r| {
                text(r, "/original_destination") == to.to_string()
            })?;
        assert_eq!(
            (text(&row, "/state"), text(&row, "/close_reason")),
            ("failed", reason),
            "{row}"
        );
        assert_eq!(number(&row, "/connect_us"), None, "{row}");
    }
    Ok(())
}

#[test]
fn a_connection_older_than_the_mesh_is_a_row() -> Result<()> {
    let mut held = None;
    let scene = Scene::with("before", &[], |lab| {
        let node = SocketAddr::from(([10, 42, 0, 1], 5432));
        let place = lab.cgroup("apps/db")?;
        let server = underpass_tests::scene::sink(lab, &place, "echo", &[node])?;
        let to = node.to_string();
        let mut client = lab.run(
            &lab.cgroup("apps/user")?,
            &[
                "underpass-peer",
                "dial",
                &to,
                "--echo",
                "10",
                "--hold",
                "60",
            ],
        )?;
        client.line(0, "\"ok\":true", LIMIT)?;
        held = Some((client, server));
        Ok(manifest::file(&[
            manifest::workload("app", "db", "cgroup: apps/db", &["10.42.0.1".into()]),
            manifest::workload("app", "user", "cgroup: apps/user", &["10.42.0.1".into()]),
        ]))
    })?;
    let row = scene
        .agent
        .cli
        .row("before-mesh", &[], |r| text(r, "/layer") == "before-mesh")?;
    assert_eq!(text(&row, "/reason"), "BEFORE_MESH", "{row}");
    assert_eq!(
        text(&row, "/destination/address"),
        "10.42.0.1:5432",
        "{row}"
    );
    Ok(())
}

#[test]
fn stat_sums_what_conns_lists() -> Result<()> {
    let scene = Scene::new("stat", &[])?;
    let _server = scene.echo()?;
    let to = service_at().to_string();
    let client = [
        "underpass-peer",
        "connects",
        &to,
        "--count",
        "50",
        "--echo",
        "1000",
        "--fin",
    ];
    scene.lab.json(&scene.client.place, &client, LIMIT)?;
    scene
        .agent
        .cli
        .rows("50 rows", &["--service", "app/server"], 50, |r| {
            text(r, "/state") == "closed"
        })?;
    let stat = scene.agent.cli.stat("app/server:8080")?;
    let expected = [
        ("/opened", 50),
        ("/open", 0),
        ("/refused", 0),
        ("/bytes_sent", 50_000),
        ("/bytes_received", 50_000),
    ];
    for (field, value) in expected {
        assert_eq!(number(&stat, field), Some(value), "{field}: {stat}");
    }
    Ok(())
}

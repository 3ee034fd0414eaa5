//! The lab itself: places are apart, programs are where they were put, nothing is left behind.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use underpass_tests::{
    Lab, Result,
    lab::{Place, place, until},
};

const LIMIT: Duration = Duration::from_secs(10);

fn dial(lab: &Lab, from: &Place, to: SocketAddr) -> Result<serde_json::Value> {
    lab.json(
        from,
        &["underpass-peer", "dial", "--echo", "5", &to.to_string()],
        LIMIT,
    )
}

#[test]
fn pods_host_and_outside_reach_each_other_by_both_families() -> Result<()> {
    let lab = Lab::new("lab")?;
    let (web, db, outside) = (lab.pod("web")?, lab.pod("db")?, lab.outside()?);
    let at: [SocketAddr; 2] = [(db.v4, 80).into(), (db.v6, 80).into()];
    let server = lab.run(
        &db.place,
        &[
            "underpass-peer",
            "sink",
            "--mode",
            "echo",
            &at[0].to_string(),
            &at[1].to_string(),
        ],
    )?;
    for to in at {
        server.wait_listening(to)?;
        for from in [&web.place, &lab.host(), &outside.place, &db.place] {
            let answer = dial(&lab, from, to)?;
            assert_eq!(
                (&answer["ok"], &answer["echo_errno"]),
                (&true.into(), &0.into()),
                "{from:?} {answer}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_listener_of_another_process_is_not_taken_for_ours() -> Result<()> {
    let lab = Lab::new("owner")?;
    let at: SocketAddr = "127.0.0.1:80".parse().unwrap();
    let first = lab.run(&lab.host(), &["underpass-peer", "sink", &at.to_string()])?;
    first.wait_listening(at)?;
    let second = lab.run(&lab.host(), &["underpass-peer", "sink", "127.0.0.1:81"])?;
    second.wait_listening("127.0.0.1:81".parse().unwrap())?;
    assert!(first.owns_listener(at) && !second.owns_listener(at));
    Ok(())
}

#[test]
fn a_program_starts_in_its_cgroup_and_namespace() -> Result<()> {
    let lab = Lab::new("place")?;
    let place = lab.cgroup("shop/web")?;
    let text = lab.output(
        &place,
        &[
            "sh",
            "-c",
            "cat /proc/self/cgroup; readlink /proc/self/ns/net",
        ],
        LIMIT,
    )?;
    assert!(
        text.contains(&format!("/{}/node/shop/web\n", lab.id)),
        "{text}"
    );
    assert!(
        !text.contains(
            &std::fs::read_link("/proc/self/ns/net")?
                .to_string_lossy()
                .into_owned()
        ),
        "{text}"
    );
    Ok(())
}

#[test]
fn nothing_is_left_after_a_lab() -> Result<()> {
    let lab = Lab::new("gone")?;
    let pod = lab.pod("web")?;
    let process = lab.run(&pod.place, &["sleep", "600"])?;
    let (cgroup, dir, netns) = (lab.cgroup.clone(), lab.dir.clone(), pod.place.netns_path());
    assert!(netns.exists());
    drop(lab);
    assert!(!cgroup.exists() && !dir.exists() && !netns.exists());
    assert!(!underpass_tests::lab::process::alive(process.pid()));
    Ok(())
}

/// A killed test process can clean nothing up itself.
#[test]
fn the_guard_removes_the_labs_of_a_killed_process() -> Result<()> {
    let mut victim = Command::new(place::binary("underpass-lab")?)
        .arg("hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut id = String::new();
    BufReader::new(victim.stdout.take().expect("piped")).read_line(&mut id)?;
    let netns = format!("/run/netns/{}-node", id.trim());
    assert!(Path::new(&netns).exists(), "{netns}");
    victim.kill()?;
    victim.wait()?;
    until("the lab's end", LIMIT, || {
        if Path::new(&netns).exists() {
            Err(netns.clone())
        } else {
            Ok(())
        }
    })
}

#[test]
fn the_foreign_program_attaches_and_goes_away() -> Result<()> {
    use underpass_agent::sys::bpf::{Attach, attached};
    let lab = Lab::new("elf")?;
    let root = std::fs::File::open(lab.cgroup_root())?;
    let foreign = underpass_tests::foreign::Foreign::attach(&lab.cgroup_root())?;
    assert_eq!(attached(&root, Attach::SOCK_OPS)?.len(), 1);
    drop(foreign);
    assert!(attached(&root, Attach::SOCK_OPS)?.is_empty());
    Ok(())
}

/// Without a mesh: where both ends close in order, they count the same.
#[test]
fn client_and_server_of_the_exact_runs_agree() -> Result<()> {
    use underpass_tests::bytes::{Act, Count};
    let lab = Lab::new("agree")?;
    let at: SocketAddr = "127.0.0.1:7000".parse().unwrap();
    let server = lab.run(
        &lab.host(),
        &["underpass-peer", "server", "--listen", &at.to_string()],
    )?;
    server.wait_listening(at)?;
    let text = lab.output(
        &lab.host(),
        &[
            "underpass-peer",
            "client",
            "--to",
            "127.0.0.1:7000",
            "--count",
            "100",
        ],
        LIMIT,
    )?;
    let read = |text: &str| {
        text.lines()
            .filter_map(|l| serde_json::from_str::<Count>(l).ok())
            .collect::<Vec<_>>()
    };
    let clients = read(&text);
    assert_eq!(clients.len(), 100);
    until("all servers' counts", LIMIT, || {
        let servers = read(&server.stdout().join("\n"));
        if servers.len() == 100 {
            Ok(servers)
        } else {
            Err(servers.len().to_string())
        }
    })?
    .iter()
    .filter(|s| matches!(s.act, Act::HalfClose | Act::Duplex | Act::Empty | Act::Idle))
    .for_each(|s| {
        let c = clients
            .iter()
            .find(|c| (c.port, c.act) == (s.port, s.act))
            .expect("its client");
        assert_eq!((c.sent, c.received), (s.received, s.sent), "{c:?} {s:?}");
    });
    Ok(())
}

//! A lab for one path: three pods with the same addresses inside, the agent where the path needs
//! one, and the runner in the first pod.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use super::{Path, engine::without_verdict, play::Outcome, stage::Peer};
use crate::{
    Failure, Lab, Result,
    lab::{Agent, Pod, Proc, net},
    manifest,
};

/// Of all cases on one path.
const LIMIT: Duration = Duration::from_secs(900);
const PODS: [&str; 3] = ["a", "b", "c"];
pub const PROGRAM: &str = "underpass-equivalence";

pub struct Fixture {
    pub path: Path,
    pods: Vec<Pod>,
    // Before the lab in which it runs.
    agent: Option<Agent>,
    pub lab: Lab,
}

impl Fixture {
    pub fn new(path: Path) -> Result<Self> {
        let lab = Lab::new(&format!("eq{}", path.name()))?;
        let pods = PODS
            .iter()
            .map(|name| lab.pod(name))
            .collect::<Result<Vec<Pod>>>()?;
        // Receive packet steering: what comes over veth is handled on another CPU.
        for pod in &pods {
            let file = "/sys/class/net/eth0/queues/rx-0/rps_cpus";
            let script = format!("echo 3 > {file}");
            net::ip(
                &["netns", "exec", &pod.place.netns, "sh", "-c", &script],
                "",
            )?;
        }
        let mut fixture = Self {
            path,
            pods,
            agent: None,
            lab,
        };
        if path != Path::Tcp {
            fixture.start_agent()?;
        }
        Ok(fixture)
    }

    /// The agent, with each pod a workload whose owner has opted in.
    fn start_agent(&mut self) -> Result<()> {
        let mut objects = vec![manifest::namespace("app")];
        for (pod, name) in self.pods.iter().zip(PODS) {
            objects.push(manifest::pod_workload("app", name, pod));
        }
        self.lab
            .mesh_file("10-pods.yaml", &manifest::file(&objects))?;
        self.agent = Some(
            self.lab
                .agent(&["--shortcut", "on", "--shortcut-keep-out", "0"])?,
        );
        if self.path == Path::Control {
            without_verdict(&self.pins()).map_err(Failure::at("the verdict program's link"))?;
        }
        Ok(())
    }

    /// The pins of the installed version.
    fn pins(&self) -> PathBuf {
        self.lab
            .pin_dir
            .join(format!("v{}", underpass_abi::VERSION))
    }

    /// Runs the cases whose name contains `only`.
    pub fn play(&self, only: &str) -> Result<Vec<Outcome>> {
        let mut command = vec![
            PROGRAM.to_owned(),
            "play".into(),
            "--only".into(),
            only.into(),
        ];
        command.extend(self.flags());
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let text = self.lab.output(&self.pods[0].place, &command, LIMIT)?;
        let read = |line| serde_json::from_str(line).map_err(Failure::from);
        text.lines().map(read).collect()
    }

    /// Starts a program in the first pod.
    pub fn run(&self, command: &[&str]) -> Result<Proc> {
        self.lab.run(&self.pods[0].place, command)
    }

    /// `kill -9`, and a new one; false if there is none.
    pub fn kill_agent(&mut self) -> Result<bool> {
        match &mut self.agent {
            Some(agent) => agent.restart().map(|()| true),
            None => Ok(false),
        }
    }

    /// What the runner must know of the lab.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--path={}", self.path)];
        if self.path != Path::Tcp {
            flags.push(format!("--pins={}", self.pins().display()));
        }
        for pod in &self.pods[1..] {
            let netns = pod.place.netns_path();
            flags.push(format!("--peer={},{},{}", netns.display(), pod.v4, pod.v6));
        }
        flags
    }
}

/// Reads a `--peer` flag.
pub fn peer(text: &str) -> std::result::Result<Peer, String> {
    let parts: Vec<&str> = text.split(',').collect();
    let [netns, v4, v6] = parts[..] else {
        return Err("NETNS,IPV4,IPV6".into());
    };
    Ok(Peer {
        netns: PathBuf::from(netns),
        v4: v4.parse::<Ipv4Addr>().map_err(|e| e.to_string())?,
        v6: v6.parse::<Ipv6Addr>().map_err(|e| e.to_string())?,
    })
}

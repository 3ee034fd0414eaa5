//! Random policies: the verdict of the kernel is that of the model, and both are what a few lines
//! here say that the policies mean.

use std::net::SocketAddr;

use underpass_tests::{
    Result,
    bytes::Random,
    lab::{Place, Proc, cli::text},
    manifest::{self, Service, Source, Target, policy},
    scene::{ECONNREFUSED, EPERM, Scene},
};

const WORKLOADS: [&str; 4] = ["w0", "w1", "w2", "w3"];
const NAMESPACES: [&str; 2] = ["one", "two"];
const PORTS: [u16; 3] = [1001, 1002, 1003];
/// Ports that nobody listens on: an allowed connect is refused by TCP, a denied one by EPERM.
const ROUNDS: u64 = 25;

fn namespace_of(workload: usize) -> &'static str {
    NAMESPACES[workload % 2]
}

/// A policy as the test understands it.
struct Policy {
    namespace: &'static str,
    /// Workload, or all of the namespace.
    target: Option<usize>,
    audit: bool,
    rules: Vec<(Who, Option<u16>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Account(usize),
    Namespace(&'static str),
    Host,
    Outside,
}

impl Policy {
    fn random(random: &mut Random) -> Self {
        let target = random.below(5) as usize;
        let namespace = if target < 4 {
            namespace_of(target)
        } else {
            NAMESPACES[random.below(2) as usize]
        };
        let rules = (0..random.below(4)).map(|_| {
            let who = match random.below(8) {
                0..4 => Who::Account(random.below(4) as usize),
                4..6 => Who::Namespace(NAMESPACES[random.below(2) as usize]),
                6 => Who::Host,
                _ => Who::Outside,
            };
            let port = PORTS.get(random.below(5) as usize).copied();
            (who, port)
        });
        Self {
            namespace,
            rules: rules.collect(),
            target: (target < 4).then_some(target),
            audit: random.below(4) == 0,
        }
    }

    fn selects(&self, workload: usize) -> bool {
        self.target
            .map_or(self.namespace == namespace_of(workload), |t| t == workload)
    }

    fn yaml(&self, name: &str) -> String {
        let target = self
            .target
            .map_or(Target::All, |t| Target::Workload(WORKLOADS[t]));
        let rules: Vec<(Source, Option<u16>)> = self
            .rules
            .iter()
            .map(|(who, port)| {
                let source = match who {
                    Who::Account(w) => Source::Account(namespace_of(*w), WORKLOADS[*w]),
                    Who::Namespace(n) => Source::Namespace(n),
                    Who::Host => Source::Host,
                    Who::Outside => Source::Outside,
                };
                (source, *port)
            })
            .collect();
        policy(self.namespace, name, target, self.audit, &rules)
    }
}

/// `source` 4 is a process of the node. Allow rules only; audit grants and denies nothing.
fn allowed(policies: &[Policy], source: usize, destination: usize, port: u16) -> bool {
    if source == destination {
        return true;
    }
    let mut selected = policies
        .iter()
        .filter(|p| !p.audit && p.selects(destination))
        .peekable();
    if selected.peek().is_none() {
        return true;
    }
    let matches = |who: &Who| match who {
        Who::Account(w) => *w == source,
        Who::Namespace(n) => source < 4 && *n == namespace_of(source),
        Who::Host => source == 4,
        Who::Outside => false,
    };
    selected.any(|p| {
        p.rules
            .iter()
            .any(|(who, at)| matches(who) && at.is_none_or(|at| at == port))
    })
}

#[test]
fn the_kernel_the_model_and_the_meaning_agree() -> Result<()> {
    let mut pods = Vec::new();
    let scene = Scene::with("random", &[], |lab| {
        let mut objects: Vec<String> = NAMESPACES.iter().map(|n| manifest::namespace(n)).collect();
        for (i, name) in WORKLOADS.iter().enumerate() {
            let pod = lab.pod(name)?;
            objects.push(manifest::pod_workload(namespace_of(i), name, &pod));
            pods.push(pod);
        }
        Ok(manifest::file(&objects))
    })?;
    let host = scene.lab.host();
    let places: Vec<&Place> = pods.iter().map(|p| &p.place).chain([&host]).collect();
    let mut dialers: Vec<Proc> = places
        .iter()
        .map(|place| scene.lab.run(place, &["underpass-peer", "dial"]))
        .collect::<Result<_>>()?;
    let seed = std::process::id().into();
    let mut random = Random(seed);
    let mut compared = 0;
    for round in 0..ROUNDS {
        let policies: Vec<Policy> = (0..1 + random.below(5))
            .map(|_| Policy::random(&mut random))
            .collect();
        let texts: Vec<String> = policies
            .iter()
            .enumerate()
            .map(|(i, p)| p.yaml(&format!("p{i}")))
            .collect();
        // A service that differs each time makes each file a new plan.
        let ports = [("main", 2_000 + round as u16, "TCP")];
        let marker = Service {
            namespace: "app",
            name: "marker",
            cluster_ips: &["10.96.9.9"],
            ports: &ports,
            affinity: None,
        };
        scene.policies(&[texts, vec![marker.yaml()]].concat())?;
        for (source, dialer) in dialers.iter_mut().enumerate() {
            for (destination, pod) in pods.iter().enumerate() {
                for port in PORTS {
                    let to: SocketAddr = if random.below(2) == 0 {
                        (pod.v4, port).into()
                    } else {
                        (pod.v6, port).into()
                    };
                    let meaning = allowed(&policies, source, destination, port);
                    let answer = dialer.ask(&to.to_string())?;
                    let expected = if meaning { ECONNREFUSED } else { EPERM };
                    let what = || {
                        let texts: Vec<String> = policies.iter().map(|p| p.yaml("p")).collect();
                        format!(
                            "seed {seed} round {round}: source {source} to {destination} {to}: {answer}\n{}",
                            texts.join("---\n")
                        )
                    };
                    assert_eq!(answer["errno"], expected, "kernel: {}", what());
                    // The model is asked for a sample: each question is a run of the command.
                    if random.below(12) == 0 {
                        assert_eq!(explained(&scene, source, to)?, meaning, "model: {}", what());
                    }
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} verdicts");
    Ok(())
}

fn explained(scene: &Scene, source: usize, to: SocketAddr) -> Result<bool> {
    let source = match source {
        4 => "host".to_owned(),
        w => format!("{}/{}", namespace_of(w), WORKLOADS[w]),
    };
    let answer = scene
        .agent
        .cli
        .json(&["explain", &source, &to.to_string()])?;
    Ok(text(&answer, "/items/0/verdict") != "denied")
}

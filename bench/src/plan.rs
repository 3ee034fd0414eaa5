//! A plan of 1,000 services, 10,000 endpoints and 10,000 workloads: how long it takes from files to
//! maps, how long a changed endpoint takes to the first connect that uses it, and what it weighs.

use std::{net::Ipv4Addr, net::SocketAddrV4, time::Duration};

use serde::Serialize;
use serde_json::Value;

use crate::{
    BenchError, Result,
    agent::Memory,
    environment::Environment,
    generator::{
        self, Order,
        protocol::{Answer, Command, Watched},
    },
    lab::{Lab, POD_BASE, Wire},
    manifests::{self, Callers, SERVICE_PORT, Size},
    rig::{Cpus, Rig},
    stats,
    way::{Way, Workers},
};

const SIZE: Size = Size {
    services: 1_000,
    endpoints: 10,
};
const PODS_PER_FILE: u32 = 100;
/// The service whose endpoint changes, and its two endpoints.
const CHANGING: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 1);
const ENDPOINTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 64, 250, 1), Ipv4Addr::new(10, 64, 250, 2)];
/// Until a changed endpoint must be in use.
const SEEN_WITHIN: f64 = 10.0;

#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    pub format: &'static str,
    pub environment: Environment,
    pub services: u32,
    pub endpoints: u32,
    pub workloads: u32,
    pub yaml_bytes: u64,
    /// From the agent's start to the first connect through a service, with one service and with all;
    /// the difference is the way from files to maps.
    pub start_tiny_ms: f64,
    pub start_ms: f64,
    /// The same to the agent's own "ready".
    pub ready_tiny_ms: f64,
    pub ready_ms: f64,
    /// The agent's own figure of the first plan (`plan_apply_us` of `underpass status`).
    pub first_apply_ms: f64,
    /// With one service, with all, and after the connects and changes of this benchmark.
    pub memory_tiny: Memory,
    pub memory: Memory,
    pub memory_after: Memory,
    pub maps_bytes: u64,
    pub maps: Vec<MapUse>,
    /// Milliseconds from the rename of a file to the return of the first connect that used it.
    pub changes_ms: Vec<f64>,
    /// The agent's own figure of the last change.
    pub change_apply_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct MapUse {
    pub name: String,
    pub used: u64,
    pub capacity: u64,
    pub bytes: u64,
}

pub fn run(changes: u32, progress: &mut dyn FnMut(&str)) -> Result<PlanReport> {
    progress("one service: starting");
    let lab = Lab::new(Wire::Loopback)?;
    write(&lab, 0)?;
    let (rig, start_tiny_ms) = start(lab)?;
    let ready_tiny_ms = millis(rig.agent()?.ready_after);
    let memory_tiny = rig.agent()?.memory()?;
    drop(rig);

    progress("writing 1,000 services, 10,000 endpoints, 10,000 workloads");
    let lab = Lab::new(Wire::Loopback)?;
    let yaml_bytes = write(&lab, SIZE.services)?;
    progress(&format!("{yaml_bytes} bytes of YAML: starting"));
    let (mut rig, start_ms) = start(lab)?;
    let status = rig.agent()?.without_errors()?;
    let memory = rig.agent()?.memory()?;
    prove(&mut rig)?;
    let maps = maps(&status)?;
    progress("one endpoint changes, again and again");
    let changes_ms = (0..=changes)
        .map(|n| change(&mut rig, n))
        .collect::<Result<Vec<f64>>>()?;
    let after = rig.agent()?.without_errors()?;
    Ok(PlanReport {
        format: "underpass-bench-plan/1",
        environment: Environment::read(),
        services: SIZE.services,
        endpoints: SIZE.total(),
        workloads: SIZE.total(),
        yaml_bytes,
        start_tiny_ms,
        start_ms,
        ready_tiny_ms,
        ready_ms: millis(rig.agent()?.ready_after),
        first_apply_ms: number(&status, "plan_apply_us")? / 1e3,
        memory_tiny,
        memory,
        memory_after: rig.agent()?.memory()?,
        maps_bytes: maps.iter().map(|m| m.bytes).sum(),
        maps,
        // The first change also warms up.
        changes_ms: changes_ms[1..].to_vec(),
        change_apply_ms: number(&after, "plan_apply_us")? / 1e3,
    })
}

/// Starts the agent while a client tries a service; milliseconds until it got through.
fn start(lab: Lab) -> Result<(Rig, f64)> {
    let mut rig = Rig::without_agent(lab, Cpus::Any)?;
    watch(&mut rig, 0, 60.0)?;
    let begin = generator::now();
    rig.turn(Way::Mesh)?;
    let (took, _) = watched(&mut rig, begin, 60.0)?;
    rig.agent()?.without_errors()?;
    Ok((rig, took))
}

/// Lets the client connect to the changing service until its endpoint of change `n` answers.
fn watch(rig: &mut Rig, n: u32, seconds: f64) -> Result<()> {
    rig.on.server.tally(true)?;
    rig.on.client.tell(&Command::Watch {
        target: SocketAddrV4::new(CHANGING, SERVICE_PORT),
        wanted: ENDPOINTS[n as usize % 2],
        seconds,
        rest_us: 500,
    })
}

/// Milliseconds from `begin` to the return of that connect.
fn watched(rig: &mut Rig, begin: Duration, seconds: f64) -> Result<(f64, Watched)> {
    let watched = match rig
        .on
        .client
        .answer(Duration::from_secs_f64(seconds + 5.0))?
    {
        Answer::Watched(watched) => watched,
        other => return Err(rig.on.client.unexpected(&other)),
    };
    rig.on.server.tally(false)?;
    let took = Duration::from_nanos(watched.after_ns).saturating_sub(begin);
    Ok((millis(took), watched))
}

/// Every endpoint of the `services` is a pod of another node; the server answers for all of them.
fn write(lab: &Lab, services: u32) -> Result<u64> {
    let dir = lab.mesh_dir();
    let mut bytes = 0;
    let mut put = |name: &str, text: &str| {
        bytes += text.len() as u64;
        manifests::put(&dir, name, text)
    };
    put(
        "parties.yaml",
        &manifests::parties(lab, &ENDPOINTS, Callers::Everybody, Workers::None),
    )?;
    let total = services * SIZE.endpoints;
    let all: Vec<Ipv4Addr> = (0..total)
        .map(|i| *SIZE.endpoints(POD_BASE).at(i).ip())
        .collect();
    for (i, endpoints) in all.chunks(SIZE.endpoints as usize).enumerate() {
        let name = format!("service-{i}");
        let address = *SIZE.services().at(i as u32).ip();
        put(
            &format!("{name}.yaml"),
            &manifests::service(&name, address, endpoints),
        )?;
    }
    for (i, addresses) in all.chunks(PODS_PER_FILE as usize).enumerate() {
        let pod = |(n, address): (usize, &Ipv4Addr)| {
            manifests::pod(&format!("pod-{i}-{n}"), &format!("node-{i}"), *address)
        };
        let text: String = addresses.iter().enumerate().map(pod).collect();
        put(&format!("pods-{i}.yaml"), &text)?;
    }
    put("changing.yaml", &changing(0))?;
    Ok(bytes)
}

fn changing(n: u32) -> String {
    manifests::service("changing", CHANGING, &[ENDPOINTS[n as usize % 2]])
}

/// The plan is in the maps: connects to random services spread over their endpoints.
fn prove(rig: &mut Rig) -> Result<()> {
    let dials = 5_000;
    let found = rig.on.reached(SIZE.services(), Order::Random, dials)? as f64;
    let all = f64::from(SIZE.total());
    let expected = all * (1.0 - (-f64::from(dials) / all).exp());
    if found >= 0.9 * expected {
        return Ok(());
    }
    let why = format!("{dials} connects reached {found} endpoints, {expected:.0} expected");
    Err(BenchError::Setup(why))
}

/// Changes the endpoint while a client connects in a loop; milliseconds until it got there.
fn change(rig: &mut Rig, n: u32) -> Result<f64> {
    let next = n + 1;
    watch(rig, next, SEEN_WITHIN)?;
    // Long enough for the agent to be asleep again, and not in step with its timers.
    std::thread::sleep(Duration::from_micros(30_000 + 7_919 * u64::from(n % 10)));
    let begin = generator::now();
    manifests::put(&rig.lab.mesh_dir(), "changing.yaml", &changing(next))?;
    let (
        took,
        Watched {
            errors, connects, ..
        },
    ) = watched(rig, begin, SEEN_WITHIN)?;
    if errors > 0 {
        let why = format!("{errors} of {connects} connects failed during a change");
        return Err(BenchError::Row {
            case: "changed endpoint".into(),
            why,
        });
    }
    Ok(took)
}

fn maps(status: &Value) -> Result<Vec<MapUse>> {
    let maps = status["maps"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut found = Vec::new();
    for map in maps {
        found.push(MapUse {
            name: map["name"].as_str().unwrap_or_default().to_owned(),
            used: number(map, "used")? as u64,
            capacity: number(map, "capacity")? as u64,
            bytes: number(map, "bytes")? as u64,
        });
    }
    if found.is_empty() {
        return Err(BenchError::Agent("status lists no maps".into()));
    }
    Ok(found)
}

fn number(value: &Value, field: &str) -> Result<f64> {
    value[field]
        .as_f64()
        .ok_or_else(|| BenchError::Agent(format!("status has no {field}")))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub fn text(report: &PlanReport) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut sorted = report.changes_ms.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |q| stats::quantile(&sorted, q).unwrap_or_default();
    let mut text = format!(
        "{} services, {} endpoints, {} workloads; {:.1} MiB of YAML; {} build of {}\n\n",
        report.services,
        report.endpoints,
        report.workloads,
        mib(report.yaml_bytes),
        report.environment.build,
        report.environment.commit,
    );
    text += &format!(
        "agent start to first use    {:.1} ms (one service: {:.1} ms)\n\
         YAML files to maps          {:.1} ms, the difference\n\
         agent start to ready        {:.1} ms (one service: {:.1} ms)\n\
         layout and maps             {:.1} ms, the agent's own figure (plan_apply_us)\n\
         changed endpoint in use     median {:.2} ms, p90 {:.2}, max {:.2} of {} changes; no errors\n\
         layout and maps of a change {:.2} ms, the agent's own figure\n\
         map memory                  {:.1} MiB\n",
        report.start_ms,
        report.start_tiny_ms,
        report.start_ms - report.start_tiny_ms,
        report.ready_ms,
        report.ready_tiny_ms,
        report.first_apply_ms,
        at(0.5),
        at(0.9),
        at(1.0),
        sorted.len(),
        report.change_apply_ms,
        mib(report.maps_bytes),
    );
    for (when, memory) in [
        ("one service", report.memory_tiny),
        ("all", report.memory),
        ("all, after connects", report.memory_after),
    ] {
        let Memory {
            rss,
            pss,
            anonymous,
        } = memory;
        text += &format!(
            "agent memory, {when:<20} RSS {:>5.1} MiB, PSS {:>5.1}, heap and stacks {:>5.1}\n",
            mib(rss),
            mib(pss),
            mib(anonymous),
        );
    }
    for map in &report.maps {
        let MapUse {
            name,
            used,
            capacity,
            bytes,
        } = map;
        text += &format!(
            "  {name:<14} {used:>7} of {capacity:>8}  {:>8.2} MiB\n",
            mib(*bytes)
        );
    }
    text
}

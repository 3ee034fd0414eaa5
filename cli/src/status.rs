//! `underpass status`: what the agent says about itself and its node.

use std::collections::BTreeMap;

use serde::Serialize;
use underpass_api::v1alpha1 as api;

use crate::{
    client::Client,
    error::CliError,
    options::{Format, Status},
    render::{self, Align, Cell, Look, Table, Tone},
    row::some,
};

mod workers;

use workers::Workers;

/// A map fuller than this is shown without being asked for, in percent.
const FULL_FROM: u64 = 50;
/// Fuller than this, a map is a worry.
const NEARLY_FULL: u64 = 80;

#[derive(Debug, Serialize)]
struct Document {
    node: String,
    version: String,
    state: String,
    uptime_ms: u64,
    plan_version: u64,
    plan_age_ms: u64,
    plan_apply_us: u64,
    default_policy: String,
    cgroup_root: String,
    pin_dir: String,
    mesh_dir: String,
    problems: Vec<Problem>,
    features: Vec<Feature>,
    maps: Vec<Map>,
    counters: BTreeMap<String, u64>,
    workloads: Vec<Workload>,
    workers: Workers,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub code: String,
    pub name: String,
    pub severity: String,
    pub message: String,
    pub hint: Option<String>,
    #[serde(rename = "where")]
    pub place: Option<String>,
}

#[derive(Debug, Serialize)]
struct Feature {
    name: String,
    on: bool,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Map {
    name: String,
    used: u64,
    capacity: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Workload {
    name: String,
    identity: Option<String>,
    addresses: Vec<String>,
    found_by: Option<String>,
    state: String,
}

/// True if the node is as it should be.
pub async fn run(options: &Status) -> Result<bool, CliError> {
    let mut client = Client::connect(&options.api.path).await?;
    let status = Document::from(client.status().await?);
    let text = match options.output.output {
        Format::Table => text(&status, false, Look::of_stdout(true)),
        Format::Wide => text(&status, true, Look::of_stdout(true)),
        Format::Json => render::json(&status),
        Format::Yaml => render::yaml(&status),
    };
    render::emit(&text)?;
    Ok(status.state == "ready" && !status.problems.iter().any(Problem::is_error))
}

fn text(status: &Document, wide: bool, look: Look) -> String {
    let mut sections = vec![head(status)];
    sections.push(workers::table(&status.workers, look));
    sections.push(features(&status.features, look));
    sections.push(maps(&status.maps, wide, look));
    sections.push(counters(&status.counters, look));
    if wide {
        sections.push(workloads(&status.workloads, look));
    }
    sections.push(status.problems.iter().map(|p| p.text(look)).collect());
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

fn head(status: &Document) -> String {
    let plan = format!(
        "version {}, {} old, applied in {}",
        status.plan_version,
        render::millis(status.plan_age_ms),
        render::micros(status.plan_apply_us),
    );
    render::pairs(&[
        ("node", status.node.clone()),
        ("state", status.state.clone()),
        ("version", status.version.clone()),
        ("uptime", render::millis(status.uptime_ms)),
        ("plan", plan),
        ("default policy", status.default_policy.clone()),
        ("workloads", workload_counts(&status.workloads)),
        ("workers", status.workers.text()),
        ("maps", fullest(&status.maps)),
        ("problems", problem_counts(&status.problems)),
        ("cgroup root", status.cgroup_root.clone()),
        ("pins", status.pin_dir.clone()),
    ])
}

fn workload_counts(workloads: &[Workload]) -> String {
    let mut by_state = BTreeMap::<&str, usize>::new();
    for workload in workloads {
        *by_state.entry(&workload.state).or_default() += 1;
    }
    if by_state.is_empty() {
        return "none".to_owned();
    }
    let parts: Vec<String> = by_state
        .iter()
        .map(|(state, n)| format!("{n} {state}"))
        .collect();
    parts.join(", ")
}

/// `none`, or how many are listed below.
fn problem_counts(problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|p| p.is_error()).count();
    match (errors, problems.len() - errors) {
        (0, 0) => "none".to_owned(),
        (errors, warnings) => format!("errors: {errors}, warnings: {warnings}"),
    }
}

fn fullest(maps: &[Map]) -> String {
    let bytes = render::bytes(maps.iter().map(|m| m.bytes).sum());
    let fullness = |m: &&Map| {
        let parts = u128::from(m.used) * 1_000_000;
        parts.checked_div(m.capacity.into()).unwrap_or(0)
    };
    match maps.iter().max_by_key(fullness) {
        None => "none".to_owned(),
        Some(m) => {
            let full = render::percent(m.used, m.capacity);
            format!("{bytes}, the fullest is {} ({full})", m.name)
        }
    }
}

fn features(features: &[Feature], look: Look) -> String {
    if features.is_empty() {
        return String::new();
    }
    let columns = [
        ("FEATURE", Align::Left),
        ("STATE", Align::Left),
        ("REASON", Align::Left),
    ];
    let mut table = Table::new(&columns, look);
    for f in features {
        let (state, tone) = if f.on {
            ("on", Tone::Good)
        } else {
            ("off", Tone::Warn)
        };
        let reason = f.reason.as_deref().unwrap_or_default();
        table.push(vec![
            Cell::new(&f.name),
            Cell::toned(state, tone),
            Cell::new(reason),
        ]);
    }
    table.take()
}

fn maps(maps: &[Map], wide: bool, look: Look) -> String {
    let shown: Vec<&Map> = maps
        .iter()
        .filter(|m| wide || m.percent() > FULL_FROM)
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    let columns = [
        ("MAP", Align::Left),
        ("USED", Align::Right),
        ("CAPACITY", Align::Right),
        ("FULL", Align::Right),
        ("MEMORY", Align::Right),
    ];
    let mut table = Table::new(&columns, look);
    for m in shown {
        let tone = if m.percent() > NEARLY_FULL {
            Tone::Bad
        } else {
            Tone::Plain
        };
        table.push(vec![
            Cell::new(&m.name),
            Cell::new(m.used.to_string()),
            Cell::new(m.capacity.to_string()),
            match m.capacity {
                // Socket storage has no bound of its own.
                0 => Cell::new("-(NOT_OBSERVED)"),
                capacity => Cell::toned(render::percent(m.used, capacity), tone),
            },
            Cell::new(render::bytes(m.bytes)),
        ]);
    }
    table.take()
}

fn counters(counters: &BTreeMap<String, u64>, look: Look) -> String {
    let shown: Vec<_> = counters.iter().filter(|(_, value)| **value > 0).collect();
    if shown.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[("COUNTER", Align::Left), ("VALUE", Align::Right)], look);
    for (name, value) in shown {
        table.push(vec![Cell::new(name), Cell::new(value.to_string())]);
    }
    table.take()
}

fn workloads(workloads: &[Workload], look: Look) -> String {
    if workloads.is_empty() {
        return String::new();
    }
    let columns = ["WORKLOAD", "STATE", "FOUND_BY", "ADDRESSES", "IDENTITY"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)), look);
    for w in workloads {
        let tone = if w.state == "missing" {
            Tone::Warn
        } else {
            Tone::Plain
        };
        table.push(vec![
            Cell::new(&w.name),
            Cell::toned(&w.state, tone),
            Cell::new(w.found_by.as_deref().unwrap_or(match w.state.as_str() {
                "unmeshed" => "-(NOT_ENROLLED)",
                _ => "-(NOT_OBSERVED)",
            })),
            Cell::new(w.addresses.join(",")),
            Cell::new(w.identity.as_deref().unwrap_or("-(NOT_ENROLLED)")),
        ]);
    }
    table.take()
}

impl Map {
    fn percent(&self) -> u64 {
        self.used
            .saturating_mul(100)
            .checked_div(self.capacity)
            .unwrap_or(0)
    }
}

impl Problem {
    pub fn is_error(&self) -> bool {
        self.severity == "error"
    }

    /// `✗ UP0303 BAD_FIELD where: message`, and the hint below.
    pub fn text(&self, look: Look) -> String {
        let (mark, tone) = if self.is_error() {
            ("✗", Tone::Bad)
        } else {
            ("!", Tone::Warn)
        };
        let place = match &self.place {
            Some(place) => format!(" {place}"),
            None => String::new(),
        };
        let line = format!("{} {}{place}: {}", self.code, self.name, self.message);
        let mut text = format!(
            "{} {}\n",
            tone.paint(mark, look.color),
            render::printable(&line)
        );
        if let Some(hint) = &self.hint {
            text.push_str(&format!("  try: {}\n", render::printable(hint)));
        }
        text
    }
}

impl From<api::Problem> for Problem {
    fn from(p: api::Problem) -> Self {
        Self {
            code: p.code,
            name: p.name,
            severity: p.severity,
            message: p.message,
            hint: some(p.hint),
            place: some(p.r#where),
        }
    }
}

impl From<api::Status> for Document {
    fn from(s: api::Status) -> Self {
        let features = s.features.into_iter().map(|f| Feature {
            name: f.name,
            on: f.on,
            reason: some(f.reason),
        });
        let maps = s.maps.into_iter().map(|m| Map {
            name: m.name,
            used: m.used,
            capacity: m.capacity,
            bytes: m.bytes,
        });
        let workloads = s.workloads.into_iter().map(|w| Workload {
            name: w.name,
            identity: some(w.identity),
            addresses: w.addresses,
            found_by: some(w.found_by),
            state: w.state,
        });
        Self {
            node: s.node,
            version: s.version,
            state: s.state,
            uptime_ms: s.uptime_ms,
            plan_version: s.plan_version,
            plan_age_ms: s.plan_age_ms,
            plan_apply_us: s.plan_apply_us,
            default_policy: s.default_policy,
            cgroup_root: s.cgroup_root,
            pin_dir: s.pin_dir,
            mesh_dir: s.mesh_dir,
            problems: s.problems.into_iter().map(Problem::from).collect(),
            features: features.collect(),
            maps: maps.collect(),
            counters: s.counters.into_iter().collect(),
            workloads: workloads.collect(),
            workers: s.workers_http.map(Workers::from).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;

//! What `GetStatus` shows: the node, its plan, and everything that a user should look at.

use underpass_abi::{reason::code, sock::counter};
use underpass_api::v1alpha1 as api;

use crate::{
    control::Control,
    kernel::{MapUse, checks},
    problem::Problem,
};

/// Problems that are shown, at most.
pub const MAX_PROBLEMS: usize = 1_000;

impl Control {
    pub fn status(&mut self) -> api::Status {
        // What is shown holds now.
        self.kernel.watch_splice();
        let problems = self.problems();
        // One line for each workload, which are many.
        self.give_back = true;
        api::Status {
            node: self.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            plan_version: self.applied.map_or(0, |a| a.version),
            plan_age_ms: self
                .applied
                .map_or(0, |a| a.at.elapsed().as_millis() as u64),
            plan_apply_us: self.applied.map_or(0, |a| a.took.as_micros() as u64),
            state: match self.ready() {
                Ok(()) => "ready".into(),
                Err(reason) => reason,
            },
            problems: problems.iter().map(Problem::to_api).collect(),
            features: self.features(),
            maps: self
                .map_use()
                .into_iter()
                .map(|m| api::MapUse {
                    name: m.name.into(),
                    used: m.used,
                    capacity: m.capacity,
                    bytes: m.bytes,
                })
                .collect(),
            counters: self.counters(),
            workloads: self.workloads(),
            cgroup_root: self.kernel.cgroup().path().display().to_string(),
            pin_dir: self.kernel.options().pin_dir.display().to_string(),
            default_policy: self.default_policy.name().into(),
            workers_http: Some(self.workers_status()),
            // Who asks may be elsewhere.
            mesh_dir: std::path::absolute(self.watch.dir())
                .unwrap_or_default()
                .display()
                .to_string(),
        }
    }

    /// The kernel counts elements of hashes, the layout those of arrays.
    pub fn map_use(&self) -> Vec<MapUse> {
        let mut all = self.kernel.map_use();
        for (name, used) in self.tables.in_use() {
            if let Some(map) = all.iter_mut().find(|m| m.name == name) {
                map.used = used.into();
            }
        }
        all
    }

    /// `Err` with the reason while no plan is in force, or not the newest.
    pub fn ready(&self) -> Result<(), String> {
        match (self.failures.get("plan"), &self.applied) {
            (Some(problem), _) => Err(problem.to_string()),
            (None, Some(_)) => Ok(()),
            (None, None) => Err("starting".into()),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.failures.values().cloned().collect();
        problems.extend(self.watch.problems().cloned());
        problems.extend(self.model.check().iter().map(of_model));
        problems.extend(self.discovery.problems());
        problems.extend(self.worker_problems());
        let foreign = checks::foreign(self.kernel.cgroup());
        if !foreign.is_empty() {
            let text = foreign.join(", ");
            problems.push(Problem::warning(code::CONFLICT, text, "conflicts"));
        }
        shown(problems)
    }

    fn features(&self) -> Vec<api::Feature> {
        let features = self.kernel.features().into_iter();
        features
            .map(|f| api::Feature {
                name: f.name.into(),
                on: f.on,
                reason: match f.code {
                    0 => f.detail,
                    code => crate::problem::coded(code, &f.detail),
                },
            })
            .collect()
    }

    fn counters(&self) -> std::collections::BTreeMap<String, u64> {
        let kernel = self.kernel.counters().unwrap_or([0; counter::COUNT]);
        let mut counters: std::collections::BTreeMap<String, u64> = counter::NAMES
            .iter()
            .map(ToString::to_string)
            .zip(kernel)
            .collect();
        counters.insert("rows_dropped".into(), self.table.dropped());
        counters.insert("log_lines_dropped".into(), crate::log::dropped());
        counters.insert("connections_destroyed".into(), self.counts.destroyed);
        counters.insert(
            "connections_not_destroyed".into(),
            self.counts.not_destroyed,
        );
        counters.insert("shortcut_resets".into(), self.counts.shortcut_resets);
        counters.insert(
            "shortcut_resets_failed".into(),
            self.counts.shortcut_resets_failed,
        );
        counters.insert("shortcut_unread_resets".into(), self.counts.unread_resets);
        counters.insert("shortcut_unread_lost".into(), self.counts.unread_lost);
        counters.insert(
            "older_connections_left_out".into(),
            self.counts.older_left_out,
        );
        counters.insert("plans_failed".into(), self.counts.plans_failed);
        let workers = self.worker_counters();
        counters.extend(
            workers
                .map(|(name, _, value)| (name.trim_start_matches("underpass_").to_owned(), value)),
        );
        counters
    }

    fn workloads(&self) -> Vec<api::WorkloadStatus> {
        let workloads = self.plan.workloads().iter();
        workloads
            .map(|w| {
                let found_by = self.discovery.found_by(&w.full_name);
                let state = match &found_by {
                    _ if !w.enrolled() => "unmeshed",
                    Some(Some(_)) => "local",
                    Some(None) => "missing",
                    None => "remote",
                };
                api::WorkloadStatus {
                    name: w.full_name.to_string(),
                    identity: w.identity.to_string(),
                    addresses: w.addresses.iter().map(ToString::to_string).collect(),
                    found_by: found_by.flatten().unwrap_or_default(),
                    state: state.into(),
                }
            })
            .collect()
    }
}

/// Errors first; of too many, the last entry says how many more there are.
fn shown(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|p| !p.error);
    if problems.len() <= MAX_PROBLEMS {
        return problems;
    }
    let more = problems.split_off(MAX_PROBLEMS);
    let errors = more.iter().filter(|p| p.error).count();
    problems.push(Problem {
        code: code::MORE_PROBLEMS,
        message: format!(
            "{errors} more errors, {} more warnings",
            more.len() - errors
        ),
        place: String::new(),
        error: errors > 0,
    });
    problems
}

fn of_model(p: &underpass_mesh::Problem) -> Problem {
    let mut place = p.file.to_string();
    if p.line > 0 {
        place = format!("{place}:{}", p.line);
    }
    if !p.field.is_empty() {
        place = format!("{place} {}", p.field);
    }
    Problem {
        code: p.code,
        message: p.message.clone(),
        place,
        error: p.is_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_problems_the_errors_are_shown() {
        let some = |errors: usize, warnings: usize| {
            let warning = Problem::warning(code::CGROUP_MISSING, "w", "");
            let mut all = vec![warning; warnings];
            all.extend(vec![Problem::error(code::BAD_YAML, "e", ""); errors]);
            shown(all)
        };
        assert_eq!(some(400, 600).len(), MAX_PROBLEMS);
        let of_warnings = some(1, MAX_PROBLEMS + 8);
        assert_eq!(of_warnings.len(), MAX_PROBLEMS + 1);
        assert!(of_warnings[0].error && !of_warnings[1].error);
        let last = &of_warnings[MAX_PROBLEMS];
        assert_eq!(
            last.to_string(),
            "UP0420 MORE_PROBLEMS: 0 more errors, 9 more warnings. Try: mend those that are shown \
             first; `underpass check -f DIR` lists all of a directory"
        );
        assert!(!last.error);
        let of_errors = some(MAX_PROBLEMS + 2, 3);
        let last = &of_errors[MAX_PROBLEMS];
        assert_eq!(last.message, "2 more errors, 3 more warnings");
        assert!(last.error && of_errors.iter().all(|p| p.error));
    }
}

//! Real programs through the shortcut: each scenario runs over TCP and with the shortcut, what the
//! programs give is compared, and the mesh says of each leg whether it took the shortcut or why not.

pub mod fixture;
pub mod legs;
pub mod needs;
pub mod report;
pub mod stage;
pub mod table;
pub mod tools;

mod go;
mod haproxy;
mod java;
mod load;
mod nginx;
mod postgres;
mod redis;
mod script;
mod tokio;

use crate::Result;
use stage::Stage;

pub struct Scenario {
    /// As in the table.
    pub name: &'static str,
    pub run: fn(&mut Stage) -> Result<()>,
}

const fn scenario(name: &'static str, run: fn(&mut Stage) -> Result<()>) -> Scenario {
    Scenario { name, run }
}

/// In the order in which they run.
pub fn scenarios() -> Vec<&'static Scenario> {
    [
        redis::SCENARIOS,
        postgres::SCENARIOS,
        nginx::SCENARIOS,
        haproxy::SCENARIOS,
        load::SCENARIOS,
        go::SCENARIOS,
        java::SCENARIOS,
        script::SCENARIOS,
        tokio::SCENARIOS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_its_row_and_every_row_its_scenario() {
        let names: Vec<&str> = scenarios().iter().map(|s| s.name).collect();
        let rows: Vec<&str> = table::ROWS.iter().map(|r| r.name).collect();
        assert_eq!(names, rows);
    }
}

//! Runs every scenario over TCP and with the shortcut, and compares.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use clap::Args;

use super::{
    Scenario,
    fixture::Fixture,
    legs,
    needs::{self, Here},
    scenarios,
    stage::{Shared, Stage},
    table,
};
use crate::{Failure, Result};

#[derive(Args)]
pub struct RunArgs {
    /// Part of the names of the scenarios to run.
    #[arg(long, default_value = "")]
    only: String,
    /// Runs of the whole.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Shows the facts that were compared.
    #[arg(long)]
    verbose: bool,
}

/// Programs that may be missing, `name: reason` each.
const MISSING: &str = "tests/missing-programs.txt";
/// The first scenario's port; each next one has [`PORTS`] more, so that rows are told apart.
const BASE: u16 = 9_000;
/// The second one is where a program that splices is taught a lesson.
const PORTS: u16 = 2;

type Facts = BTreeMap<String, String>;

pub fn run(args: &RunArgs) -> Result<()> {
    let listed = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../")
            .join(MISSING),
    );
    let listed = needs::listed(&listed?)?;
    let fixtures = [Fixture::new(false)?, Fixture::new(true)?];
    let shared = Shared::new(&fixtures[0].lab.dir.join("shared"))?;
    let (mut ran, mut skipped, mut problems) = (0, 0, Vec::new());
    let mut next = BASE;
    for _ in 0..args.repeat {
        for scenario in scenarios() {
            let row = table::row(scenario.name)
                .ok_or_else(|| Failure(format!("{} is not in the table", scenario.name)))?;
            if !row.name.contains(&args.only) {
                continue;
            }
            let port = next;
            next += PORTS;
            let found = match needs::check(row.needs, &listed) {
                Here::All(versions) => {
                    ran += 1;
                    println!("{}: {}", row.name, versions.join(", "));
                    both(&fixtures, &shared, scenario, row, port, args.verbose)
                }
                Here::Skip(why) => {
                    skipped += 1;
                    println!("{}: skipped: {why}", row.name);
                    Vec::new()
                }
                Here::Missing(why) => vec![why],
            };
            for problem in found {
                println!("  {problem}");
                problems.push(format!("{}: {problem}", row.name));
            }
        }
    }
    println!(
        "{ran} scenarios over both paths, {skipped} skipped, {} problems",
        problems.len()
    );
    for problem in &problems {
        println!("  {problem}");
    }
    match problems.len() {
        0 if ran > 0 => Ok(()),
        0 => Err(Failure::new("nothing ran")),
        n => Err(Failure(format!("{n} problems"))),
    }
}

/// One scenario over both paths; what is wrong.
fn both(
    fixtures: &[Fixture; 2],
    shared: &Shared,
    scenario: &Scenario,
    row: &table::Row,
    port: u16,
    verbose: bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    let mut facts = Vec::new();
    for fixture in fixtures {
        let path = if fixture.shortcut { "shortcut" } else { "tcp" };
        let start = Instant::now();
        let result = play(fixture, shared, scenario, port);
        println!("  {path}: {:.1} s", start.elapsed().as_secs_f64());
        match result {
            Ok((found, notes)) => {
                for note in notes {
                    println!("    {note}");
                }
                facts.push(found);
            }
            Err(why) => problems.push(format!("{path}: {why}")),
        }
        for leg in row.legs {
            let (seen, wrong) = legs::check(fixture, leg, port);
            println!("    {} to {}: {seen}", leg.from, leg.to);
            problems.extend(wrong.map(|w| format!("{path}: {w}")));
        }
    }
    if verbose {
        for (name, value) in facts.iter().flatten() {
            println!("    {name} = {value}");
        }
    }
    if let [tcp, here] = &facts[..] {
        problems.extend(against(row, differences(tcp, here)));
    }
    problems
}

/// Differences that are not listed; a listed one that is none is a problem as well.
fn against(row: &table::Row, differences: Vec<String>) -> Vec<String> {
    match row.differs {
        "" => differences,
        what if differences.is_empty() => vec![format!("equal, but listed as different: {what}")],
        what => {
            println!("    differs, as listed: {what}");
            Vec::new()
        }
    }
}

fn play(
    fixture: &Fixture,
    shared: &Shared,
    scenario: &Scenario,
    port: u16,
) -> Result<(Facts, Vec<String>)> {
    let mut stage = Stage::new(fixture, shared, port)?;
    (scenario.run)(&mut stage)?;
    Ok(stage.finish())
}

/// Facts that differ. No facts at all prove nothing.
fn differences(tcp: &Facts, here: &Facts) -> Vec<String> {
    if tcp.is_empty() {
        return vec!["nothing was compared".to_owned()];
    }
    let names: std::collections::BTreeSet<&String> = tcp.keys().chain(here.keys()).collect();
    let absent = "absent".to_owned();
    let differs = |name: &&String| tcp.get(*name) != here.get(*name);
    names
        .into_iter()
        .filter(differs)
        .map(|name| {
            let of = |facts: &Facts| facts.get(name).unwrap_or(&absent).clone();
            format!("{name} differs: tcp {}, shortcut {}", of(tcp), of(here))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(pairs: &[(&str, &str)]) -> Facts {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn another_value_and_an_absent_one_differ() {
        let tcp = facts(&[("a", "1"), ("b", "2")]);
        assert!(differences(&tcp, &tcp).is_empty());
        assert_eq!(
            differences(&tcp, &facts(&[("a", "1"), ("b", "3")])).len(),
            1
        );
        assert_eq!(differences(&tcp, &facts(&[("a", "1")])).len(), 1);
        assert_eq!(differences(&facts(&[("a", "1")]), &tcp).len(), 1);
    }

    #[test]
    fn no_facts_are_no_success() {
        assert_eq!(differences(&facts(&[]), &facts(&[])).len(), 1);
    }
}

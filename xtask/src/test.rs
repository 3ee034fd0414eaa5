//! `test`: everything that must hold, from a fresh clone; ends with one line of totals.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::Duration,
};

use crate::{
    Result, ebpf,
    flags::{Flag, Flags, Verb},
    process::{self, step, step_lines},
    setup, tidy, verify, vm, workspace,
};

pub const VERB: Verb = Verb {
    name: "test",
    about: "format, lints, all tests (needs root), verify, tidy, licenses, one other kernel",
    flags: &[
        Flag {
            name: "--equivalence",
            value: None,
            help: "only what applications see over the shortcut, compared with TCP",
        },
        Flag {
            name: "--programs",
            value: None,
            help: "only real programs over the shortcut, compared with TCP",
        },
        Flag {
            name: "--soak",
            value: Some("BYTES"),
            help: "only random schedules over the shortcut until so many bytes were checked",
        },
        Flag {
            name: "--seed",
            value: Some("N"),
            help: "of the soak; replays a failure",
        },
    ],
    rest: None,
    run,
};

/// Tests that may be skipped, `name: reason` each.
const SKIPPED: &str = "tests/skipped.txt";
/// The program of the equivalence suite and the soak.
const SUITE: &str = "underpass-equivalence";
const PROGRAMS: &str = "underpass-programs";
/// The other kernel of each run.
const KERNEL: &str = "6.12";
const MINUTES: fn(u64) -> Duration = |n| Duration::from_secs(60 * n);

#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    why: Vec<String>,
    skipped: BTreeSet<String>,
}

fn run(flags: &Flags) -> Result<()> {
    let mut tally = Tally::default();
    let parts = ["--equivalence", "--programs", "--soak"];
    let complete = if parts.iter().any(|part| flags.has(part)) {
        shortcut(&mut tally, flags)
    } else {
        all(&mut tally)
    };
    if let Err(why) = complete {
        tally.count(Err(why));
    }
    println!();
    for why in &tally.why {
        println!("FAILED {why}");
    }
    // The last line of CI's log.
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 {
        Ok(())
    } else {
        std::process::exit(1)
    }
}

/// Err only for what the following steps cannot do without.
fn all(tally: &mut Tally) -> Result<()> {
    setup::build_tools()?;
    setup::peers()?;
    ebpf::build_second()?;
    ebpf::build_default()?;
    let cargo = |args: &[&str]| process::cargo(args);
    tally.count(step(
        "format",
        &mut cargo(&["fmt", "--all", "--", "--check", "-l"]),
        MINUTES(2),
    ));
    tally.count(step("build", &mut cargo(&["build"]), MINUTES(30)));
    let clippy = ["clippy", "--all-targets", "--", "--deny", "warnings"];
    tally.count(step("clippy", &mut cargo(&clippy), MINUTES(20)));
    // One selection of packages, so that nothing is compiled twice with other features. Cargo runs
    // the packages in the order of their names: the unit tests come before `tests/`.
    let limit = MINUTES(30);
    let built = step(
        "build tests",
        &mut cargo(&["test", "--no-run", "--quiet"]),
        limit,
    );
    if let Err(why) = built {
        tally.count(Err(why));
    } else {
        tests(tally, &mut cargo(&["test", "--no-fail-fast"]), limit);
        tally.count(verify::check());
    }
    tally.count(tidy::check().map(|_| ()));
    other_kernel(tally)?;
    deny(tally)?;
    skipped(tally)
}

/// The mesh on a kernel that is not this one's. A package that cannot be fetched is a failure, unless
/// the list says that it need not be tried.
fn other_kernel(tally: &mut Tally) -> Result<()> {
    let name = format!("vm {KERNEL}");
    let text = fs::read_to_string(workspace::root().join(SKIPPED)).unwrap_or_default();
    if listed(&text)?.contains_key(name.as_str()) {
        tally.skipped.insert(name);
    } else {
        tally.count(vm::check(KERNEL));
    }
    Ok(())
}

/// The parts that can be asked for alone.
fn shortcut(tally: &mut Tally, flags: &Flags) -> Result<()> {
    setup::build_tools()?;
    ebpf::build_default()?;
    step("build", &mut process::cargo(&["build"]), MINUTES(30))?;
    if flags.has("--equivalence") {
        tally.count(equivalence());
    }
    if flags.has("--programs") {
        tally.count(setup::programs().and_then(|()| programs()));
    }
    if let Some(bytes) = flags.get("--soak") {
        tally.count(soak(bytes, flags.get("--seed")));
    }
    Ok(())
}

fn equivalence() -> Result<()> {
    let mut suite = Command::new(workspace::target().join("debug").join(SUITE));
    step("equivalence", suite.arg("run"), MINUTES(15))
}

/// The program fails for a program that is not here, unless `tests/missing-programs.txt` gives a reason.
fn programs() -> Result<()> {
    let mut suite = Command::new(workspace::target().join("debug").join(PROGRAMS));
    suite
        .arg("run")
        .current_dir(workspace::root())
        .env("UNDERPASS_TOOLS", workspace::tools());
    step("programs", &mut suite, MINUTES(20))
}

fn soak(bytes: &str, seed: Option<&str>) -> Result<()> {
    let mut suite = Command::new(workspace::target().join("debug").join(SUITE));
    suite.args(["soak", "--bytes", bytes]);
    if let Some(seed) = seed {
        suite.args(["--seed", seed]);
    }
    // The soak itself ends after a time that follows from the bytes.
    step("soak", &mut suite, MINUTES(24 * 60))
}

fn tests(tally: &mut Tally, cargo: &mut Command, limit: Duration) {
    let mut broken = Vec::new();
    let mut line = |line: &str| {
        if let Some((passed, failed)) = totals(line) {
            tally.passed += passed;
            tally.failed += failed;
        } else if let Some(name) = ignored(line) {
            tally.skipped.insert(name.to_owned());
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            broken.push(format!("test {name}"));
        }
    };
    let result = step_lines("tests", cargo, limit, Some(&mut line));
    let named = !broken.is_empty();
    tally.why.append(&mut broken);
    // A test binary that aborts prints no totals.
    if let Err(why) = result
        && !named
    {
        tally.count(Err(why));
    }
}

fn deny(tally: &mut Tally) -> Result<()> {
    let deny = setup::cargo_deny()?;
    let command = |args: &[&str]| {
        let mut deny = Command::new(&deny);
        deny.args(args).current_dir(workspace::root());
        deny
    };
    let args = [
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ];
    tally.count(step(
        "licenses, bans, sources",
        &mut command(&args),
        MINUTES(5),
    ));
    if step(
        "advisory database",
        &mut command(&["fetch", "db"]),
        Duration::from_secs(60),
    )
    .is_err()
    {
        println!("the advisory database cannot be fetched: advisories were NOT checked");
        return Ok(());
    }
    let args = ["--log-level", "error", "check", "advisories"];
    tally.count(step("advisories", &mut command(&args), MINUTES(5)));
    Ok(())
}

/// A skipped test fails unless it is on the committed list, and so does a listed one that ran.
fn skipped(tally: &mut Tally) -> Result<()> {
    let text = fs::read_to_string(workspace::root().join(SKIPPED)).unwrap_or_default();
    let listed = listed(&text)?;
    for name in tally.skipped.clone() {
        match listed.get(name.as_str()) {
            Some(reason) => println!("skipped: {name}: {reason}"),
            None => tally.count(Err(format!("{name} was skipped and is not in {SKIPPED}"))),
        }
    }
    for name in listed
        .keys()
        .filter(|n| !tally.skipped.contains(**n))
        .collect::<Vec<_>>()
    {
        tally.count(Err(format!("{name} is in {SKIPPED} but was not skipped")));
    }
    Ok(())
}

fn listed(text: &str) -> Result<BTreeMap<&str, &str>> {
    let rows = text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    rows.map(|l| {
        l.split_once(": ")
            .ok_or(format!("{SKIPPED}: no reason: {l}"))
    })
    .collect()
}

/// Of `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
fn totals(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |what: &str| {
        let before = rest.split_once(what)?.0;
        before
            .rsplit([' ', '.'])
            .find(|w| !w.is_empty())?
            .parse()
            .ok()
    };
    Some((number(" passed")?, number(" failed")?))
}

fn ignored(line: &str) -> Option<&str> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    result.starts_with("ignored").then_some(name)
}

impl Tally {
    fn count(&mut self, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => {
                println!("FAILED {why}");
                self.failed += 1;
                self.why.push(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cargo_test_prints() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(totals(line), Some((12, 3)));
        assert_eq!(totals("test a::b ... ok"), None);
        assert_eq!(
            ignored("test a::b ... ignored, needs hardware"),
            Some("a::b")
        );
        assert_eq!(ignored("test a::b ... ok"), None);
    }

    #[test]
    fn a_skip_without_a_reason_is_refused() {
        assert!(listed("# why\na::b: no such kernel\n").is_ok());
        assert!(listed("a::b\n").is_err());
    }

    #[test]
    fn an_unlisted_skip_fails() {
        let mut tally = Tally::default();
        tally.skipped.insert("no::such::test".to_owned());
        skipped(&mut tally).unwrap();
        assert!(tally.failed >= 1);
    }
}

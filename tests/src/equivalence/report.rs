//! Compares the paths with plain TCP and says what differs.

use std::collections::BTreeMap;

use clap::Args;

use super::{
    Path, Takes, cases,
    exceptions::{EXCEPTIONS, Exception},
    fixture::Fixture,
    path,
    play::Outcome,
    transcript::diff,
};
use crate::{Failure, Result};

#[derive(Args)]
pub struct RunArgs {
    /// Paths to compare with plain TCP; all by default. `tcp` twice shows that the cases themselves
    /// are repeatable.
    #[arg(long = "path")]
    paths: Vec<Path>,
    /// Part of the names of the cases to run.
    #[arg(long, default_value = "")]
    only: String,
    /// Only the cases that hold on an emulated machine, whose processors stand still at any moment.
    #[arg(long)]
    core: bool,
    /// Runs of the whole.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Shows whole transcripts.
    #[arg(long)]
    verbose: bool,
}

/// The case on which the control must fail: without it the suite would prove nothing of the mix.
const CONTROL: &str = "mix_edge_short_read";
/// The cases that the control runs: on many others it would only hang, and prove nothing more.
const CONTROL_ONLY: &str = "mix_edge";

#[derive(Default)]
struct Tally {
    equal: usize,
    excepted: usize,
    problems: Vec<String>,
}

pub fn run(args: &RunArgs) -> Result<()> {
    let mut paths = args.paths.clone();
    if paths.is_empty() {
        paths.extend(path::ALL.into_iter().filter(|p| *p != Path::Tcp));
    }
    let tcp = Fixture::new(Path::Tcp)?;
    let others = paths
        .iter()
        .map(|p| Fixture::new(*p))
        .collect::<Result<Vec<Fixture>>>()?;
    let mut failed = 0;
    for round in 0..args.repeat {
        let reference = tcp.play(&args.only, args.core)?;
        if args.verbose {
            show(&reference);
        }
        for other in &others {
            let only = match other.path {
                Path::Control if args.only.is_empty() => CONTROL_ONLY,
                _ => &args.only,
            };
            let outcomes = other.play(only, args.core && other.path != Path::Control)?;
            let tally = compare(other.path, &reference, &outcomes, args);
            if args.repeat > 1 {
                print!("{}: ", round + 1);
            }
            failed += print(other.path, &tally, &outcomes, args.only.is_empty());
        }
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure(format!("{failed} problems")))
    }
}

fn show(outcomes: &[Outcome]) {
    for outcome in outcomes {
        println!("{} ({} ms)", outcome.case, outcome.ms);
        for line in &outcome.lines {
            println!("    {line}");
        }
    }
}

fn exception(path: Path, case: &str) -> Option<&'static Exception> {
    EXCEPTIONS.iter().find(|e| {
        let here = match path {
            Path::Mapped => e.mapped,
            Path::Shortcut => e.shortcut,
            Path::Tcp | Path::Control => false,
        };
        here && e.cases.contains(&case)
    })
}

fn compare(path: Path, tcp: &[Outcome], here: &[Outcome], args: &RunArgs) -> Tally {
    let mut tally = Tally::default();
    let here: BTreeMap<&str, &Outcome> = here.iter().map(|o| (o.case.as_str(), o)).collect();
    let takes: BTreeMap<&str, Takes> = cases().iter().map(|c| (c.name, c.takes)).collect();
    for reference in tcp {
        let name = reference.case.as_str();
        let Some(outcome) = here.get(name) else {
            if path == Path::Control {
                continue;
            }
            tally
                .problems
                .push(format!("{name}: did not run on {path}"));
            continue;
        };
        if args.verbose && path != Path::Tcp {
            show(&[(*outcome).clone()]);
        }
        let differences = diff(&reference.lines, &outcome.lines);
        match (exception(path, name), differences.is_empty()) {
            (None, true) => tally.equal += 1,
            (Some(_), false) => tally.excepted += 1,
            (Some(e), true) => tally.problems.push(format!(
                "{name}: equal, but listed as an exception: {}",
                e.what
            )),
            (None, false) => tally.problems.push(format!(
                "{name}: differs:\n      {}",
                differences.join("\n      ")
            )),
        }
        if path == Path::Shortcut
            && takes.get(name) == Some(&Takes::Shortcut)
            && outcome.counters.redirected == 0
        {
            tally
                .problems
                .push(format!("{name}: nothing was redirected"));
        }
    }
    tally
}

/// One line of totals and the problems; how many there are. `all`: no case was left out.
fn print(path: Path, tally: &Tally, outcomes: &[Outcome], all: bool) -> usize {
    let sum = |f: fn(&Outcome) -> u64| outcomes.iter().map(f).sum::<u64>();
    let (redirected, mixes) = (sum(|o| o.counters.redirected), sum(|o| o.mixes));
    println!(
        "{path}: {} cases, {} equal, {} exceptions, {} different; {redirected} messages redirected, {} \
         stayed on TCP, {mixes} mixes; {:.1} s",
        outcomes.len(),
        tally.equal,
        tally.excepted,
        tally.problems.len(),
        sum(|o| o.counters.stayed),
        sum(|o| o.ms) as f64 / 1000.0,
    );
    if path == Path::Control {
        // Every difference is welcome here; the one that must be there is.
        let fails = tally.problems.iter().any(|p| p.starts_with(CONTROL));
        println!(
            "  the control {} on {CONTROL}",
            if fails { "fails" } else { "does NOT fail" }
        );
        return usize::from(!fails);
    }
    for problem in &tally.problems {
        println!("  {problem}");
    }
    let idle = all && path == Path::Shortcut && (redirected == 0 || mixes == 0);
    if idle {
        println!("  nothing was redirected or no path was changed: the comparison shows nothing");
    }
    tally.problems.len() + usize::from(idle)
}

//! `underpass-bench`: what the mesh costs on this machine, and what others do.
#![forbid(unsafe_code)]

mod options;

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser as _;
use serde::Serialize;
use underpass_bench::{
    BenchError, Context as _, Result,
    cases::{self, Case},
    compare::{self, Options},
    generator::LARGEST,
    lab::Wire,
    limits,
    manifests::WORKLOAD_ADDRESSES,
    plan, programs, report,
    systems::{self, System, rounds},
    way::Way,
};

use options::{Cli, Compare, Comparison, Layout, Verb};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        None => comparison(&cli.comparison),
        Some(Verb::Connect {
            compare: args,
            null,
        }) => compare(&args, &MESH, null),
        Some(Verb::Shortcut(args)) => compare(&args, &SHORTCUT, false),
        Some(Verb::Plan { changes, json }) => plan(changes, json),
        Some(Verb::Limits {
            rounds,
            readers,
            write: writes,
            throws,
            layout: Layout { wire, cpus },
            json,
        }) => {
            let options = limits::Options {
                wire,
                cpus,
                rounds,
                readers,
                writes,
                throws,
            };
            limits(&options, json)
        }
        Some(Verb::Programs {
            case,
            shortcut,
            seconds,
            layout,
            json,
        }) => programs(
            &case,
            if shortcut { &SHORTCUT } else { &MESH },
            seconds,
            layout,
            json,
        ),
        Some(Verb::Backstage(part)) => part.play(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("underpass-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured of which cases.
struct Suite {
    cases: &'static [Case],
    quick: &'static [&'static str],
    ways: &'static [Way],
}

const MESH: Suite = Suite {
    cases: cases::MESH,
    quick: cases::QUICK,
    ways: Way::PLAIN,
};
const SHORTCUT: Suite = Suite {
    cases: cases::SHORTCUT,
    quick: cases::QUICK_SHORTCUT,
    ways: Way::ALL,
};

fn comparison(args: &Comparison) -> Result<()> {
    let all = systems::cases::CASES;
    if args.list {
        for case in all {
            println!("{:<20} {}", case.name(), case.describe());
        }
        println!();
        for system in System::ALL {
            println!("{:<20} {}", system.name(), system.describe());
        }
        return Ok(());
    }
    let (rounds, seconds) = if args.quick {
        (1, 0.2)
    } else {
        (args.rounds, args.seconds)
    };
    if !args.quick && !(3..=1_000).contains(&rounds) {
        usage("--rounds from 3 to 1000; --quick is the smoke test");
    }
    bounded(seconds);
    let cases = systems::cases::wanted(&args.case, &args.rate, args.quick);
    let cases = cases.unwrap_or_else(|why| usage(&why));
    let options = rounds::Options {
        systems: chosen(&args.system, args.wire),
        rounds,
        seconds,
        wire: args.wire,
        cpus: args.cpus,
        quick: args.quick,
    };
    let report = rounds::run(&cases, &options, &mut progress())?;
    done();
    print!("{}", systems::text(&report));
    save(args.json.as_ref(), &report.json()?)?;
    if let Some(file) = &args.html {
        fs::write(file, systems::page(&report)).context(file.display())?;
    }
    match report.failed() {
        0 => Ok(()),
        failed => Err(BenchError::Setup(format!(
            "rows that could not be measured: {failed}"
        ))),
    }
}

/// The named systems in the list's order, `none` among them; without names all.
fn chosen(names: &[String], wire: Wire) -> Vec<System> {
    for name in names {
        match System::find(name) {
            None => usage(&format!("no system {name:?}; --list names them")),
            Some(system) => {
                if let Some(refusal) = system.refused(wire) {
                    usage(&format!("{name}: {}", refusal.line()));
                }
            }
        }
    }
    let named = |s: &System| *s == System::None || names.iter().any(|name| name == s.name());
    let all = System::ALL.iter().copied();
    all.filter(|s| match names.is_empty() {
        true => s.by_default(),
        false => named(s),
    })
    .collect()
}

fn compare(args: &Compare, suite: &Suite, null: bool) -> Result<()> {
    if args.list {
        for case in suite.cases {
            println!("{:<20} {}", case.name, case.describe());
        }
        return Ok(());
    }
    let options = Options {
        rounds: if args.quick { 3 } else { args.rounds },
        seconds: if args.quick { 0.2 } else { args.seconds },
        wire: args.layout.wire,
        cpus: args.layout.cpus,
        ways: suite.ways,
        quick: args.quick,
        null,
    };
    if !args.quick && !(7..=1_000).contains(&options.rounds) {
        usage("--rounds from 7 to 1000; --quick is the smoke test");
    }
    bounded(options.seconds);
    let names: Vec<String> = match (args.case.is_empty(), args.quick) {
        (true, true) => suite.quick.iter().map(|name| (*name).to_owned()).collect(),
        _ => args.case.clone(),
    };
    let wanted = wanted(&names, suite, options.wire);
    let report = compare::run(&wanted, &options, &mut progress())?;
    done();
    print!("{}", report::table(&report));
    save(args.json.as_ref(), &report)?;
    match report.failed.len() {
        0 => Ok(()),
        failed => Err(BenchError::Setup(format!(
            "{failed} cases could not be measured"
        ))),
    }
}

fn plan(changes: u32, json: Option<PathBuf>) -> Result<()> {
    if changes == 0 || changes > 10_000 {
        usage("--changes from 1 to 10000");
    }
    let report = plan::run(changes, &mut progress())?;
    done();
    print!("{}", plan::text(&report));
    save(json.as_ref(), &report)
}

fn limits(options: &limits::Options, json: Option<PathBuf>) -> Result<()> {
    let few = |n: u32, most| (1..=most).contains(&n);
    if !few(options.readers, 1_000) || !few(options.throws, 1_000) || options.rounds == 0 {
        usage("--readers and --throws from 1 to 1000, --rounds from 1");
    }
    if !options.writes.iter().all(|&n| few(n, LARGEST)) {
        usage(&format!("--write from 1 to {LARGEST}"));
    }
    let report = limits::run(options, &mut progress())?;
    done();
    print!("{}", limits::text(&report));
    save(json.as_ref(), &report)
}

fn programs(
    names: &[String],
    suite: &Suite,
    seconds: f64,
    layout: Layout,
    json: Option<PathBuf>,
) -> Result<()> {
    bounded(seconds);
    let Layout { wire, cpus } = layout;
    let way = if suite.ways.contains(&Way::Shortcut) {
        Way::Shortcut
    } else {
        Way::Mesh
    };
    let costs = programs::run(&wanted(names, suite, wire), way, wire, cpus, seconds)?;
    print!("{}", programs::table(&costs));
    save(json.as_ref(), &costs)
}

/// The named cases in the list's order; without names all that the wire can do.
fn wanted(names: &[String], suite: &Suite, wire: Wire) -> Vec<Case> {
    // Between namespaces the server is known by its addresses.
    let can = |case: &Case| wire == Wire::Loopback || case.size.total() <= WORKLOAD_ADDRESSES;
    for name in names {
        match Case::find(suite.cases, name) {
            None => usage(&format!("no case {name:?}; --list names them")),
            Some(case) if !can(&case) => usage(&format!(
                "{name} needs --wire loopback: a Workload has at most {WORKLOAD_ADDRESSES} addresses"
            )),
            Some(_) => {}
        }
    }
    let wanted = |case: &&Case| {
        can(case) && (names.is_empty() || names.iter().any(|name| name == case.name))
    };
    suite.cases.iter().filter(wanted).copied().collect()
}

fn bounded(seconds: f64) {
    if !(0.05..=60.0).contains(&seconds) {
        usage("--seconds from 0.05 to 60");
    }
}

fn usage(why: &str) -> ! {
    eprintln!("underpass-bench: {why}");
    std::process::exit(2)
}

fn save(file: Option<&PathBuf>, report: &impl Serialize) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let mut text = serde_json::to_vec_pretty(report)
        .map_err(|e| BenchError::Setup(format!("{}: {e}", file.display())))?;
    text.push(b'\n');
    fs::write(file, text).context(file.display())
}

/// One line that is written over at a terminal, a line each elsewhere.
fn progress() -> impl FnMut(&str) {
    let terminal = std::io::stderr().is_terminal();
    move |line| {
        if terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }
}

fn done() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

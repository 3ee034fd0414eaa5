//! `cargo xtask demo`: a small shop under load in the lab, what the mesh shows of it, and a check of
//! that against what the programs counted themselves.
#![forbid(unsafe_code)]

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use clap::Parser;
use underpass_tests::{Failure, Result, lab::until};

mod demo {
    pub mod check;
    pub mod quotes;
    pub mod saving;
    pub mod screen;
    pub mod shop;
}

use demo::{check::Summary, saving::Saving, screen::Screen, shop::Shop};

/// Set for the process that holds a kept demo: the file in which it reports.
const HOLDER: &str = "UNDERPASS_DEMO_HOLDER";

#[derive(Parser)]
#[command(about = "A small shop under load in the lab, and what the mesh says about it")]
struct Args {
    /// Leave everything running for the other commands.
    #[arg(long)]
    keep: bool,
    /// Write what was checked as JSON.
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Length of the live part.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let holder = std::env::var_os(HOLDER).map(PathBuf::from);
    let result = match (&holder, args.keep) {
        (None, true) => detach(),
        _ => run(&args, holder.as_deref()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo in a process that stays behind to hold the pipes of everything in it.
fn detach() -> Result<bool> {
    let report = std::env::temp_dir().join(format!("underpass-demo-{}", std::process::id()));
    let mut holder = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(HOLDER, &report)
        .spawn()?;
    let result = until("demo", Duration::from_secs(300), || {
        if let Ok(text) = fs::read_to_string(&report) {
            return Ok(text == "ok");
        }
        match holder.try_wait() {
            Ok(Some(_)) => Ok(false),
            Ok(None) => Err("still running".into()),
            Err(e) => Err(e.to_string()),
        }
    });
    // Absent if the demo ended early.
    let _ = fs::remove_file(report);
    result
}

fn run(args: &Args, holder: Option<&Path>) -> Result<bool> {
    let mut shop = Shop::start()?;
    let mut screen = Screen::new();
    screen.live(&shop, Duration::from_secs(args.seconds))?;
    let saving = Saving::measure(&shop)?;
    screen.past_tcp(&shop)?;
    let quotes = shop.quotes.show(&shop)?;
    let mut summary = Summary::take(&mut shop, &saving)?;
    summary.add(quotes.checks()?);
    summary.print();
    if let Some(file) = &args.summary {
        let text = serde_json::to_string_pretty(&summary)?;
        fs::write(file, text + "\n").map_err(Failure::at(file.display()))?;
    }
    let ok = summary.ok();
    let Some(report) = holder else {
        print_next(&shop, false);
        return Ok(ok);
    };
    print_next(&shop, true);
    stay(report, ok)
}

/// Lets the terminal go, reports, and waits until somebody ends the lab.
fn stay(report: &Path, ok: bool) -> Result<bool> {
    let null = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd()).map_err(Failure::at("stdin"))?;
    rustix::stdio::dup2_stdout(null.as_fd()).map_err(Failure::at("stdout"))?;
    rustix::stdio::dup2_stderr(null.as_fd()).map_err(Failure::at("stderr"))?;
    // Whole at once: the other side takes any content for the verdict.
    let draft = report.with_extension("draft");
    fs::write(&draft, if ok { "ok" } else { "failed" })?;
    fs::rename(&draft, report)?;
    loop {
        thread::park();
    }
}

fn print_next(shop: &Shop, kept: bool) {
    let underpass = shop.underpass();
    println!();
    if kept {
        let api = shop.lab.dir.join("api.sock");
        let api = api.display();
        println!("It goes on running. Try:");
        println!("  {underpass} conns --api {api} --verdict denied");
        println!("  {underpass} stat --api {api}");
        println!("  {underpass} explain shop/intruder shop/ledger:8080 --api {api}");
        println!("  {underpass} status --api {api}");
        println!("End it with:");
        println!("  kill {}", std::process::id());
    } else {
        println!(
            "Next: `cargo xtask demo --keep` leaves it running for `{underpass} conns`, `stat`, `explain`;"
        );
        println!(
            "      `cargo xtask test` runs the tests; docs/ARCHITECTURE.md is the map of the house."
        );
    }
}

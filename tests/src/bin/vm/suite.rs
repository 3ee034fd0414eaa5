//! Test binaries that were packed along (`cargo xtask vm --test NAME`).

use std::{fs, path::Path, process::Command};

use super::report::Report;

const DIR: &str = "/up/suite";

/// Does nothing if there are none.
pub fn run(report: &mut Report) {
    let mut tests: Vec<_> = fs::read_dir(DIR)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    tests.sort();
    for test in tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        report.check(&format!("tests/{name}"), || run_one(&test));
    }
}

/// The totals; as an error with each failed test's output, if one failed.
fn run_one(test: &Path) -> Result<String, String> {
    // One at a time: their bounds on time are meant for a real machine.
    let out = Command::new(test)
        .args(["--test-threads", "1"])
        .output()
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let totals = text.lines().find_map(|l| l.strip_prefix("test result: "));
    if out.status.success()
        && let Some(totals) = totals
    {
        return Ok(totals.to_owned());
    }
    let failures = text
        .split_once("\nfailures:\n")
        .map_or("", |(_, rest)| rest);
    Err(format!("{} {failures}", totals.unwrap_or("no totals")))
}

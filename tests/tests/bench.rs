//! The benchmark of the shortcut measures what it says: bytes go past TCP on that way and on no other,
//! and a case that is not measured is a failure.

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::Value;
use underpass_tests::{
    Failure, Result,
    lab::{
        cli::{number, text},
        place,
    },
};

/// Its exit code, report and standard output.
fn bench(name: &str, args: &[&str]) -> Result<(Option<i32>, Value, String)> {
    let file = std::env::temp_dir().join(format!("up-bench-{name}-{}.json", std::process::id()));
    let done = Command::new(place::binary("underpass-bench")?)
        .args(["shortcut", "--quick", "--cpus", "any", "--json"])
        .arg(&file)
        .args(args)
        .output()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let written = fs::read(&file).map_err(|e| {
        let why = String::from_utf8_lossy(&done.stderr);
        Failure::new(format!("{}: {e}\n{said}{why}", done.status))
    })?;
    fs::remove_file(&file)?;
    let report = serde_json::from_slice(&written).map_err(Failure::at(file.display()))?;
    Ok((done.status.code(), report, said))
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value
        .pointer(path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

#[test]
fn each_case_goes_its_four_ways() -> Result<()> {
    const CASES: [&str; 2] = ["request-64-c16", "redis-get-c16"];
    let args: Vec<&str> = CASES.iter().flat_map(|case| ["--case", case]).collect();
    let (code, report, said) = bench("ways", &args)?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(list(&report, "/failed"), [] as [Value; 0]);
    let rows: BTreeMap<&str, &Value> = list(&report, "/rows")
        .iter()
        .map(|row| (text(row, "/case/name"), row))
        .collect();
    assert_eq!(rows.len(), CASES.len(), "{said}");
    for case in CASES {
        let row = rows[case];
        let ways: Vec<&str> = list(row, "/ways").iter().map(|w| text(w, "/way")).collect();
        assert_eq!(ways, ["mesh", "shortcut", "unix"]);
        for round in list(row, "/rounds") {
            let passed =
                |way: usize, what: &str| number(round, &format!("/samples/{way}/passed/{what}"));
            assert_eq!(passed(0, "messages"), None, "no mesh has no agent");
            assert_eq!(passed(3, "messages"), None);
            assert_eq!(passed(1, "messages"), Some(0));
            assert_eq!(passed(1, "by_shortcut"), Some(0));
            assert!(passed(1, "bytes") > Some(0), "{case} {round}");
            assert!(passed(2, "messages") > Some(0), "{case} {round}");
            assert!(passed(2, "by_shortcut") > Some(0), "{case} {round}");
        }
        assert!(said.contains(case));
    }
    Ok(())
}

#[test]
fn an_unknown_case_is_bad_usage() -> Result<()> {
    let done = Command::new(place::binary("underpass-bench")?)
        .args(["shortcut", "--case", "request-65-c1"])
        .output()?;
    assert_eq!(done.status.code(), Some(2));
    Ok(())
}

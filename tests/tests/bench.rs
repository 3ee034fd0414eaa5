//! The benchmarks of the shortcut measure what they say: bytes go past TCP on that way and on no other,
//! a case that is not measured is a failure, and its limits are where they should be.

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
        .args(args)
        .args(["--cpus", "any", "--json"])
        .arg(&file)
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
    const CASES: [&str; 3] = ["request-64-c16", "redis-get-c16", "grpc-1k-c16"];
    let mut args = vec!["shortcut", "--quick"];
    args.extend(CASES.iter().flat_map(|case| ["--case", case]));
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
fn limits_are_told_and_the_kill_switch_takes_hold_at_once() -> Result<()> {
    const READERS: u64 = 10;
    let args = ["limits", "--rounds", "1", "--throws", "5"];
    let some = ["--readers", "10", "--write", "16384"];
    let (code, report, said) = bench("limits", &[&args[..], &some].concat())?;
    assert_eq!(code, Some(0), "{said}");
    let rows = list(&report, "/stalls");
    let ways: Vec<&str> = rows.iter().map(|row| text(row, "/way")).collect();
    assert_eq!(ways, ["no_mesh", "mesh", "shortcut"]);
    for row in rows {
        let of = |what: &str| number(row, &format!("/rounds/0/{what}")).unwrap_or(0);
        // The bound of a socket's queue, and what TCP takes beside it.
        assert!((1..16 << 20).contains(&(of("taken") / READERS)), "{row}");
        assert!(of("held/sockets") >= of("taken"), "{row}");
        assert_eq!(of("messages") > 0, text(row, "/way") == "shortcut", "{row}");
    }
    let throws = list(&report, "/switch/throws");
    assert_eq!(throws.len(), 5);
    for throw in throws {
        // One message may be in the hands of each socket's program.
        assert!(number(throw, "/late") <= Some(32), "{throw}");
        assert!(number(throw, "/by_tcp") > Some(0), "{throw}");
    }
    assert!(said.contains("no errors"), "{said}");
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

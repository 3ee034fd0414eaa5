//! The comparison measures every system it names, says of the others why not, and writes it down.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use serde_json::Value;
use underpass_tests::{
    Failure, Result,
    lab::{cli::text, place},
};

const SYSTEMS: [&str; 10] = [
    "none",
    "kernel",
    "kernel+shortcut",
    "http",
    "http-both",
    "sidecar",
    "envoy-hop",
    "envoy-pair",
    "haproxy-hop",
    "nginx-hop",
];
/// Not where client and server share a network namespace.
const OWN: [&str; 3] = ["http", "http-both", "sidecar"];
const KEYS: [&str; 12] = [
    "case",
    "system",
    "cpu_us_per_request",
    "proxy_cpu_us_per_request",
    "p50_us",
    "p99_us",
    "rps",
    "memory_bytes",
    "ratio_cpu",
    "ratio_p50",
    "ci95",
    "command_lines",
];

/// A file that goes with the test.
struct Written(PathBuf);

impl Written {
    fn new(end: &str) -> Self {
        let name = format!("up-compare-{}.{end}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn read(&self) -> Result<String> {
        fs::read_to_string(&self.0).map_err(Failure::at(self.0.display()))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn figure(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(f64::NAN)
}

/// The report, the page, and what was printed, of a run that measured all that it named.
fn quick(cases: &[&str], more: &[&str]) -> Result<(Value, String, String)> {
    let (json, html) = (Written::new("json"), Written::new("html"));
    let done = Command::new(place::binary("underpass-bench")?)
        .args(cases)
        .args(["--quick", "--cpus", "any", "--json"])
        .arg(&json.0)
        .arg("--html")
        .arg(&html.0)
        .args(more)
        .output()?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(0), "{said}{told}");
    let report: Value = serde_json::from_str(&json.read()?).map_err(Failure::at("the JSON"))?;
    let top: Vec<&String> = report
        .as_object()
        .into_iter()
        .flat_map(|o| o.keys())
        .collect();
    assert_eq!(top, ["environment", "rows"]);
    Ok((report, html.read()?, said))
}

fn rows(report: &Value) -> BTreeMap<(&str, &str), &Value> {
    let rows = report["rows"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter()
        .map(|row| ((text(row, "/case"), text(row, "/system")), row))
        .collect()
}

#[test]
fn each_system_has_its_row() -> Result<()> {
    const CASES: [&str; 4] = [
        "http1-1k-c16",
        "http2-1k-c32",
        "grpc-1k-c32",
        "tcp-1k-c16@500",
    ];
    let (report, page, said) = quick(&CASES, &[])?;
    let rows = rows(&report);
    assert_eq!(rows.len(), CASES.len() * SYSTEMS.len());
    for case in CASES {
        for system in SYSTEMS {
            row_is_right(rows[&(case, system)], system, &report);
        }
        assert!(said.contains(&format!("\n{case}: ")), "{said}");
        assert!(page.contains(&format!("<section id=\"{case}\">")));
    }
    assert_eq!(page.matches("<svg class=\"cdf\"").count(), CASES.len());
    let lines = CASES.len() * SYSTEMS.len();
    assert_eq!(page.matches("<polyline").count(), lines);
    // Nothing that a browser would have to fetch.
    assert!(!page.contains("src=") && !page.contains("<link") && !page.contains("@import"));
    Ok(())
}

#[test]
fn on_one_namespace_workers_have_no_row_and_that_is_no_failure() -> Result<()> {
    let systems = ["--wire", "loopback"];
    let (report, page, _) = quick(&["tcp-1k-c16"], &systems)?;
    for ((_, system), row) in rows(&report) {
        if OWN.contains(&system) {
            let line = text(row, "/command_lines/0");
            assert!(line.starts_with("UP0512 OWN_NAMESPACE"), "{row}");
            assert!(KEYS[2..11].iter().all(|key| row[key].is_null()), "{row}");
        } else {
            row_is_right(row, system, &report);
        }
    }
    assert_eq!(page.matches("UP0512 OWN_NAMESPACE").count(), OWN.len());
    Ok(())
}

fn row_is_right(row: &Value, system: &str, report: &Value) {
    let keys: Vec<&str> = row
        .as_object()
        .into_iter()
        .flat_map(|o| o.keys())
        .map(String::as_str)
        .collect();
    assert_eq!(keys.len(), KEYS.len(), "{row}");
    assert!(KEYS.iter().all(|key| keys.contains(key)), "{row}");
    let line = text(row, "/command_lines/0");
    let (cpu, proxy) = (
        figure(row, "cpu_us_per_request"),
        figure(row, "proxy_cpu_us_per_request"),
    );
    let hop = ["http", "sidecar", "envoy", "haproxy", "nginx"]
        .iter()
        .any(|peer| system.starts_with(peer));
    // A proxy that did nothing was not between them.
    assert_eq!(proxy > 0.0, hop, "{row}");
    assert!(cpu > proxy, "{row}");
    assert_eq!(figure(row, "memory_bytes") > 0.0, system != "none", "{row}");
    assert!(figure(row, "p50_us") > 0.0 && figure(row, "p50_us") <= figure(row, "p99_us"));
    let pair = [text(row, "/case"), system];
    let saturated = report["environment"]["saturated"].as_array();
    let saturated = |pair: [&str; 2]| {
        saturated.is_some_and(|all| all.iter().any(|s| *s == Value::from(pair.to_vec())))
    };
    if saturated(pair) || saturated([pair[0], "none"]) {
        assert!(row["ratio_cpu"].is_null(), "{row}");
    } else {
        let (low, high) = (&row["ci95"]["ratio_cpu"][0], &row["ci95"]["ratio_cpu"][1]);
        let ratio = figure(row, "ratio_cpu");
        let (low, high) = (
            low.as_f64().unwrap_or(f64::NAN),
            high.as_f64().unwrap_or(f64::NAN),
        );
        assert!(low <= ratio && ratio <= high, "{row}");
        assert!(system != "none" || ratio == 1.0, "{row}");
    }
    assert!(line.starts_with("underpass-bench party "), "{row}");
    let lines = row["command_lines"].as_array().map_or(0, Vec::len);
    let between = match system {
        "none" => 0,
        // The agent and the vendor; or two proxies.
        "http" | "http-both" | "sidecar" | "envoy-pair" => 2,
        _ => 1,
    };
    assert_eq!(lines, 2 + between, "{row}");
}

#[test]
fn what_cannot_be_or_is_unknown_is_refused() -> Result<()> {
    let loopback = ["tcp-1k-c1", "--system", "http", "--wire", "loopback"];
    for (args, why) in [
        (&loopback[..], "UP0512 OWN_NAMESPACE"),
        (&["tcp-1k-c1", "--system", "linkerd"], "no system"),
        (&["tcp-1k-c2", "--system", "none"], "no case"),
        (&["tcp-1k-c16", "--rate", "1"], "--rate"),
    ] {
        let done = Command::new(place::binary("underpass-bench")?)
            .args(args)
            .output()?;
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{told}");
        assert!(told.contains(why), "{told}");
    }
    Ok(())
}

#[test]
fn a_program_that_is_missing_is_a_row_that_says_so() -> Result<()> {
    let json = Written::new("missing.json");
    let done = Command::new(place::binary("underpass-bench")?)
        .args([
            "tcp-1k-c16",
            "--quick",
            "--cpus",
            "any",
            "--system",
            "envoy-hop",
            "--json",
        ])
        .arg(&json.0)
        .env("UNDERPASS_TOOLS", "/nonexistent")
        .output()?;
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{said}");
    let report: Value = serde_json::from_str(&json.read()?).map_err(Failure::at("the JSON"))?;
    assert!(text(&report, "/rows/1/command_lines/0").starts_with("UP0510 NO_PROGRAM"));
    assert!(report["rows"][1]["cpu_us_per_request"].is_null());
    assert!(figure(&report["rows"][0], "cpu_us_per_request") > 0.0);
    Ok(())
}

//! The real binary against a Node server in this process: outputs, streams and exit codes.
#![forbid(unsafe_code)]

mod agent;
mod files;

use std::process::{Output, Stdio};

use underpass_api::v1alpha1 as api;

use crate::agent::{Agent, Script, shop, underpass};

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn ids(output: &Output) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(stdout(output)).expect("JSON");
    let items = json["items"].as_array().expect("items");
    items
        .iter()
        .map(|i| i["id"].as_str().expect("id").to_owned())
        .collect()
}

#[test]
fn conns_prints_a_table_without_color_and_names_the_policy() {
    let agent = Agent::serve(shop());
    let output = agent.run(&["conns"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(!text.contains('\x1b'), "{text}");
    let denied = text
        .lines()
        .find(|l| l.contains("shop/intruder"))
        .expect("the denied row");
    assert!(
        denied.contains("AuthorizationPolicy shop/ledger"),
        "{denied}"
    );
    assert!(text.starts_with("SOURCE "), "{text}");
    assert_eq!(stderr(&output), "");

    let bare = agent.run(&["conns", "--no-headers"]);
    assert_eq!(stdout(&bare).lines().count(), 3);
}

#[test]
fn conns_json_is_a_list_oldest_first() {
    let agent = Agent::serve(shop());
    let output = agent.run(&["conns", "-o", "json"]);
    assert_eq!(ids(&output), ["demo/1", "demo/2", "demo/3"]);
    let yaml = agent.run(&["conns", "-o", "yaml"]);
    assert!(
        stdout(&yaml).starts_with("items:\n- id: demo/1\n"),
        "{}",
        stdout(&yaml)
    );
}

#[test]
fn filters_reach_the_agent_as_they_were_given() {
    let agent = Agent::serve(shop());
    let args = [
        "conns",
        "--from",
        "shop/web",
        "--to",
        "shop/",
        "--service",
        "ledger",
    ];
    let more = [
        "--verdict",
        "denied",
        "--state",
        "refused",
        "--limit",
        "2",
        "-o",
        "json",
    ];
    let output = agent.run(&[args.as_slice(), more.as_slice()].concat());
    let wanted = api::ConnectionFilter {
        from: "shop/web".into(),
        to: "shop/".into(),
        service: "ledger".into(),
        verdict: "denied".into(),
        state: "refused".into(),
    };
    assert_eq!(
        agent.asked(),
        api::ListConnectionsRequest {
            filter: Some(wanted),
            limit: 2
        }
    );
    assert_eq!(ids(&output), ["demo/2", "demo/3"], "the newest are kept");
}

#[test]
fn a_namespace_and_a_port_are_compared_before_the_limit() {
    let agent = Agent::serve(shop());
    let output = agent.run(&["conns", "-n", "shop", "--limit", "1", "-o", "json"]);
    assert_eq!(ids(&output), ["demo/2"]);
    assert!(agent.asked().limit > 10_000);
    let output = agent.run(&["conns", "--service", "vault:81", "-o", "json"]);
    assert!(ids(&output).is_empty());
    assert!(stderr(&output).contains("no connections match"));
    assert_eq!(ids(&agent.run(&["conns", "-A", "-o", "json"])).len(), 3);
}

#[test]
fn lost_and_cut_rows_are_told_beside_the_data() {
    let agent = Agent::serve(Script {
        events_lost: 7,
        truncated: true,
        ..shop()
    });
    let output = agent.run(&["conns", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(ids(&output).len(), 3);
    let expected = "7 rows lost since the agent started (UP0207 EVENTS_LOST); totals are exact";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("only the newest 3 rows"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_watched_stream_is_one_object_per_line_and_its_end_is_a_failure() {
    let agent = Agent::serve(Script {
        events_lost: 7,
        ..shop()
    });
    let output = agent.run(&["conns", "-w", "-o", "json", "-n", "shop"]);
    let lines: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["id"], "demo/2");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("UP0410 API_UNREACHABLE"),
        "{}",
        stderr(&output)
    );

    let table = agent.run(&["conns", "-w"]);
    assert_eq!(stdout(&table).lines().count(), 4, "{}", stdout(&table));
}

#[test]
fn stat_lists_services_and_other_traffic_last() {
    let agent = Agent::serve(shop());
    let output = agent.run(&["stat", "--no-headers"]);
    let names: Vec<_> = stdout(&output)
        .lines()
        .filter_map(|l| l.split(' ').next())
        .collect();
    assert_eq!(names, ["bank/ledger:8080", "shop/web:80", "-"]);
    let output = agent.run(&["stat", "-n", "shop", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!(json["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["items"][0]["service"], "shop/web:80");
}

#[test]
fn stat_watch_goes_on_until_its_reader_leaves() {
    let agent = Agent::serve(shop());
    let mut child = underpass(&["stat", "-w", "-o", "json", "--api"])
        .arg(&agent.path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut reader = std::io::BufReader::new(child.stdout.take().expect("piped"));
    for _ in 0..2 {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut reader, &mut line).expect("a line");
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json["items"].as_array().map(Vec::len), Some(3));
    }
    drop(reader);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn status_fails_if_the_node_is_not_well() {
    let agent = Agent::serve(shop());
    let output = agent.run(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("node            demo\n"),
        "{}",
        stdout(&output)
    );
    drop(agent);

    let mut script = shop();
    script.status.state = "UP0405 NODE_BUSY: pid 7 holds the pins".into();
    assert_eq!(Agent::serve(script).run(&["status"]).status.code(), Some(1));

    for (severity, exit) in [("error", 1), ("warning", 0)] {
        let mut script = shop();
        script.status.problems = vec![api::Problem {
            code: "UP0302".into(),
            name: "BAD_YAML".into(),
            severity: severity.into(),
            message: "expected `:`".into(),
            hint: "fix the named line".into(),
            r#where: "shop.yaml:3".into(),
        }];
        let agent = Agent::serve(script);
        for verb in ["status", "check"] {
            let output = agent.run(&[verb]);
            assert!(
                stdout(&output).contains("UP0302 BAD_YAML"),
                "{}",
                stdout(&output)
            );
            assert!(
                stdout(&output).contains("try: fix the named line"),
                "{}",
                stdout(&output)
            );
            if verb == "status" {
                assert_eq!(output.status.code(), Some(exit), "{severity}");
            }
        }
    }
}

#[test]
fn explain_prints_the_cause_and_passes_the_agents_error_on() {
    let agent = Agent::serve(shop());
    let output = agent.run(&["explain", "shop/web", "shop/ledger:8080"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("shop/web → shop/ledger:8080/tcp\n"));
    assert!(stdout(&output).contains("policy    AuthorizationPolicy shop/ledger\n"));

    let output = agent.run(&["explain", "nobody", "shop/ledger:8080"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "UP0502 NOT_FOUND: no workload `nobody`. Try: `underpass status`\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn a_missing_or_forbidding_agent_is_told_with_its_path() {
    let output = underpass(&["conns", "--api", "/nonexistent/a.sock"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert!(
        text.starts_with("UP0410 API_UNREACHABLE: /nonexistent/a.sock: "),
        "{text}"
    );
    assert!(
        text.contains(". Try: is underpass-agent running?"),
        "{text}"
    );

    let agent = Agent::serve(shop());
    let output = agent.run(&["conns", "--to", "forbidden"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("UP0411 API_FORBIDDEN: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let agent = Agent::serve(shop());
    let output = underpass(&["status"])
        .env("UNDERPASS_API", &agent.path)
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_exits_with_2_and_a_code() {
    for (args, code) in [
        (
            ["conns", "--verdict", "maybe"].as_slice(),
            "UP0501 BAD_FILTER",
        ),
        (&["conns", "-o", "xml"], "UP0503 BAD_ARGUMENT"),
        (&["conns", "--limit", "0"], "UP0503 BAD_ARGUMENT"),
        (
            &["explain", "shop/web", "shop/ledger"],
            "UP0503 BAD_ARGUMENT",
        ),
        (&["frobnicate"], "UP0503 BAD_ARGUMENT"),
        (&["bench", "shop/ledger"], "UP0503 BAD_ARGUMENT"),
        (&["why", "demo/1", "-o", "json"], "UP0301 NOT_IMPLEMENTED"),
    ] {
        let output = underpass(args).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            stderr(&output).starts_with(code),
            "{args:?}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn a_reader_that_left_is_no_failure() {
    let mut child = underpass(&["codes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn help_codes_and_completion_need_no_agent() {
    for args in [
        ["--help"].as_slice(),
        &["codes", "UP0101"],
        &["completion", "bash"],
    ] {
        let output = underpass(args).output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
}

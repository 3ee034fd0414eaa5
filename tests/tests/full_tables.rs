//! Tables without room: what still works, what is refused, and what the user is told.

use underpass_abi::{
    plain,
    tables::{FlowSlot, maps},
};
use underpass_agent::sys::{
    bpf::obj_get,
    maps::{Map, Put},
};
use underpass_tests::{
    Failure, Result,
    lab::{
        Lab,
        cli::{number, text},
    },
    manifest::{Source, Target, allow},
    scene::{ECONNREFUSED, EPERM, LIMIT, Scene, service_at},
};

const SERVER: Target = Target::Workload("server");
const CLIENT: Source = Source::Account("app", "client");

fn pinned(lab: &Lab, name: &str) -> Result<Map> {
    let pin = lab
        .pin_dir
        .join(format!("v{}/maps", underpass_abi::VERSION))
        .join(name);
    Ok(Map::new(obj_get(&pin)?, possible_cpus()?)?)
}

/// Fills one of the node's hash tables with elements that mean nothing to anybody.
fn fill(lab: &Lab, name: &str) -> Result<()> {
    let map = pinned(lab, name)?;
    let value = vec![0; map.value_len()];
    // Keys start with the number of a network namespace or of a workload: none is that high.
    for n in 0..map.info.max_entries {
        let mut key = vec![0xff; map.key_len()];
        key[..4].copy_from_slice(&(u32::MAX - n).to_ne_bytes());
        match map.put(&key, &value, Put::Any) {
            Ok(()) => {}
            // Some elements are in real use.
            Err(e) if e.raw_os_error() == Some(E2BIG) => return Ok(()),
            Err(e) => return Err(Failure(format!("{name}: {e}"))),
        }
    }
    Ok(())
}

const E2BIG: i32 = 7;

/// Per-CPU values have one part for each, also for those that are not there.
fn possible_cpus() -> Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last.parse::<usize>().map_err(Failure::at(&text))? + 1)
}

/// What is told of a full table: fullness and counter in `status`, a warning in `check`.
fn tells_of(scene: &Scene, table: &str, counter: &str) -> Result<()> {
    let status = scene.agent.wait_status(counter, |s| {
        number(s, &format!("/counters/{counter}")) > Some(0)
    })?;
    let maps = status["maps"].as_array().cloned().unwrap_or_default();
    let map = maps.iter().find(|m| m["name"] == table);
    assert!(map.is_some_and(|m| m["used"] == m["capacity"]), "{map:?}");
    let check = scene.agent.cli.run(&["check"])?;
    let about = format!("map {table}");
    let line = check
        .stdout
        .lines()
        .find(|l| l.contains(&about))
        .unwrap_or_default();
    println!("{counter} {}; {line}", status["counters"][counter]);
    assert!(
        line.starts_with("! ") && line.contains("UP0309 LIMIT_EXCEEDED"),
        "{}",
        check.stdout
    );
    Ok(())
}

/// Takes every slot of connections under way, so that the next ones go to the hash.
fn take_slots(lab: &Lab) -> Result<()> {
    let map = pinned(lab, maps::FLOW_SLOTS)?;
    let taken = FlowSlot {
        state: FlowSlot::WRITTEN,
        ..FlowSlot::default()
    };
    for index in 0..map.info.max_entries {
        let put = map.put(&index.to_ne_bytes(), plain::bytes(&taken), Put::Any);
        put.map_err(|e| Failure(format!("FLOW_SLOTS: {e}")))?;
    }
    Ok(())
}

/// Two connections whose slot is the same: the second one is proven all the same.
#[test]
fn a_taken_slot_is_no_obstacle() -> Result<()> {
    let scene = Scene::new("slots", &[])?;
    let _server = scene.echo()?;
    take_slots(&scene.lab)?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    let held = pinned(&scene.lab, maps::FLOWS)?;
    let mut left = 0;
    held.each(|_, _| left += 1).map_err(Failure::at("FLOWS"))?;
    assert_eq!(left, 0, "the other end took the proof");
    Ok(())
}

/// Without room for a connection under way its source cannot be proven: a guarded workload is
/// closed to it, and says why; an open one is served.
#[test]
fn a_full_table_of_connections_under_way() -> Result<()> {
    let scene = Scene::new("flows", &[])?;
    let _server = scene.echo()?;
    take_slots(&scene.lab)?;
    fill(&scene.lab, maps::FLOWS)?;
    assert_eq!(
        scene.errno(&scene.client.place, service_at())?,
        0,
        "no policy asks who it is"
    );
    tells_of(&scene, maps::FLOWS, "flows_full")?;
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    assert_eq!(
        scene.errno(&scene.client.place, service_at())?,
        ECONNREFUSED
    );
    let row = scene
        .agent
        .cli
        .row("the refused connect", &["--from", "app/client"], |r| {
            text(r, "/reason") == "FLOW_TABLE_FULL"
        })?;
    println!("{row}");
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    Ok(())
}

/// Sums of combinations that found no room are lost and counted; rows and verdicts are not.
#[test]
fn a_full_table_of_sums() -> Result<()> {
    let scene = Scene::new("totals", &[])?;
    let _server = scene.echo()?;
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    fill(&scene.lab, maps::TOTALS)?;
    let client = [
        "underpass-peer",
        "connects",
        &service_at().to_string(),
        "--count",
        "5",
        "--echo",
        "77",
    ];
    for place in [&scene.client.place, &scene.other.place] {
        scene.lab.json(place, &client, LIMIT)?;
    }
    tells_of(&scene, maps::TOTALS, "totals_full")?;
    for from in ["app/client", "app/other"] {
        let rows = scene.agent.cli.rows("rows", &["--from", from], 5, |r| {
            number(r, "/bytes_sent") == Some(77)
        })?;
        assert_eq!(rows.len(), 5, "{rows:?}");
    }
    // The client's sum had its place before.
    assert_eq!(
        number(&scene.agent.cli.stat("app/server:8080")?, "/opened"),
        Some(6)
    );
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    Ok(())
}

/// A port whose owner found no room belongs to nobody.
#[test]
fn a_full_table_of_listeners() -> Result<()> {
    let scene = Scene::new("listeners", &[])?;
    fill(&scene.lab, maps::LISTENERS)?;
    let _server = scene.echo()?;
    tells_of(&scene, maps::LISTENERS, "listeners_full")?;
    // In a namespace of its own the namespace tells whose port it is.
    scene.policies(&[allow("app", "callers", SERVER, &[CLIENT])])?;
    assert_eq!(scene.errno(&scene.other.place, service_at())?, EPERM);
    assert_eq!(scene.errno(&scene.client.place, service_at())?, 0);
    Ok(())
}

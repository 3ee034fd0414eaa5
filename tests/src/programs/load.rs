//! Load generators against nginx: HTTP/2 by h2load, HTTP/1.1 by wrk.

use super::{
    Scenario, nginx, scenario,
    stage::{Stage, after},
    tools,
};
use crate::Result;

pub const SCENARIOS: &[Scenario] = &[scenario("h2load", h2load), scenario("wrk", wrk)];

fn h2load(stage: &mut Stage) -> Result<()> {
    let _nginx = nginx::files(stage, "http2", nginx::FILE)?;
    let url = format!("http://{}", stage.server_at());
    for (name, flags, path) in [
        ("small", "-n 20000 -c 8 -m 10", "small"),
        ("5 MB", "-n 60 -c 4 -m 3", "file"),
    ] {
        let script = format!("timeout 50 h2load {flags} {url}/{path}");
        let text = stage.script(stage.client(), &script, &[])?;
        let (requests, codes) = (after(&text, "requests")?, after(&text, "status codes")?);
        stage.check(requests.contains(" 0 failed, 0 errored"), || text.clone())?;
        stage.fact(format!("{name}: requests"), requests);
        stage.fact(format!("{name}: status codes"), codes);
        // Headers and totals hold the date and depend on how frames were packed.
        let traffic = after(&text, "traffic")?;
        let data = traffic.rsplit_once(", ").map_or("?", |(_, data)| data);
        stage.fact(format!("{name}: body bytes"), data);
    }
    Ok(())
}

/// As many requests as go into a few seconds, so their number is no fact; every body is compared.
fn wrk(stage: &mut Stage) -> Result<()> {
    let _nginx = nginx::files(stage, "", 100_000)?;
    let url = format!("http://{}/file", stage.server_at());
    let (body, check) = (stage.shared.random(100_000)?, tools::source("wrk.lua"));
    let script = format!("timeout 30 wrk -t 2 -c 16 -d 3 -s {check} {url} -- {body}");
    let text = stage.script(stage.client(), &script, &[])?;
    for (name, label) in [
        ("wrong bodies", "wrong bodies"),
        ("errors", "errors"),
        ("statuses other than 200", "statuses other than 200"),
    ] {
        stage.fact(name, after(&text, label)?);
    }
    let right: u64 = after(&text, "right bodies")?.parse().unwrap_or(0);
    stage.check(right > 100, || text.clone())?;
    stage.check(after(&text, "wrong bodies")? == "0", || text.clone())?;
    stage.notes.push(format!("{right} bodies were compared"));
    Ok(())
}

//! HAProxy in front of nginx: as it is, and when it splices.

use super::{Scenario, nginx, scenario, stage::Stage, tools};
use crate::{Failure, Result, lab::Proc};

pub const SCENARIOS: &[Scenario] = &[
    scenario("haproxy", without),
    scenario("haproxy-splice", with),
];

/// Listens on the scenario's port and on the lesson's. `options`: of `defaults`.
fn start(stage: &Stage, program: &str, global: &str, options: &str) -> Result<Proc> {
    let mut conf = format!(
        "global\n maxconn 200\n{global}\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n{options}\n"
    );
    for (name, at, to) in [
        ("main", stage.proxy_at(), stage.server_at()),
        ("lesson", stage.lesson_at(), stage.lesson_to()),
    ] {
        conf += &format!("listen {name}\n bind {at}\n server files {to}\n");
    }
    let file = stage.write("haproxy.cfg", &conf)?;
    stage.serve(
        &stage.fixture.proxy,
        &["packaged", program, "-db", "-f", &file],
    )
}

fn program() -> Result<String> {
    let path = tools::find("haproxy").ok_or_else(|| Failure::new("haproxy is not here"))?;
    Ok(path.to_string_lossy().into_owned())
}

fn without(stage: &mut Stage) -> Result<()> {
    let _servers = (
        nginx::files(stage, "", nginx::FILE)?,
        start(stage, &program()?, " nosplice", "")?,
    );
    nginx::down_and_up(stage, stage.proxy_at(), &[""])
}

fn with(stage: &mut Stage) -> Result<()> {
    let name = stage.renamed(&program()?, "haproxy")?;
    let _server = nginx::files(stage, "", nginx::FILE)?;
    let options = " option splice-request\n option splice-response";
    let _haproxy = start(stage, &name, "", options)?;
    stage.lesson()?;
    nginx::down_and_up(stage, stage.proxy_at(), &[""])
}

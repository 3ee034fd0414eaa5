//! Java: channels with a selector, blocking sockets, and blocking sockets that connect with a timeout.

use super::{Scenario, scenario, stage::Stage, tools};
use crate::Result;

pub const SCENARIOS: &[Scenario] = &[
    scenario("java-nio", |stage| echo(stage, "nio-server", "nio")),
    scenario("java-blocking", |stage| {
        echo(stage, "blocking-server", "blocking")
    }),
    scenario("java-connect-timeout", |stage| {
        echo(stage, "nio-server", "timeout")
    }),
];

fn echo(stage: &mut Stage, server: &str, client: &str) -> Result<()> {
    let classes = tools::built()?.to_string_lossy().into_owned();
    let backstage = stage.fixture.lab.backstage();
    let source = tools::source("Echo.java");
    if !tools::is_fresh(&format!("{classes}/Echo.class"), &source) {
        stage.output(&backstage, &["javac", "-d", &classes, &source])?;
    }
    let java = [
        "java",
        "-XX:TieredStopAtLevel=1",
        "-Xmx512m",
        "-cp",
        &classes,
        "Echo",
    ];
    let at = stage.server_at().to_string();
    let _server = stage.serve(&stage.fixture.server, &[&java[..], &[server, &at]].concat())?;
    let text = stage.output(stage.client(), &[&java[..], &[client, &at]].concat())?;
    stage.check(text.contains("160 echoes"), || text.clone())?;
    stage.fact("echoes", text);
    Ok(())
}

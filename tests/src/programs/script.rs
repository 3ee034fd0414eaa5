//! Node and Python.

use super::{
    Scenario, nginx, scenario,
    stage::{LIMIT, Stage},
    tools,
};
use crate::Result;

pub const SCENARIOS: &[Scenario] = &[
    scenario("node", node),
    scenario("python-asyncio", |stage| {
        python(stage, "asyncio-server", "asyncio")
    }),
    scenario("python-blocking", |stage| {
        python(stage, "blocking-server", "blocking")
    }),
    scenario("python-timeout", |stage| {
        python(stage, "asyncio-server", "timeout")
    }),
    scenario("python-connect-timeout", |stage| {
        python(stage, "asyncio-server", "connect-timeout")
    }),
    scenario("python-late-blocking", late),
];

fn node(stage: &mut Stage) -> Result<()> {
    let (script, at) = (tools::source("echo.js"), stage.server_at().to_string());
    let file = stage.shared.random(nginx::FILE)?;
    let _server = stage.serve(
        &stage.fixture.server,
        &["node", &script, "server", &at, &file],
    )?;
    let text = stage.output(stage.client(), &["node", &script, "client", &at, &file])?;
    let all = r#"{"down":20,"up":20,"back":20,"piped":20}"#;
    stage.check(text.contains(all), || text.clone())?;
    stage.fact("right answers, sum", text);
    Ok(())
}

fn python(stage: &mut Stage, server: &str, client: &str) -> Result<()> {
    let text = pair(stage, "echo.py", server, client)?;
    let good = text.starts_with("Some(0)") && text.contains("160 echoes");
    // Over TCP all is well; the table says what is not over the shortcut.
    stage.check(good || stage.fixture.shortcut, || text.clone())?;
    stage.fact("exit, echoes, sum", text);
    Ok(())
}

fn late(stage: &mut Stage) -> Result<()> {
    // The first connections are exposed: the mesh learns from them that the program blocks.
    pair(stage, "late.py", "server", "client")?;
    let text = pair(stage, "late.py", "server", "client")?;
    let good = text.matches("b'answer'").count() == 5;
    stage.check(good || stage.fixture.shortcut, || text.clone())?;
    stage.fact("exit, answers", text);
    Ok(())
}

/// Runs a script's client against its server: the client's exit code, output and last error. Under
/// an interpreter's name of its own: any script that splices, of any lab, would spoil `python3`'s.
fn pair(stage: &Stage, script: &str, server: &str, client: &str) -> Result<String> {
    let where_is =
        "import os, sys; print(os.path.realpath(sys.executable)); print(sys.base_prefix)";
    let text = stage.output(stage.client(), &["python3", "-c", where_is])?;
    let (program, home) = text.split_once('\n').unwrap_or((&text, ""));
    let python = stage.renamed(program, "python")?;
    let home = format!("PYTHONHOME={home}");
    let (script, at) = (tools::source(script), stage.server_at().to_string());
    let command = |verb| ["env", &home, &python, &script, verb, &at];
    let _server = stage.serve(&stage.fixture.server, &command(server))?;
    let done = stage.done(stage.client(), &command(client), LIMIT)?;
    let last = done.stderr.lines().last().unwrap_or_default();
    Ok(format!("{:?} {} {last}", done.code, done.stdout))
}

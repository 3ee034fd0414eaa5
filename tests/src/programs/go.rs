//! Go: a proxy that copies between two connections with `io.Copy`, which splices, and `net/http`.

use std::time::Duration;

use super::{Scenario, nginx, scenario, stage::Stage, tools};
use crate::{Failure, Result};

pub const SCENARIOS: &[Scenario] = &[scenario("go-http", http), scenario("go-io-copy", proxy)];

/// The standard library is compiled once.
const BUILD: Duration = Duration::from_secs(300);

/// Builds a program; its path. Its name is what the mesh knows it by.
fn build(stage: &Stage, name: &str) -> Result<String> {
    let to = tools::built()?.join(format!("go-{name}"));
    let to = to.to_string_lossy().into_owned();
    let from = tools::source(&format!("{name}.go"));
    // No module, no network, no other toolchain, no C.
    let script = "export GOTOOLCHAIN=local GOPROXY=off GOFLAGS= CGO_ENABLED=0 GO111MODULE=off; \
                  export PATH=$3; go build -o $1 $2";
    let path = tools::path()?;
    let place = stage.fixture.lab.backstage();
    let command = ["bash", "-c", script, "go", &to, &from, &path];
    let done = stage.done(&place, &command, BUILD)?;
    match done.code {
        Some(0) => Ok(to),
        _ => Err(Failure(format!("go build {from}: {}", done.stderr))),
    }
}

/// Client, reverse proxy (`httputil`) and server are one program.
fn http(stage: &mut Stage) -> Result<()> {
    let program = build(stage, "http")?;
    let (at, via) = (stage.server_at().to_string(), stage.proxy_at().to_string());
    let file = stage.shared.random(nginx::FILE)?;
    let _servers = (
        stage.serve(&stage.fixture.server, &[&program, "server", &at, &file])?,
        stage.serve(&stage.fixture.proxy, &[&program, "proxy", &via, &at])?,
    );
    for (name, to) in [("server", &at), ("by the proxy", &via)] {
        let text = stage.output(stage.client(), &[&program, "client", to, &file])?;
        stage.fact(name, text);
    }
    Ok(())
}

fn proxy(stage: &mut Stage) -> Result<()> {
    let program = stage.renamed(&build(stage, "proxy")?, "go-proxy")?;
    let _nginx = nginx::files(stage, "", nginx::FILE)?;
    let [from, to] = [stage.lesson_at(), stage.lesson_to()].map(|at| at.to_string());
    let [at, server] = [stage.proxy_at(), stage.server_at()].map(|at| at.to_string());
    let command = [&*program, &at, &server, &from, &to];
    let _proxy = stage.serve(&stage.fixture.proxy, &command)?;
    stage.lesson()?;
    nginx::down_and_up(stage, stage.proxy_at(), &[""])
}

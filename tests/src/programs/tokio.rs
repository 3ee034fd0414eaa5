//! tokio: requests of 1 MB, which reach a reader in pieces over both paths.

use super::{
    Scenario, scenario,
    stage::{LIMIT, Stage},
};
use crate::Result;

pub const SCENARIOS: &[Scenario] = &[scenario("tokio-1mb", tokio)];

fn tokio(stage: &mut Stage) -> Result<()> {
    let at = stage.server_at().to_string();
    let server = ["underpass-peer", "rpc-server", &at];
    let _server = stage.serve(&stage.fixture.server, &server)?;
    let mut client = stage.start(stage.client(), &["underpass-peer", "rpc", &at])?;
    for (count, size) in [(1_000, 100), (100, 1 << 20), (5, 10 << 20)] {
        // The client compares every byte and ends at the first that differs.
        client.tell(&format!("{count} {size}"))?;
        let answer = client.line(1, &format!("\"bytes\":{}", count * (size + 4)), LIMIT)?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        stage.fact(format!("{count} of {size}"), answer["bytes"].to_string());
    }
    Ok(())
}

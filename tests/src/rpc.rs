//! Requests and answers over one connection, in the pods of a [`Scene`]; and what its row says.

use serde_json::Value;

use crate::{
    Result,
    lab::{
        Proc,
        cli::{number, text},
    },
    scene::{LIMIT, PORT, Scene, service_at},
};

/// Two `underpass-peer`s.
pub struct Rpc {
    pub server: Proc,
    pub client: Proc,
}

impl Rpc {
    pub fn start(scene: &Scene, server: &[&str], client: &[&str]) -> Result<Self> {
        Self::of(
            scene,
            ("underpass-peer", server),
            ("underpass-peer", client),
        )
    }

    /// From these programs with these flags.
    pub fn of(scene: &Scene, server: (&str, &[&str]), client: (&str, &[&str])) -> Result<Self> {
        // After this answer the watch for splice is attached if the listener needs it.
        Self::when(scene, server, client, || scene.agent.cli.status().map(drop))
    }

    /// The same, but the client does not wait for the agent to have seen the listener.
    pub fn begin(scene: &Scene, server: (&str, &[&str]), client: (&str, &[&str])) -> Result<Self> {
        Self::when(scene, server, client, || Ok(()))
    }

    fn when(
        scene: &Scene,
        server: (&str, &[&str]),
        client: (&str, &[&str]),
        status: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let at = format!("{}:{PORT}", scene.server.v4);
        let server = scene.lab.run(
            &scene.server.place,
            &[&[server.0, "rpc-server", &at], server.1].concat(),
        )?;
        server.wait_listening(at.parse().expect("an address"))?;
        status()?;
        Self::dial(scene, server, client)
    }

    /// Another connection to a server.
    pub fn again(scene: &Scene, server: Proc) -> Result<Self> {
        Self::dial(scene, server, ("underpass-peer", &[]))
    }

    fn dial(scene: &Scene, server: Proc, client: (&str, &[&str])) -> Result<Self> {
        let to = service_at().to_string();
        let mut client = scene.lab.run(
            &scene.client.place,
            &[&[client.0, "rpc", &to], client.1].concat(),
        )?;
        client.line(0, "local", LIMIT)?;
        Ok(Self { server, client })
    }

    /// Ends both, and waits until the row says so.
    pub fn end(mut self, scene: &Scene, row: &Value) -> Result<()> {
        self.client.kill9()?;
        let ended = |r: &Value| text(r, "/state") == "closed" && text(r, "/id") == text(row, "/id");
        let cli = &scene.agent.cli;
        cli.rows("its end", &["--from", "app/client"], 1, ended)?;
        Ok(())
    }

    /// Bytes that went in each direction.
    pub fn ask(&mut self, count: usize, size: usize) -> Result<u64> {
        let answer = self.client.ask(&format!("{count} {size}"))?;
        Ok(answer["bytes"].as_u64().unwrap_or(0))
    }
}

/// The client's only row in a state, once it says that so much was sent (the agent looks at open
/// connections several times a second).
pub fn row(scene: &Scene, state: &str, sent: u64) -> Result<Value> {
    let is = |r: &Value| text(r, "/state") == state && number(r, "/bytes_sent") == Some(sent);
    let rows = scene
        .agent
        .cli
        .rows("the row", &["--from", "app/client"], 1, is)?;
    Ok(rows[0].clone())
}

pub fn shortcut(row: &Value) -> u64 {
    number(row, "/bytes_shortcut").unwrap_or(u64::MAX)
}

pub fn counter(scene: &Scene, name: &str) -> Result<u64> {
    Ok(scene.agent.cli.status()?["counters"][name]
        .as_u64()
        .unwrap_or(u64::MAX))
}

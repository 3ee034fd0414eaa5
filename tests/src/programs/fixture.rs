//! A lab for one run of the scenarios: a client, a proxy and a server, and the agent. Two of them
//! differ in one annotation only.

use crate::{
    Lab, Result,
    lab::{Agent, Pod},
    manifest,
};

pub const NAMESPACE: &str = "app";

pub struct Fixture {
    // Before the lab in which it runs.
    pub agent: Agent,
    pub client: Pod,
    pub proxy: Pod,
    pub server: Pod,
    pub shortcut: bool,
    pub lab: Lab,
}

impl Fixture {
    /// `shortcut`: false annotates the namespace, so that everything goes by TCP.
    pub fn new(shortcut: bool) -> Result<Self> {
        let lab = Lab::new(if shortcut { "progsc" } else { "progtcp" })?;
        let (client, proxy, server) = (lab.pod("client")?, lab.pod("proxy")?, lab.pod("server")?);
        let mut namespace = manifest::namespace(NAMESPACE);
        if !shortcut {
            namespace += "  annotations:\n    underpass.dev/shortcut: \"off\"\n";
        }
        let mut objects = vec![namespace];
        for (name, pod) in [("client", &client), ("proxy", &proxy), ("server", &server)] {
            objects.push(manifest::pod_workload(NAMESPACE, name, pod));
        }
        lab.mesh_file("10-pods.yaml", &manifest::file(&objects))?;
        // Which way the bytes of a scenario take must not hang on those before it.
        let agent = lab.agent(&["--shortcut", "on", "--shortcut-keep-out", "0"])?;
        Ok(Self {
            agent,
            client,
            proxy,
            server,
            shortcut,
            lab,
        })
    }
}

//! One connection as `-o json` shows it: names and order are stable, and documented by the schema
//! that is generated from here (`docs/reference/conns.schema.json`).

use schemars::JsonSchema;
use serde::Serialize;
use underpass_api::v1alpha1 as api;

use crate::render::rfc3339;

/// The answer of `underpass conns -o json`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "underpass conns -o json")]
pub struct ConnectionList {
    /// Oldest first.
    pub items: Vec<Connection>,
}

/// One connection as the application opened it; one row also when both ends are on this node.
/// A value that is absent is null, and `reason` or the field's description says why.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Connection {
    /// Unique until the node reboots: "node/socket cookie" of the reporting end.
    pub id: String,
    /// The end that dialed.
    pub source: Peer,
    /// The end that answered, or would have.
    pub destination: Peer,
    /// "namespace/name:port"; null if the application dialed an address that is no service's.
    pub service: Option<String>,
    /// "address:port" as the application dialed it; null if this node did not see the connect.
    pub original_destination: Option<String>,
    /// "address:port" that the kernel connected to; null if none was chosen.
    pub endpoint: Option<String>,
    /// tcp, udp
    pub protocol: String,
    /// app, upstream: the application's own connection (of layer `http` it ends at its worker), or what the worker dialed in its place.
    pub leg: String,
    /// id of the application's connection that this leg belongs to; null for `app`, and where it is not known.
    pub parent: Option<String>,
    /// source, destination: the end whose agent reports this row.
    pub reporter: String,
    /// The node that reports this row.
    pub node: String,
    /// kernel, tunnel, http, before-mesh; null if the connection was refused before a layer was
    /// chosen.
    pub layer: Option<String>,
    /// allowed, denied, audited, refused; null if nothing was decided (layer `before-mesh`).
    pub verdict: Option<String>,
    /// Why the verdict is not plainly `allowed`, or why values are absent: a name of
    /// docs/reference/codes.md, null if there is nothing to explain.
    pub reason: Option<String>,
    /// "AuthorizationPolicy namespace/name" or "default"; null if nothing had to be decided.
    pub policy: Option<String>,
    /// How the source's identity was proven: cgroup, netns, address, none.
    pub authn: Option<String>,
    /// opening, established, closing, closed, failed, refused
    pub state: String,
    /// When the connect (or, for an inbound row, the SYN) was seen: RFC 3339 in UTC with
    /// milliseconds. Null if the connection is older than the mesh and its age is unknown.
    pub opened_at: Option<String>,
    /// From the SYN to established, in microseconds; null if it never was, or was not seen.
    pub connect_us: Option<u64>,
    /// From `opened_at` to the end, or until now; 0 if that is null.
    pub duration_ms: u64,
    /// Payload that the source's kernel accepted from `send`, so far or at the last close.
    pub bytes_sent: u64,
    /// Payload that the source's application read, so far or at the last close.
    pub bytes_received: u64,
    /// Payload that the peer's kernel acknowledged.
    pub bytes_delivered: u64,
    /// Segments that the source sent, with retransmitted ones.
    pub segments_out: u32,
    /// Segments that the source sent again.
    pub retransmits: u32,
    /// Smoothed round-trip time in microseconds; null if nothing was measured.
    pub srtt_us: Option<u32>,
    /// Why the connection ended: a name of docs/reference/codes.md; null while it is open.
    pub close_reason: Option<String>,
    /// Of `bytes_sent` and `bytes_received` together, what went past TCP by the shortcut.
    pub bytes_shortcut: u64,
    /// Why the connection, or its last bytes that did, stayed on TCP: a name of
    /// docs/reference/codes.md; null if nothing had to.
    pub shortcut_reason: Option<String>,
}

/// One end of a connection.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Peer {
    /// "namespace/name", "host" (a process of this node outside every workload) or "outside".
    pub workload: Option<String>,
    /// SPIFFE identity; null if the end is no workload.
    pub identity: Option<String>,
    /// "address:port"; port 0 if it is not known (a refused connect).
    pub address: Option<String>,
}

impl From<api::Connection> for Connection {
    fn from(c: api::Connection) -> Self {
        Self {
            id: c.id,
            source: Peer::from(c.source.unwrap_or_default()),
            destination: Peer::from(c.destination.unwrap_or_default()),
            service: some(c.service),
            original_destination: some(c.original_destination),
            endpoint: some(c.endpoint),
            protocol: c.protocol,
            leg: c.leg,
            parent: some(c.parent),
            reporter: c.reporter,
            node: c.node,
            layer: some(c.layer),
            verdict: some(c.verdict),
            reason: some(c.reason),
            policy: some(c.policy),
            authn: some(c.authn),
            state: c.state,
            opened_at: (c.opened_at_ms != 0).then(|| rfc3339(c.opened_at_ms)),
            connect_us: c.connect_us,
            duration_ms: c.duration_ms,
            bytes_sent: c.bytes_sent,
            bytes_received: c.bytes_received,
            bytes_delivered: c.bytes_delivered,
            segments_out: c.segments_out,
            retransmits: c.retransmits,
            srtt_us: c.srtt_us,
            close_reason: some(c.close_reason),
            bytes_shortcut: c.bytes_shortcut,
            shortcut_reason: some(c.shortcut_reason),
        }
    }
}

impl From<api::Peer> for Peer {
    fn from(p: api::Peer) -> Self {
        Self {
            workload: some(p.workload),
            identity: some(p.identity),
            address: some(p.address),
        }
    }
}

/// Protobuf has no absent string; an empty one stands for it.
pub fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
pub mod tests {
    use schemars::generate::SchemaSettings;

    use super::*;

    /// Rows of every kind: an open one, a denied one, one older than the mesh.
    pub fn fixed() -> Vec<api::Connection> {
        let peer = |workload: &str, identity: &str, address: &str| {
            Some(api::Peer {
                workload: workload.into(),
                identity: identity.into(),
                address: address.into(),
            })
        };
        let spiffe = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}");
        let open = api::Connection {
            id: "demo/4711".into(),
            source: peer("shop/web", &spiffe("web"), "10.0.0.2:40000"),
            destination: peer("shop/ledger", &spiffe("ledger"), "10.0.0.3:8080"),
            service: "shop/ledger:8080".into(),
            original_destination: "10.96.0.1:8080".into(),
            endpoint: "10.0.0.3:8080".into(),
            protocol: "tcp".into(),
            leg: "app".into(),
            reporter: "source".into(),
            node: "demo".into(),
            layer: "kernel".into(),
            verdict: "allowed".into(),
            policy: "AuthorizationPolicy shop/ledger".into(),
            authn: "cgroup".into(),
            state: "established".into(),
            opened_at_ms: 1_795_230_245_007,
            connect_us: Some(85),
            duration_ms: 12_000,
            bytes_sent: 1_536,
            bytes_received: 52_428_800,
            bytes_delivered: 1_536,
            segments_out: 200,
            retransmits: 1,
            srtt_us: Some(120),
            bytes_shortcut: 2_048,
            ..Default::default()
        };
        let denied = api::Connection {
            id: "demo/4712".into(),
            source: peer("shop/intruder", &spiffe("intruder"), "10.0.0.9:0"),
            endpoint: String::new(),
            verdict: "denied".into(),
            reason: "POLICY_DENIED".into(),
            state: "refused".into(),
            opened_at_ms: 1_795_230_250_000,
            connect_us: None,
            duration_ms: 0,
            bytes_sent: 0,
            bytes_received: 0,
            bytes_delivered: 0,
            segments_out: 0,
            retransmits: 0,
            srtt_us: None,
            close_reason: "POLICY_DENIED".into(),
            bytes_shortcut: 0,
            shortcut_reason: "SHORTCUT_BLOCKING".into(),
            ..open.clone()
        };
        let before = api::Connection {
            id: "demo/17".into(),
            source: peer("outside", "", "192.0.2.7:51000"),
            service: String::new(),
            original_destination: String::new(),
            layer: "before-mesh".into(),
            verdict: String::new(),
            reason: "BEFORE_MESH".into(),
            policy: String::new(),
            authn: String::new(),
            reporter: "destination".into(),
            opened_at_ms: 0,
            duration_ms: 0,
            connect_us: None,
            bytes_shortcut: 0,
            ..open.clone()
        };
        vec![open, denied, before]
    }

    #[test]
    fn json_has_the_documented_fields_in_their_order() {
        let row = Connection::from(fixed().remove(2));
        let expected = r#"{
  "id": "demo/17",
  "source": {
    "workload": "outside",
    "identity": null,
    "address": "192.0.2.7:51000"
  },
  "destination": {
    "workload": "shop/ledger",
    "identity": "spiffe://cluster.local/ns/shop/sa/ledger",
    "address": "10.0.0.3:8080"
  },
  "service": null,
  "original_destination": null,
  "endpoint": "10.0.0.3:8080",
  "protocol": "tcp",
  "leg": "app",
  "parent": null,
  "reporter": "destination",
  "node": "demo",
  "layer": "before-mesh",
  "verdict": null,
  "reason": "BEFORE_MESH",
  "policy": null,
  "authn": null,
  "state": "established",
  "opened_at": null,
  "connect_us": null,
  "duration_ms": 0,
  "bytes_sent": 1536,
  "bytes_received": 52428800,
  "bytes_delivered": 1536,
  "segments_out": 200,
  "retransmits": 1,
  "srtt_us": 120,
  "close_reason": null,
  "bytes_shortcut": 0,
  "shortcut_reason": null
}
"#;
        assert_eq!(crate::render::json(&row), expected);
    }

    /// `UPDATE=1 cargo test -p underpass-cli` writes the file.
    #[test]
    fn the_committed_schema_is_the_one_generated_here() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/reference/conns.schema.json"
        );
        let schema = SchemaSettings::draft2020_12()
            .for_serialize()
            .into_generator()
            .into_root_schema_for::<ConnectionList>();
        let generated = crate::render::json(&schema);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &generated).expect("docs/reference is writable");
        }
        let committed = std::fs::read_to_string(path).expect("the schema is committed");
        assert_eq!(
            committed, generated,
            "run UPDATE=1 cargo test -p underpass-cli"
        );
    }
}

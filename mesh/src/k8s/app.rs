//! What a service port speaks, from its `appProtocol`.

use serde::{Deserialize, Deserializer};

use super::field::Text;
use crate::snapshot::Protocol;

pub(super) fn protocol<'de, D: Deserializer<'de>>(d: D) -> Result<Protocol, D::Error> {
    let name = Option::<Text>::deserialize(d)?;
    Ok(name.map_or_else(Protocol::default, |Text(name)| of(&name)))
}

/// The names of Kubernetes' API conventions, of IANA's services and of other meshes; one that is not
/// known says nothing. What is encrypted, and where the server speaks first, is `Opaque`.
fn of(name: &str) -> Protocol {
    match &*name.to_ascii_lowercase() {
        "http" | "http/1.1" | "http1" | "kubernetes.io/ws" | "grpc-web" => Protocol::Http1,
        "kubernetes.io/h2c" | "h2c" | "http2" | "http/2" | "grpc" => Protocol::Http2,
        "kubernetes.io/wss" | "https" | "tls" | "ssl" | "grpcs" | "wss" | "mqtts" | "amqps"
        | "tcp" | "opaque" | "mysql" | "postgres" | "postgresql" | "mongo" | "mongodb"
        | "redis" | "kafka" | "amqp" | "mqtt" | "nats" | "smtp" | "smtps" | "submission"
        | "imap" | "imaps" | "pop3" | "pop3s" | "ftp" | "ssh" | "ldap" | "ldaps" | "memcached"
        | "memcache" | "cassandra" | "zookeeper" | "thrift" => Protocol::Opaque,
        _ => Protocol::Detect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_known_say_nothing() {
        for (name, protocol) in [
            ("HTTP", Protocol::Http1),
            ("kubernetes.io/h2c", Protocol::Http2),
            ("kubernetes.io/wss", Protocol::Opaque),
            ("https", Protocol::Opaque),
            ("mysql", Protocol::Opaque),
            ("example.com/own", Protocol::Detect),
            ("", Protocol::Detect),
        ] {
            assert_eq!(of(name), protocol, "{name}");
        }
    }
}

//! Prometheus metrics, in the OpenMetrics text format. Names and labels of the TCP families are
//! Linkerd's, so that its dashboards work; `layer` and `verdict` are ours.
//!
//! `tcp_write_bytes_total` is what the application of the reporting end sent, `tcp_read_bytes_total`
//! what it read: the source's for direction `outbound`, the destination's for `inbound`.

pub mod http;
mod legs;
pub mod requests;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use underpass_abi::sock::Total;

use crate::{
    kernel::MapUse,
    telemetry::sums::{Series, Sums, TCP, UDP},
};

/// Label sets that are exported at most; more are counted in `underpass_metrics_series_dropped_total`.
pub const MAX_SERIES: usize = 8_192;

/// Everything that one scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    pub sums: Sums,
    /// What workers have counted.
    pub requests: requests::Requests,
    pub maps: Vec<MapUse>,
    /// Kernel counters by name.
    pub counters: Vec<(&'static str, u64)>,
    /// The agent's own counters: name, help, value.
    pub own: Vec<(&'static str, &'static str, u64)>,
    pub plan_version: u64,
    pub plan_age: Duration,
    pub node: String,
}

/// Renders scrapes; remembers what it showed, so that no counter ever falls.
pub struct Exporter {
    registry: Registry,
    current: Arc<Mutex<Scrape>>,
    shown: Sums,
    dropped: u64,
}

impl Default for Exporter {
    fn default() -> Self {
        let current = Arc::new(Mutex::new(Scrape::default()));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Families(current.clone())));
        Self {
            registry,
            current,
            shown: Sums::new(),
            dropped: 0,
        }
    }
}

impl Exporter {
    pub fn render(&mut self, mut scrape: Scrape) -> Result<String, fmt::Error> {
        self.clamp(&mut scrape.sums);
        scrape.own.push((
            "underpass_metrics_series_dropped",
            "Series that were left out because there were too many.",
            self.dropped,
        ));
        *self.current.lock().expect("no panic while held") = scrape;
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn clamp(&mut self, sums: &mut Sums) {
        for (series, sum) in std::mem::take(sums) {
            let room = self.shown.len() < MAX_SERIES;
            match self.shown.entry(series) {
                Entry::Occupied(mut shown) => {
                    let before = *shown.get();
                    shown.insert(sum);
                    shown.get_mut().at_least(&before);
                }
                Entry::Vacant(new) if room => {
                    new.insert(sum);
                }
                Entry::Vacant(_) => self.dropped += 1,
            }
        }
        sums.clone_from(&self.shown);
    }
}

struct Families(Arc<Mutex<Scrape>>);

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Families")
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let scrape = self.0.lock().expect("no panic while held");
        connections(&mut encoder, &scrape.sums)?;
        requests::encode(&mut encoder, &scrape.requests)?;
        for (name, help, value) in &scrape.own {
            single(&mut encoder, name, help, &ConstCounter::new(*value))?;
        }
        for (name, value) in &scrape.counters {
            let name = format!("underpass_{name}");
            let help = "Kernel counter, see docs/reference/counters.md.";
            single(&mut encoder, &name, help, &ConstCounter::new(*value))?;
        }
        let used = |m: &MapUse| m.used;
        per_map(
            &mut encoder,
            &scrape.maps,
            "underpass_map_entries",
            "Elements in use.",
            used,
        )?;
        let capacity = |m: &MapUse| m.capacity;
        per_map(
            &mut encoder,
            &scrape.maps,
            "underpass_map_capacity",
            "Elements at most.",
            capacity,
        )?;
        let help = "Seconds since the plan in force was applied.";
        let age = ConstGauge::new(scrape.plan_age.as_secs_f64());
        single(&mut encoder, "underpass_plan_age_seconds", help, &age)?;
        let version = ConstGauge::new(scrape.plan_version);
        single(
            &mut encoder,
            "underpass_plan_version",
            "Count of applied plans.",
            &version,
        )?;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("node", &*scrape.node),
        ];
        let build = ConstGauge::new(1_u64);
        let help = "Constant 1, labeled by version and node.";
        let mut family =
            encoder.encode_descriptor("underpass_build_info", help, None, build.metric_type())?;
        build.encode(family.encode_family(&labels)?)
    }
}

fn single(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

fn per_map(
    encoder: &mut DescriptorEncoder<'_>,
    maps: &[MapUse],
    name: &str,
    help: &str,
    value: fn(&MapUse) -> u64,
) -> fmt::Result {
    let kind = ConstGauge::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for map in maps {
        ConstGauge::new(value(map)).encode(family.encode_family(&[("map", map.name)])?)?;
    }
    Ok(())
}

/// One family of connections: name, help, value.
type Column = (&'static str, &'static str, fn(&Total) -> u64);

const TCP_COUNTERS: [Column; 8] = [
    ("tcp_open", "Connections that were established.", |s| {
        s.opened
    }),
    ("tcp_close", "Connections that ended.", |s| s.closed),
    (
        "tcp_refused",
        "Connects that were denied, refused or never established.",
        |s| s.refused,
    ),
    (
        "tcp_read_bytes",
        "Payload that the application read.",
        |s| s.received,
    ),
    (
        "tcp_write_bytes",
        "Payload that the application sent.",
        |s| s.sent,
    ),
    ("tcp_retransmits", "Segments that were sent again.", |s| {
        s.retransmits
    }),
    ("tcp_segments_out", "Segments that were sent.", |s| {
        s.segments_out
    }),
    (
        "underpass_shortcut_bytes",
        "Payload of both directions that went past TCP.",
        |s| s.shortcut,
    ),
];
const TCP_OPEN: Column = (
    "tcp_open_connections",
    "Connections that are open.",
    Total::open,
);

const UDP_COUNTERS: [Column; 3] = [
    (
        "udp_open",
        "UDP sockets that were connected to a workload or service.",
        |s| s.opened,
    ),
    (
        "udp_refused",
        "UDP connects and datagrams that were denied or refused.",
        |s| s.refused,
    ),
    (
        "udp_datagrams",
        "Datagrams of unconnected sockets by a service address.",
        |s| s.datagrams,
    ),
];
const UDP_OPEN: Column = (
    "udp_open_sockets",
    "Connected UDP sockets that are open.",
    Total::open,
);

fn connections(encoder: &mut DescriptorEncoder<'_>, sums: &Sums) -> fmt::Result {
    let tcp: Vec<(Labels<'_>, &Total)> = labeled(sums, TCP, false).collect();
    for column in &TCP_COUNTERS {
        counter(encoder, column, &tcp)?;
    }
    gauge(encoder, &TCP_OPEN, &tcp)?;
    let of_workers: Vec<(Labels<'_>, &Total)> = labeled(sums, TCP, true).collect();
    for column in &legs::COUNTERS {
        counter(encoder, column, &of_workers)?;
    }
    let udp: Vec<(Labels<'_>, &Total)> = labeled(sums, UDP, false).collect();
    for column in &UDP_COUNTERS {
        counter(encoder, column, &udp)?;
    }
    gauge(encoder, &UDP_OPEN, &udp)
}

type Labels<'a> = [(&'static str, &'a str); 6];

fn labeled(
    sums: &BTreeMap<Series, Total>,
    proto: u8,
    leg: bool,
) -> impl Iterator<Item = (Labels<'_>, &Total)> {
    sums.iter()
        .filter(move |(series, _)| series.proto == proto && series.leg == leg)
        .map(|(s, sum)| {
            let labels = [
                ("source", &*s.source),
                ("destination", &*s.destination),
                ("service", &*s.service),
                ("direction", s.direction),
                ("layer", s.layer),
                ("verdict", s.verdict),
            ];
            (labels, sum)
        })
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, value): &Column,
    rows: &[(Labels<'_>, &Total)],
) -> fmt::Result {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, sum) in rows {
        ConstCounter::new(value(sum)).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, value): &Column,
    rows: &[(Labels<'_>, &Total)],
) -> fmt::Result {
    let kind = ConstGauge::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, sum) in rows {
        ConstGauge::new(value(sum)).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(source: &str) -> Series {
        Series {
            proto: TCP,
            source: source.into(),
            destination: "shop/ledger".into(),
            service: "shop/ledger:80".into(),
            direction: "outbound",
            layer: "kernel",
            verdict: "allowed",
            leg: false,
        }
    }

    fn scrape(sent: u64) -> Scrape {
        let sum = Total {
            opened: 3,
            closed: 1,
            sent,
            ..Total::default()
        };
        Scrape {
            sums: Sums::from([(series("shop/web"), sum)]),
            counters: vec![("events_lost", 4)],
            maps: vec![MapUse {
                name: "SOCKS",
                used: 1,
                capacity: 2,
                bytes: 3,
            }],
            node: "n\"1".into(),
            ..Scrape::default()
        }
    }

    #[test]
    fn families_have_linkerds_names_and_labels() {
        let text = Exporter::default().render(scrape(50)).unwrap();
        let labels = "{source=\"shop/web\",destination=\"shop/ledger\",service=\"shop/ledger:80\",\
                      direction=\"outbound\",layer=\"kernel\",verdict=\"allowed\"}";
        for line in [
            format!("tcp_open_total{labels} 3\n"),
            format!("tcp_close_total{labels} 1\n"),
            format!("tcp_open_connections{labels} 2\n"),
            format!("tcp_write_bytes_total{labels} 50\n"),
            "underpass_events_lost_total 4\n".into(),
            "underpass_map_entries{map=\"SOCKS\"} 1\n".into(),
            "node=\"n\\\"1\"".into(),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_counter_never_falls_and_never_vanishes() {
        let mut exporter = Exporter::default();
        exporter.render(scrape(50)).unwrap();
        for text in [
            exporter.render(scrape(40)).unwrap(),
            exporter.render(Scrape::default()).unwrap(),
        ] {
            assert!(text.contains("verdict=\"allowed\"} 50\n"), "{text}");
        }
    }

    #[test]
    fn series_are_bounded() {
        let mut exporter = Exporter::default();
        let sums = (0..MAX_SERIES + 3)
            .map(|n| (series(&n.to_string()), Total::default()))
            .collect();
        let text = exporter
            .render(Scrape {
                sums,
                ..Scrape::default()
            })
            .unwrap();
        assert!(text.contains("underpass_metrics_series_dropped_total 3\n"));
        assert_eq!(exporter.shown.len(), MAX_SERIES);
    }
}

//! Sums by (source, destination, service, direction, layer, verdict): the kernel's exact totals of
//! what ended, plus what open connections have so far.
//!
//! Totals must be read before the open connections: what ends in between is then missing for a
//! moment, and never counted twice.

use std::collections::BTreeMap;

use underpass_abi::{
    sock::{Layer, SockState, Total, TotalKey, flag},
    tables::NameKind,
    verdict::Verdict,
};

use super::{
    Names,
    row::{service_name, workload_name},
};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Labels of one series. Indexes that had the same name are one series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Series {
    pub proto: u8,
    pub source: String,
    pub destination: String,
    /// `ns/name:port`, or empty.
    pub service: String,
    pub direction: &'static str,
    pub layer: &'static str,
    pub verdict: &'static str,
    /// A worker dialed in its workload's place: never added to what applications dialed.
    pub leg: bool,
}

pub type Sums = BTreeMap<Series, Total>;

/// All sums, by name.
pub fn by_name(totals: &[(TotalKey, Total)], open: &[SockState], names: &dyn Names) -> Sums {
    let mut sums = Sums::new();
    for (key, total) in totals {
        sums.entry(series(key, names)).or_default().add(total);
    }
    for state in open.iter().filter(|s| is_counted_as_open(s)) {
        sums.entry(series(&TotalKey::of(state), names))
            .or_default()
            .add(&Total {
                sent: state.tcp.sent,
                received: state.tcp.received,
                retransmits: state.tcp.retransmits.into(),
                segments_out: state.tcp.segments_out.into(),
                shortcut: state.tcp.shortcut_sent + state.tcp.shortcut_received,
                ..Total::default()
            });
    }
    sums
}

/// Opened, and not yet in the totals.
fn is_counted_as_open(s: &SockState) -> bool {
    s.flags & flag::OPENED != 0 && s.flags & flag::RELEASED == 0
}

fn series(key: &TotalKey, names: &dyn Names) -> Series {
    let workload = |index| match names.name(NameKind::Workload, index) {
        Some(name) => workload_name(name).0.to_owned(),
        None => format!("#{index}"),
    };
    Series {
        proto: key.proto,
        source: if key.source != 0 {
            workload(key.source)
        } else if key.source_kind & flag::SOURCE_OUTSIDE != 0 {
            "outside".into()
        } else {
            "host".into()
        },
        destination: if key.destination != 0 {
            workload(key.destination)
        } else {
            String::new()
        },
        service: match names.name(NameKind::Service, key.service) {
            Some(name) if key.service != 0 => service_name(name).to_owned(),
            None if key.service != 0 => format!("#{}", key.service),
            _ => String::new(),
        },
        direction: if key.direction == 2 {
            "inbound"
        } else {
            "outbound"
        },
        layer: Layer::from_u8(key.layer).name(),
        verdict: Verdict::from_u8(key.verdict).name(),
        leg: key.is_leg(),
    }
}

#[cfg(test)]
mod tests {
    use underpass_abi::sock::TcpCounts;

    use super::*;

    fn names() -> BTreeMap<(NameKind, u32), String> {
        BTreeMap::from([
            ((NameKind::Workload, 1), "shop/web spiffe://x".to_owned()),
            ((NameKind::Workload, 7), "shop/web spiffe://x".to_owned()),
            ((NameKind::Service, 3), "shop/ledger:80/tcp".to_owned()),
        ])
    }

    fn key(source: u32) -> TotalKey {
        TotalKey {
            source,
            service: 3,
            proto: TCP,
            direction: 1,
            layer: 1,
            verdict: 1,
            ..TotalKey::default()
        }
    }

    fn state(flags: u32) -> SockState {
        SockState {
            source: 1,
            service: 3,
            proto: TCP,
            layer: 1,
            verdict: 1,
            flags: flag::ACTIVE | flags,
            tcp: TcpCounts {
                sent: 5,
                received: 6,
                retransmits: 1,
                ..TcpCounts::default()
            },
            ..SockState::default()
        }
    }

    #[test]
    fn ended_and_open_connections_are_one_sum() {
        let total = Total {
            opened: 3,
            closed: 2,
            sent: 100,
            received: 10,
            ..Total::default()
        };
        let open = [
            state(flag::OPENED),
            state(flag::OPENED | flag::RELEASED), // in the totals already
            state(0),                             // not established
        ];
        // An object that was removed and came back has another index and the same name.
        let sums = by_name(&[(key(1), total), (key(7), total)], &open, &names());
        assert_eq!(sums.len(), 1);
        let (series, sum) = sums.iter().next().unwrap();
        assert_eq!(
            (series.source.as_str(), series.service.as_str()),
            ("shop/web", "shop/ledger:80")
        );
        assert_eq!((sum.sent, sum.received, sum.retransmits), (205, 26, 1));
        assert_eq!((sum.open(), sum.opened), (2, 6));
    }

    #[test]
    fn a_shown_counter_never_falls() {
        let mut now = Total {
            sent: 5,
            opened: 2,
            ..Total::default()
        };
        now.at_least(&Total {
            sent: 9,
            opened: 1,
            ..Total::default()
        });
        assert_eq!((now.sent, now.opened), (9, 2));
    }
}

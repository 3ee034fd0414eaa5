//! What the mesh says of a scenario's connections, against the way that the table expects.

use std::{collections::BTreeMap, time::Duration};

use super::{
    fixture::{Fixture, NAMESPACE},
    table::{Leg, Way},
};
use crate::{
    Result,
    lab::{
        cli::{Row, number, port, text},
        until,
    },
};

/// The agent looks at open connections several times a second, and learns at once of closed ones.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Sums over the connections of one leg.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: usize,
    pub bytes: u64,
    pub shortcut: u64,
    /// Connections by the reason why bytes stayed on TCP; those without one have none.
    pub reasons: BTreeMap<String, usize>,
}

impl Seen {
    fn of(rows: &[Row]) -> Self {
        let mut seen = Self::default();
        for row in rows {
            let count = |field| number(row, field).unwrap_or(0);
            seen.connections += 1;
            seen.bytes += count("/bytes_sent") + count("/bytes_received");
            seen.shortcut += count("/bytes_shortcut");
            let reason = text(row, "/shortcut_reason");
            if !reason.is_empty() {
                *seen.reasons.entry(reason.to_owned()).or_default() += 1;
            }
        }
        seen
    }

    /// `Err`: why it is not what the leg expects.
    fn check(&self, way: &Way) -> std::result::Result<(), String> {
        let problem = match way {
            _ if self.connections == 0 => "no connection was seen",
            _ if self.bytes == 0 => "no byte was seen",
            Way::Takes if self.shortcut == 0 => "nothing took the shortcut",
            Way::Stays(_) if self.shortcut > 0 => "something took the shortcut",
            Way::Stays(codes) if codes.iter().any(|c| !self.reasons.contains_key(*c)) => {
                "an expected reason is missing"
            }
            Way::Stays(codes) if self.reasons.keys().any(|r| !codes.contains(&r.as_str())) => {
                "another reason than expected"
            }
            Way::Takes | Way::Stays(_) => return Ok(()),
        };
        Err(format!("{problem}: {self}"))
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} connections, {} bytes, {} by the shortcut",
            self.connections, self.bytes, self.shortcut
        )?;
        for (reason, count) in &self.reasons {
            write!(f, ", {count} {reason}")?;
        }
        Ok(())
    }
}

/// The connections of one leg so far.
fn look(fixture: &Fixture, leg: &Leg, at: u16) -> Result<Seen> {
    let name = |pod| format!("{NAMESPACE}/{pod}");
    let filters = ["--from", &name(leg.from), "--to", &name(leg.to)];
    let mut rows = fixture.agent.cli.conns(&filters)?;
    rows.retain(|row| port(row, "/destination/address") == at);
    Ok(Seen::of(&rows))
}

/// Waits until the leg is as the table expects; what was seen at last, and what is wrong with it.
pub fn check(fixture: &Fixture, leg: &Leg, at: u16) -> (Seen, Option<String>) {
    let off = Way::Stays(&["SHORTCUT_OFF"]);
    let way = if fixture.shortcut { &leg.way } else { &off };
    let mut last = Seen::default();
    let done = until("what the table expects", SEEN_WITHIN, || {
        last = look(fixture, leg, at).map_err(|f| f.0)?;
        last.check(way)
    });
    let problem = done
        .err()
        .map(|f| format!("{} to {}: {}", leg.from, leg.to, f.0));
    (last, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(shortcut: u64, reason: Option<&str>) -> Seen {
        Seen {
            connections: 2,
            bytes: 10,
            shortcut,
            reasons: reason.into_iter().map(|r| (r.to_owned(), 2)).collect(),
        }
    }

    #[test]
    fn zero_bytes_are_no_success() {
        assert!(seen(0, None).check(&Way::Takes).is_err());
        assert!(seen(1, None).check(&Way::Takes).is_ok());
        assert!(Seen::default().check(&Way::Takes).is_err());
        assert!(Seen::default().check(&Way::Stays(&[])).is_err());
    }

    #[test]
    fn who_stays_must_say_why_and_stay_wholly() {
        let stays = Way::Stays(&["SHORTCUT_BLOCKING"]);
        assert!(seen(0, Some("SHORTCUT_BLOCKING")).check(&stays).is_ok());
        assert!(seen(0, Some("SHORTCUT_LATE")).check(&stays).is_err());
        assert!(seen(0, None).check(&stays).is_err());
        assert!(seen(1, Some("SHORTCUT_BLOCKING")).check(&stays).is_err());
    }
}

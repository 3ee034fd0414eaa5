//! The columns of a connection.

use underpass_api::v1alpha1 as api;

use crate::render::{self, Align, Cell, Look, Table, Tone};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    Normal,
    /// With what explains a denial.
    Reasons,
    /// All, and a reason in every empty cell.
    Wide,
}

impl Columns {
    pub fn headers(self) -> Vec<(&'static str, Align)> {
        use Align::{Left, Right};
        let mut all = vec![
            ("SOURCE", Left),
            ("DESTINATION", Left),
            ("SERVICE", Left),
            ("PROTO", Left),
            ("ENDPOINT", Left),
            ("LAYER", Left),
            ("VERDICT", Left),
            ("STATE", Left),
            ("AGE", Right),
            ("SENT", Right),
            ("RECEIVED", Right),
            ("SRTT", Right),
            ("RETRANS", Right),
        ];
        if self != Self::Normal {
            all.extend([("POLICY", Left), ("REASON", Left)]);
        }
        if self == Self::Wide {
            all.extend([
                ("ID", Left),
                ("SOURCE_ADDRESS", Left),
                ("AUTHN", Left),
                ("IDENTITIES", Left),
                ("CONNECT", Right),
                ("DURATION", Right),
                ("DIALED", Left),
                ("DELIVERED", Right),
                ("SHORTCUT", Right),
                ("SEGS", Right),
                ("CLOSE_REASON", Left),
                ("OPENED_AT", Left),
                ("REPORTER", Left),
                ("NODE", Left),
            ]);
        }
        all
    }
}

/// Whether a row needs the columns that explain.
pub fn explains(row: &api::Connection) -> bool {
    !row.reason.is_empty() || !matches!(row.verdict.as_str(), "" | "allowed")
}

pub fn table(rows: &[api::Connection], columns: Columns, look: Look, now_ms: u64) -> String {
    let mut table = Table::new(&columns.headers(), look);
    rows.iter()
        .for_each(|row| table.push(cells(row, columns, now_ms)));
    table.take()
}

pub fn cells(row: &api::Connection, columns: Columns, now_ms: u64) -> Vec<Cell> {
    let wide = columns == Columns::Wide;
    // An empty cell is `-`, and in wide says why it is empty.
    let or_why = |text: &str, why: &str| match (text, wide) {
        ("", true) => Cell::new(format!("-({why})")),
        _ => Cell::new(text),
    };
    let unseen = if row.reason.is_empty() {
        "NOT_OBSERVED"
    } else {
        row.reason.as_str()
    };
    let age = match row.opened_at_ms {
        0 => String::new(),
        at => render::millis(now_ms.saturating_sub(at)),
    };
    let tone = Tone::of_verdict(&row.verdict);
    let mut cells = vec![
        or_why(&end(&row.source), "NOT_OBSERVED"),
        or_why(&end(&row.destination), unseen),
        or_why(
            &row.service,
            if row.layer == "before-mesh" {
                unseen
            } else {
                "ADDRESS_DIALED"
            },
        ),
        Cell::new(&row.protocol),
        or_why(&row.endpoint, unseen),
        or_why(&row.layer, unseen),
        if row.verdict.is_empty() {
            or_why("", unseen)
        } else {
            Cell::toned(&row.verdict, tone)
        },
        or_why(&row.state, "NOT_OBSERVED"),
        or_why(&age, unseen),
        Cell::new(render::bytes(row.bytes_sent)),
        Cell::new(render::bytes(row.bytes_received)),
        or_why(
            &row.srtt_us
                .map(|us| render::micros(us.into()))
                .unwrap_or_default(),
            unseen,
        ),
        Cell::new(row.retransmits.to_string()),
    ];
    if columns != Columns::Normal {
        let undecided = if row.reason.is_empty() {
            "NOTHING_TO_DECIDE"
        } else {
            unseen
        };
        cells.push(or_why(&row.policy, undecided));
        cells.push(Cell::toned(&row.reason, tone));
    }
    if wide {
        let connect = row.connect_us.map(render::micros).unwrap_or_default();
        let (opened_at, duration) = match row.opened_at_ms {
            0 => <(String, String)>::default(),
            at => (render::rfc3339(at), render::millis(row.duration_ms)),
        };
        let ended = matches!(row.state.as_str(), "closed" | "failed" | "refused");
        cells.extend([
            Cell::new(&row.id),
            or_why(address(&row.source), unseen),
            or_why(&row.authn, unseen),
            Cell::new(format!(
                "{}→{}",
                identity(&row.source),
                identity(&row.destination)
            )),
            or_why(&connect, unseen),
            or_why(&duration, unseen),
            or_why(&row.original_destination, unseen),
            Cell::new(render::bytes(row.bytes_delivered)),
            match row.shortcut_reason.as_str() {
                why if row.bytes_shortcut == 0 && !why.is_empty() => or_why("", why),
                _ => Cell::new(render::bytes(row.bytes_shortcut)),
            },
            Cell::new(row.segments_out.to_string()),
            or_why(
                &row.close_reason,
                if ended { "NOT_OBSERVED" } else { "STILL_OPEN" },
            ),
            or_why(&opened_at, unseen),
            Cell::new(&row.reporter),
            Cell::new(&row.node),
        ]);
    }
    cells
}

/// The workload, with the address where that tells more; the address if there is no workload.
fn end(peer: &Option<api::Peer>) -> String {
    let Some(peer) = peer else {
        return String::new();
    };
    match peer.workload.as_str() {
        "" => peer.address.clone(),
        "outside" if !peer.address.is_empty() => format!("outside({})", peer.address),
        workload => workload.to_owned(),
    }
}

fn address(peer: &Option<api::Peer>) -> &str {
    peer.as_ref().map_or("", |p| p.address.as_str())
}

fn identity(peer: &Option<api::Peer>) -> &str {
    match peer.as_ref().map(|p| p.identity.as_str()) {
        None | Some("") => "-(NOT_A_WORKLOAD)",
        Some(identity) => identity,
    }
}

#[cfg(test)]
mod tests;

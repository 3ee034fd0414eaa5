//! `underpass conns`: one row per connection.

use std::{
    pin::pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use underpass_api::v1alpha1 as api;

use crate::{
    client::Client,
    error::CliError,
    options::{Conns, Format, ServiceFilter},
    render::{self, Align, Cell, Look, Table, Tone},
    row::{Connection, ConnectionList},
};

/// Asked of the agent when a part of the filter is compared here, so that its own limit does not
/// cut rows off that fit.
const ALL_ROWS: u32 = 1_000_000;
/// Rows of a stream that arrive within this time are lined up together.
const GATHER: Duration = Duration::from_millis(100);
/// Rows lined up together at most.
const GATHER_ROWS: usize = 1_000;
/// How often a stream's reader learns about lost rows.
const LOSS_EVERY: Duration = Duration::from_secs(5);

pub async fn run(options: &Conns) -> Result<(), CliError> {
    let (filter, service) = options.filter()?;
    let mut client = Client::connect(&options.api.path).await?;
    let view = View { options, service };
    if options.watch {
        view.watch(&mut client, filter).await
    } else {
        view.list(&mut client, filter).await
    }
}

struct View<'a> {
    options: &'a Conns,
    service: ServiceFilter,
}

impl View<'_> {
    async fn list(
        &self,
        client: &mut Client,
        filter: api::ConnectionFilter,
    ) -> Result<(), CliError> {
        let compared_here =
            self.options.namespace.namespace.is_some() || self.service.port.is_some();
        let limit = self.options.limit.unwrap_or(0);
        let asked = if compared_here { ALL_ROWS } else { limit };
        let answer = client
            .list(api::ListConnectionsRequest {
                filter: Some(filter),
                limit: asked,
            })
            .await?;
        let mut rows = answer.items;
        rows.retain(|row| self.fits(row));
        rows.sort_by(|a, b| (a.opened_at_ms, &a.id).cmp(&(b.opened_at_ms, &b.id)));
        let surplus = match limit {
            0 => 0,
            limit => rows.len().saturating_sub(limit as usize),
        };
        rows.drain(..surplus);

        let shown = rows.len();
        render::emit(&self.print(rows))?;
        if shown == 0 {
            render::note("no connections match");
        }
        if answer.truncated || surplus > 0 {
            render::note(&format!("only the newest {shown} rows are shown (--limit)"));
        }
        note_loss(answer.events_lost);
        Ok(())
    }

    fn print(&self, rows: Vec<api::Connection>) -> String {
        let output = self.options.rows.output.output;
        match output {
            Format::Table | Format::Wide => {
                let look = Look::of_stdout(!self.options.rows.no_headers);
                let columns = if output == Format::Wide {
                    Columns::Wide
                } else if rows.iter().any(explains) {
                    Columns::Reasons
                } else {
                    Columns::Normal
                };
                table(&rows, columns, look, now_ms())
            }
            Format::Json => render::json(&list_of(rows)),
            Format::Yaml => render::yaml(&list_of(rows)),
        }
    }

    async fn watch(
        &self,
        client: &mut Client,
        filter: api::ConnectionFilter,
    ) -> Result<(), CliError> {
        let request = api::ListConnectionsRequest {
            filter: Some(filter),
            limit: 0,
        };
        let mut stream = client.watch(request).await?;
        let output = self.options.rows.output.output;
        let columns = if output == Format::Wide {
            Columns::Wide
        } else {
            Columns::Reasons
        };
        let look = Look::of_stdout(!self.options.rows.no_headers);
        let mut printed = Table::new(&columns.headers(), look);
        let mut lost = Loss::default();
        let mut loss_due = tokio::time::interval(LOSS_EVERY);
        loop {
            let mut rows = Vec::new();
            tokio::select! {
                first = stream.message() => {
                    let first = first.map_err(|e| client.stream_error(&e))?;
                    rows.push(first.ok_or_else(|| client.stream_ended())?);
                }
                _ = loss_due.tick() => {
                    lost.report(client).await?;
                    continue;
                }
            }
            // What comes at once is lined up together; the widths only grow.
            let mut full = pin!(tokio::time::sleep(GATHER));
            while rows.len() < GATHER_ROWS {
                tokio::select! {
                    next = stream.message() => match next {
                        Ok(Some(row)) => rows.push(row),
                        // Told by the next read, after what was gathered is printed.
                        Ok(None) | Err(_) => break,
                    },
                    () = &mut full => break,
                }
            }
            rows.retain(|row| self.fits(row));
            let text = match output {
                Format::Table | Format::Wide => {
                    let now = now_ms();
                    rows.iter()
                        .for_each(|row| printed.push(cells(row, columns, now)));
                    printed.take()
                }
                Format::Json => rows
                    .into_iter()
                    .map(|r| render::json_line(&Connection::from(r)))
                    .collect(),
                Format::Yaml => rows
                    .into_iter()
                    .map(|r| format!("---\n{}", render::yaml(&Connection::from(r))))
                    .collect(),
            };
            render::emit(&text)?;
        }
    }

    fn fits(&self, row: &api::Connection) -> bool {
        let workload = |peer: &Option<api::Peer>| {
            peer.as_ref()
                .map(|p| p.workload.clone())
                .unwrap_or_default()
        };
        let ends = [
            workload(&row.source),
            workload(&row.destination),
            row.service.clone(),
        ];
        self.options
            .namespace
            .matches(ends.iter().map(String::as_str))
            && self.service.matches(&row.service)
    }
}

/// Rows lost as far as they were reported.
#[derive(Default)]
struct Loss(u64);

impl Loss {
    async fn report(&mut self, client: &mut Client) -> Result<(), CliError> {
        let request = api::ListConnectionsRequest {
            filter: None,
            limit: 1,
        };
        let total = client.list(request).await?.events_lost;
        if total > self.0 {
            note_loss(total);
            self.0 = total;
        }
        Ok(())
    }
}

fn note_loss(lost: u64) {
    if lost > 0 {
        render::note(&format!(
            "{lost} rows lost (UP0207 EVENTS_LOST); totals are exact"
        ));
    }
}

fn list_of(rows: Vec<api::Connection>) -> ConnectionList {
    ConnectionList {
        items: rows.into_iter().map(Connection::from).collect(),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    Normal,
    /// With what explains a denial.
    Reasons,
    /// All, and a reason in every empty cell.
    Wide,
}

impl Columns {
    fn headers(self) -> Vec<(&'static str, Align)> {
        use Align::{Left, Right};
        let mut all = vec![
            ("SOURCE", Left),
            ("DESTINATION", Left),
            ("SERVICE", Left),
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
                ("AUTHN", Left),
                ("IDENTITIES", Left),
                ("CONNECT", Right),
                ("DURATION", Right),
                ("DIALED", Left),
                ("DELIVERED", Right),
                ("SHORTCUT", Right),
                ("SEGS", Right),
                ("CLOSE_REASON", Left),
                ("NODE", Left),
            ]);
        }
        all
    }
}

/// Whether a row needs the columns that explain.
fn explains(row: &api::Connection) -> bool {
    !row.reason.is_empty() || !matches!(row.verdict.as_str(), "" | "allowed")
}

fn table(rows: &[api::Connection], columns: Columns, look: Look, now_ms: u64) -> String {
    let mut table = Table::new(&columns.headers(), look);
    rows.iter()
        .for_each(|row| table.push(cells(row, columns, now_ms)));
    table.take()
}

fn cells(row: &api::Connection, columns: Columns, now_ms: u64) -> Vec<Cell> {
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
        let ended = matches!(row.state.as_str(), "closed" | "failed" | "refused");
        cells.extend([
            Cell::new(&row.id),
            or_why(&row.authn, unseen),
            Cell::new(format!(
                "{}→{}",
                identity(&row.source),
                identity(&row.destination)
            )),
            or_why(&connect, unseen),
            Cell::new(render::millis(row.duration_ms)),
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

fn identity(peer: &Option<api::Peer>) -> &str {
    match peer.as_ref().map(|p| p.identity.as_str()) {
        None | Some("") => "-(NOT_A_WORKLOAD)",
        Some(identity) => identity,
    }
}

#[cfg(test)]
mod tests;

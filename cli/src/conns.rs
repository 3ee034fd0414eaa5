//! `underpass conns`: one row per connection.

use std::{
    pin::pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use underpass_api::v1alpha1 as api;

use self::table::{Columns, cells, explains, table};
use crate::{
    client::Client,
    error::CliError,
    options::{Conns, Format, ServiceFilter},
    render::{self, Look, Table},
    row::{Connection, ConnectionList},
};

mod table;

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
            let rows = if shown == 1 { "row is" } else { "rows are" };
            render::note(&format!("only the newest {shown} {rows} shown (--limit)"));
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
            "{lost} rows lost since the agent started (UP0207 EVENTS_LOST); totals are exact"
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

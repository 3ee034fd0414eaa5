//! Tables, sizes, durations and times as text, and the one place that writes to stdout.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

/// How a table looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub headers: bool,
    pub color: bool,
}

impl Look {
    /// Color only on a terminal that wants it (<https://no-color.org>).
    pub fn of_stdout(headers: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self {
            headers,
            color: !refused && io::stdout().is_terminal(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    pub fn of_verdict(verdict: &str) -> Self {
        match verdict {
            "denied" | "refused" => Self::Bad,
            "audited" => Self::Warn,
            _ => Self::Plain,
        }
    }

    /// `text` in this tone, if there is color.
    pub fn paint(self, text: &str, color: bool) -> String {
        let sgr = match self {
            _ if !color => return text.to_owned(),
            Self::Plain => return text.to_owned(),
            Self::Good => 32,
            Self::Warn => 33,
            Self::Bad => 31,
        };
        format!("\x1b[{sgr}m{text}\x1b[0m")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn new(text: impl AsRef<str>) -> Self {
        Self::toned(text, Tone::Plain)
    }

    pub fn toned(text: impl AsRef<str>, tone: Tone) -> Self {
        Self {
            text: printable(text.as_ref()),
            tone,
        }
    }
}

/// The text without control characters (names come from files and the network, and must not drive
/// the terminal); `-` if nothing is left.
pub fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A table that keeps its column widths, so that rows rendered later line up with earlier ones.
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    widths: Vec<usize>,
    rows: Vec<Vec<Cell>>,
    header_due: bool,
    look: Look,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)], look: Look) -> Self {
        Self {
            columns: columns.to_vec(),
            widths: columns
                .iter()
                .map(|(name, _)| name.chars().count())
                .collect(),
            rows: Vec::new(),
            header_due: look.headers,
            look,
        }
    }

    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "a cell per column");
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.text.chars().count());
        }
        self.rows.push(row);
    }

    /// The rows pushed since the last call, below the header if they are the first. Without rows
    /// nothing: a header alone says nothing to a reader, and is a row to a script.
    pub fn take(&mut self) -> String {
        let mut out = String::new();
        if !self.rows.is_empty() && std::mem::take(&mut self.header_due) {
            let header: Vec<Cell> = self
                .columns
                .iter()
                .map(|(name, _)| Cell::new(name))
                .collect();
            self.line(&header, &mut out);
        }
        for row in std::mem::take(&mut self.rows) {
            self.line(&row, &mut out);
        }
        out
    }

    fn line(&self, row: &[Cell], out: &mut String) {
        let last = row.len().saturating_sub(1);
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(self.widths[i] - cell.text.chars().count());
            let text = cell.tone.paint(&cell.text, self.look.color);
            match self.columns[i].1 {
                Align::Right => out.extend([pad.as_str(), &text]),
                Align::Left if i == last => out.push_str(&text),
                Align::Left => out.extend([text.as_str(), &pad]),
            }
            out.push_str(if i == last { "\n" } else { "  " });
        }
    }
}

/// `label  text` lines under each other.
pub fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines
        .iter()
        .map(|(label, _)| label.len())
        .max()
        .unwrap_or(0);
    lines
        .iter()
        .map(|(label, text)| format!("{label:width$}  {}\n", printable(text)))
        .collect()
}

/// Writes to stdout at once. A closed reader is an error that the caller turns into success.
pub fn emit(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a message to stderr; if that is closed, nobody wants it.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

pub fn json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("rows are plain data");
    text.push('\n');
    text
}

/// One line per document, for streams.
pub fn json_line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("rows are plain data");
    text.push('\n');
    text
}

pub fn yaml(value: &impl Serialize) -> String {
    serde_yaml_ng::to_string(value).expect("rows are plain data")
}

/// `512B`, `1.5KiB`, `120MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95);
    format!("{value:.digits$}{}", UNITS[unit])
}

/// `850µs`, `12.3ms`, `4.2s`, `3m12s`, `2h5m`, `3d4h`.
pub fn micros(us: u64) -> String {
    let seconds = us / 1_000_000;
    match us {
        0..1_000 => format!("{us}µs"),
        1_000..1_000_000 => format!("{:.1}ms", (us / 100) as f64 / 10.0),
        _ if seconds < 60 => format!("{:.1}s", (us / 100_000) as f64 / 10.0),
        _ if seconds < 3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// What was measured in milliseconds: `<1ms`, `27ms`, then as [`micros`].
pub fn millis(ms: u64) -> String {
    match ms {
        0 => "<1ms".to_owned(),
        1..1_000 => format!("{ms}ms"),
        _ => micros(ms.saturating_mul(1_000)),
    }
}

/// `50.0%` of a part in a whole; `-` of nothing.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        "-".to_owned()
    } else {
        format!("{:.1}%", part as f64 * 100.0 / whole as f64)
    }
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(ms: u64) -> String {
    let (days, of_day) = ((ms / 86_400_000) as i64, ms % 86_400_000);
    // Days to civil date, after Howard Hinnant's "chrono-compatible low-level date algorithms":
    // eras of 400 years that start on March 1.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look {
        headers: true,
        color: false,
    };

    #[test]
    fn columns_line_up_and_stay_lined_up() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)], PLAIN);
        table.push(vec![Cell::new("µs"), Cell::new("1")]);
        table.push(vec![Cell::new("longer"), Cell::new("1234")]);
        assert_eq!(table.take(), "NAME       N\nµs         1\nlonger  1234\n");
        table.push(vec![Cell::new(""), Cell::new("5")]);
        assert_eq!(table.take(), "-          5\n");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(Cell::new("a\x1b[31mb\n").text, "a?[31mb?");
    }

    #[test]
    fn color_does_not_change_the_width() {
        let look = Look {
            headers: false,
            color: true,
        };
        let mut table = Table::new(&[("A", Align::Left), ("B", Align::Left)], look);
        table.push(vec![Cell::toned("denied", Tone::Bad), Cell::new("x")]);
        table.push(vec![Cell::new("allowed"), Cell::new("y")]);
        assert_eq!(table.take(), "\x1b[31mdenied\x1b[0m   x\nallowed  y\n");
    }

    #[test]
    fn sizes_and_durations() {
        let sizes = [0, 1023, 1536, 102_400, 52_428_800, u64::MAX].map(bytes);
        assert_eq!(
            sizes,
            ["0B", "1023B", "1.5KiB", "100KiB", "50.0MiB", "16.0EiB"]
        );
        let times = [
            850,
            12_345,
            4_250_000,
            192_000_000,
            7_500_000_000,
            273_600_000_000,
        ];
        assert_eq!(
            times.map(micros),
            ["850µs", "12.3ms", "4.2s", "3m12s", "2h5m", "3d4h"]
        );
        assert_eq!([0, 27, 4_250].map(millis), ["<1ms", "27ms", "4.2s"]);
        assert_eq!(percent(1, 8), "12.5%");
        assert_eq!(percent(0, 0), "-");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_230_245_007), "2026-11-21T03:04:05.007Z");
    }
}

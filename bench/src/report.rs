//! The table for people. The same figures and every raw round are in the JSON.

use std::fmt::Write as _;

use crate::{
    compare::{Report, Row},
    stats::Ratio,
};

const HEAD: [&str; 9] = [
    "case",
    "off µs",
    "on µs",
    "ratio",
    "95 % CI",
    "of minima",
    "system",
    "p50 off/on µs",
    "rounds",
];

pub fn table(report: &Report) -> String {
    let e = &report.environment;
    let mut text = format!(
        "{} on {} × {}, {} build of {}\n\
         total CPU of client, server, agent and softirq for one operation; ratio: on/off of the same \
         round\n\n",
        e.kernel, e.cpus, e.cpu, e.build, e.commit
    );
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(report.rows.iter().map(cells));
    text += &columns(&lines);
    for row in &report.rows {
        for (index, round) in row.rounds.iter().enumerate().filter(|(_, r)| !r.accepted) {
            let _ = writeln!(
                text,
                "rejected: {} round {}: off {:.2} on {:.2} µs, the baseline is not within 15 % of \
                 its median",
                row.case.name,
                index + 1,
                round.off.cost(),
                round.on.cost()
            );
        }
    }
    if report.options.null {
        text += "--null: no mesh on either side, so each ratio should be 1\n";
    }
    if report.options.quick {
        text += "--quick: a smoke test, its figures mean nothing\n";
    }
    text
}

fn cells(row: &Row) -> [String; 9] {
    let kept = row.rounds.iter().filter(|r| r.accepted).count();
    [
        row.case.name.to_owned(),
        format!("{:.2}", row.off_us),
        format!("{:.2}", row.on_us),
        ratio(&row.cpu),
        format!("{:.3}-{:.3}", row.cpu.low, row.cpu.high),
        format!("{:.3}", row.cpu.of_minima),
        ratio(&row.system),
        p50(row),
        format!("{kept}/{}", row.rounds.len()),
    ]
}

fn ratio(ratio: &Ratio) -> String {
    format!("{:.3}", ratio.median)
}

fn p50(row: &Row) -> String {
    let of = |on: bool| {
        let values: Vec<f64> = row
            .rounds
            .iter()
            .filter(|r| r.accepted)
            .map(|r| if on { r.on.latency.p50 } else { r.off.latency.p50 } as f64 / 1e3)
            .collect();
        crate::stats::median(&values).unwrap_or_default()
    };
    format!("{:.1}/{:.1}", of(false), of(true))
}

/// Left-aligned first column, the others right-aligned.
pub fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |i: usize| {
        lines
            .iter()
            .map(|line| line[i].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut out = format!("{:<1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(&widths).skip(1) {
            let _ = write!(out, "  {cell:>width$}");
        }
        text += out.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let lines = [["case", "µs"], ["a-long-one", "12.3"]].map(|l| l.map(str::to_owned));
        assert_eq!(columns(&lines), "case          µs\na-long-one  12.3\n");
    }
}

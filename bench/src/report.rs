//! The table for people. The same figures and every raw round are in the JSON.

use std::fmt::Write as _;

use crate::{
    compare::{Compared, Report, Row},
    stats::Ratio,
    way::Way,
};

const HEAD: [&str; 14] = [
    "case",
    "way",
    "base µs",
    "µs",
    "ratio",
    "95 % CI",
    "of minima",
    "system",
    "p50 µs base/way",
    "p50",
    "95 % CI",
    "p99",
    "95 % CI",
    "past TCP",
];

pub fn table(report: &Report) -> String {
    let e = &report.environment;
    let base = report.options.ways[0].name();
    let mut text = format!(
        "{} on {} × {}, {} build of {}; load {}\n\
         total CPU of client, server, agent and softirq for one operation; ratios: to {base} in the \
         same round\n\n",
        e.kernel, e.cpus, e.cpu, e.build, e.commit, e.load
    );
    let mut lines = vec![HEAD.map(str::to_owned)];
    for row in &report.rows {
        lines.extend(row.ways.iter().map(|way| cells(row, way)));
    }
    text += &columns(&lines);
    text.push('\n');
    if report
        .rows
        .iter()
        .any(|row| row.ways.iter().any(|w| misses(row, w)))
    {
        text += "* above the goal for the shortcut (docs/how-to/benchmark.md)\n";
    }
    for row in &report.rows {
        for (index, round) in row.rounds.iter().enumerate().filter(|(_, r)| !r.accepted) {
            let _ = writeln!(
                text,
                "rejected: {} round {}: {base} {:.2} µs is not within 15 % of its median",
                row.case.name,
                index + 1,
                round.samples[0].cost(),
            );
        }
    }
    for why in &report.failed {
        let _ = writeln!(text, "FAILED: {why}");
    }
    if report.options.null {
        text += "--null: no mesh on either side, so each ratio should be 1\n";
    }
    if report.options.quick {
        text += "--quick: a smoke test, its figures mean nothing\n";
    }
    text
}

fn cells(row: &Row, way: &Compared) -> [String; 14] {
    let [cpu, p50, p99] = goals(row, way);
    let interval = |ratio: &Ratio| format!("{:.3}-{:.3}", ratio.low, ratio.high);
    [
        row.case.name.to_owned(),
        way.way.name().to_owned(),
        format!("{:.2}", row.base_us),
        format!("{:.2}", way.us),
        cpu,
        interval(&way.cpu),
        format!("{:.3}", way.cpu.of_minima),
        format!("{:.3}", way.system.median),
        format!("{:.1}/{:.1}", row.base_p50_us, way.p50_us),
        p50,
        interval(&way.p50),
        p99,
        interval(&way.p99),
        match way.shortcut_share {
            Some(share) => format!("{:.0} %", share * 100.0),
            None => "-".to_owned(),
        },
    ]
}

/// The ratios that have goals, those above marked.
fn goals(row: &Row, way: &Compared) -> [String; 3] {
    [
        (way.cpu.median, row.goal.cpu),
        (way.p50.median, row.goal.p50),
        (way.p99.median, row.goal.p99),
    ]
    .map(|(ratio, goal)| {
        let above = way.way == Way::Shortcut && goal.is_some_and(|goal| ratio > goal);
        format!("{ratio:.3}{}", if above { "*" } else { "" })
    })
}

fn misses(row: &Row, way: &Compared) -> bool {
    goals(row, way).iter().any(|cell| cell.ends_with('*'))
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

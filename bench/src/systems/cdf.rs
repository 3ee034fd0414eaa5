//! Latencies of a case as an inline SVG: the share of requests that took no longer, over a logarithmic
//! axis of time.

use std::fmt::Write as _;

use super::System;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// Of the requests; what few of them took would squeeze all others together.
const SHOWN: f64 = 0.999;

/// Nanoseconds, with the share of requests that took no longer.
pub type Line = (System, Vec<(u64, f64)>);

/// `None` without latencies.
pub fn svg(lines: &[Line]) -> Option<String> {
    let axis = Axis::over(lines)?;
    let mut text = format!(
        "<svg class=\"cdf\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Latencies: \
         share of requests over time, logarithmic\">\n"
    );
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let y = height(share);
        let _ = writeln!(
            text,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            share * 100.0
        );
    }
    let foot = HEIGHT - BOTTOM;
    for nanoseconds in axis.ticks() {
        let x = axis.at(nanoseconds as f64);
        let _ = writeln!(
            text,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{foot}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            foot + 16.0,
            time(nanoseconds)
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">latency, logarithmic</text>",
        WIDTH - RIGHT,
        HEIGHT - 6.0
    );
    for (system, points) in lines.iter().filter(|(_, points)| !points.is_empty()) {
        let index = system.index();
        let name = system.name();
        let _ = writeln!(
            text,
            "<polyline class=\"line s{index}\" points=\"{}\"><title>{name}</title></polyline>",
            axis.path(points)
        );
    }
    Some(text + "</svg>\n")
}

/// Logarithms of the first and the last nanosecond shown.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn over(lines: &[Line]) -> Option<Self> {
        let points = || lines.iter().flat_map(|(_, points)| points);
        let first = points().map(|(ns, _)| *ns).min()?;
        let last = lines.iter().filter_map(|(_, points)| {
            let shown = points.iter().find(|(_, share)| *share >= SHOWN);
            shown.or(points.last()).map(|(ns, _)| *ns)
        });
        let low = (first.max(1) as f64).log10();
        let high = (last.max()?.max(2) as f64).log10();
        // A single value still needs a width.
        Some(Self {
            low,
            high: high.max(low + 0.3),
        })
    }

    fn at(&self, nanoseconds: f64) -> f64 {
        let share = (nanoseconds.max(1.0).log10() - self.low) / (self.high - self.low);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    /// 1, 2 and 5 of each power of ten; over a long axis the powers alone.
    fn ticks(&self) -> Vec<u64> {
        let steps: &[u64] = if self.high - self.low > 3.0 {
            &[1]
        } else {
            &[1, 2, 5]
        };
        let powers = (0..11).map(|power| 10_u64.pow(power));
        let all = powers.flat_map(|power| steps.iter().map(move |step| step * power));
        all.filter(|ns| (self.low..=self.high).contains(&(*ns as f64).log10()))
            .collect()
    }

    /// From the foot of the diagram on; points that would fall on one another are left out.
    fn path(&self, points: &[(u64, f64)]) -> String {
        let mut text = String::new();
        let mut last = (f64::MIN, f64::MIN);
        let start = points.first().map(|(ns, _)| (*ns, 0.0));
        for (nanoseconds, share) in start.iter().chain(points) {
            let (x, y) = (self.at(*nanoseconds as f64), height(*share));
            let near = (x - last.0).abs() < 1.5 && (y - last.1).abs() < 1.5;
            if near && *share < 1.0 {
                continue;
            }
            let _ = write!(text, "{x:.1},{y:.1} ");
            last = (x, y);
            if *share >= SHOWN {
                break;
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn height(share: f64) -> f64 {
    let foot = HEIGHT - BOTTOM;
    foot - share * (foot - TOP)
}

fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        ns if ns < 1_000 => format!("{ns} ns"),
        ns if ns < 1_000_000 => format!("{} µs", ns / 1_000),
        ns if ns < 1_000_000_000 => format!("{} ms", ns / 1_000_000),
        ns => format!("{} s", ns / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_system_is_further_right_and_both_end_at_the_top() {
        let fast = (System::None, vec![(10_000, 0.5), (20_000, 1.0)]);
        let slow = (System::EnvoyHop, vec![(100_000, 0.5), (400_000, 1.0)]);
        let axis = Axis::over(&[fast.clone(), slow.clone()]).unwrap();
        assert!(axis.at(10_000.0) < axis.at(100_000.0));
        assert_eq!(axis.at(400_000.0), WIDTH - RIGHT);
        assert!(axis.path(&fast.1).ends_with(&format!("{TOP:.1}")));
        let drawn = svg(&[fast, slow]).unwrap();
        assert_eq!(drawn.matches("<polyline").count(), 2);
        assert!(drawn.contains(">100 µs<"), "{drawn}");
        assert_eq!(svg(&[]), None);
    }

    #[test]
    fn ticks_lie_on_the_axis() {
        let axis = Axis {
            low: 4.0,
            high: 5.5,
        };
        assert_eq!(axis.ticks(), [10_000, 20_000, 50_000, 100_000, 200_000]);
        assert_eq!(time(50_000), "50 µs");
    }
}

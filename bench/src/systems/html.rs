//! The comparison as one HTML file that needs nothing else.

use std::fmt::Write as _;

use super::{
    System, cdf,
    rounds::{Measured, Report},
    rows::{Figures, no_difference},
    table::{mib, note, told},
};
use crate::stats::Ratio;

const STYLE: &str = include_str!("style.css");

pub fn page(report: &Report) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Underpass: {0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{0}</h1>\n",
        report.text.title
    );
    if report.options.quick {
        text += "<p class=\"warn\">A smoke test (<code>--quick</code>): its figures mean nothing.</p>\n";
    }
    text += &glance(report);
    let of = &report.text;
    let _ = writeln!(
        text,
        "<h2>Method</h2>\n<p>{}</p>\n<p>{}</p>",
        of.method,
        escaped(&of.layout)
    );
    for measured in &report.cases {
        text += &section(measured, &report.options.systems);
    }
    text += &rejected(report);
    text += &environment(report);
    text + "</main>\n</body>\n</html>\n"
}

/// CPU ratios of everything on one screen.
fn glance(report: &Report) -> String {
    let mut text = String::from(
        "<h2>CPU per request, compared with the first</h2>\n<div class=\"wide\"><table class=\"glance\">\n\
         <tr><th>case</th>",
    );
    let shown = |system: &&System| system.refused(report.options.wire).is_none();
    let systems: Vec<System> = report
        .options
        .systems
        .iter()
        .filter(shown)
        .copied()
        .collect();
    for system in &systems {
        let _ = write!(text, "<th>{}{}</th>", swatch(*system), system.name());
    }
    text += "</tr>\n";
    for measured in &report.cases {
        let name = &measured.name;
        let _ = write!(text, "<tr><th><a href=\"#{name}\">{name}</a></th>");
        for system in &systems {
            let _ = match measured.figures(*system) {
                None => write!(text, "<td class=\"none\">not measured</td>"),
                Some(f) if system.is_baseline() => write!(text, "<td>{:.1} µs</td>", f.cpu_us),
                Some(f) => {
                    let told = told(*system, &f, f.cpu);
                    write!(text, "<td class=\"{}\">{}</td>", grade(f.cpu), times(&told))
                }
            };
        }
        text += "</tr>\n";
    }
    text + "</table></div>\n"
}

/// Of a ratio to no mesh.
fn grade(ratio: Option<Ratio>) -> &'static str {
    match ratio {
        None => "none",
        Some(ratio) if no_difference(&ratio) => "same",
        Some(ratio) if ratio.median < 1.0 => "good",
        Some(ratio) if ratio.median < 1.5 => "fair",
        Some(_) => "bad",
    }
}

/// A number gets its sign; words stay.
fn times(told: &str) -> String {
    match told.parse::<f64>() {
        Ok(ratio) => format!("{ratio:.2} ×"),
        Err(_) => told.to_owned(),
    }
}

fn section(measured: &Measured, systems: &[System]) -> String {
    let name = &measured.name;
    let mut text = format!(
        "<section id=\"{name}\">\n<h2>{name}</h2>\n<p>{}</p>\n<div class=\"wide\"><table>\n\
         <tr><th>system</th><th class=\"bars\">CPU of a request: client and server, \
         <b>what stands between</b></th><th>µs</th><th>ratio</th><th>95 %</th><th>p50 µs</th>\
         <th>ratio</th><th>p90</th><th>p99</th><th>requests/s</th><th>memory</th></tr>\n",
        measured.about
    );
    let figures: Vec<(System, Option<Figures>)> =
        systems.iter().map(|s| (*s, measured.figures(*s))).collect();
    let most = figures.iter().filter_map(|(_, f)| Some(f.as_ref()?.cpu_us));
    let most = most.fold(f64::MIN_POSITIVE, f64::max);
    for (system, figures) in &figures {
        text += &match figures {
            Some(f) => row(*system, f, most),
            None => {
                let why = measured.refused.get(system).map(|refusal| refusal.line());
                format!(
                    "<tr><th title=\"{}\">{}{}</th><td class=\"none\" colspan=\"10\">{}</td></tr>\n",
                    system.describe(),
                    swatch(*system),
                    system.name(),
                    escaped(&why.unwrap_or_default())
                )
            }
        };
    }
    text += "</table></div>\n";
    for (system, figures) in &figures {
        let note = figures.as_ref().map(|f| note(*system, f));
        for note in note.iter().filter(|note| !note.is_empty()) {
            let _ = writeln!(text, "<p class=\"note\">{}</p>", note.trim_end());
        }
    }
    let measured_here = figures.iter().filter(|(_, figures)| figures.is_some());
    let lines: Vec<cdf::Line> = measured_here
        .map(|(system, _)| (*system, measured.cumulative(*system)))
        .collect();
    text += &cdf::svg(&lines).unwrap_or_default();
    text + &commands(measured, systems) + "</section>\n"
}

fn row(system: System, f: &Figures, most: f64) -> String {
    let interval = match f.cpu {
        Some(ratio) if !system.is_baseline() => format!("{:.3}–{:.3}", ratio.low, ratio.high),
        _ => "–".to_owned(),
    };
    let ends = f.client_us + f.server_us;
    let share = |us: f64| (us / most * 100.0).clamp(0.0, 100.0);
    let between = (f.cpu_us - ends).max(0.0);
    let index = system.index();
    format!(
        "<tr><th title=\"{}\">{}{}</th><td class=\"bars\"><span class=\"bar\" style=\"width:{:.1}%\">\
         </span><span class=\"bar b{index}\" style=\"width:{:.1}%\"></span></td><td>{:.1}</td>\
         <td class=\"{}\">{}</td><td>{interval}</td><td>{:.1}</td><td class=\"{}\">{}</td>\
         <td>{:.0}</td><td>{:.0}</td><td>{:.0}</td><td>{}</td></tr>\n",
        system.describe(),
        swatch(system),
        system.name(),
        share(ends),
        share(between),
        f.cpu_us,
        if system.is_baseline() {
            "same"
        } else {
            grade(f.cpu)
        },
        times(&told(system, f, f.cpu)),
        f.p50_us,
        if system.is_baseline() {
            "same"
        } else {
            grade(f.p50)
        },
        times(&told(system, f, f.p50)),
        f.p90_us,
        f.p99_us,
        f.rps,
        mib(f.memory)
    )
}

fn swatch(system: System) -> String {
    format!("<i class=\"swatch b{}\"></i>", system.index())
}

fn commands(measured: &Measured, systems: &[System]) -> String {
    let mut text =
        String::from("<details><summary>Command lines and configurations</summary>\n<dl>\n");
    for system in systems {
        let Some(lines) = measured.command_lines.get(system) else {
            continue;
        };
        if measured.refused.contains_key(system) {
            continue;
        }
        let _ = write!(text, "<dt>{}</dt><dd>", system.name());
        for line in lines {
            let _ = write!(text, "<code>{}</code><br>", escaped(line));
        }
        for config in measured.configs.get(system).into_iter().flatten() {
            let _ = write!(text, "<pre>{}</pre>", escaped(config));
        }
        text += "</dd>\n";
    }
    text + "</dl></details>\n"
}

fn rejected(report: &Report) -> String {
    let mut text = String::from("<h2>Rejected rounds</h2>\n<ul>\n");
    let before = text.len();
    for measured in &report.cases {
        let rounds = measured.rounds.iter().enumerate();
        for (index, round) in rounds.filter(|(_, round)| !round.accepted) {
            let costs = round.samples.iter();
            let costs: Vec<String> = costs
                .map(|(system, sample)| format!("{} {:.1} µs", system.name(), sample.cost()))
                .collect();
            let _ = writeln!(
                text,
                "<li>{} round {}: {}</li>",
                measured.name,
                index + 1,
                costs.join(", ")
            );
        }
    }
    if text.len() == before {
        text += "<li>none</li>\n";
    }
    text + "</ul>\n"
}

fn environment(report: &Report) -> String {
    let e = &report.environment;
    let cpus = format!("{} × {}", e.cpus, e.cpu);
    let commit = format!("{}, {} build", e.commit, e.build);
    let mut rows = vec![
        ("kernel", e.kernel.as_str()),
        ("CPU", &cpus),
        ("memory", &e.memory),
        ("load average at the start", &e.load),
        ("agent", &e.agent),
        ("commit", &commit),
        ("BPF JIT", &e.bpf_jit),
    ];
    rows.extend(
        report
            .versions
            .iter()
            .map(|(name, said)| (*name, said.as_str())),
    );
    let mut text = String::from("<h2>Environment</h2>\n<dl class=\"facts\">\n");
    for (name, value) in rows {
        let _ = writeln!(text, "<dt>{name}</dt><dd>{}</dd>", escaped(value));
    }
    for line in &e.mitigations {
        let _ = writeln!(text, "<dt>mitigation</dt><dd>{}</dd>", escaped(line));
    }
    text + "</dl>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

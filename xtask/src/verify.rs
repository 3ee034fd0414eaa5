//! `verify`: the kernel's own numbers for each program and map, against a committed baseline.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use crate::{
    Result, ebpf,
    flags::{Flag, Flags, Verb},
    process::{self, step, step_lines},
    workspace,
};

pub const VERB: Verb = Verb {
    name: "verify",
    about: "loads each BPF program and compares its cost with ebpf/baseline.txt",
    flags: &[Flag {
        name: "--update",
        value: None,
        help: "write the baseline anew",
    }],
    rest: None,
    run,
};

/// Growth over the baseline that fails, in percent.
const MARGIN: u64 = 10;
const BASELINE: &str = "ebpf/baseline.txt";
const HEADER: &str = "\
# What the kernel says of the BPF object; `cargo xtask verify --update` writes this file.
# `program NAME verified-instructions jit-bytes` and `map NAME bytes`; growth over 10 % fails.
";

/// (kind, name) → numbers.
type Costs = BTreeMap<(String, String), Vec<u64>>;

fn run(flags: &Flags) -> Result<()> {
    ebpf::build_default()?;
    let package = [
        "build",
        "--package",
        "underpass-tests",
        "--bin",
        "verify_bpf",
    ];
    step(
        "loader",
        &mut process::cargo(&package),
        Duration::from_secs(1200),
    )?;
    let measured = measure()?;
    let path = workspace::root().join(BASELINE);
    if flags.has("--update") {
        fs::write(&path, HEADER.to_owned() + &print(&measured)).map_err(|e| e.to_string())?;
        println!("{BASELINE}: {} lines", measured.len());
        return Ok(());
    }
    let text = fs::read_to_string(&path).map_err(|e| format!("{BASELINE}: {e}"))?;
    let problems = compare(&parse(&text)?, &measured);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n"))
    }
}

/// The comparison alone, with the loader built and the object in place.
pub fn check() -> Result<()> {
    run(&Flags::none())
}

fn measure() -> Result<Costs> {
    let mut text = String::new();
    let mut loader = Command::new(workspace::target().join("debug/verify_bpf"));
    loader.arg(workspace::object());
    let mut line = |line: &str| text += &format!("{line}\n");
    step_lines(
        "load all programs",
        &mut loader,
        Duration::from_secs(120),
        Some(&mut line),
    )?;
    parse(&text)
}

fn parse(text: &str) -> Result<Costs> {
    let mut costs = Costs::new();
    for line in text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, name, numbers @ ..] = words.as_slice() else {
            return Err(format!("not understood: {line}"));
        };
        let numbers = numbers
            .iter()
            .map(|n| n.parse())
            .collect::<std::result::Result<_, _>>();
        let numbers = numbers.map_err(|e| format!("{line}: {e}"))?;
        costs.insert(((*kind).to_owned(), (*name).to_owned()), numbers);
    }
    Ok(costs)
}

fn print(costs: &Costs) -> String {
    let row = |((kind, name), numbers): (&(String, String), &Vec<u64>)| {
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        format!("{kind} {name} {}\n", numbers.join(" "))
    };
    costs.iter().map(row).collect()
}

fn compare(baseline: &Costs, measured: &Costs) -> Vec<String> {
    let mut problems = Vec::new();
    for ((kind, name), now) in measured {
        let Some(before) = baseline.get(&(kind.clone(), name.clone())) else {
            problems.push(format!(
                "{kind} {name} is not in {BASELINE}. Try: verify --update"
            ));
            continue;
        };
        for (column, (&now, &before)) in now.iter().zip(before).enumerate() {
            let what = match (kind.as_str(), column) {
                ("map", _) => "bytes",
                (_, 0) => "verified instructions",
                _ => "JIT bytes",
            };
            if now * 100 > before * (100 + MARGIN) {
                problems.push(format!(
                    "{kind} {name}: {now} {what}, {before} in the baseline"
                ));
            }
        }
    }
    let gone = baseline.keys().filter(|key| !measured.contains_key(*key));
    problems
        .extend(gone.map(|(kind, name)| format!("{kind} {name} is gone. Try: verify --update")));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_over_the_margin_new_and_gone_are_reported() {
        let baseline =
            parse("# x\nprogram connect4 100 1000\nprogram old 1 1\nmap M 10\n").unwrap();
        assert_eq!(compare(&baseline, &baseline), Vec::<String>::new());
        let near = parse("program connect4 110 1100\nprogram old 1 1\nmap M 11\n").unwrap();
        assert_eq!(compare(&baseline, &near), Vec::<String>::new());
        let grown = parse("program connect4 111 1101\nprogram new 1 1\nmap M 12\n").unwrap();
        assert_eq!(compare(&baseline, &grown).len(), 5);
    }

    #[test]
    fn prints_what_it_parses() {
        let text = "map M 10\nprogram connect4 100 1000\n";
        assert_eq!(print(&parse(text).unwrap()), text);
        assert!(parse("program connect4 many").is_err());
    }
}

//! Random mutations of a corpus of requests, against one invariant: the next parser reads what was decided
//! on, however the bytes came. `mutate [RUNS [SEED]]`; the seed is printed, and with it the input of a
//! run that fails.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    time::Instant,
};

use underpass_l7::{limit::Limits, path::normalize};

#[path = "../tests/support/mod.rs"]
mod support;

use support::{
    corpus::{PIECES, STREAMS},
    feeder::{check, feed},
};

/// Bytes of the longest input; longer ones are cut.
const INPUT_MAX: usize = 2000;

fn main() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| match args.next() {
        Some(text) => text.parse().map_err(|e| format!("{text}: {e}")),
        None => Ok(default),
    };
    let runs = number(200_000)?;
    let seed = number(RandomState::new().hash_one(0))?;
    println!("{runs} runs, seed {seed}");
    let mut random = Random(seed | 1);
    // Those that got furthest are mutated again.
    let mut corpus: Vec<Vec<u8>> = STREAMS.iter().map(|s| s.to_vec()).collect();
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let (start, mut forwarded) = (Instant::now(), 0);
    for run in 0..runs {
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &corpus, &mut random);
        }
        input.truncate(INPUT_MAX);
        let found = one(&input, &mut random)
            .map_err(|why| format!("run {run}, seed {seed}: {why}\n{}", input.escape_ascii()))?;
        forwarded += found.0;
        let count = ends.entry(found.1).or_default();
        *count += 1;
        // A new way to end is worth keeping.
        if *count < 8 && corpus.len() < 500 {
            corpus.push(input);
        }
    }
    for (end, count) in &ends {
        println!("{count:9} {end}");
    }
    let per_second = runs as f64 / start.elapsed().as_secs_f64();
    println!("{forwarded} requests forwarded and read back, {per_second:.0} runs/s, none failed");
    Ok(())
}

/// How many requests were forwarded whole, and how it ended.
fn one(input: &[u8], random: &mut Random) -> Result<(usize, String), String> {
    let whole = feed(input, &[usize::MAX], Limits::default());
    check(&whole)?;
    let sizes = [1 + random.below(30), 1 + random.below(300)];
    let pieces = feed(input, &sizes, Limits::default());
    if pieces.refusal != whole.refusal || pieces.whole != whole.whole {
        return Err(format!(
            "pieces of {sizes:?}: {:?}, not {:?}",
            pieces.refusal, whole.refusal
        ));
    }
    if !pieces.forwarded.starts_with(&whole.forwarded) {
        return Err(format!("pieces of {sizes:?} are forwarded in another way"));
    }
    for message in &whole.decided {
        let path = message.target.split('?').next().unwrap_or_default();
        if path.starts_with('/') && normalize(path.as_bytes()).as_deref() != Ok(path) {
            return Err(format!("{path} is not its own normal form"));
        }
    }
    let end = whole
        .refusal
        .map_or("not refused".into(), |why| format!("{why:?}"));
    Ok((whole.whole, end))
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let end = (at + random.below(12)).min(input.len());
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.below(256) as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let copy = input[at..end].to_vec();
            insert(input, random, &copy);
        }
        4 => {
            let other = corpus[random.below(corpus.len())].clone();
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        5 => {
            let special = b"\r\n\0 \t:;,%/.\\0159afAF\x0b\x7f\x80\xff_-+\"";
            let byte = special[random.below(special.len())];
            input.insert(at, byte);
        }
        _ => {
            let piece = PIECES[random.below(PIECES.len())];
            insert(input, random, piece);
        }
    }
}

/// Mostly where a line begins: elsewhere nearly everything is refused.
fn insert(input: &mut Vec<u8>, random: &mut Random, piece: &[u8]) {
    let lines: Vec<usize> = input
        .windows(2)
        .enumerate()
        .filter(|(_, w)| w == b"\r\n")
        .map(|(i, _)| i + 2)
        .collect();
    let at = match lines.as_slice() {
        [_, ..] if random.below(4) > 0 => lines[random.below(lines.len())],
        _ => random.below(input.len() + 1),
    };
    input.splice(at..at, piece.iter().copied());
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

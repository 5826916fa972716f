//! How many times faster than the others, measured so that a busy machine does not decide:
//! `cargo bench -p atoll-erasure --bench ratios`.
//!
//! All contenders take turns in short slots, round after round, and a ratio is taken within a round; the table shows
//! its median, and in brackets its 5th and 95th percentile. Under `cargo test --benches` it compares bytes and
//! measures nothing.
//!
//! `ATOLL_ISAL` names a second ISA-L; an argument selects cases by a part of their name ("10+4", "16 KiB").

#![expect(clippy::print_stdout, reason = "it prints a table")]

mod contenders;

use std::time::{Duration, Instant};

use contenders::{Case, Contender, Operation, Work};

/// Turns each contender gets: enough for a median when a fifth of them are disturbed.
const ROUNDS: usize = 101;

/// One turn: long against the clock's resolution and the first cold run, short against a scheduler's time slice.
const SLOT: Duration = Duration::from_micros(1500);

/// Runs before a turn is timed, so that it finds its own working set in the caches and not its predecessor's.
const WARM_UP_RUNS: u32 = 3;

fn main() {
    // What `cargo bench` says and `cargo test` does not.
    let measure = std::env::args().any(|argument| argument == "--bench");
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let names: Vec<String> = contenders::all(Case::all()[0]).iter().map(|contender| contender.name()).collect();
    println!("| code | working set | operation | {} |", names.join(" | "));
    println!("|---|---|---|{}", "---:|".repeat(names.len()));
    for case in Case::all() {
        for operation in [Operation::Encode, Operation::Decode] {
            let title = format!("{}+{} | {} | {operation}", case.data, case.parity, case.size);
            if title.contains(&filter) {
                compare(&title, case, operation, measure);
            }
        }
    }
}

/// Prints a line: our rate, then for each other contender its rate and how many times that ours is.
fn compare(title: &str, case: Case, operation: Operation, measure: bool) {
    let mut work = Work::new(case);
    let mut contenders = contenders::all(case);
    for contender in contenders.iter_mut().filter(|contender| contender.same_code()) {
        work.check(contender.as_mut(), operation);
    }
    if !measure {
        return;
    }
    let times: Vec<u32> = contenders.iter_mut().map(|it| runs_per_slot(it.as_mut(), operation, &mut work)).collect();
    let mut rates = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for round in 0..ROUNDS {
        for turn in 0..contenders.len() {
            let at = (round + turn) % contenders.len();
            contenders[at].run(operation, &mut work, WARM_UP_RUNS);
            let seconds = time(contenders[at].as_mut(), operation, &mut work, times[at]).as_secs_f64();
            rates[at].push(case.bytes() as f64 * f64::from(times[at]) / seconds / 1e9);
        }
    }
    let (_, ours, _) = quantiles(rates[0].clone());
    print!("| {title} | {ours:.1} GB/s |");
    for theirs in &rates[1..] {
        let ratios: Vec<f64> = rates[0].iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let (low, middle, high) = quantiles(ratios);
        let (_, rate, _) = quantiles(theirs.clone());
        print!(" {rate:.1} GB/s, ×{middle:.2} ({low:.2}–{high:.2}) |");
    }
    println!();
}

fn time(contender: &mut dyn Contender, operation: Operation, work: &mut Work, times: u32) -> Duration {
    let start = Instant::now();
    contender.run(operation, work, times);
    start.elapsed()
}

/// Runs that fill a slot.
fn runs_per_slot(contender: &mut dyn Contender, operation: Operation, work: &mut Work) -> u32 {
    let mut times = 1;
    loop {
        let spent = time(contender, operation, work, times);
        if spent >= SLOT || times >= 1 << 20 {
            return ((f64::from(times) * SLOT.as_secs_f64() / spent.as_secs_f64()) as u32).max(1);
        }
        times *= 2;
    }
}

/// Fifth percentile, median, ninety-fifth percentile.
fn quantiles(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    (at(0.05), at(0.5), at(0.95))
}

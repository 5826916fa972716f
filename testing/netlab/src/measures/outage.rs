//! How long no ping is answered when the link that two nodes use goes silent while they have a second way.
//!
//! They are cabled to each other and to a third node, and the cable that carries most of the pings is the one that is broken: it stays up and drops
//! everything, as a broken switch does. Products that pass packets on for each other can go over the third node themselves; for the others it forwards
//! plain IP, by addresses that they are told as well where they can be told more than one. Who does not come back by itself is given the link again, and
//! the time from there on is kept instead.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Raised;
use crate::figures::Sink;
use crate::tools::Watch;

/// Seconds without an answer, by itself; seconds until an answer once the link was back.
pub(super) const FIGURES: [&str; 2] = ["outage.by_itself", "outage.after_return"];

/// Pings go well before anything is broken.
const BEFORE: Duration = Duration::from_secs(2);

/// Who has not come back by then does not by itself.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// Answers without a gap for this long: it is over.
const STEADY: Duration = Duration::from_secs(3);

/// What counts as a gap: some pings, not one.
const GAP: Duration = Duration::from_millis(200);

pub(super) fn take(raised: &mut Raised<'_>, sink: &mut Sink<'_>) -> Result<()> {
    let plan = raised.plan;
    let sent = || anyhow::Ok([plan.sent_packets(0, 1)?, plan.sent_packets(0, 2)?]);
    let watch = Watch::start(&plan.nodes[0], raised.network.address(1))?;
    let before = sent()?;
    std::thread::sleep(BEFORE);
    let [direct, over_third] = sent()?;
    let used = if direct - before[0] >= over_third - before[1] { 1 } else { 2 };
    let cut = Instant::now();
    plan.silence(0, used, true)?;
    if steady_after(&watch, cut, GIVEN_UP) {
        let longest = longest_gap(&watch.answers_since(cut));
        sink.value(FIGURES[0], longest.as_secs_f64());
        sink.none(FIGURES[1], "it came back by itself");
        return Ok(());
    }
    sink.none(FIGURES[0], format!("not within {} s", GIVEN_UP.as_secs()));
    let back = Instant::now();
    plan.silence(0, used, false)?;
    if steady_after(&watch, back, GIVEN_UP) {
        let first = watch.answers_since(back).into_iter().find(|at| *at >= back);
        sink.value(FIGURES[1], first.map_or(Duration::ZERO, |at| at - back).as_secs_f64());
    } else {
        sink.none(FIGURES[1], format!("not within {} s", GIVEN_UP.as_secs()));
    }
    Ok(())
}

/// Waits until answers come steadily; whether that came about.
fn steady_after(watch: &Watch, since: Instant, within: Duration) -> bool {
    while since.elapsed() < within + STEADY {
        std::thread::sleep(Duration::from_millis(100));
        let now = Instant::now();
        let lately = watch.answers_since((now - STEADY).max(since));
        let lately: Vec<Instant> = lately.into_iter().filter(|at| *at + STEADY + GAP >= now).chain([now]).collect();
        if since.elapsed() > STEADY + GAP && lately.len() > 1 && lately[0] + STEADY <= now && longest_gap(&lately) < GAP
        {
            return true;
        }
    }
    false
}

fn longest_gap(answers: &[Instant]) -> Duration {
    answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_that_between_answers() {
        let start = Instant::now();
        let check = |millis: &[u64], expected: u64| {
            let answers: Vec<Instant> = millis.iter().map(|at| start + Duration::from_millis(*at)).collect();
            assert_eq!(longest_gap(&answers), Duration::from_millis(expected));
        };
        check(&[], 0);
        check(&[5], 0);
        check(&[0, 20, 40, 1500, 1520], 1460);
    }
}

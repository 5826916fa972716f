//! Somebody who has pages of a dashboard open in a browser while things happen: follows their live updates and remembers when something first showed.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

use super::machines::Machines;
use crate::GridError;

/// Where a node's dashboard is unless it is told otherwise.
const DASHBOARD: &str = "http://127.0.0.1:5773";

/// A page that ended with its node is opened again, as a browser does.
const REOPEN_AFTER: Duration = Duration::from_millis(500);

/// A page is looked at every two seconds by its node, which may be busy.
const WITHIN: Duration = Duration::from_secs(30);

/// Updates that are remembered: some minutes of all pages at one every two seconds.
const UPDATES_MAX: usize = 2000;

/// One state of a page: the texts of its tables' rows and of its paragraphs.
#[derive(Debug, Clone)]
struct Update {
    page: &'static str,
    at: Duration,
    rows: Vec<String>,
}

/// Has pages open until dropped.
pub(super) struct Spectator {
    began: Instant,
    updates: Arc<Mutex<Vec<Update>>>,
    pages: JoinSet<()>,
}

impl Spectator {
    /// Opens pages of dashboards, each given as machine and name of the page.
    pub(super) fn open(machines: &Machines, pages: &[(&'static str, &'static str)]) -> Self {
        let mut spectator = Self { began: Instant::now(), updates: Arc::default(), pages: JoinSet::new() };
        for (machine, page) in pages {
            spectator.follow(machines, machine, page);
        }
        spectator
    }

    /// Opens a further page.
    pub(super) fn follow(&mut self, machines: &Machines, machine: &str, page: &'static str) {
        let (began, updates) = (self.began, self.updates.clone());
        let mut curl = machines.command(machine, "curl");
        curl.args(["-sSN", "--noproxy", "*", &format!("{DASHBOARD}/live/{page}")]);
        curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        self.pages.spawn(async move {
            loop {
                if let Ok(mut child) = curl.spawn()
                    && let Some(stdout) = child.stdout.take()
                {
                    let mut lines = BufReader::new(stdout).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        let Some(html) = line.strip_prefix("data:") else { continue };
                        let mut updates = updates.lock().unwrap_or_else(PoisonError::into_inner);
                        if updates.len() < UPDATES_MAX {
                            updates.push(Update { page, at: began.elapsed(), rows: rows(html) });
                        }
                    }
                }
                tokio::time::sleep(REOPEN_AFTER).await;
            }
        });
    }

    /// How long it took until a row was on a page.
    fn first(&self, page: &str, fits: impl Fn(&str) -> bool) -> Option<Duration> {
        let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let shows = |update: &&Update| update.page == page && update.rows.iter().any(|row| fits(row));
        updates.iter().find(shows).map(|update| update.at)
    }

    /// The same, for what has to have been there by now or to come within a while.
    ///
    /// # Errors
    /// It does not come.
    pub(super) async fn shown(
        &self,
        page: &str,
        what: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Duration, GridError> {
        let asked = Instant::now();
        loop {
            if let Some(at) = self.first(page, &fits) {
                return Ok(at);
            }
            if asked.elapsed() > WITHIN {
                let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
                let last =
                    updates.iter().rev().find(|update| update.page == page).map(|update| update.rows.join(" / "));
                let last = last.unwrap_or_else(|| "nothing".to_owned());
                return Err(GridError::Wrong(format!("the dashboard's page {page} did not show {what}; last: {last}")));
            }
            tokio::time::sleep(REOPEN_AFTER).await;
        }
    }
}

/// Whether a row of the page about storage says of a volume that shards of it were made again and none is missing. The row ends with the parts below full,
/// the shards made again, and the state.
pub(super) fn is_whole(row: &str) -> bool {
    let mut words = row.rsplit(' ');
    let is_fine = words.next() == Some("stores");
    let rebuilt = words.next().and_then(|word| word.parse::<u64>().ok());
    is_fine && rebuilt.is_some_and(|shards| shards > 0) && words.next() == Some("0")
}

/// What a reader sees of a page, a line for each row and paragraph.
fn rows(html: &str) -> Vec<String> {
    let parts = ["</p>", "</h2>"].iter().fold(html.to_owned(), |html, end| html.replace(end, "</tr>"));
    parts.split("</tr>").map(text).filter(|row| !row.is_empty()).collect()
}

/// Without tags, words apart by one space.
fn text(html: &str) -> String {
    let mut outside = String::new();
    let mut inside = false;
    for character in html.chars() {
        match character {
            '<' => (inside, _) = (true, outside.push(' ')),
            '>' => inside = false,
            _ if !inside => outside.push(character),
            _ => {}
        }
    }
    outside.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_a_person_reads_them() {
        let html = "<h2>Peers</h2><table><tr><th>Node</th><th>State</th></tr><tr><td>anna-1 <code>n7</code></td>\
            <td><span class=\"bad\">silent for 3 s</span></td></tr></table><p class=\"bad\">No <b>more</b></p>";
        assert_eq!(rows(html), ["Peers", "Node State", "anna-1 n7 silent for 3 s", "No more"]);
    }

    #[test]
    fn a_volume_is_whole_once_something_was_made_again_and_nothing_is_missing() {
        assert!(is_whole("pvc-1 1.2 MiB 0 B 0 22 stores"));
        for row in
            ["pvc-1 1.2 MiB 0 B 0 0 stores", "pvc-1 1.2 MiB 0 B 3 22 stores", "pvc-1 1.2 MiB 0 B 0 22 cut off", ""]
        {
            assert!(!is_whole(row), "{row}");
        }
    }
}

//! Progress of long work on standard error: a bar on a terminal, nothing otherwise.

use std::time::Duration;

use atoll_control::Event;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Often enough to look alive, seldom enough to cost nothing.
const REDRAW_HZ: u8 = 8;

/// Shows the events of one job.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar that says `what` is being done.
    pub(crate) fn new(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
        bar.set_style(style("{spinner} {msg} {bytes} {bytes_per_sec}"));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar }
    }

    /// Says that something else is being done now.
    pub(crate) fn begin(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.set_position(0);
        self.bar.unset_length();
        self.bar.reset_eta();
        self.bar.set_style(style("{spinner} {msg}"));
    }

    /// Takes an event of the job in.
    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Progress { items, items_total, bytes, bytes_total } => {
                let of = items_total.map(|total| format!(" of {total}")).unwrap_or_default();
                let line = if let Some(total) = bytes_total {
                    self.bar.set_length(*total);
                    "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left, {prefix}"
                } else {
                    "{spinner} {msg} {bytes} {bytes_per_sec}, {prefix}"
                };
                self.bar.set_style(style(line));
                self.bar.set_prefix(format!("{items}{of} items"));
                self.bar.set_position(*bytes);
            }
            Event::Step { number, of, what } => {
                self.say(&format!("[{number}/{of}] {what}"));
                self.begin(what);
            }
            Event::Waiting { what } if self.bar.is_hidden() => self.say(&format!("  waiting for {what}")),
            Event::Waiting { what } => self.begin(&format!("waiting for {what}")),
            Event::Warning { message } => self.say(&format!("warning: {message}")),
            Event::Done { .. } | Event::Failed { .. } => {}
        }
    }

    /// Counts bytes of a stream.
    pub(crate) fn bytes(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// A line that stays.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

//! What is under way, while it is: a spinner on a terminal; elsewhere plain lines for people and nothing for programs.
//! In: words. Out: standard error only. Absent: results, and problems; see `output` and `trouble`.

use std::future::Future;
use std::io::IsTerminal;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;

use crate::output::{Format, harmless};

/// Whoever waits longer than this is told for what.
const SOON: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);

/// One spinner at a time: what takes long within something that is shown already is part of it.
static SPINS: AtomicBool = AtomicBool::new(false);

pub struct Progress(Shown);

enum Shown {
    Spinner(ProgressBar),
    Lines,
    Nothing,
}

impl Progress {
    /// Shown from now on, until it is dropped.
    pub fn new(format: Format, what: &str) -> Progress {
        if let Some(spinner) = Progress::spinner(what) {
            return spinner;
        }
        let progress = Progress(if format.is_for_programs() { Shown::Nothing } else { Shown::Lines });
        progress.say(what);
        progress
    }

    /// `None` where nobody looks, or where something is shown already.
    fn spinner(what: &str) -> Option<Progress> {
        if !std::io::stderr().is_terminal() || SPINS.swap(true, Ordering::Relaxed) {
            return None;
        }
        let bar = ProgressBar::new_spinner().with_message(harmless(what));
        bar.enable_steady_tick(TICK);
        Some(Progress(Shown::Spinner(bar)))
    }

    /// Whether what is said is written over by what is said next.
    pub fn is_written_over(&self) -> bool {
        matches!(self.0, Shown::Spinner(_))
    }

    /// What is being waited for now.
    pub fn say(&self, what: &str) {
        let what = harmless(what);
        match &self.0 {
            Shown::Spinner(bar) => bar.set_message(what),
            Shown::Lines => eprintln!("{what}"),
            Shown::Nothing => {}
        }
    }

    /// A line that stays.
    pub fn line(&self, line: &str) {
        let line = harmless(line);
        match &self.0 {
            Shown::Spinner(bar) => bar.suspend(|| eprintln!("{line}")),
            Shown::Lines => eprintln!("{line}"),
            Shown::Nothing => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Spinner(bar) = &self.0 {
            bar.finish_and_clear();
            SPINS.store(false, Ordering::Relaxed);
        }
    }
}

/// What `work` gives. If that takes long and somebody looks, `what` is shown meanwhile.
pub async fn patiently<T>(what: impl FnOnce() -> String, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(SOON, &mut work).await {
        return done;
    }
    let _shown = Progress::spinner(&what());
    work.await
}

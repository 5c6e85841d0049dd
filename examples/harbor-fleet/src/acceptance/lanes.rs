//! Runs side by side: lanes take orders from one list, and one place prints what becomes of them.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use super::args::Args;
use super::cluster::Cluster;
use super::drill::{Order, Shown};
use super::scene::Halt;
use super::table::Table;
use super::testbed::Testbed;
use crate::verdict::say;

/// A run is tried this often until something is pending at the kill.
const TRIES_MAX: u32 = 12;
/// News that may wait for the printer.
const NEWS_MAX: usize = 64;
/// Violations of one run that are printed.
const VIOLATIONS_SHOWN: usize = 8;

/// What a lane tells.
enum News {
    Started(String),
    Ended(Box<Ended>),
}

/// One run that will not be tried again.
pub(super) struct Ended {
    pub(super) order: Order,
    pub(super) took: Duration,
    /// Why earlier tries were invalid.
    pub(super) repeated: Vec<String>,
    pub(super) result: anyhow::Result<Shown>,
}

impl Ended {
    /// Whether the run shows what it is there to show.
    pub(super) fn is_passed(&self) -> bool {
        let shown = self.result.as_ref();
        shown.is_ok_and(|shown| shown.verdict.violations.is_empty())
    }
}

/// What all lanes share.
struct Hall<'a> {
    testbed: &'a Testbed,
    orders: Mutex<VecDeque<Order>>,
    news: SyncSender<News>,
}

/// Runs everything that `args` asks for. Returns a summary.
///
/// # Errors
/// When a run failed, or nothing could be run.
pub(super) fn run_all(args: &Args) -> anyhow::Result<String> {
    let base = args.seed.unwrap_or_else(random_seed);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let lanes = args.lanes.unwrap_or(2 * cores).max(1);
    let root = tempfile::Builder::new()
        .prefix("highwater-acceptance-")
        .tempdir()
        .context("a temporary directory")?
        .keep();
    let orders = orders(args, base)?;
    say(&format!(
        "seed {base}, {} runs in {lanes} lanes, working in {}\n",
        orders.len(),
        root.display()
    ));
    let testbed = Testbed::start(root.clone(), args.backing.clone(), args.workers)?;
    let started = testbed.clock.now();
    let mut table = Table::new(args.drills()?);
    let (total, more) = (orders.len(), args.again());
    side_by_side(&testbed, orders, lanes, |ended, done| {
        say(&format!("{}\n", line(ended, (done, total), &more)));
        table.add(ended);
    })?;
    let took = testbed.clock.now().saturating_sub(started);
    say(&table.to_string());
    tidy_up(&root, &table, args)?;
    let summary = format!("{}, {:.1} min", table.summary(), took.as_secs_f64() / 60.0);
    if table.is_clean() {
        Ok(summary)
    } else {
        bail!("{summary}; seed {base}, logs in {}", root.display())
    }
}

/// Drills take turns, so that their waits mix.
fn orders(args: &Args, base: u64) -> anyhow::Result<VecDeque<Order>> {
    let drills = args.drills()?;
    let first = args.indices().start;
    let orders = args
        .indices()
        .flat_map(|index| {
            drills.iter().map(move |&drill| Order {
                drill,
                index,
                tried: 0,
                seed: base.wrapping_add(u64::from(index - first)),
            })
        })
        .collect();
    Ok(orders)
}

/// Bits that differ from one call to the next; short, so that people can type them.
pub(super) fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        >> 32
}

/// Has the lanes make all runs, and calls `finished` for each as it ends.
fn side_by_side(
    testbed: &Testbed,
    orders: VecDeque<Order>,
    lanes: usize,
    mut finished: impl FnMut(&Ended, usize),
) -> anyhow::Result<()> {
    let total = orders.len();
    let (news, incoming) = sync_channel(NEWS_MAX);
    let hall = Hall {
        testbed,
        orders: Mutex::new(orders),
        news,
    };
    let hall = &hall;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes.min(total))
            .map(|_| scope.spawn(move || hall.lane()))
            .collect();
        let (mut done, mut running) = (0, Vec::new());
        while done < total {
            match incoming.recv_timeout(Duration::from_secs(1)) {
                Ok(News::Started(name)) => running.push(name),
                Ok(News::Ended(ended)) => {
                    done += 1;
                    running.retain(|name| *name != ended.order.label());
                    clear();
                    finished(&ended, done);
                }
                Err(_) if threads.iter().all(ScopedJoinHandle::is_finished) => break,
                Err(_) => {}
            }
            progress(done, total, &running);
        }
        for thread in threads {
            match thread.join() {
                Ok(ended) => ended?,
                Err(_) => bail!("a lane panicked"),
            }
        }
        if done < total {
            bail!("{} runs were not made", total - done);
        }
        Ok(())
    })
}

impl Hall<'_> {
    fn next(&self) -> Option<Order> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.pop_front()
    }

    /// Makes runs until none is left.
    fn lane(&self) -> anyhow::Result<()> {
        let cluster = Cluster::at(&self.testbed.bootstrap())?;
        while let Some(order) = self.next() {
            self.tell(News::Started(order.label()));
            let ended = self.make(order, &cluster);
            self.tell(News::Ended(Box::new(ended)));
        }
        Ok(())
    }

    fn tell(&self, news: News) {
        if self.news.send(news).is_err() {
            // The printer has given up; the lanes end with their orders.
        }
    }

    /// Makes one run, again and again while it is invalid.
    fn make(&self, mut order: Order, cluster: &Cluster) -> Ended {
        let started = self.testbed.clock.now();
        let mut repeated = Vec::new();
        let result = loop {
            match order.run(self.testbed, cluster) {
                Ok(shown) => break Ok(shown),
                Err(Halt::Failed(error)) => break Err(error),
                Err(Halt::Invalid(reason)) if order.tried + 1 < TRIES_MAX => {
                    repeated.push(reason);
                    order.tried += 1;
                }
                Err(Halt::Invalid(reason)) => {
                    break Err(anyhow!("invalid {TRIES_MAX} times, at last: {reason}"));
                }
            }
        };
        Ended {
            took: self.testbed.clock.now().saturating_sub(started),
            order,
            repeated,
            result,
        }
    }
}

/// One line about a run that has ended, and more where it failed. `more` is what it is repeated with, beside what is its own.
fn line(ended: &Ended, (done, total): (usize, usize), more: &[String]) -> String {
    let order = &ended.order;
    let word = if ended.is_passed() {
        "passed"
    } else {
        "FAILED"
    };
    let (label, rule) = (order.label(), order.name().rule);
    let mut parts = vec![format!(
        "[{done}/{total}] {word} {label} ({rule}) {:.0} s",
        ended.took.as_secs_f64()
    )];
    if !ended.repeated.is_empty() {
        parts.push(format!("repeated: {}", ended.repeated.join("; ")));
    }
    let mut lines = Vec::new();
    match &ended.result {
        Ok(shown) => {
            let steps: Vec<_> = shown.kills.iter().map(|(step, _)| step.as_str()).collect();
            if !steps.is_empty() {
                parts.push(format!("ended at {}", steps.join("+")));
            }
            let pauses = shown.pauses.iter();
            let pauses: Vec<_> = pauses
                .map(|pause| format!("{:.1} s", pause.as_secs_f64()))
                .collect();
            if !pauses.is_empty() {
                parts.push(format!("paused {}", pauses.join("+")));
            }
            let verdict = &shown.verdict;
            parts.push(format!(
                "pending {}, discarded {}, lost {}, doubled {}",
                verdict.pending, verdict.discarded, verdict.lost, verdict.doubled
            ));
            let shown = verdict.violations.iter().take(VIOLATIONS_SHOWN);
            lines.extend(shown.cloned());
            if let Some(more) = verdict.violations.len().checked_sub(VIOLATIONS_SHOWN + 1) {
                lines.push(format!("and {} more", more + 1));
            }
        }
        Err(error) => lines.push(format!("{error:#}")),
    }
    if !ended.is_passed() {
        let again = [vec![order.again()], more.to_vec()].concat();
        lines.push(format!("again: {}", again.join(" ")));
    }
    lines.insert(0, parts.join(", "));
    lines.join("\n    ")
}

fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

fn clear() {
    if is_terminal() {
        say("\r\x1b[2K");
    }
}

/// The line at the end of a terminal; nothing in a pipe.
fn progress(done: usize, total: usize, running: &[String]) {
    if is_terminal() {
        clear();
        say(&format!(
            "{done} of {total} done; running: {}",
            running.join(" ")
        ));
    }
}

/// Removes the directories that nobody needs.
fn tidy_up(root: &Path, table: &Table, args: &Args) -> anyhow::Result<()> {
    if !args.keep && table.is_clean() {
        std::fs::remove_dir_all(root).context("the directory of the runs")?;
    }
    Ok(())
}

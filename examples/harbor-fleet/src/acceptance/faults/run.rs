//! Makes the runs, one after another, and says what becomes of each.
//!
//! A run that proves nothing is made again at another instant, a bounded number of times. Runs do not stand side by side: each has
//! five processes, two servers and the clocks of its faults.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use super::args::{Args, Wanted};
use super::catalogue::Case;
use super::conditions::Conditions;
use super::fleet::{Fleet, Halt};
use super::ground::Ground;
use super::outcome::{End, Outcome, Shown};
use super::script::play;
use super::spans;
use crate::acceptance::lanes::random_seed;
use crate::acceptance::scene::RunName;
use crate::verdict::say;

/// A run is tried this often until its fault meets what it is to meet.
const TRIES_MAX: u32 = 6;
/// Violations of one run that are printed.
const VIOLATIONS_SHOWN: usize = 8;

/// A run to be made.
struct Order<'a> {
    wanted: &'a Wanted,
    case: &'a Case,
    index: u32,
    seed: u64,
}

impl Order<'_> {
    fn label(&self) -> String {
        format!("{}/{}", self.wanted.experiment, self.case.name)
    }

    /// The name of a try: of its topics, its checkpoints and its directory.
    fn name(&self, tried: u32) -> RunName {
        let (experiment, way) = (self.wanted.experiment, &self.case.name);
        let text = format!("{experiment}-{way}-{}-{tried}", self.index + 1);
        // Each way meets both as seeds go on.
        let ways = experiment.cases().len() as u64;
        let rule = if (self.seed / ways).is_multiple_of(2) {
            "process"
        } else {
            "window"
        };
        RunName {
            text: text.to_ascii_lowercase(),
            rule,
        }
    }

    /// The arguments that make this run alone.
    fn again(&self, args: &Args) -> String {
        let (label, seed) = (self.label(), self.seed);
        format!("--only {label} --seed {seed}{}", args.again())
    }
}

/// Runs everything that `args` asks for. Returns a summary.
///
/// # Errors
/// When a run failed or was refused, or nothing could be run.
pub(super) fn run_all(args: &Args) -> anyhow::Result<String> {
    let wanted = args.wanted()?;
    let base = args.seed.unwrap_or_else(random_seed);
    let root = tempfile::Builder::new()
        .prefix("highwater-cluster-")
        .tempdir()
        .context("a temporary directory")?
        .keep();
    say(&format!(
        "seed {base}, {} experiments, {} runs of each, working in {}\n\n{}\n",
        wanted.len(),
        args.runs,
        root.display(),
        spans::table()
    ));
    let ground = Ground::start(root.clone())?;
    let (started, mut outcome) = (ground.clock.now(), Outcome::default());
    let all = u64::from(args.runs) * wanted.len() as u64;
    let made = make_all(args, &ground, (wanted.as_slice(), base), &mut outcome);
    let took = ground.clock.now().saturating_sub(started);
    say(&format!("\n{}\n", outcome.table()));
    if let Some(page) = &args.page {
        fs::write(page, outcome.page(args.profile, base))
            .with_context(|| format!("the page {}", page.display()))?;
    }
    let summary = format!(
        "{}, {:.1} min",
        outcome.summary(),
        took.as_secs_f64() / 60.0
    );
    match made {
        Err(error) => bail!("{error:#}; {summary}; logs in {}", root.display()),
        Ok(made) if made < all => bail!("{} runs were not made; {summary}", all - made),
        Ok(_) if !outcome.is_clean() => {
            bail!("{summary}; seed {base}, logs in {}", root.display())
        }
        Ok(_) => {
            if !args.keep {
                fs::remove_dir_all(&root).context("the directory of the runs")?;
            }
            Ok(summary)
        }
    }
}

/// Makes the runs, in turn over the experiments. Returns how many.
fn make_all(
    args: &Args,
    ground: &Ground,
    (wanted, base): (&[Wanted], u64),
    outcome: &mut Outcome,
) -> anyhow::Result<u64> {
    let mut made = 0;
    for index in 0..args.runs {
        let seed = base.wrapping_add(u64::from(index));
        for wanted in wanted {
            let order = Order {
                wanted,
                case: wanted.case(seed),
                index,
                seed,
            };
            let started = ground.clock.now();
            let mut invalid = Vec::new();
            let Some(end) = make(args, ground, &order, &mut invalid) else {
                bail!("interrupted");
            };
            let took = ground.clock.now().saturating_sub(started);
            let ended = (invalid.as_slice(), &end);
            say(&(line(&order, args, ended, took) + "\n"));
            outcome.add(wanted.experiment.id, &invalid, &end);
            made += 1;
        }
    }
    Ok(made)
}

/// Makes one run, again and again while it is invalid; `None` = somebody wants the test to end.
fn make(args: &Args, ground: &Ground, order: &Order<'_>, invalid: &mut Vec<String>) -> Option<End> {
    for tried in 0..TRIES_MAX {
        match try_once(args, ground, order, tried) {
            Ok(shown) => return Some(End::Played(shown)),
            Err(Halt::Failed(error)) => return Some(End::Failed(error)),
            Err(Halt::Refused(why)) => return Some(End::Refused(why)),
            Err(Halt::Interrupted) => return None,
            Err(Halt::Invalid(reason)) => invalid.push(reason),
        }
    }
    let last = invalid.last().cloned().unwrap_or_default();
    Some(End::Failed(anyhow!(
        "invalid {TRIES_MAX} times, at last: {last}"
    )))
}

fn try_once(args: &Args, ground: &Ground, order: &Order<'_>, tried: u32) -> Result<Shown, Halt> {
    let name = order.name(tried);
    let conditions = Conditions::of(order.case.play, args.profile);
    // Each try has other instants, and other payments with them.
    let seed = order.seed ^ (u64::from(tried) << 40);
    let backing = args.backing();
    let mut fleet = Fleet::open(ground, &name, &conditions, (&backing, seed))?;
    play(&mut fleet, order.case.play)?;
    let verdict = fleet.finish()?;
    let shown = Shown {
        recoveries: fleet.recoveries.clone(),
        restarts: fleet.restarts(),
        notes: fleet.notes.clone(),
        verdict,
    };
    let folder = fleet.spec.folder.clone();
    drop(fleet);
    if shown.verdict.violations.is_empty() && !args.keep {
        remove(&folder)?;
    }
    Ok(shown)
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))
}

/// One line about a run that has ended, and more where it failed.
fn line(
    order: &Order<'_>,
    args: &Args,
    (invalid, end): (&[String], &End),
    took: Duration,
) -> String {
    let word = match end {
        End::Refused(_) => "REFUSED",
        _ if end.is_passed() => "passed",
        _ => "FAILED",
    };
    let (label, seconds) = (order.label(), took.as_secs_f64());
    let mut parts = vec![format!(
        "{word} {label} (seed {}) {seconds:.0} s",
        order.seed
    )];
    if !invalid.is_empty() {
        parts.push(format!("repeated: {}", invalid.join("; ")));
    }
    let mut more = Vec::new();
    match end {
        End::Played(shown) => {
            let verdict = &shown.verdict;
            parts.push(format!(
                "lost {}, doubled {}",
                verdict.lost, verdict.doubled
            ));
            let times = shown.recoveries.iter();
            let times: Vec<_> = times
                .map(|time| format!("{:.1} s", time.as_secs_f64()))
                .collect();
            parts.push(format!("new output after {}", times.join("+")));
            parts.extend(shown.notes.iter().cloned());
            more.extend(verdict.violations.iter().take(VIOLATIONS_SHOWN).cloned());
            if let Some(left) = verdict.violations.len().checked_sub(VIOLATIONS_SHOWN + 1) {
                more.push(format!("and {} more", left + 1));
            }
        }
        End::Refused(why) => more.push(why.clone()),
        End::Failed(error) => more.push(format!("{error:#}")),
    }
    if !end.is_passed() {
        more.push(format!("again: {}", order.again(args)));
    }
    more.insert(0, parts.join(", "));
    more.join("\n    ")
}

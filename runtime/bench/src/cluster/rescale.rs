//! The pause of a rescale under load: from two subtasks to four on the same two workers, and back.
//!
//! The workers keep their processes and their local stores. The pause is the longest time in which a worker had no record, as the
//! workers noted it; beside it stands what the coordinator says. The rule: after the last one the output is compared with an
//! independent count, and as many subtasks begin as were asked for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Plan;
use super::crew::noted;
use super::load::{Load, PARALLELISM, PATIENCE};
use super::pulses::{longest_gap_of_all, longest_gap_of_any};
use crate::machine_clock::seconds;

/// As it is by default.
const SETTINGS: [&str; 2] = ["--checkpoint-interval", "10s"];
/// Slots of each worker: enough for all subtasks after the rescale.
const SLOTS: u32 = 2;
/// What it is rescaled to.
pub(super) const RESCALED: u32 = 4;
/// How long records flow before a rescale: a checkpoint lies in it.
const STEADY: Duration = Duration::from_secs(15);
/// So much before and behind a rescale belongs to what is looked at, in seconds.
const BEFORE: f64 = 0.5;
const AFTER: Duration = Duration::from_secs(3);

/// One rescale.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rescaled {
    /// The parallelism behind it.
    pub(super) to: u32,
    /// The longest time in which one of the workers had no record, in seconds.
    pub(super) pause: f64,
    /// The longest time in which none had one.
    pub(super) pause_of_all: f64,
    /// What the coordinator tells: from the barrier until records flow. Not a number where it does not.
    pub(super) told: f64,
    /// From the request to its answer.
    pub(super) answered: f64,
}

/// Rescales up and down again and again.
pub(super) fn measure(plan: &Plan) -> Result<Vec<Rescaled>> {
    let mut load = Load::start(plan, SLOTS, &SETTINGS)?;
    let mut all = Vec::new();
    for round in 1..=plan.rounds {
        for to in [RESCALED, PARALLELISM] {
            let found = one(&mut load, to).with_context(|| format!("to {to} subtasks"))?;
            println!(
                "  round {round} of {}, to {to} subtasks: pause {:.0} ms (of all at once {:.0} ms; the coordinator says {:.0} ms), \
                 answered after {:.2} s",
                plan.rounds,
                found.pause * 1e3,
                found.pause_of_all * 1e3,
                found.told * 1e3,
                found.answered
            );
            all.push(found);
        }
    }
    load.finish()?;
    Ok(all)
}

fn one(load: &mut Load, to: u32) -> Result<Rescaled> {
    load.run_on(STEADY)?;
    let asked = seconds();
    let body = format!(r#"{{"parallelism":{to}}}"#);
    let done = load.server().post("/v1/rescale", &body, PATIENCE);
    done.context("the rescale")?;
    let answered = seconds();
    load.run_on(AFTER)?;
    let told_ms = load.status()?["redeployments"]["pause_ms"].as_f64();
    let workers = noted(&mut load.crew[1..])?;
    let span = (asked - BEFORE, answered + AFTER.as_secs_f64() - BEFORE);
    let opened: usize = workers
        .iter()
        .map(|pulses| pulses.opened_within(span))
        .sum();
    ensure!(
        opened == to as usize,
        "{opened} subtasks began behind a rescale to {to}"
    );
    Ok(Rescaled {
        to,
        pause: longest_gap_of_any(&workers, span),
        pause_of_all: longest_gap_of_all(&workers, span),
        told: told_ms.map_or(f64::NAN, |millis| millis / 1e3),
        answered: answered - asked,
    })
}

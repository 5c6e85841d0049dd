//! What shows that a run is right: output that was written after a fault and is committed, checkpoints that follow, and the judge of
//! all that came out at the end.

use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::fleet::{Fleet, Halt, PATIENCE};
use super::machine::Machine;
use crate::acceptance::cluster::Isolation;
use crate::acceptance::feed::Logs;
use crate::acceptance::judge::{Verdict, judge_output, open_transactions};
use crate::acceptance::scene::OUTPUTS;
use crate::acceptance::store::positions;

/// Once a fault has healed, output and checkpoints go on within this time (O9).
const PROGRESS_MAX: Duration = Duration::from_mins(1);
/// So many checkpoints follow (O9).
const CHECKPOINTS: u64 = 3;
/// All that was written is read within this time, what was held back included.
const READ_PATIENCE: Duration = Duration::from_mins(6);

/// A fault that has begun.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    at: Duration,
    /// Behind the last record of each partition of the outputs, committed or not.
    ends: Vec<(&'static str, i32, i64)>,
}

impl Fleet<'_> {
    /// The fault begins now.
    pub(super) fn hit(&mut self) -> Result<(), Halt> {
        let mut ends = Vec::new();
        for (topic, partitions) in OUTPUTS {
            let name = self.topics.name(topic);
            for partition in 0..partitions {
                let end = self.ground.cluster.ends(&name, partition)?;
                ends.push((topic, partition, end.high));
            }
        }
        let at = self.now();
        self.hit = Some(Hit { at, ends });
        Ok(())
    }

    /// Whether a record that was written after the fault is committed.
    pub(super) fn has_new_output(&self) -> anyhow::Result<bool> {
        let hit = self.hit.as_ref().context("there was no fault")?;
        for (topic, partition, end) in &hit.ends {
            let name = self.topics.name(topic);
            let stable = self.ground.cluster.ends(&name, *partition)?.stable;
            if stable <= *end {
                continue;
            }
            // What moved the end may be the mark of a transaction and no record.
            let from = [(*partition, *end)].into_iter().collect();
            let seen = self
                .ground
                .cluster
                .read(&name, &from, Isolation::Committed)?;
            if !seen.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the fault, which has healed, is overcome, and notes how long that took since it began.
    pub(super) fn recovered(&mut self) -> Result<(), Halt> {
        let what = "output that was written after the fault is committed (O9)";
        self.wait(what, PROGRESS_MAX, |fleet| Ok(fleet.has_new_output()?))?;
        let since = self.hit.as_ref().map(|hit| hit.at).unwrap_or_default();
        self.recoveries.push(self.now().saturating_sub(since));
        let wanted = self.chain.number() + CHECKPOINTS;
        self.wait("checkpoints follow the fault (O9)", PATIENCE, |fleet| {
            Ok(fleet.chain.number() >= wanted)
        })
    }

    /// Ends the input, has all of it read, drains the job, and judges what came out.
    pub(super) fn finish(&mut self) -> Result<Verdict, Halt> {
        self.feed.stop();
        let logs = self.feed.logs()?;
        let (group, input) = (self.topics.group(), self.topics.input());
        let (ends, partitions) = (logs.ends(), self.partitions);
        self.wait("a checkpoint covers all payments", READ_PATIENCE, |fleet| {
            let read = fleet.ground.cluster.group(&group, &input, partitions);
            Ok(read.is_ok_and(|read| read == ends))
        })?;
        self.drain()?;
        let verdict = self.judge(&logs)?;
        if verdict.violations.is_empty() {
            self.clean_up()?;
        }
        Ok(verdict)
    }

    /// Runs another command of the job on a machine, to its end. Whether it succeeded, and what it says where it did not.
    pub(super) fn run(&mut self, machine: Machine, words: &[&str]) -> Result<bool, Halt> {
        let mut command = self.spec.call(machine, words)?;
        let mut ended = None;
        self.wait(&words.join(" "), PATIENCE, |_| {
            ended = command.ended()?;
            Ok(ended.is_some())
        })?;
        Ok(ended.is_some_and(|status| status.success()))
    }

    fn drain(&mut self) -> Result<(), Halt> {
        self.ends();
        let all = self.living();
        let leader = self.leader().context("nobody leads at the end")?;
        if !self.run(leader, &["stop", "--drain"])? {
            let said = self.spec.folder.join("commands.log");
            let said = std::fs::read_to_string(said).unwrap_or_default();
            return Err(anyhow!("the job could not be drained: {}", said.trim()).into());
        }
        self.wait("all processes end with the job", PATIENCE, |fleet| {
            Ok(fleet.living().is_empty())
        })?;
        for machine in all {
            match self.end_of(machine) {
                Some(status) if status.success() => {}
                Some(status) => {
                    let tail = self.spec.tail(machine);
                    let text = anyhow!("{machine} ended ({status}) with the job\n{tail}");
                    return Err(text.into());
                }
                None => {}
            }
        }
        Ok(())
    }

    fn judge(&mut self, logs: &Logs) -> Result<Verdict, Halt> {
        let (head, manifest) = self.store.last()?;
        let positions = positions(&manifest)?;
        let place = (&self.ground.cluster, &self.topics);
        let (mut verdict, _) = judge_output(place, logs, &positions)?;
        let markers = format!("hw.{}.markers", head.lineage);
        verdict
            .violations
            .extend(open_transactions(place, &markers)?);
        let group = self.topics.group();
        let group = self
            .ground
            .cluster
            .group(&group, &self.topics.input(), self.partitions)?;
        if group != positions {
            let text =
                format!("HB-73: the group is at {group:?}, the last checkpoint at {positions:?}");
            verdict.violations.push(text);
        }
        let orphans = self.store.orphans()?;
        if !orphans.is_empty() {
            let text = format!("O8: orphans: {}", orphans.join(", "));
            verdict.violations.push(text);
        }
        if !self.run(Machine::Hub, &["checkpoints", "verify"])? {
            let text = "O7: the last checkpoint is not whole; see commands.log";
            verdict.violations.push(text.to_owned());
        }
        verdict.violations.extend(self.chain.broken.iter().cloned());
        verdict.violations.extend(self.wrong.iter().cloned());
        Ok(verdict)
    }

    /// Removes topics and checkpoints.
    fn clean_up(&self) -> anyhow::Result<()> {
        let (head, _) = self.store.last()?;
        let mut topics = self.topics.all(self.partitions);
        topics.push((format!("hw.{}.markers", head.lineage), 1));
        let names: Vec<_> = topics.into_iter().map(|(name, _)| name).collect();
        self.ground.cluster.delete(&names)?;
        self.store.remove()
    }
}

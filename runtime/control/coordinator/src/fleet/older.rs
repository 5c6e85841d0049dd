//! Attempts that workers hold for an older leader (L4): asked for, adopted, or ended.
//!
//! Part of the fleet's machine. The rule: what is held for an older leader is either adopted as a whole, by all of its workers under the
//! numbers that they have in it, or ended before its workers get anything else to do.

use std::collections::BTreeSet;

use highwater_protocol::placement::Placement;
use highwater_types::{AttemptId, Epoch, WorkerIndex};
use highwater_worker::{RestoredBytes, WorkerCommand, WorkerEvent};

use super::{Fleet, FleetOutput, Held, HeldPart, Placed, Stage, lost};
use crate::run::attempt_of;

/// What becomes of attempts that workers hold for an older leader.
#[derive(Clone, Debug)]
pub(super) enum Older {
    /// The leader has not asked yet.
    Open,
    /// A leader of this epoch asked for reports; the placement of the last attempt that was reported.
    Asked(Epoch, Option<(AttemptId, Placement)>),
    /// They end: this leader has its own attempt.
    Over,
}

impl Fleet {
    /// Tells a leader that asked for reports whether it waits for nothing.
    pub(super) fn all_free(&self) -> Option<FleetOutput> {
        let Older::Asked(..) = self.older else {
            return None;
        };
        let is_held = self.members.values().any(|member| member.holds.is_some());
        let is_enough = || {
            let placed = Placement::over(self.shape.shares, &self.offers(), &self.before);
            placed.is_ok()
        };
        let is_free = !is_held && is_enough();
        Some(FleetOutput::Tell(WorkerEvent::AllFree(is_free)))
    }

    /// A leader wants to know what is held for an older one.
    pub(super) fn ask(&mut self, epoch: Epoch) -> Vec<FleetOutput> {
        self.older = Older::Asked(epoch, None);
        let members = self.members.iter();
        let holders = members.filter_map(|(worker, member)| Some((*worker, member.holds?)));
        let sent = holders.map(|(worker, part)| {
            let command = if part.worker == worker {
                WorkerCommand::Report(epoch)
            } else {
                WorkerCommand::Cancel(part.attempt)
            };
            FleetOutput::Send(worker, command)
        });
        let mut outputs: Vec<_> = sent.collect();
        outputs.extend(self.all_free());
        outputs
    }

    /// What is held for an older leader ends, except for `kept`.
    pub(super) fn end_older(&mut self, kept: Option<AttemptId>) -> Vec<FleetOutput> {
        if matches!(std::mem::replace(&mut self.older, Older::Over), Older::Over) {
            return Vec::new();
        }
        let members = self.members.iter();
        let holders = members.filter_map(|(worker, member)| Some((*worker, member.holds?)));
        let to_end =
            holders.filter(|(worker, part)| kept != Some(part.attempt) || part.worker != *worker);
        let sent = to_end
            .map(|(worker, part)| FleetOutput::Send(worker, WorkerCommand::Cancel(part.attempt)));
        sent.collect()
    }

    /// The leader goes on with an attempt that was reported. A worker of it that has left since is one that is lost.
    pub(super) fn adopt(&mut self, attempt: AttemptId, told: &WorkerCommand) -> Vec<FleetOutput> {
        let reported = match &mut self.older {
            Older::Asked(_, reported) => reported.take(),
            Older::Open | Older::Over => None,
        };
        let reported = reported.filter(|(of, _)| *of == attempt);
        let mut outputs = self.end_older(reported.as_ref().map(|(of, _)| *of));
        let Some((_, placement)) = reported else {
            outputs.push(lost(attempt, "it was not reported", None));
            return outputs;
        };
        let mut on = BTreeSet::new();
        for worker in placement.workers() {
            let member = self.members.get_mut(&worker);
            let part = HeldPart { attempt, worker };
            if let Some(member) = member.filter(|member| member.holds == Some(part)) {
                member.holds = None;
                on.insert(worker);
            }
        }
        let is_whole = on == placement.workers();
        if is_whole {
            self.before = self.names(&placement);
        } else {
            outputs.push(lost(attempt, "it left before it was adopted", None));
        }
        self.held = Some(Held::Placed(Placed {
            attempt,
            placement,
            sinks: self.shape.sinks.clone(),
            to_verify: BTreeSet::new(),
            restored: RestoredBytes::default(),
            to_open: BTreeSet::new(),
            on,
            stage: if is_whole {
                Stage::Active
            } else {
                Stage::Failed
            },
        }));
        outputs.extend(self.each(attempt, |_, _| told.clone()));
        outputs
    }

    /// What a worker tells of an attempt that it holds for an older leader.
    pub(super) fn said_of_older(
        &mut self,
        worker: WorkerIndex,
        event: WorkerEvent,
    ) -> Vec<FleetOutput> {
        let attempt = attempt_of(&event);
        match (event, &mut self.older) {
            (WorkerEvent::Cancelled(_), _) => {
                if let Some(member) = self.members.get_mut(&worker) {
                    member.holds = None;
                }
                let mut outputs: Vec<_> = self.all_free().into_iter().collect();
                outputs.extend(self.place_waiting());
                outputs
            }
            (event @ WorkerEvent::Reported(..), Older::Asked(_, reported)) => {
                if let WorkerEvent::Reported(_, news) = &event
                    && reported.as_ref().is_none_or(|(of, _)| *of <= attempt)
                {
                    *reported = Some((attempt, news.placement.clone()));
                }
                vec![FleetOutput::Tell(event)]
            }
            (event, Older::Asked(..)) => vec![FleetOutput::Tell(event)],
            (_, Older::Open | Older::Over) => Vec::new(),
        }
    }
}

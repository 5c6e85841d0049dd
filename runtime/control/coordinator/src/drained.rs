//! A job whose last checkpoint was drained: every window has fired, and reading on would fire them again.
//!
//! Called by the start of a leader. Whether the process died before the output was confirmed or the job was stopped long
//! ago, the same is left to do: confirm what is pending, say so in `head`, copy the savepoint that it was drained for if
//! that is not there yet, say in `head` that the job has ended, end.

use std::collections::{BTreeSet, VecDeque};

use highwater_protocol::head::{Head, HeadChange, JobEnd};
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::SavepointPaths;
use highwater_protocol::recovery::{RegionEffect, RegionEvent, RegionRecovery};
use highwater_protocol::steps::Step;
use highwater_types::{AttemptId, Classified, ErrorKind};
use highwater_worker::slot::error_chain;

use crate::going_back::{Broken, Detour, Detoured, GOING_BACK, both, hearing};
use crate::housekeeping::{Copied, export};
use crate::setup::JobOutcome;
use crate::start::{decide, failure};

/// Why nothing else is done for a job that was drained.
const DRAINED: &str = "the job was drained and ends once its savepoint is copied";

impl Detour<'_> {
    /// Confirms the output of the drained checkpoint and ends the job.
    pub(crate) async fn end_drained(&mut self, current: &Manifest) -> Result<Detoured, Broken> {
        let head = self.still_leading().await?;
        if head.has_pending_output() {
            if !self.logs_are_whole(current).await? {
                return Ok(Detoured::LogDamaged);
            }
            let mut attempt = None;
            let confirmed = self.confirm_all(&head, current, &mut attempt).await;
            let confirmed = match attempt {
                Some(attempt) => both(confirmed, self.cancel(attempt).await),
                None => confirmed,
            };
            if confirmed? == Confirmed::Void {
                return Ok(Detoured::Void);
            }
        }
        self.record_confirmed(&head).await?;
        if let Some(savepoint) = &current.savepoint {
            self.copy_owed(savepoint, current, DRAINED).await?;
        }
        self.record(&HeadChange::End(JobEnd::Stopped), DRAINED)
            .await?;
        tracing::warn!(
            checkpoint = %current.id,
            "the job was drained at its last checkpoint and has ended: every window has fired; `--fresh` begins again, \
             `--from-savepoint` with `--go-back` or `--fork` reads on from a savepoint"
        );
        Ok(Detoured::Ended(Ok(JobOutcome::Stopped)))
    }

    /// Copies the savepoint out that was asked for at `current` and that its leader did not live to copy. What is asked
    /// meanwhile is refused, saying `doing`.
    pub(crate) async fn copy_owed(
        &mut self,
        savepoint: &str,
        current: &Manifest,
        doing: &str,
    ) -> Result<(), Broken> {
        let place = SavepointPaths::parse(&self.setup.settings.savepoints, savepoint);
        let place = place.map_err(|error| failure(ErrorKind::Invalid, error.to_string()))?;
        let copied = {
            let (waits, stop) = (Some(self.waits), &self.setup.stop);
            let copying = export(self.store, current, &place, waits, stop);
            hearing(self.requests, doing, copying).await?
        };
        self.waits.goes_on();
        let copied = copied.map_err(|error| {
            let next = match error.kind() {
                ErrorKind::Invalid => "move what has its name out of the way, then start again",
                ErrorKind::Corrupt => "restore the file from a copy of the store, then start again",
                _ => "start again when the store answers",
            };
            let asked = if current.drained { "drained" } else { "asked" };
            let message = format!(
                "the job was {asked} at checkpoint {} for savepoint {}, which is not there and could not be copied: {}; {next}",
                current.id,
                place.folder(),
                error_chain(&error)
            );
            failure(error.kind(), message)
        })?;
        if copied == Copied::Now {
            tracing::warn!(
                savepoint = place.folder(),
                checkpoint = %current.id,
                "the savepoint that the job was asked for was missing and is complete now"
            );
        }
        Ok(())
    }

    /// Sessions in every slot that has pending output, until all have confirmed. No state is fetched.
    async fn confirm_all(
        &mut self,
        head: &Head,
        current: &Manifest,
        attempt: &mut Option<AttemptId>,
    ) -> Result<Confirmed, Broken> {
        let (mut region, effects) =
            RegionRecovery::start(head, current, self.shape, &BTreeSet::new());
        let mut effects = VecDeque::from(effects);
        loop {
            let mut duties = Vec::new();
            while let Some(effect) = effects.pop_front() {
                match effect {
                    RegionEffect::Free(slot) => {
                        effects.extend(region.step(RegionEvent::Freed(slot)));
                    }
                    RegionEffect::VerifyAll => {
                        for task in self.shape.tasks.keys().cloned() {
                            effects.extend(region.step(RegionEvent::Verified(task)));
                        }
                    }
                    RegionEffect::StartSession(duty) => duties.push(duty),
                    RegionEffect::OpenAll | RegionEffect::Release => return Ok(Confirmed::All),
                    RegionEffect::GoBack => return Ok(Confirmed::Void),
                }
            }
            if !duties.is_empty() {
                *attempt = Some(self.open(duties, (head, current)));
            }
            let Some(opened) = *attempt else {
                return Ok(Confirmed::All);
            };
            for event in self.told(opened).await? {
                effects.extend(region.step(event));
            }
        }
    }

    /// Says in `head` that all of its output is confirmed.
    pub(crate) async fn record_confirmed(&mut self, head: &Head) -> Result<(), Broken> {
        if head.has_pending_output() {
            self.record(&HeadChange::Confirm, GOING_BACK).await?;
        }
        Ok(())
    }

    /// Writes `head`. What is asked meanwhile is refused, saying `doing`.
    async fn record(&mut self, change: &HeadChange, doing: &str) -> Result<(), Broken> {
        (self.setup.stop)(Step::P8);
        let first = self.keeper.begin(change, self.nonces.draw());
        let decided = decide(self.store, self.keeper, first, self.waits);
        hearing(self.requests, doing, decided).await??;
        Ok(())
    }
}

/// How a confirmation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmed {
    /// All output is visible.
    All,
    /// It was being given up: that is finished first.
    Void,
}

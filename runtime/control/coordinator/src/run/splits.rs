//! New splits of running sources: looked for at the rim, assigned through the ordered channel.

use std::time::Duration;

use highwater_types::{AttemptId, ErrorKind};
use highwater_worker::WorkerCommand;
use highwater_worker::slot::error_chain;

use crate::attempt::AttemptStage;
use crate::sources::{Discovered, discover};
use crate::start::failure;

use super::{Coordinator, Done};

impl Coordinator {
    pub(super) fn discover_again(&mut self) {
        let now = self.now_ms();
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        if attempt.stage != AttemptStage::Running || now < self.discovery_at_ms {
            return;
        }
        let mut due = Vec::new();
        let mut next = Duration::from_hours(1);
        for (uid, (source, _)) in &mut attempt.sources {
            let Some(interval) = source.interval else {
                continue;
            };
            next = next.min(interval);
            if let Some(enumerator) = source.take() {
                due.push((uid.clone(), enumerator));
            }
        }
        let id = attempt.id;
        self.discovery_at_ms = now + next.as_millis() as u64;
        for (uid, enumerator) in due {
            self.at_rim(async move {
                let found = tokio::task::spawn_blocking(move || discover(uid, enumerator)).await;
                match found {
                    Ok(found) => Done::Discovered(id, found),
                    Err(error) => Done::Lost(id, failure(ErrorKind::Bug, error.to_string())),
                }
            });
        }
    }

    pub(super) fn discovered(&mut self, attempt: AttemptId, found: Discovered) {
        if !self.is_current(attempt) {
            return;
        }
        let Some(current) = &mut self.attempt else {
            return;
        };
        let uid = found.uid.clone();
        let Some((source, _)) = current.sources.get_mut(&uid) else {
            return;
        };
        let was_complete = source.complete;
        match source.put_back(found) {
            Err(error) => tracing::warn!(source = %uid, error = error_chain(&error), "discovery"),
            Ok(splits) if splits.is_empty() && source.complete == was_complete => {}
            Ok(splits) => {
                let complete = source.complete;
                self.assign(attempt, &uid, splits, complete);
            }
        }
    }

    pub(super) fn assign(
        &self,
        attempt: AttemptId,
        uid: &highwater_types::OperatorUid,
        splits: Vec<highwater_connectors::Split>,
        complete: bool,
    ) {
        let tasks: Vec<_> = self
            .shape
            .tasks
            .keys()
            .filter(|task| task.vertex == *uid)
            .cloned()
            .collect();
        let read = self.attempt.as_ref().and_then(|held| held.read.get(uid));
        let is_read = |split: &str| read.is_some_and(|read| read.contains(split));
        let mut shares: Vec<Vec<_>> = tasks.iter().map(|_| Vec::new()).collect();
        for split in splits.into_iter().filter(|split| !is_read(&split.id)) {
            let at = highwater_types::key::hash_bytes(split.id.as_bytes()).0 % tasks.len() as u64;
            tracing::info!(source = %uid, split = %split.id, "new split");
            shares[at as usize].push(split);
        }
        for (to, splits) in tasks.into_iter().zip(shares) {
            if complete || !splits.is_empty() {
                self.send(WorkerCommand::Assign {
                    attempt,
                    to,
                    splits,
                    complete,
                });
            }
        }
    }
}

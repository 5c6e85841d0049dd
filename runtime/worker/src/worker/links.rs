//! The links of an attempt to and from other workers: connected while the attempt opens, part of what must be there before it
//! is open, dropped when it ends.

use highwater_network::{Hello, LinkKey, LinkNews};
use highwater_types::{AttemptId, ErrorKind, WorkerIndex};

use super::{Worker, WorkerInput, give};
use crate::build::Links;
use crate::messages::{FailureReport, Peers, Standing, WorkerEvent};

impl Worker {
    /// Connects what sends and expects what receives.
    pub(super) fn connect(
        &mut self,
        attempt: AttemptId,
        links: Links,
    ) -> Result<(), FailureReport> {
        let inputs = self.inputs.clone();
        let news = move |news| give(&inputs, WorkerInput::Link(news));
        let job = self.setup.job.clone();
        let plane = self.setup.plane.clone();
        let Some(held) = self.active(attempt) else {
            return Ok(());
        };
        let Standing::Among(peers) = held.deployment.standing.clone() else {
            return Ok(());
        };
        let Some(plane) = plane else {
            return Err(link_failure("this worker was started without a data plane"));
        };
        let Peers {
            me,
            addresses,
            pass,
            ..
        } = *peers;
        let epoch = held.deployment.epoch;
        let hello = |from: WorkerIndex, to: WorkerIndex, channels: usize| Hello {
            job: job.clone(),
            epoch,
            attempt,
            pass,
            from,
            to,
            channels: channels as u32,
        };
        for (from, link) in links.receiving {
            held.unlinked.insert(LinkKey {
                attempt,
                from,
                to: me,
            });
            let hello = hello(from, me, link.ports.len());
            held.links
                .push(plane.expect(hello, (link.bell, link.ports), news.clone()));
        }
        for (to, link) in links.sending {
            let address = addresses.get(&to).cloned();
            let address = address.ok_or_else(|| {
                link_failure(&format!("the deployment has no address of worker {to}"))
            })?;
            held.unlinked.insert(LinkKey {
                attempt,
                from: me,
                to,
            });
            let hello = hello(me, to, link.ports.len());
            held.links
                .push(plane.connect(address, hello, (link.bell, link.ports), news.clone()));
        }
        Ok(())
    }

    pub(super) fn link_news(&mut self, news: LinkNews) {
        match news {
            LinkNews::Up(key) => {
                if let Some(held) = self.active(key.attempt) {
                    held.unlinked.remove(&key);
                    self.opened(key.attempt);
                }
            }
            LinkNews::Failed(key, reason) => self.fail(key.attempt, link_failure(&reason)),
        }
    }

    /// Tells that the attempt is open, once every slot and every link is.
    pub(super) fn opened(&mut self, attempt: AttemptId) {
        let open = self
            .active(attempt)
            .is_some_and(|held| held.unopened.is_empty() && held.unlinked.is_empty());
        if open {
            self.tell(WorkerEvent::Opened(attempt));
        }
    }
}

fn link_failure(message: &str) -> FailureReport {
    FailureReport::of("the links between workers", ErrorKind::Transient, message)
}

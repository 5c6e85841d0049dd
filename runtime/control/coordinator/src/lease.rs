//! The lease of a job: runs the election of this process against the store that holds the lease.
//!
//! Used by the role `coordinator` before it leads, and beside it as long as it does. The rule: whoever may lead learns it here, whoever
//! leads learns from `head` that it does so no more; nothing of the data path asks the lease.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use highwater_protocol::election::{
    Candidate, Election, ElectionEffect, ElectionEvent, LeaseRead, LeaseRecord, LeaseState, Mandate,
};
use highwater_protocol::head_write::{PutOutcome, VersionTag};
use highwater_worker::Clock;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Where a lease lies. Each call is tried once, and cut off by the caller when it takes too long.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Reads it.
    async fn read(&self) -> LeaseRead;
    /// Writes it, if it still has this tag (`None` = if there is none).
    async fn write(&self, record: &LeaseRecord, if_match: Option<&VersionTag>) -> PutOutcome;
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may lead, with this mandate.
    Leads(Mandate),
    /// The job has ended under another, in these words.
    NothingToLead(String),
    /// Another holds the lease, and this candidate does not wait.
    Occupied(LeaseRecord),
}

/// What the holder of a lease has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderWord {
    /// It has taken `head`: what somebody wanted of its start is done.
    Leads,
    /// It leads no more, and leaves the lease like this. Its last word.
    Leaves(LeaseState),
}

/// The candidacy of this process.
pub struct Campaign {
    election: Election,
    store: Box<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
    /// A call of the store that takes longer has failed.
    answer_max: Duration,
}

/// A call of the store takes no longer than this, however long the lease is.
const ANSWER_MAX: Duration = Duration::from_secs(5);

impl Campaign {
    /// A candidate for a lease of this duration.
    pub fn new(
        store: Box<dyn LeaseStore>,
        me: Candidate,
        duration: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            election: Election::new(me, millis.max(1)),
            store,
            clock,
            answer_max: (duration / 4).min(ANSWER_MAX),
        }
    }

    /// Waits until this process may lead, or never will. `follows` hears who leads meanwhile.
    pub async fn win(&mut self, mut follows: impl FnMut(Option<&LeaseRecord>)) -> Standing {
        loop {
            for told in self.turn(ElectionEvent::Tick).await {
                match told {
                    ElectionEffect::Lead => return Standing::Leads(self.election.mandate()),
                    ElectionEffect::NothingToLead(how) => return Standing::NothingToLead(how),
                    ElectionEffect::Occupied(record) => return Standing::Occupied(record),
                    ElectionEffect::Follow(record) => follows(record.as_ref()),
                    ElectionEffect::Refused(refusal) => {
                        tracing::warn!(%refusal, "the lease cannot be taken; tried again by itself");
                    }
                    other => unreachable!("{other:?} is not told to one that waits"),
                }
            }
            self.rest().await;
        }
    }

    /// Renews the lease until a word says how it is to be left, which is written until it has landed, or until another has it. A sender
    /// that is dropped before says that nothing is to be written any more.
    pub async fn hold(mut self, mut words: mpsc::Receiver<HolderWord>) {
        let mut leaves = false;
        loop {
            // Both arms are cancel-safe: a word that is not taken now is taken in the next turn, and a rest that is cut off begins anew.
            let event = tokio::select! {
                word = words.recv(), if !leaves => match word {
                    Some(HolderWord::Leads) => ElectionEvent::Leads,
                    Some(HolderWord::Leaves(state)) => {
                        leaves = true;
                        ElectionEvent::Leave(state)
                    }
                    None => return,
                },
                () = self.rest() => ElectionEvent::Tick,
            };
            for told in self.turn(event).await {
                match told {
                    ElectionEffect::Over => return,
                    ElectionEffect::Lost(to) => {
                        tracing::warn!(
                            to,
                            "the lease was lost; this coordinator leads until `head` is taken"
                        );
                        return;
                    }
                    ElectionEffect::Refused(refusal) => {
                        tracing::warn!(%refusal, "the lease is not written; tried again by itself");
                    }
                    other => unreachable!("{other:?} is not told to the holder"),
                }
            }
        }
    }

    /// Waits for the next tick.
    async fn rest(&self) {
        let now = self.now_ms();
        let at = self.election.wake_at().unwrap_or(u64::MAX);
        sleep(Duration::from_millis(at.saturating_sub(now).max(1))).await;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes one event and performs what follows. Returns what is told.
    async fn turn(&mut self, event: ElectionEvent) -> Vec<ElectionEffect> {
        let mut told = Vec::new();
        let mut effects = VecDeque::from(self.election.step(self.now_ms(), event));
        while let Some(effect) = effects.pop_front() {
            let event = match effect {
                ElectionEffect::Read => {
                    let read = timeout(self.answer_max, self.store.read()).await;
                    ElectionEvent::Read(read.unwrap_or(LeaseRead::Failed))
                }
                ElectionEffect::Write { record, if_match } => {
                    let write = self.store.write(&record, if_match.as_ref());
                    let written = timeout(self.answer_max, write).await;
                    ElectionEvent::Written(written.unwrap_or(PutOutcome::Ambiguous))
                }
                other => {
                    told.push(other);
                    continue;
                }
            };
            effects.extend(self.election.step(self.now_ms(), event));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use highwater_protocol::election::AboutOthers;
    use highwater_protocol::paths::JobPaths;
    use highwater_storage::MemoryStorage;
    use highwater_types::{Epoch, JobIdentity, Nonce, ProcessingTime};
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;
    use crate::store::JobStore;

    /// The time of the runtime, which a test has stopped: it goes on when everybody waits.
    struct Stopped(Instant);

    impl Clock for Stopped {
        fn now(&self) -> ProcessingTime {
            ProcessingTime(0)
        }

        fn elapsed(&self) -> Duration {
            self.0.elapsed()
        }
    }

    const DURATION: Duration = Duration::from_secs(10);

    fn store(storage: &Arc<MemoryStorage>) -> JobStore {
        let job = JobIdentity::parse("job").unwrap();
        let storage = Arc::<MemoryStorage>::clone(storage);
        JobStore::new(storage, JobPaths::new(job))
    }

    fn campaign(storage: &Arc<MemoryStorage>, number: u128) -> Campaign {
        let store = store(storage);
        let me = Candidate {
            name: format!("c{number}"),
            address: "127.0.0.1:1".to_owned(),
            status: "127.0.0.1:2".to_owned(),
            process: Nonce(number),
            about_others: AboutOthers::Wait,
            begins: false,
            found_ended: None,
        };
        let clock = Arc::new(Stopped(Instant::now()));
        Campaign::new(Box::new(store), me, DURATION, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_leads_once_the_first_is_gone_and_not_before() {
        let storage = Arc::new(MemoryStorage::default());
        let (mut one, mut two) = (campaign(&storage, 1), campaign(&storage, 2));
        let first = one.win(|_| panic!("nobody leads")).await;
        let nothing_said = Mandate {
            only_goes_on: false,
            goes_past: None,
        };
        assert_eq!(first, Standing::Leads(nothing_said));
        let (end, ended) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(one.hold(ended));
        let mut followed = None;
        let waits = two.win(|leader| followed = leader.cloned());
        assert!(
            timeout(100 * DURATION, waits).await.is_err(),
            "the first renews its lease"
        );
        assert_eq!(followed.unwrap().holder, "c1");
        drop(end);
        tasks.join_next().await.unwrap().unwrap();
        let gone = Instant::now();
        let second = two.win(|_| {}).await;
        assert!(matches!(second, Standing::Leads(_)));
        let waited = gone.elapsed();
        assert!(waited > DURATION / 2 && waited < 2 * DURATION, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_job_is_told_to_those_who_wait() {
        let storage = Arc::new(MemoryStorage::default());
        let (mut one, mut two) = (campaign(&storage, 1), campaign(&storage, 2));
        one.win(|_| {}).await;
        let (end, ended) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(one.hold(ended));
        let (seen, mut follows) = mpsc::channel(1);
        let mut waits = JoinSet::new();
        waits.spawn(async move {
            let follows = |leader: Option<&LeaseRecord>| {
                seen.try_send(leader.is_some()).unwrap();
            };
            two.win(follows).await
        });
        assert_eq!(follows.recv().await, Some(true));
        let stopped = LeaseState::Ended("stopped".to_owned());
        end.send(HolderWord::Leaves(stopped)).await.unwrap();
        tasks.join_next().await.unwrap().unwrap();
        assert_eq!(
            waits.join_next().await.unwrap().unwrap(),
            Standing::NothingToLead("stopped".to_owned())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_has_taken_head_wishes_nothing_more() {
        let storage = Arc::new(MemoryStorage::default());
        let mut one = campaign(&storage, 1);
        one.win(|_| {}).await;
        let store = store(&storage);
        let LeaseRead::Found(record, tag) = LeaseStore::read(&store).await else {
            panic!("it holds the lease")
        };
        // As if it had been started where the lease said that the job has ended.
        let wishes = LeaseRecord {
            goes_past: Some(Epoch(3)),
            state: LeaseState::Released,
            process: Nonce(9),
            ..record
        };
        assert!(matches!(
            store.write(&wishes, Some(&tag)).await,
            PutOutcome::Applied(_)
        ));
        let mut two = campaign(&storage, 2);
        let Standing::Leads(mandate) = two.win(|_| {}).await else {
            panic!("the lease was released")
        };
        assert_eq!(mandate.goes_past, Some(Epoch(3)));
        let (words, told) = mpsc::channel(2);
        words.send(HolderWord::Leads).await.unwrap();
        let released = HolderWord::Leaves(LeaseState::Released);
        words.send(released).await.unwrap();
        two.hold(told).await;
        let LeaseRead::Found(record, _) = LeaseStore::read(&store).await else {
            panic!("it has left the lease")
        };
        assert_eq!(record.goes_past, None);
        assert_eq!(record.state, LeaseState::Released);
    }
}

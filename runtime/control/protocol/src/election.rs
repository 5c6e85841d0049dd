//! Election: which of several coordinators may try to lead.
//!
//! Called by the driver of a coordinator that shares its job with others. A candidate writes one record, the lease, with a condition on
//! the record that it has seen; whoever holds it renews it. The rules:
//!
//! - A lease makes nobody a leader, the conditional write of `head` does (rule L1 of the sink protocol): a lease that is wrong costs
//!   time and never data.
//! - No clock is compared with that of another process. A candidate waits until the record did not change for the whole duration by its
//!   own clock, in which it could be read.
//! - An answer that took a duration or longer decides nothing: another may have taken the lease since.
//! - A leader that loses the lease goes on until `head` says that it is deposed.
//! - A job that has ended is gone on with where somebody wants it: by a process that was started where the lease said so or where there
//!   was none, and by whoever follows it before it has taken `head`. One that stood by, or that lost a race, does not.
//!
//! Source: the leader election of Kubernetes' client library, with the fencing that it says it does not have.

use highwater_types::{Epoch, Nonce};
use serde::{Deserialize, Serialize};

use crate::head_write::{PutOutcome, Refusal, VersionTag};

/// The content of the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The name of the coordinator that holds it.
    pub holder: String,
    /// Where workers find it: host and port.
    pub address: String,
    /// Where its status server is asked, such as `https://10.0.0.7:8081`.
    pub status: String,
    /// Its process: two processes of one name are told apart.
    pub process: Nonce,
    /// Counts the writes, so that no two records are alike: the version of an object may be a hash of its content.
    pub turn: u64,
    /// How long the holder wants to be waited for, in milliseconds.
    pub duration_ms: u64,
    /// Whether this holder, or one before it since the job last ended, was told what to begin the job with: whoever was not must not
    /// begin it from nothing. Means nothing once there is a `head`.
    pub begins: bool,
    /// Somebody wants the job to go on after the end that `head` says in this epoch, and nobody has taken `head` since. Means nothing once
    /// the epoch is over: a later end is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_past: Option<Epoch>,
    /// Whether it is held.
    pub state: LeaseState,
}

/// Whether a lease is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// By a process that lives, or did.
    Held,
    /// No more: the job goes on under whoever takes it next.
    Released,
    /// No more: the job has ended, in these words.
    Ended(String),
}

/// Who runs for the lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name. One of the name that holds the lease waits for half of the time only: it probably is the successor of one that is
    /// gone. Half, so that one that lives shows it.
    pub name: String,
    /// Where workers find it.
    pub address: String,
    /// Where its status server listens.
    pub status: String,
    /// Its process.
    pub process: Nonce,
    /// What it does about a lease that another holds.
    pub about_others: AboutOthers,
    /// Whether it was told what to begin the job with.
    pub begins: bool,
    /// The epoch in which `head` said that the job has ended when this process was started, read before its first look at the lease.
    pub found_ended: Option<Epoch>,
}

/// What a candidate that has won may do with the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mandate {
    /// Another was told what to begin the job with, and this process was not: it goes on with what is there, or not at all.
    pub only_goes_on: bool,
    /// It goes on after the end that `head` says in this epoch, because somebody wants it; `None` = a job that has ended is left as it is.
    pub goes_past: Option<Epoch>,
}

/// What a candidate does about a lease that another holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AboutOthers {
    /// Waits for its turn, and goes on with the job as it is then.
    Wait,
    /// Ends: it was started to begin something, which may not happen behind the back of another.
    Refuse,
    /// Takes the lease, because somebody wants it so.
    TakeOver,
}

/// What wakes an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionEvent {
    /// It may be time to read or to renew.
    Tick,
    /// The answer to a read.
    Read(LeaseRead),
    /// The answer to a write.
    Written(PutOutcome),
    /// This process has taken `head`: what somebody wanted of its start is done.
    Leads,
    /// This process leads no more, and leaves the lease like this.
    Leave(LeaseState),
}

/// The answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseRead {
    /// The record.
    Found(LeaseRecord, VersionTag),
    /// Something that is no record: counts as one that nobody knows the holder of.
    Unreadable(VersionTag),
    /// There is none.
    Absent,
    /// No answer.
    Failed,
}

/// What the driver of an election does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionEffect {
    /// Reads the lease.
    Read,
    /// Writes it, if the store still has `if_match` (`None` = if there is none).
    Write {
        /// The record.
        record: LeaseRecord,
        /// The condition.
        if_match: Option<VersionTag>,
    },
    /// This process may lead.
    Lead,
    /// Another leads; `None` = nobody knows who.
    Follow(Option<LeaseRecord>),
    /// The job has ended under the one that this process followed, in these words: there is nothing to lead.
    NothingToLead(String),
    /// Another holds the lease, and this process does not wait.
    Occupied(LeaseRecord),
    /// Another has taken the lease.
    Lost(String),
    /// The store refuses writes of the lease.
    Refused(Refusal),
    /// The lease is left as it should be.
    Over,
}

/// Reads and renewals in one duration of a lease.
const LOOKS: u64 = 4;
/// The longest time that a holder is waited for, whatever its record says: a day.
const DURATION_MS_MAX: u64 = 86_400_000;

/// The machine of one process.
#[derive(Clone, Debug)]
pub struct Election {
    me: Candidate,
    duration_ms: u64,
    stage: Stage,
    asked: Option<Asked>,
    next_ms: u64,
    /// The record that is watched, and since when it has not changed.
    seen: Option<(VersionTag, u64)>,
    /// What the lease was when this process first read it.
    first: Option<FirstLook>,
    /// One before it was told what to begin the job with.
    inherits: bool,
    /// The end that the job goes on after, by the wish of whoever started this process or one before it.
    goes_past: Option<Epoch>,
    /// The process that leads as far as this one knows.
    follows: Option<Nonce>,
    turn: u64,
    /// How this process leaves the lease, once it does.
    leaves: Option<LeaseState>,
}

/// A call of the store that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    at_ms: u64,
    /// It is a write that says how this process leaves the lease.
    leaves: bool,
}

/// What a process found that read the lease for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FirstLook {
    Absent,
    Object(VersionTag),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Another leads, or nobody.
    Standby,
    /// The lease is this process's.
    Holding(VersionTag),
    /// It was, and whether the last write landed is not known.
    Unsure,
    Over,
}

impl Election {
    /// A candidate for a lease of this duration, at least 1 ms, that has not looked yet.
    pub const fn new(me: Candidate, duration_ms: u64) -> Self {
        Self {
            me,
            duration_ms,
            stage: Stage::Standby,
            asked: None,
            next_ms: 0,
            seen: None,
            first: None,
            inherits: false,
            goes_past: None,
            follows: None,
            turn: 0,
            leaves: None,
        }
    }

    /// When a tick is due next; `None` = an answer is waited for, or it is over.
    pub fn wake_at(&self) -> Option<u64> {
        (self.asked.is_none() && self.stage != Stage::Over).then_some(self.next_ms)
    }

    /// What this process may do with the job, once it may lead.
    pub const fn mandate(&self) -> Mandate {
        Mandate {
            only_goes_on: self.inherits && !self.me.begins,
            goes_past: self.goes_past,
        }
    }

    /// Takes one event at a time of the own clock.
    pub fn step(&mut self, now_ms: u64, event: ElectionEvent) -> Vec<ElectionEffect> {
        match event {
            ElectionEvent::Tick => self.tick(now_ms),
            ElectionEvent::Read(read) => {
                let is_old = self.answered(now_ms).1;
                let read = if is_old { LeaseRead::Failed } else { read };
                match self.stage {
                    Stage::Standby => self.watch(now_ms, read),
                    Stage::Holding(_) | Stage::Unsure => self.reassure(now_ms, read),
                    Stage::Over => Vec::new(),
                }
            }
            ElectionEvent::Written(outcome) => {
                let (asked, is_old) = self.answered(now_ms);
                let is_landed = matches!(outcome, PutOutcome::Applied(_));
                let outcome = if is_landed && is_old {
                    PutOutcome::Ambiguous
                } else {
                    outcome
                };
                self.written(now_ms, outcome, asked)
            }
            ElectionEvent::Leads => {
                // The next renewal says so.
                self.goes_past = None;
                Vec::new()
            }
            ElectionEvent::Leave(state) => {
                self.leaves = Some(state);
                match self.stage {
                    Stage::Holding(_) | Stage::Unsure => {
                        self.next_ms = now_ms;
                        self.tick(now_ms)
                    }
                    Stage::Standby | Stage::Over => self.over(),
                }
            }
        }
    }

    /// What the answer that has come is to, and whether it took so long that it says nothing any more.
    fn answered(&mut self, now_ms: u64) -> (Option<Asked>, bool) {
        let asked = self.asked.take();
        let is_old = asked.is_some_and(|asked| now_ms - asked.at_ms >= self.duration_ms);
        (asked, is_old)
    }

    fn tick(&mut self, now_ms: u64) -> Vec<ElectionEffect> {
        if self.asked.is_some() || now_ms < self.next_ms {
            return Vec::new();
        }
        match &self.stage {
            Stage::Standby | Stage::Unsure => {
                self.asked = Some(Asked {
                    at_ms: now_ms,
                    leaves: false,
                });
                vec![ElectionEffect::Read]
            }
            Stage::Holding(tag) => {
                let tag = tag.clone();
                self.write(now_ms, Some(tag))
            }
            Stage::Over => Vec::new(),
        }
    }

    fn write(&mut self, now_ms: u64, if_match: Option<VersionTag>) -> Vec<ElectionEffect> {
        self.asked = Some(Asked {
            at_ms: now_ms,
            leaves: self.leaves.is_some(),
        });
        // A record that somebody edited may hold any number.
        self.turn = self.turn.wrapping_add(1);
        let state = self.leaves.clone().unwrap_or(LeaseState::Held);
        // Whoever follows one that was to begin anew, and did not, would go on with what that one gave up.
        let is_wish = !matches!(state, LeaseState::Ended(_)) && !self.me.begins;
        let record = LeaseRecord {
            holder: self.me.name.clone(),
            address: self.me.address.clone(),
            status: self.me.status.clone(),
            process: self.me.process,
            turn: self.turn,
            duration_ms: self.duration_ms,
            begins: self.me.begins || self.inherits,
            goes_past: self.goes_past.filter(|_| is_wish),
            state,
        };
        vec![ElectionEffect::Write { record, if_match }]
    }

    fn look_again(&mut self, now_ms: u64) {
        self.next_ms = now_ms + self.duration_ms.div_ceil(LOOKS);
    }

    fn over(&mut self) -> Vec<ElectionEffect> {
        self.stage = Stage::Over;
        vec![ElectionEffect::Over]
    }

    /// A process that leads nothing has read the lease.
    fn watch(&mut self, now_ms: u64, read: LeaseRead) -> Vec<ElectionEffect> {
        let look = match &read {
            LeaseRead::Failed => None,
            LeaseRead::Absent => Some(FirstLook::Absent),
            LeaseRead::Unreadable(tag) | LeaseRead::Found(_, tag) => {
                Some(FirstLook::Object(tag.clone()))
            }
        };
        if self.first.is_none() {
            self.first = look;
        }
        match read {
            LeaseRead::Failed => {
                // The holder could not renew it either, perhaps.
                if let Some((_, since)) = &mut self.seen {
                    *since = now_ms;
                }
                self.look_again(now_ms);
                Vec::new()
            }
            LeaseRead::Absent => {
                if self.first == Some(FirstLook::Absent) {
                    self.goes_past = self.goes_past.max(self.me.found_ended);
                }
                self.write(now_ms, None)
            }
            LeaseRead::Unreadable(tag) => self.wait(now_ms, None, tag),
            LeaseRead::Found(record, tag) => self.found(now_ms, record, tag),
        }
    }

    fn found(&mut self, now_ms: u64, record: LeaseRecord, tag: VersionTag) -> Vec<ElectionEffect> {
        // The next write must differ from this record, or an old tag could come back with it.
        self.turn = record.turn;
        if record.process == self.me.process {
            // An own write that nobody had answered.
            return self.take(now_ms, tag);
        }
        let is_ended = matches!(record.state, LeaseState::Ended(_));
        let is_unchanged = self.first == Some(FirstLook::Object(tag.clone()));
        self.inherits = record.begins && !is_ended;
        let inherited = record.goes_past.filter(|_| !is_ended);
        let is_wanted = match self.me.about_others {
            AboutOthers::TakeOver => true,
            AboutOthers::Wait | AboutOthers::Refuse => is_ended && is_unchanged,
        };
        let own = self.me.found_ended.filter(|_| is_wanted);
        self.goes_past = inherited.max(own);
        match (&record.state, self.me.about_others) {
            // It has ended since: under the one that this process followed, or that was faster.
            (LeaseState::Ended(how), AboutOthers::Wait) if !is_unchanged => {
                self.stage = Stage::Over;
                vec![ElectionEffect::NothingToLead(how.clone())]
            }
            (LeaseState::Ended(_) | LeaseState::Released, _)
            | (LeaseState::Held, AboutOthers::TakeOver) => self.write(now_ms, Some(tag)),
            (LeaseState::Held, AboutOthers::Refuse) => {
                self.stage = Stage::Over;
                vec![ElectionEffect::Occupied(record)]
            }
            (LeaseState::Held, AboutOthers::Wait) => self.wait(now_ms, Some(record), tag),
        }
    }

    /// Watches a record until it is old.
    fn wait(
        &mut self,
        now_ms: u64,
        record: Option<LeaseRecord>,
        tag: VersionTag,
    ) -> Vec<ElectionEffect> {
        let mut wait_ms = self.duration_ms;
        if let Some(record) = &record {
            wait_ms = wait_ms.max(record.duration_ms.min(DURATION_MS_MAX));
            if record.holder == self.me.name {
                wait_ms = wait_ms.div_ceil(2);
            }
        }
        let since = match &self.seen {
            Some((seen, since)) if *seen == tag => *since,
            _ => now_ms,
        };
        let until = since + wait_ms;
        if now_ms >= until {
            return self.write(now_ms, Some(tag));
        }
        let before = self.seen.replace((tag, since));
        self.look_again(now_ms);
        self.next_ms = self.next_ms.min(until);
        let process = record.as_ref().map(|record| record.process);
        let is_told = before.is_some() && self.follows == process;
        self.follows = process;
        if is_told {
            return Vec::new();
        }
        vec![ElectionEffect::Follow(record)]
    }

    fn take(&mut self, now_ms: u64, tag: VersionTag) -> Vec<ElectionEffect> {
        self.stage = Stage::Holding(tag);
        self.look_again(now_ms);
        vec![ElectionEffect::Lead]
    }

    fn written(
        &mut self,
        now_ms: u64,
        outcome: PutOutcome,
        asked: Option<Asked>,
    ) -> Vec<ElectionEffect> {
        match (&self.stage, outcome) {
            (Stage::Over, _) => Vec::new(),
            (Stage::Standby, PutOutcome::Applied(tag)) => self.take(now_ms, tag),
            (Stage::Holding(_) | Stage::Unsure, PutOutcome::Applied(tag)) => {
                self.stage = Stage::Holding(tag);
                self.look_again(now_ms);
                self.leave(now_ms, asked.is_some_and(|asked| asked.leaves))
            }
            (_, PutOutcome::Refused(refusal)) => {
                self.look_again(now_ms);
                vec![ElectionEffect::Refused(refusal)]
            }
            (stage, unsure) => {
                if *stage != Stage::Standby {
                    self.stage = Stage::Unsure;
                }
                // Who has it instead is worth a look at once. What a store did not answer is not: it may have too much to do.
                if unsure == PutOutcome::Precondition {
                    self.next_ms = now_ms;
                } else {
                    self.look_again(now_ms);
                }
                self.tick(now_ms)
            }
        }
    }

    /// Leaves the lease if it is to be left: `is_left` = the record says so already.
    fn leave(&mut self, now_ms: u64, is_left: bool) -> Vec<ElectionEffect> {
        match (&self.leaves, is_left) {
            (None, _) => Vec::new(),
            (Some(_), true) => self.over(),
            (Some(_), false) => {
                self.next_ms = now_ms;
                self.tick(now_ms)
            }
        }
    }

    /// A process that leads has read the lease, because a renewal was not confirmed.
    fn reassure(&mut self, now_ms: u64, read: LeaseRead) -> Vec<ElectionEffect> {
        match read {
            LeaseRead::Failed => {
                self.look_again(now_ms);
                Vec::new()
            }
            LeaseRead::Absent => self.write(now_ms, None),
            LeaseRead::Found(record, tag) if record.process == self.me.process => {
                self.stage = Stage::Holding(tag);
                self.look_again(now_ms);
                self.leave(now_ms, record.state != LeaseState::Held)
            }
            LeaseRead::Found(record, _) => {
                self.stage = Stage::Over;
                vec![ElectionEffect::Lost(record.holder)]
            }
            LeaseRead::Unreadable(_) => {
                self.stage = Stage::Over;
                vec![ElectionEffect::Lost(
                    "a record that cannot be read".to_owned(),
                )]
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The simulated object store: linearizable conditional puts with unreliable answers.
//!
//! Requests arrive after a latency drawn by the world. A put may be applied with its answer lost, not applied with its
//! answer lost, or applied much later; a 409 may come although nothing was written; a 403 comes only when nothing was; an outage refuses everything. The
//! history of `head` is kept for oracle O6.

use std::collections::BTreeMap;
use std::rc::Rc;

use highwater_protocol::head_write::VersionTag;

use crate::rng::Rng;

/// The condition of a put.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    IfAbsent,
    IfMatch(VersionTag),
}

#[derive(Clone, Debug)]
pub(crate) enum StoreOp {
    Put {
        path: String,
        bytes: Rc<[u8]>,
        condition: Condition,
    },
    Get {
        path: String,
    },
    List {
        prefix: String,
    },
    Delete {
        paths: Vec<String>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum StoreAnswer {
    Applied(VersionTag),
    Precondition,
    /// Not applied, and never will be: 403.
    Refused,
    /// No clear answer, for puts; no answer at all, for everything else.
    Failed,
    Found(Rc<[u8]>, VersionTag),
    Absent,
    Listed(Vec<String>),
    Deleted,
}

/// How unreliable the store is, in hundredths of a percent.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreFaults {
    pub(crate) applied_unclear: u32,
    pub(crate) lost_unclear: u32,
    pub(crate) late_unclear: u32,
    pub(crate) conflict: u32,
    pub(crate) read_failed: u32,
    pub(crate) refused: u32,
}

/// What the world does with a request.
pub(crate) enum Handling {
    Answer(StoreAnswer),
    /// Answers "failed" now and applies the request after this many microseconds.
    ApplyLater(u64),
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Rc<[u8]>,
    tag: VersionTag,
}

#[derive(Default)]
pub(crate) struct SimStore {
    objects: BTreeMap<String, Object>,
    versions: u64,
    pub(crate) faults: StoreFaults,
    pub(crate) outage_until: u64,
}

impl SimStore {
    /// Handles a request that arrives at `now`.
    pub(crate) fn handle(&mut self, op: &StoreOp, now: u64, rng: &mut Rng) -> Handling {
        if now < self.outage_until {
            if let StoreOp::Put { .. } = op
                && rng.chance(2_500)
            {
                // Stuck on its way in: lands when the store is back.
                let rest = self.outage_until - now;
                return Handling::ApplyLater(rest + rng.between(100, 60_000));
            }
            return Handling::Answer(StoreAnswer::Failed);
        }
        if let StoreOp::Put { .. } = op {
            if rng.chance(self.faults.refused) {
                return Handling::Answer(StoreAnswer::Refused);
            }
            if rng.chance(self.faults.conflict) || rng.chance(self.faults.lost_unclear) {
                return Handling::Answer(StoreAnswer::Failed);
            }
            if rng.chance(self.faults.late_unclear) {
                return Handling::ApplyLater(rng.between(1_000, 900_000));
            }
            let answer = self.apply(op);
            let unclear = rng.chance(self.faults.applied_unclear);
            return Handling::Answer(if unclear { StoreAnswer::Failed } else { answer });
        }
        if rng.chance(self.faults.read_failed) {
            return Handling::Answer(StoreAnswer::Failed);
        }
        Handling::Answer(self.apply(op))
    }

    /// Applies a request now.
    pub(crate) fn apply(&mut self, op: &StoreOp) -> StoreAnswer {
        match op {
            StoreOp::Put {
                path,
                bytes,
                condition,
            } => {
                let found = self.objects.get(path);
                let holds = match condition {
                    Condition::IfAbsent => found.is_none(),
                    Condition::IfMatch(tag) => found.is_some_and(|object| object.tag == *tag),
                };
                if !holds {
                    return StoreAnswer::Precondition;
                }
                self.versions += 1;
                let tag = VersionTag(format!("v{}", self.versions).into());
                let object = Object {
                    bytes: Rc::clone(bytes),
                    tag: tag.clone(),
                };
                self.objects.insert(path.clone(), object);
                StoreAnswer::Applied(tag)
            }
            StoreOp::Get { path } => match self.objects.get(path) {
                Some(object) => StoreAnswer::Found(Rc::clone(&object.bytes), object.tag.clone()),
                None => StoreAnswer::Absent,
            },
            StoreOp::List { prefix } => {
                let below = self.objects.range(prefix.clone()..);
                let below = below.take_while(|(path, _)| path.starts_with(prefix.as_str()));
                StoreAnswer::Listed(below.map(|(path, _)| path.clone()).collect())
            }
            StoreOp::Delete { paths } => {
                for path in paths {
                    self.objects.remove(path);
                }
                StoreAnswer::Deleted
            }
        }
    }

    pub(crate) fn bytes(&self, path: &str) -> Option<&Rc<[u8]>> {
        self.objects.get(path).map(|object| &object.bytes)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &String> {
        self.objects.keys()
    }

    /// Bit rot: changes one byte of an object; a second time, back to what it was.
    pub(crate) fn corrupt(&mut self, path: &str) {
        if let Some(object) = self.objects.get_mut(path) {
            let mut bytes = object.bytes.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            object.bytes = bytes.into();
        }
    }
}

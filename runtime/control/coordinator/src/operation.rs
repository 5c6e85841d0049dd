//! Operations: what was asked of the job under an id of the asker's, and what came of it.
//!
//! Kept in the status by the coordinator, read by whoever asks later. Pure. The rules: an id stands for one request, which is not done
//! again when it is asked for again; one that came to nothing and may succeed later begins anew. A leader knows its own operations only:
//! a savepoint that an older one completed is found under its name.

use std::collections::VecDeque;
use std::fmt;

use highwater_types::{Classified as _, ErrorKind};

use crate::request::{RequestAnswer, SnapshotWish};

/// The longest id.
const ID_BYTES_MAX: usize = 64;
/// Operations that are kept.
const KEPT: usize = 64;

/// Tells operations apart: 1 to 64 letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(String);

/// A text that is no operation id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no id of an operation; write 1 to {ID_BYTES_MAX} letters, digits, `-`, `_` and `.`"
)]
pub struct NoOperationId {
    /// Its beginning.
    text: String,
}

impl OperationId {
    /// Reads an id.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, NoOperationId> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() || text.len() > ID_BYTES_MAX || !text.bytes().all(is_known) {
            let text = text.chars().take(ID_BYTES_MAX).collect();
            return Err(NoOperationId { text });
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What was asked for.
    pub wish: SnapshotWish,
    /// When it began, in milliseconds of the coordinator's clock.
    pub began_ms: u64,
    /// What came of it; `None` = it is under way.
    pub end: Option<OperationEnd>,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationEnd {
    /// When, in milliseconds of the coordinator's clock.
    pub at_ms: u64,
    /// The answer.
    pub answer: RequestAnswer,
}

/// What a request under an id is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// To be done: nobody asked before, or what was asked came to nothing and may succeed now.
    New,
    /// Under way: it is answered when that is.
    Runs,
    /// Done, with this answer.
    Ended(RequestAnswer),
    /// The id stands for another request.
    Other(SnapshotWish),
    /// To be done, and there is no room to keep it.
    Full,
}

/// The last operations, the oldest first, up to 64 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operations(VecDeque<Operation>);

impl Operations {
    /// What `wish` under `id` is. A new one has begun.
    pub fn begin(&mut self, id: &OperationId, wish: &SnapshotWish, now_ms: u64) -> Known {
        if let Some(held) = self.0.iter().position(|held| held.id == *id) {
            let operation = &self.0[held];
            if operation.wish != *wish {
                return Known::Other(operation.wish.clone());
            }
            match &operation.end {
                None => return Known::Runs,
                Some(end) if !may_succeed(&end.answer) => return Known::Ended(end.answer.clone()),
                Some(_) => self.0.remove(held),
            };
        }
        if self.0.len() == KEPT {
            let ended = self.0.iter().enumerate();
            let ended = ended.filter_map(|(at, held)| Some((held.end.as_ref()?.at_ms, at)));
            let Some((_, oldest)) = ended.min() else {
                return Known::Full;
            };
            self.0.remove(oldest);
        }
        self.0.push_back(Operation {
            id: id.clone(),
            wish: wish.clone(),
            began_ms: now_ms,
            end: None,
        });
        Known::New
    }

    /// What came of an operation. One that is not under way stays as it is.
    pub fn end(&mut self, id: &OperationId, answer: RequestAnswer, now_ms: u64) {
        let held = self.0.iter_mut().find(|held| held.id == *id);
        if let Some(operation) = held.filter(|held| held.end.is_none()) {
            operation.end = Some(OperationEnd {
                at_ms: now_ms,
                answer,
            });
        }
    }

    /// The operation of this id.
    pub fn get(&self, id: &OperationId) -> Option<&Operation> {
        self.0.iter().find(|held| held.id == *id)
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Operation> {
        self.0.iter()
    }
}

/// Whether the same request may be granted at another time.
fn may_succeed(answer: &RequestAnswer) -> bool {
    answer
        .as_ref()
        .is_err_and(|refused| matches!(refused.kind(), ErrorKind::Transient | ErrorKind::Exhausted))
}

#[cfg(test)]
mod tests {
    use highwater_types::{CheckpointId, Epoch, StopMode};

    use super::*;
    use crate::request::RequestRefused;

    const DONE: RequestAnswer = Ok(CheckpointId {
        number: 7,
        epoch: Epoch(2),
    });

    fn id(text: &str) -> OperationId {
        OperationId::parse(text).unwrap()
    }

    fn savepoint(name: &str) -> SnapshotWish {
        SnapshotWish::Savepoint {
            name: name.to_owned(),
        }
    }

    #[test]
    fn ids_are_plain_words() {
        let long = "x".repeat(ID_BYTES_MAX);
        for good in ["a", "upgrade-7.1_b", &long] {
            assert_eq!(id(good).as_str(), good);
        }
        let longer = format!("{long}x");
        for bad in ["", "a b", "../x", "a/b", "é", "a\n", &longer] {
            let refused = OperationId::parse(bad).unwrap_err();
            assert!(!refused.to_string().contains('\n'), "{refused}");
        }
    }

    #[test]
    fn one_id_is_one_request() {
        let mut known = Operations::default();
        let (one, wish) = (id("one"), savepoint("before"));
        assert_eq!(known.begin(&one, &wish, 5), Known::New);
        assert_eq!(known.begin(&one, &wish, 6), Known::Runs);
        assert_eq!(
            known.begin(&one, &savepoint("after"), 6),
            Known::Other(wish.clone())
        );
        let stop = SnapshotWish::Stop {
            mode: StopMode::Suspend,
            savepoint: Some("before".to_owned()),
        };
        assert_eq!(known.begin(&one, &stop, 6), Known::Other(wish.clone()));
        known.end(&one, DONE, 9);
        known.end(&one, Err(RequestRefused::Ended("later")), 10);
        assert_eq!(known.begin(&one, &wish, 11), Known::Ended(DONE));
        let held = known.get(&one).unwrap();
        assert_eq!((held.began_ms, held.end.as_ref().unwrap().at_ms), (5, 9));
    }

    #[test]
    fn what_came_to_nothing_begins_anew_unless_it_never_can_succeed() {
        let wish = savepoint("before");
        for (refused, again) in [
            (RequestRefused::NotRunning("it starts".to_owned()), true),
            (RequestRefused::Name("no".to_owned()), false),
        ] {
            let mut known = Operations::default();
            assert_eq!(known.begin(&id("one"), &wish, 1), Known::New);
            known.end(&id("one"), Err(refused.clone()), 2);
            let expected = if again {
                Known::New
            } else {
                Known::Ended(Err(refused))
            };
            assert_eq!(known.begin(&id("one"), &wish, 3), expected);
            assert_eq!(known.all().count(), 1);
        }
    }

    #[test]
    fn what_ended_first_goes_and_none_that_is_under_way() {
        let mut known = Operations::default();
        let name = |number: usize| id(&format!("op-{number}"));
        for number in 0..KEPT {
            let begun = known.begin(&name(number), &SnapshotWish::Checkpoint, 0);
            assert_eq!(begun, Known::New);
        }
        let more = |known: &mut Operations| known.begin(&id("more"), &SnapshotWish::Checkpoint, 1);
        assert_eq!(more(&mut known), Known::Full);
        known.end(&name(3), DONE, 1);
        known.end(&name(1), DONE, 2);
        assert_eq!(more(&mut known), Known::New);
        assert!(known.get(&name(1)).is_some());
        assert_eq!(known.get(&name(3)), None);
        assert!(known.get(&name(0)).is_some());
        assert_eq!(known.all().count(), KEPT);
    }
}

//! Identifiers: one checked newtype for each thing that has a name or a number.
//!
//! Bare strings and integers stop here. Constructors that check are `parse`; everything else is a plain number.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Classified, ErrorKind};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name is empty or longer than the limit.
    #[error("{what} `{value}` has {length} characters; it needs 1 to {limit}")]
    Length {
        /// What the name is for.
        what: &'static str,
        /// The refused value.
        value: String,
        /// Its length.
        length: usize,
        /// The largest length.
        limit: usize,
    },
    /// The name holds a character that paths, labels and transactional ids cannot carry.
    #[error(
        "{what} `{value}` holds `{found}`; use lower-case letters, digits, `-` and `_`, starting with a letter or digit"
    )]
    Character {
        /// What the name is for.
        what: &'static str,
        /// The refused value.
        value: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// The name is kept for the engine.
    #[error("{what} `{value}` is reserved; choose another name")]
    Reserved {
        /// What the name is for.
        what: &'static str,
        /// The refused value.
        value: String,
    },
}

impl Classified for IdError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

const NAME_LENGTH_MAX: usize = 63;
/// The folder beside those of the jobs.
const RESERVED: &str = "savepoints";

fn check_name(what: &'static str, value: &str) -> Result<(), IdError> {
    let length = value.chars().count();
    if length == 0 || length > NAME_LENGTH_MAX {
        return Err(IdError::Length {
            what,
            value: value.to_owned(),
            length,
            limit: NAME_LENGTH_MAX,
        });
    }
    let bad = value.char_indices().find(|&(at, c)| {
        let plain = c.is_ascii_lowercase() || c.is_ascii_digit();
        !(plain || (at > 0 && (c == '-' || c == '_')))
    });
    match bad {
        Some((_, found)) => Err(IdError::Character {
            what,
            value: value.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

/// The identity of a job: names its prefix in the object store and its lineage of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobIdentity(Arc<str>);

impl JobIdentity {
    /// Checks and takes a job identity: 1 to 63 lower-case letters, digits, `-`, `_`; `savepoints` is reserved.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        check_name("job identity", value)?;
        if value == RESERVED {
            return Err(IdError::Reserved {
                what: "job identity",
                value: value.to_owned(),
            });
        }
        Ok(Self(Arc::from(value)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a savepoint: names its folder below the folder of savepoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SavepointName(Arc<str>);

impl SavepointName {
    /// Checks and takes a savepoint name. The rules are those of job identities.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        let what = "savepoint name";
        check_name(what, value)?;
        if value == RESERVED {
            return Err(IdError::Reserved {
                what,
                value: value.to_owned(),
            });
        }
        Ok(Self(Arc::from(value)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SavepointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The stable id of an operator: maps its state across restarts and upgrades.
///
/// Source: Flink `uid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OperatorUid(Arc<str>);

impl OperatorUid {
    /// Checks and takes an operator uid: 1 to 63 lower-case letters, digits, `-`, `_`.
    pub fn parse(value: &str) -> Result<Self, IdError> {
        check_name("operator uid", value)?;
        Ok(Self(Arc::from(value)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperatorUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next number.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// One leadership of a job: raised in `head` by the coordinator that takes over. Never goes back.
    Epoch(u64)
}
number! {
    /// One try of a failover region. A restart gets the next number; messages of older ones are refused.
    AttemptId(u64)
}
number! {
    /// One parallel instance of an operator, counted from 0.
    SubtaskIndex(u32)
}
number! {
    /// One worker process of a job, counted from 0 in the order in which they registered with a coordinator.
    WorkerIndex(u32)
}
number! {
    /// One unit of worker capacity: a slot thread, counted from 0.
    SlotIndex(u32)
}

/// The number of subtasks of an operator, at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parallelism(pub u32);

impl fmt::Display for Parallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The parallelism of each operator of a job.
pub type Parallelisms = BTreeMap<OperatorUid, Parallelism>;

/// A checkpoint: its number in the lineage and the epoch of the leader that took it.
///
/// The number alone orders completed checkpoints (`head.n` never falls); the pair names one try.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct CheckpointId {
    /// The number, from 0 (the start positions) upwards.
    pub number: u64,
    /// The epoch of the leader that took it.
    pub epoch: Epoch,
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.number, self.epoch)
    }
}

macro_rules! random {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = std::num::ParseIntError;

            fn try_from(value: String) -> Result<Self, Self::Error> {
                u128::from_str_radix(&value, 16).map(Self)
            }
        }
    };
}

random! {
    /// 128 random bits made with `head`: tells one line of checkpoints from every other, also from its copies.
    Lineage
}
random! {
    /// 128 random bits of one writer's transition: a writer that reads its own nonce back knows that it won.
    Nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_messages_name_the_value() {
        assert!(OperatorUid::parse("r1-count").is_ok());
        assert!(JobIdentity::parse("harbor-fleet_2").is_ok());
        let savepoint = SavepointName::parse("Foo").unwrap_err().to_string();
        assert!(
            savepoint.starts_with("savepoint name `Foo` holds `F`; "),
            "{savepoint}"
        );
        assert!(SavepointName::parse("savepoints").is_err());
        let upper = OperatorUid::parse("R1").unwrap_err();
        assert!(upper.to_string().contains("`R1` holds `R`"));
        assert!(OperatorUid::parse("").is_err());
        assert!(OperatorUid::parse(&"x".repeat(64)).is_err());
        assert!(OperatorUid::parse("-x").is_err());
        assert!(
            JobIdentity::parse("savepoints")
                .unwrap_err()
                .to_string()
                .contains("reserved")
        );
    }

    #[test]
    fn random_ids_survive_text() {
        let lineage = Lineage(0xabc);
        let text = String::from(lineage);
        assert_eq!(text.len(), 32);
        assert_eq!(Lineage::try_from(text).unwrap(), lineage);
    }
}

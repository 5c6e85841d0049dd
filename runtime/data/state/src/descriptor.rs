//! Descriptors: the name, kind and schemas of a keyed state, as the job declares it and the snapshot stores it.
//!
//! Made by the `describe` function of each state type, so that the schemas are those of the types. A TTL is no part
//! of what is compared on restore: it may be switched on, off or changed.

use std::fmt;

use highwater_types::{Record, Schema};

use crate::ttl::TtlConfig;

/// What a keyed state holds for one key and namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateKind {
    /// One value.
    Value,
    /// A list.
    List,
    /// A map.
    Map,
    /// One value, merged on add.
    Reducing,
    /// One accumulator.
    Aggregating,
    /// Bytes of one key group that only their owner understands (timers).
    Raw,
}

impl StateKind {
    /// The byte that stands for the kind in a snapshot. Never changes.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Value => 1,
            Self::List => 2,
            Self::Map => 3,
            Self::Reducing => 4,
            Self::Aggregating => 5,
            Self::Raw => 6,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Value,
            2 => Self::List,
            3 => Self::Map,
            4 => Self::Reducing,
            5 => Self::Aggregating,
            6 => Self::Raw,
            _ => return None,
        })
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "value",
            Self::List => "list",
            Self::Map => "map",
            Self::Reducing => "reducing",
            Self::Aggregating => "aggregating",
            Self::Raw => "raw",
        })
    }
}

/// The schemas of a keyed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSchemas {
    /// Of the key.
    pub key: Schema,
    /// Of the namespace (the window); `unit` where there is none.
    pub namespace: Schema,
    /// Of the value: one, or key and value for a map.
    pub values: Vec<Schema>,
}

impl StateSchemas {
    /// The schemas of a state with one value type.
    pub fn of<K: Record, N: Record, V: Record>() -> Self {
        Self {
            key: K::schema(),
            namespace: N::schema(),
            values: vec![V::schema()],
        }
    }
}

/// What a job declares about one keyed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescriptor {
    /// The name, unique within the operator.
    pub name: String,
    /// What it holds.
    pub kind: StateKind,
    /// Its schemas.
    pub schemas: StateSchemas,
    /// Its time to live; `None` = for ever.
    pub ttl: Option<TtlConfig>,
}

impl StateDescriptor {
    /// A state without TTL.
    pub fn new(name: &str, kind: StateKind, schemas: StateSchemas) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            schemas,
            ttl: None,
        }
    }

    /// The same state whose values live as `ttl` says.
    pub fn with_ttl(mut self, ttl: TtlConfig) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Kind and schemas in one line, for messages.
    pub(crate) fn shape(&self) -> String {
        let values: Vec<_> = self.schemas.values.iter().map(Schema::to_string).collect();
        let (key, namespace) = (&self.schemas.key, &self.schemas.namespace);
        format!(
            "{} ({key}, {namespace}) -> {}",
            self.kind,
            values.join(", ")
        )
    }
}

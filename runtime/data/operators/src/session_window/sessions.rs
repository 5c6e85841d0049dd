//! The sessions of one key: what is stored of them, and how a record changes them. Pure: no state access, no output.
//!
//! Invariant: sessions are in order of start and no two touch. There is at least one timer at or before the moment at
//! which the first of them fires or ends.

use highwater_types::record::{DecodeError, Record};
use highwater_types::schema::{DataType, Field};
use highwater_types::{EventTime, Watermark};
use highwater_window::{AllowedLateness, TimeWindow};

/// One session.
#[derive(Clone, Debug)]
pub(super) struct Session<C> {
    pub(super) window: TimeWindow,
    /// Whether it has fired since it was last extended.
    is_fired: bool,
    kept: C,
}

/// The sessions of a key.
#[derive(Clone, Debug)]
pub(super) struct Sessions<C> {
    list: Vec<Session<C>>,
    /// The earliest timer that was set and has not fired; `i64::MAX` = none.
    timer: i64,
}

/// Whether two windows are one session: also when they only touch (T-04).
const fn touch(a: TimeWindow, b: TimeWindow) -> bool {
    a.start <= b.end && b.start <= a.end
}

/// The window that covers both.
fn cover(a: TimeWindow, b: TimeWindow) -> TimeWindow {
    TimeWindow {
        start: a.start.min(b.start),
        end: a.end.max(b.end),
    }
}

impl<C> Sessions<C> {
    pub(super) const fn new() -> Self {
        Self {
            list: Vec::new(),
            timer: i64::MAX,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The session that a record with this window joins or begins, made one with all that it touches; `None` when even
    /// that is over at `reached`: the merged window decides (T-04).
    pub(super) fn join(
        &mut self,
        window: TimeWindow,
        (lateness, reached): (AllowedLateness, Watermark),
        create: impl FnOnce() -> C,
        merge: impl Fn(&mut C, C),
    ) -> Option<&mut C> {
        // A session that a merge makes larger may touch no other: its parts did not.
        let touched = |session: &Session<C>| touch(session.window, window);
        let first = self.list.iter().position(touched);
        let count = self.list.iter().filter(|session| touched(session)).count();
        let at = first.unwrap_or_else(|| {
            self.list
                .partition_point(|session| session.window.start < window.start)
        });
        let mut joined = self.list.drain(at..at + count);
        let merged = joined.next().map(|first| {
            joined.fold((first.window, first.kept), |(window, mut kept), session| {
                merge(&mut kept, session.kept);
                (cover(window, session.window), kept)
            })
        });
        let (window, kept) = match merged {
            Some((held, kept)) => (cover(held, window), kept),
            None if window.is_expired(lateness, reached) => return None,
            None => (window, create()),
        };
        let is_fired = window.is_complete(reached);
        let session = Session {
            window,
            is_fired,
            kept,
        };
        self.list.insert(at, session);
        Some(&mut self.list[at].kept)
    }

    /// The session that holds `time`.
    pub(super) fn at(&self, time: EventTime) -> Option<&Session<C>> {
        let holds =
            |session: &&Session<C>| session.window.start <= time.0 && time.0 < session.window.end;
        self.list.iter().find(holds)
    }

    /// Calls `fire` for each session that is complete at `reached` and has not fired, and drops those that are over.
    pub(super) fn advance(
        &mut self,
        (lateness, reached): (AllowedLateness, Watermark),
        mut fire: impl FnMut(TimeWindow, &C),
    ) {
        for session in &mut self.list {
            if !session.is_fired && session.window.is_complete(reached) {
                session.is_fired = true;
                fire(session.window, &session.kept);
            }
        }
        self.list
            .retain(|session| !session.window.is_expired(lateness, reached));
        self.timer = i64::MAX;
    }

    /// The timer that has to be set now, if any: when the first session fires or ends, unless an earlier timer is set,
    /// which will ask again.
    pub(super) fn next_timer(&mut self, lateness: AllowedLateness) -> Option<i64> {
        let moment = |session: &Session<C>| {
            if session.is_fired {
                session.window.cleanup_time(lateness).0
            } else {
                session.window.max_timestamp().0
            }
        };
        let next = self.list.iter().map(moment).min()?;
        if self.timer <= next {
            return None;
        }
        self.timer = next;
        Some(next)
    }
}

impl<C> Session<C> {
    pub(super) const fn is_fired(&self) -> bool {
        self.is_fired
    }

    pub(super) const fn kept(&self) -> &C {
        &self.kept
    }
}

impl<C: Record> Record for Sessions<C> {
    fn data_type() -> DataType {
        let field = |name: &str, data_type| Field {
            name: name.to_owned(),
            data_type,
            default: None,
        };
        DataType::Struct {
            name: "Sessions".to_owned(),
            fields: vec![
                field("list", Vec::<(TimeWindow, bool, C)>::data_type()),
                field("timer", DataType::I64),
            ],
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        highwater_types::record::encode_length(self.list.len() as u64, out);
        for session in &self.list {
            session.window.encode(out);
            session.is_fired.encode(out);
            session.kept.encode(out);
        }
        self.timer.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let list = Vec::<(TimeWindow, bool, C)>::decode(input)?;
        let session = |(window, is_fired, kept)| Session {
            window,
            is_fired,
            kept,
        };
        Ok(Self {
            list: list.into_iter().map(session).collect(),
            timer: i64::decode(input)?,
        })
    }

    fn heap_bytes(&self) -> usize {
        let kept = self.list.iter().map(|session| session.kept.heap_bytes());
        self.list.capacity() * size_of::<Session<C>>() + kept.sum::<usize>()
    }
}

//! When the end of a partition may be believed: decided from what brokers say, without asking them.
//!
//! Called by the enumerator, which fixes the end of a bounded source once, and by the fetch thread, which must not take the
//! end of what a leader knows for it. A leader that has just been elected learns of its own last records a moment later,
//! and one that was deposed does not know of the newest: both say an end that is too low. The client library sends the
//! leader epoch of its metadata along with the question, so that a broker of another epoch refuses it; it does not tell the
//! epoch, so leaders are compared by broker.

/// What one look, right after metadata was asked for anew, shows of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndLook {
    /// The broker that leads it; negative = none does.
    pub(super) leader: i32,
    /// Its last stable offset.
    pub(super) end: i64,
}

/// Looks at all partitions until two in a row agree about each.
#[derive(Debug, Default)]
pub(super) struct SteadyEnds {
    last: Vec<EndLook>,
    highest: Vec<i64>,
}

impl SteadyEnds {
    /// Takes one look: the ends, once each partition has the leader that it had at the look before, and this leader has
    /// everything that any look has seen. A partition that is written to may grow from look to look; its largest end counts.
    pub(super) fn take(&mut self, look: Vec<EndLook>) -> Option<Vec<i64>> {
        self.highest.resize(look.len(), 0);
        let steady = |(at, now): (usize, &EndLook)| {
            let before = self.last.get(at);
            let same = before.is_some_and(|before| before.leader == now.leader);
            same && now.leader >= 0 && now.end >= self.highest[at]
        };
        let all = look.iter().enumerate().all(steady);
        for (highest, now) in self.highest.iter_mut().zip(&look) {
            *highest = now.end.max(*highest);
        }
        self.last = look;
        all.then(|| self.highest.clone())
    }
}

/// What the client's "end of partition" means for a partition that is read up to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// It is read to its end: what lies between holds no records for a reader.
    Ended,
    /// The leader is to be asked whether it knows as much as the end, and then the rest is to be read again.
    Doubtful,
}

/// The client reports the end of what the leader knew when it answered. `known` = since then somebody has asked the leader,
/// was told of an end at or behind `end`, and has let the client begin anew.
pub(super) const fn at_end(next: i64, end: i64, known: bool) -> AtEnd {
    if known || next >= end {
        AtEnd::Ended
    } else {
        AtEnd::Doubtful
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(looks: &[(i32, i64)]) -> Option<Vec<i64>> {
        let mut ends = SteadyEnds::default();
        let mut last = None;
        for &(leader, end) in looks {
            assert_eq!(last, None, "it was steady before");
            last = ends.take(vec![EndLook { leader, end }]);
        }
        last
    }

    #[test]
    fn two_looks_at_one_leader_are_an_end() {
        assert_eq!(looks(&[(1, 10)]), None, "one look is none");
        assert_eq!(looks(&[(1, 10), (1, 10)]), Some(vec![10]));
        assert_eq!(looks(&[(1, 10), (1, 12)]), Some(vec![12]), "it grows");
        assert_eq!(looks(&[(1, 0), (1, 0)]), Some(vec![0]), "it is empty");
    }

    #[test]
    fn a_change_of_the_leader_begins_anew_and_keeps_the_largest_end() {
        assert_eq!(looks(&[(1, 10), (2, 7)]), None);
        assert_eq!(looks(&[(1, 10), (2, 7), (2, 7)]), None, "it lags behind");
        assert_eq!(looks(&[(1, 10), (2, 7), (2, 7), (2, 10)]), Some(vec![10]));
        assert_eq!(looks(&[(1, 7), (2, 10), (2, 10)]), Some(vec![10]));
        assert_eq!(looks(&[(-1, 10), (-1, 10)]), None, "nobody leads it");
    }

    #[test]
    fn all_partitions_must_be_steady_at_once() {
        let look = |leaders: [i32; 2], ends: [i64; 2]| {
            let both = leaders.into_iter().zip(ends);
            both.map(|(leader, end)| EndLook { leader, end }).collect()
        };
        let mut ends = SteadyEnds::default();
        assert_eq!(ends.take(look([1, 1], [5, 9])), None);
        assert_eq!(ends.take(look([1, 2], [6, 8])), None);
        assert_eq!(ends.take(look([1, 2], [6, 9])), Some(vec![6, 9]));
    }

    #[test]
    fn the_end_that_a_lagging_leader_reports_ends_nothing() {
        assert_eq!(at_end(50, 100, false), AtEnd::Doubtful);
        assert_eq!(at_end(100, 100, false), AtEnd::Ended);
        assert_eq!(at_end(98, 100, true), AtEnd::Ended, "control records");
    }
}

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

/// Looks at all partitions until two in a row, a moment apart, agree about each.
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

/// Reports of a leader that knows less than the end before the reader gives up: half a minute at the pace of a broker.
const LAGS_MAX: u32 = 300;

/// What the client's "end of partition" means for a partition that is read up to an end behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// It is read to its end: what lies between holds no records for a reader.
    Ended,
    /// The client is to begin the rest anew, and its next report is judged again.
    Again,
    /// Its leader has known less than the end for too long.
    Lags,
}

/// Judges the reports "end of partition" that come before the end of one partition.
///
/// A report tells what the broker knew that answered the fetch, not which one that was. So the leader is asked after each,
/// and a report counts when the same leader knew as much as the end before the fetch and leads after it: whoever is
/// elected in between may lag behind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EndReports {
    /// The leader that knew as much as the end when it was asked last; the client has begun anew since.
    knew: Option<i32>,
    /// How often in a row the leader knew less.
    lags: u32,
}

impl EndReports {
    /// Takes what was found right after a report; `None` = nobody told.
    pub(super) fn take(&mut self, look: Option<EndLook>, end: i64) -> AtEnd {
        let knew = self.knew.take();
        let Some(look) = look.filter(|look| look.leader >= 0) else {
            return AtEnd::Again;
        };
        if look.end < end {
            self.lags += 1;
            return if self.lags > LAGS_MAX {
                AtEnd::Lags
            } else {
                AtEnd::Again
            };
        }
        self.lags = 0;
        self.knew = Some(look.leader);
        if knew == self.knew {
            AtEnd::Ended
        } else {
            AtEnd::Again
        }
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

    /// What becomes of a report after each of these looks, with 100 as the end.
    fn reports(looks: &[Option<(i32, i64)>]) -> Vec<AtEnd> {
        let mut reports = EndReports::default();
        let look = |look: &Option<(i32, i64)>| look.map(|(leader, end)| EndLook { leader, end });
        let looks = looks.iter().map(look);
        looks.map(|look| reports.take(look, 100)).collect()
    }

    #[test]
    fn a_report_counts_when_its_leader_knew_the_end_before_and_leads_after_it() {
        use AtEnd::{Again, Ended};
        let knows = |leader| Some((leader, 100));
        assert_eq!(reports(&[knows(1), knows(1)]), [Again, Ended]);
        assert_eq!(reports(&[Some((1, 130)), knows(1)]), [Again, Ended]);
    }

    #[test]
    fn a_leader_that_is_elected_after_the_question_and_lags_ends_nothing() {
        use AtEnd::{Again, Ended};
        let knows = |leader| Some((leader, 100));
        // 1 was asked, 2 answered the fetch with what it knew by then, and knows everything a moment later.
        let elected = [knows(1), knows(2), knows(2)];
        assert_eq!(reports(&elected), [Again, Again, Ended]);
        let lags = [knows(1), Some((2, 50)), knows(2), knows(2)];
        assert_eq!(reports(&lags), [Again, Again, Again, Ended]);
        let lags = [knows(1), Some((1, 50)), knows(1), knows(1)];
        assert_eq!(reports(&lags), [Again, Again, Again, Ended]);
        let silent = [knows(1), None, knows(1), knows(1)];
        assert_eq!(reports(&silent), [Again, Again, Again, Ended]);
        assert_eq!(reports(&[knows(-1), knows(-1)]), [Again, Again]);
    }

    #[test]
    fn a_leader_that_lags_for_ever_is_told_and_one_that_catches_up_is_not() {
        let lags = vec![Some((1, 50)); LAGS_MAX as usize];
        assert!(!reports(&lags).contains(&AtEnd::Lags));
        let mut longer = lags.clone();
        longer.push(Some((1, 50)));
        assert_eq!(reports(&longer).last(), Some(&AtEnd::Lags));
        let mut catching_up = lags.clone();
        catching_up.push(Some((1, 100)));
        catching_up.extend(lags);
        assert!(
            !reports(&catching_up).contains(&AtEnd::Lags),
            "not in a row"
        );
    }
}

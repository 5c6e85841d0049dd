//! Rates: what flowed in the last seconds, by two looks at the figures.
//!
//! A view holds one board; one loop looks once a second. The rule: a count that is smaller than before is of another attempt, and of two
//! attempts no rate is made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_protocol::job::TaskId;
use highwater_types::OperatorUid;
use highwater_worker::{Clock, FigureBoard, TaskFigures};

use crate::flow::culprit;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that are kept: rates are of so many seconds less one.
const KEPT: usize = 11;

/// Counts of all subtasks together at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Look {
    at: Duration,
    /// Records in and out of each operator.
    operators: BTreeMap<OperatorUid, [u64; 2]>,
    /// Busy, idle and backpressured milliseconds of each task.
    tasks: BTreeMap<OperatorUid, [u64; 3]>,
    /// The same of each subtask.
    subtasks: BTreeMap<TaskId, [u64; 3]>,
    /// The operator that held the others back.
    culprit: Option<String>,
}

impl Look {
    fn at(at: Duration, figures: &BTreeMap<TaskId, TaskFigures>) -> Self {
        let mut look = Self {
            at,
            culprit: culprit(figures),
            ..Self::default()
        };
        for (id, task) in figures {
            let (busy, idle, backpressured) = task.shares_ms;
            let parts = [busy, idle, backpressured];
            let shares = look.tasks.entry(id.vertex.clone()).or_default();
            for (sum, part) in shares.iter_mut().zip(parts) {
                *sum += part;
            }
            look.subtasks.insert(id.clone(), parts);
            for operator in &task.operators {
                let counts = look.operators.entry(operator.uid.clone()).or_default();
                counts[0] += operator.records_in;
                counts[1] += operator.records_out;
            }
        }
        look
    }
}

/// What flowed between two looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    before: Look,
    now: Look,
}

impl Rates {
    /// How long it was measured.
    pub(crate) fn measured(&self) -> Duration {
        self.now.at.saturating_sub(self.before.at)
    }

    /// Records a second that an operator took and emitted; `None` = it did not run all the time.
    pub(crate) fn operator(&self, uid: &OperatorUid) -> Option<[f64; 2]> {
        let grown = grown(
            self.before.operators.get(uid)?,
            self.now.operators.get(uid)?,
        )?;
        let seconds = self.measured().as_secs_f64();
        Some(grown.map(|count| count as f64 / seconds))
    }

    /// The shares of their time that the subtasks of a task were busy, idle and backpressured; `None` = it did not run all the time.
    pub(crate) fn shares(&self, task: &OperatorUid) -> Option<[f64; 3]> {
        parts_of_one(self.before.tasks.get(task)?, self.now.tasks.get(task)?)
    }

    /// The same of one subtask.
    pub(crate) fn shares_of_subtask(&self, task: &TaskId) -> Option<[f64; 3]> {
        parts_of_one(
            self.before.subtasks.get(task)?,
            self.now.subtasks.get(task)?,
        )
    }
}

/// How much of all that grew each part is; `None` = one fell, or nothing grew.
fn parts_of_one(before: &[u64; 3], now: &[u64; 3]) -> Option<[f64; 3]> {
    let grown = grown(before, now)?;
    let all: u64 = grown.iter().sum();
    (all > 0).then(|| grown.map(|part| part as f64 / all as f64))
}

/// By how much each count grew; `None` = one fell.
fn grown<const N: usize>(before: &[u64; N], now: &[u64; N]) -> Option<[u64; N]> {
    let mut grown = [0; N];
    for ((grown, before), now) in grown.iter_mut().zip(before).zip(now) {
        *grown = now.checked_sub(*before)?;
    }
    Some(grown)
}

/// The last looks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RateBoard(Arc<Mutex<VecDeque<Look>>>);

impl RateBoard {
    /// Looks once a second until it is dropped.
    pub async fn run(self, figures: FigureBoard, clock: Arc<dyn Clock>) {
        loop {
            self.look(clock.elapsed(), &figures.read());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Looks once.
    pub(crate) fn look(&self, at: Duration, figures: &BTreeMap<TaskId, TaskFigures>) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == KEPT {
            looks.pop_front();
        }
        looks.push_back(Look::at(at, figures));
    }

    /// The operators that held others back in the last seconds, each with the share of the looks in which it did.
    pub(crate) fn culprits(&self) -> BTreeMap<String, f64> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = 1.0 / looks.len().max(1) as f64;
        let mut culprits = BTreeMap::new();
        for culprit in looks.iter().filter_map(|look| look.culprit.as_ref()) {
            *culprits.entry(culprit.clone()).or_default() += each;
        }
        culprits
    }

    /// The rates of the last seconds in which the same subtasks ran; `None` = nobody has looked at them twice yet.
    pub(crate) fn read(&self) -> Option<Rates> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = looks.back()?;
        let is_same = |look: &&Look| look.subtasks.keys().eq(now.subtasks.keys());
        let before = looks.iter().rev().take_while(is_same).last()?;
        (now.at > before.at).then(|| Rates {
            before: before.clone(),
            now: now.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use highwater_operators::OperatorReport;
    use highwater_types::SubtaskIndex;

    use super::*;
    use crate::tests::idle_subtask;

    fn uid(text: &str) -> OperatorUid {
        OperatorUid::parse(text).unwrap()
    }

    /// Two subtasks of `count`, each with these counts and shares.
    fn figures(records: u64, shares_ms: (u64, u64, u64)) -> BTreeMap<TaskId, TaskFigures> {
        let of = |subtask| {
            let mut report = OperatorReport::new(uid("count"));
            report.records_in = records;
            report.records_out = records / 2;
            let (id, idle) = idle_subtask("count", subtask);
            let figures = TaskFigures {
                shares_ms,
                operators: vec![report],
                ..idle
            };
            (id, figures)
        };
        [of(0), of(1)].into()
    }

    #[test]
    fn rates_are_those_of_all_subtasks_over_the_looks_that_are_kept() {
        let board = RateBoard::default();
        assert_eq!(board.read(), None);
        for second in 0..20 {
            let shares = (second * 250, second * 700, second * 50);
            let at = Duration::from_secs(second);
            board.look(at, &figures(second * 100, shares));
        }
        let rates = board.read().unwrap();
        assert_eq!(rates.measured(), Duration::from_secs(10));
        assert_eq!(rates.operator(&uid("count")), Some([200.0, 100.0]));
        assert_eq!(rates.shares(&uid("count")), Some([0.25, 0.7, 0.05]));
        let subtask = TaskId {
            vertex: uid("count"),
            subtask: SubtaskIndex(1),
        };
        let shares = rates.shares_of_subtask(&subtask);
        assert_eq!(shares, Some([0.25, 0.7, 0.05]));
        let other = TaskId {
            subtask: SubtaskIndex(2),
            ..subtask
        };
        assert_eq!(rates.shares_of_subtask(&other), None);
        assert_eq!(rates.operator(&uid("other")), None);
    }

    #[test]
    fn two_attempts_have_no_rate_in_common() {
        let board = RateBoard::default();
        board.look(Duration::from_secs(1), &figures(500, (5, 5, 5)));
        assert_eq!(board.read(), None, "one look");
        board.look(Duration::from_secs(2), &figures(10, (5, 5, 5)));
        let rates = board.read().unwrap();
        assert_eq!(rates.operator(&uid("count")), None);
        assert_eq!(rates.shares(&uid("count")), None, "nothing passed");
        board.look(Duration::from_secs(3), &BTreeMap::new());
        assert_eq!(board.read(), None, "one look at no task");
    }

    #[test]
    fn what_was_before_a_task_ran_is_not_measured() {
        let board = RateBoard::default();
        board.look(Duration::from_secs(1), &BTreeMap::new());
        board.look(Duration::from_secs(2), &figures(0, (0, 0, 0)));
        board.look(Duration::from_secs(4), &figures(100, (1, 1, 1)));
        let rates = board.read().unwrap();
        assert_eq!(rates.measured(), Duration::from_secs(2));
        assert_eq!(rates.operator(&uid("count")), Some([100.0, 50.0]));
    }

    #[test]
    fn what_was_at_another_parallelism_is_not_measured() {
        let board = RateBoard::default();
        let mut one = figures(100, (5, 5, 5));
        one.pop_last();
        board.look(Duration::from_secs(1), &one);
        board.look(Duration::from_secs(2), &figures(400, (9, 9, 9)));
        assert_eq!(board.read(), None, "one look at two subtasks");
        board.look(Duration::from_secs(3), &figures(500, (9, 9, 9)));
        let rates = board.read().unwrap();
        assert_eq!(rates.operator(&uid("count")), Some([200.0, 100.0]));
    }

    #[test]
    fn the_culprit_is_told_with_the_share_of_the_looks_in_which_it_was_one() {
        let board = RateBoard::default();
        assert_eq!(board.culprits(), BTreeMap::new());
        let mut held = figures(0, (0, 0, 0));
        for task in held.values_mut() {
            task.blocked_on = Some("sink".to_owned());
        }
        for second in 0..4 {
            let free = figures(0, (0, 0, 0));
            let now = if second == 3 { &held } else { &free };
            board.look(Duration::from_secs(second), now);
        }
        let expected = BTreeMap::from([("sink".to_owned(), 0.25)]);
        assert_eq!(board.culprits(), expected);
    }
}

//! Writers of one slot that get into each other's way: in turns by chance against a model, and in threads.

use std::sync::mpsc::sync_channel;
use std::thread;

use super::faulty::{FaultyTarget, TargetCall, TargetFault};
use super::target::{Bench, batch, output, said, try_read};
use crate::generator::Random;
use crate::output::OutputBatch;
use crate::sink::{MarkerKind, MarkerPosition, OutputTarget, TargetError};

/// What a writer of the model has done last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    Staged,
}

/// A slot as it must behave: one writer owns it, and what the owner commits is there.
#[derive(Default)]
struct Model {
    owner: Option<usize>,
    committed: Vec<u64>,
}

/// One writer, and what it may commit.
struct Writer {
    at: usize,
    target: Box<dyn OutputTarget>,
    phase: Phase,
    number: u64,
}

impl Model {
    /// One step of a writer; `choice` is one of four.
    fn step(&mut self, writer: &mut Writer, choice: u64, output_of_step: &OutputBatch) {
        let target = &mut *writer.target;
        let owns = self.owner == Some(writer.at);
        let went = |result: &Result<(), TargetError>, next| match result {
            Ok(()) => next,
            Err(error) => {
                assert!(!owns, "law 1: the newest session is refused: {error:?}");
                Phase::Closed
            }
        };
        writer.phase = match (writer.phase, choice) {
            (Phase::Closed, _) | (_, 0) => {
                target.open_session().expect("a session opens");
                let reading = try_read(target, MarkerPosition::default());
                let markers = reading.expect("a fresh session reads markers").markers;
                let numbers: Vec<u64> = markers.iter().map(|&(number, _)| number).collect();
                assert_eq!(numbers, self.committed, "law 2: every marker is read");
                self.owner = Some(writer.at);
                Phase::Open
            }
            (Phase::Open, _) => {
                let sent = target.begin().and_then(|()| target.send(output_of_step));
                went(&sent, Phase::Staged)
            }
            (Phase::Staged, 1) => went(&target.abort(), Phase::Open),
            (Phase::Staged, _) => {
                let ended = target.commit(output(writer.number, writer.at as u64));
                assert_eq!(
                    ended.is_ok(),
                    owns,
                    "law 1: only the newest commits: {ended:?}"
                );
                self.committed.extend(owns.then_some(writer.number));
                Phase::Closed
            }
        };
    }
}

/// Three writers of one slot, in an order by chance: exactly the newest session may commit.
pub(super) fn writers_in_turns_follow_the_model(bench: &mut Bench<'_>) {
    const WRITERS: usize = 3;
    let mut random = Random::new(11);
    let new = |at| Writer {
        at,
        target: bench.target(),
        phase: Phase::Closed,
        number: 0,
    };
    let mut writers: Vec<_> = (0..WRITERS).map(new).collect();
    let mut model = Model::default();
    for step in 1..=bench.effort.steps {
        let writer = &mut writers[random.below(WRITERS as u64) as usize];
        if writer.phase == Phase::Open {
            writer.number = step;
        }
        let batch = batch(bench.slot, &[&step.to_string()]);
        model.step(writer, random.below(4), &batch);
    }
    assert!(
        model.committed.len() > 1,
        "the writers have committed something"
    );
    // A number is given when its output is sent, so numbers are committed in another order than they were given.
    model.committed.sort_unstable();
    let visible = visible_numbers(bench);
    assert_eq!(
        visible, model.committed,
        "law 3: what is committed is visible, nothing else is"
    );
}

fn visible_numbers(bench: &mut Bench<'_>) -> Vec<u64> {
    let visible = bench.visible();
    let mut numbers: Vec<u64> = visible
        .iter()
        .filter_map(|number| number.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Does what the slot machine does in state Session(n), again and again, until checkpoint `number` is confirmed.
fn confirm(target: &mut dyn OutputTarget, number: u64, writer: u64, batch: &OutputBatch) {
    loop {
        let tried = target.open_session().and_then(|()| {
            let reading = try_read(target, MarkerPosition::default())?;
            match said(&reading, number) {
                None => {}
                Some(MarkerKind::Void) => panic!("nobody gave checkpoint {number} up"),
                Some(MarkerKind::Output) => return Ok(()),
            }
            target.begin()?;
            target.send(batch)?;
            target.flush()?;
            target.commit(output(number, writer)).map(|_| ())
        });
        match tried {
            Ok(()) => return,
            Err(TargetError::SessionLost(_) | TargetError::Unclear(_)) => thread::yield_now(),
            Err(error) => panic!("a racing writer meets {error:?}"),
        }
    }
}

/// One writer whose calls fail by chance, before or after they took effect: each checkpoint must be visible once.
pub(super) fn faults_by_chance_neither_lose_nor_double_output(bench: &mut Bench<'_>) {
    let (slot, races) = (bench.slot, bench.effort.races);
    let mut random = Random::new(23);
    let fault = move |_: TargetCall| match random.below(12) {
        0 => Some(TargetFault::LostBefore),
        1 => Some(TargetFault::UnclearBefore),
        2 => Some(TargetFault::UnclearAfter),
        _ => None,
    };
    let mut target = FaultyTarget::new(bench.target(), fault);
    for number in 1..=races {
        confirm(&mut target, number, 1, &batch(slot, &[&number.to_string()]));
    }
    let expected: Vec<u64> = (1..=races).collect();
    assert_eq!(
        visible_numbers(bench),
        expected,
        "law 3: an unclear commit is seen in the markers"
    );
}

/// Two threads try to publish the same checkpoints: each must be visible once.
pub(super) fn two_racing_writers_publish_every_checkpoint_once(bench: &mut Bench<'_>) {
    let (slot, races) = (bench.slot, bench.effort.races);
    let writers: Vec<_> = (1..=2).map(|writer| (writer, bench.target())).collect();
    thread::scope(|scope| {
        // Each writer waits for the other before the next checkpoint: otherwise the faster one has no rival.
        let (to_first, from_second) = sync_channel(1);
        let (to_second, from_first) = sync_channel(1);
        let mut ends = vec![(to_first, from_first), (to_second, from_second)];
        for (writer, mut target) in writers {
            let (done, other_done) = ends.pop().expect("there are two writers");
            scope.spawn(move || {
                for number in 1..=races {
                    let value = number.to_string();
                    confirm(&mut *target, number, writer, &batch(slot, &[&value]));
                    let met = done.send(()).is_ok() && other_done.recv().is_ok();
                    assert!(met, "the other writer has failed");
                }
            });
        }
    });
    let expected: Vec<u64> = (1..=races).collect();
    assert_eq!(
        visible_numbers(bench),
        expected,
        "law 1: every checkpoint is visible once"
    );
}

//! Tests of the checkpoint machine: the life of a checkpoint, every way to give one up, closings, and random lives.

use highwater_types::{
    Classified, Epoch, ErrorKind, JobIdentity, Lineage, MaxParallelism, Parallelism, StopMode,
    SubtaskIndex,
};
use proptest::prelude::*;

use super::*;
use crate::hash::ContentHash;
use crate::head::{HeadChange, JobEnd};
use crate::head_write::{HeadOutcome, Refusal, VersionTag, Versioned};
use crate::job::{OperatorShape, SinkShape, TaskShape};
use crate::manifest::{
    ExternalSink, FileEntry, KeyedFile, LogObject, ManifestTitle, SlotOutput, SnapshotKind,
};
use crate::nonce::NonceStream;
use crate::paths::{DataWriter, ManifestName, sink_log};

#[path = "tests/ending.rs"]
mod ending;
#[path = "tests/redeploying.rs"]
mod redeploying;

fn uid(name: &str) -> OperatorUid {
    OperatorUid::parse(name).unwrap()
}

fn task(vertex: &str) -> TaskId {
    TaskId {
        vertex: uid(vertex),
        subtask: SubtaskIndex(0),
    }
}

fn slot() -> SlotKey {
    SlotKey {
        sink: uid("out"),
        slot: 0,
    }
}

fn shape() -> JobShape {
    let sink = TaskShape {
        upstream: BTreeSet::from([task("in")]),
        slots: vec![slot()],
    };
    let operator = OperatorShape {
        parallelism: Parallelism(1),
        max_parallelism: MaxParallelism::try_new(8).unwrap(),
        key: None,
        states: Vec::new(),
        form: "aggregate".to_owned(),
    };
    JobShape {
        identity: JobIdentity::parse("job").unwrap(),
        graph: ContentHash(1),
        tasks: BTreeMap::from([(task("in"), TaskShape::default()), (task("agg"), sink)]),
        operators: BTreeMap::from([(uid("agg"), operator)]),
        sources: BTreeSet::from([uid("in")]),
        sinks: BTreeMap::from([(
            uid("out"),
            SinkShape {
                slots: 1,
                external: ExternalSink::default(),
            },
        )]),
    }
}

const SETTINGS: CheckpointSettings = CheckpointSettings {
    interval_ms: 100,
    min_pause_ms: 10,
    timeout_ms: 1000,
    commit_retry_ms: 50,
    failures_max: Some(2),
};

/// The machine with a driver's bookkeeping: a head that every asked write is derived from.
#[derive(Clone)]
struct Bench {
    machine: CheckpointCoordinator,
    head: Head,
    now_ms: u64,
    nonce: u128,
    written: Option<HeadChange>,
    contested: bool,
}

impl Bench {
    fn new() -> Self {
        Self::taken_for(None)
    }

    /// A new leader whose `head` has a checkpoint that was taken for this savepoint.
    fn taken_for(savepoint: Option<&str>) -> Self {
        let shape = shape();
        let mut manifest = Manifest::new(ManifestTitle {
            identity: shape.identity.clone(),
            lineage: Lineage(1),
            id: CheckpointId {
                number: 0,
                epoch: Epoch(1),
            },
            kind: SnapshotKind::Checkpoint,
            parent: None,
            graph: shape.graph,
        });
        manifest.savepoint = savepoint.map(str::to_owned);
        let name = ManifestName {
            epoch: Epoch(1),
            number: 0,
            nonce: Nonce(1),
        };
        let reference = ManifestRef {
            name,
            hash: manifest.encode().1,
        };
        let slots = shape.slot_counts();
        let head = Head::first(
            shape.identity.clone(),
            Lineage(1),
            reference,
            slots,
            Nonce(2),
        );
        let tries = TrySource::new(NonceStream::new(Nonce(3)));
        let machine = CheckpointCoordinator::new(SETTINGS, shape, head.clone(), &manifest, tries);
        Self {
            machine,
            head,
            now_ms: 0,
            nonce: 10,
            written: None,
            contested: false,
        }
    }

    fn running() -> Self {
        let mut bench = Self::new();
        bench.run(1);
        bench
    }

    fn run(&mut self, attempt: u64) {
        let attempt = AttemptId(attempt);
        let attempts = BTreeMap::from([(task("in"), attempt), (task("agg"), attempt)]);
        assert_eq!(self.step(CheckpointEvent::TasksRunning { attempts }), []);
    }

    fn step(&mut self, event: CheckpointEvent) -> Vec<CheckpointEffect> {
        let effects = self.machine.step(self.now_ms, event);
        for effect in &effects {
            match effect {
                CheckpointEffect::WriteHead(change) => {
                    assert!(self.written.is_none(), "one head write at a time");
                    self.written = Some(change.clone());
                }
                CheckpointEffect::ContestHead => self.contested = true,
                CheckpointEffect::Decline { .. } => {
                    assert!(
                        self.written.is_none(),
                        "L1: nothing is declined while undecided"
                    );
                }
                _ => {}
            }
        }
        effects
    }

    fn trigger(&mut self) -> CheckpointId {
        self.now_ms += 100;
        self.step(CheckpointEvent::Tick);
        let id = self.machine.pending().expect("a checkpoint is due");
        self.step(CheckpointEvent::Enumerators {
            id,
            states: BTreeMap::new(),
        });
        id
    }

    fn ack(
        &mut self,
        vertex: &str,
        id: CheckpointId,
        snapshot: TaskSnapshot,
    ) -> Vec<CheckpointEffect> {
        let (task, attempt) = (task(vertex), AttemptId(1));
        let snapshot = Box::new(snapshot);
        self.step(CheckpointEvent::Acked {
            task,
            attempt,
            id,
            snapshot,
        })
    }

    fn stored(&mut self) -> CheckpointId {
        let id = self.trigger();
        self.ack("in", id, TaskSnapshot::default());
        let effects = self.ack("agg", id, output(id));
        assert!(matches!(
            &effects[..],
            [CheckpointEffect::WriteManifest { .. }]
        ));
        id
    }

    fn moving(&mut self) -> CheckpointId {
        let id = self.stored();
        let effects = self.step(CheckpointEvent::ManifestWritten { id });
        assert!(matches!(&effects[..], [CheckpointEffect::WriteHead(_)]));
        id
    }

    fn decide(&mut self, won: bool) -> Vec<CheckpointEffect> {
        let change = self.written.take().expect("a head write was asked for");
        self.contested = false;
        self.nonce += 1;
        let change = if won { change } else { HeadChange::Touch };
        self.head = self.head.changed(&change, Nonce(self.nonce));
        let value = Versioned {
            head: self.head.clone(),
            tag: VersionTag("t".into()),
        };
        let outcome = if won {
            HeadOutcome::Won(Box::new(value))
        } else {
            HeadOutcome::Declined(Box::new(value))
        };
        self.step(CheckpointEvent::HeadDecided(outcome))
    }

    fn confirm(&mut self, number: u64) -> Vec<CheckpointEffect> {
        let attempt = AttemptId(1);
        self.step(CheckpointEvent::Confirmed {
            slot: slot(),
            attempt,
            number,
        })
    }
}

fn output(id: CheckpointId) -> TaskSnapshot {
    let path = sink_log(id, Nonce(1), &slot(), 0);
    let file = FileEntry {
        length: 1,
        checksum: ContentHash(1),
    };
    let log = vec![LogObject {
        path,
        file,
        records: 1,
    }];
    TaskSnapshot {
        outputs: BTreeMap::from([(slot(), SlotOutput::Log(log))]),
        ..TaskSnapshot::default()
    }
}

fn empty() -> TaskSnapshot {
    TaskSnapshot {
        outputs: BTreeMap::from([(slot(), SlotOutput::Empty)]),
        ..TaskSnapshot::default()
    }
}

fn commit(id: CheckpointId) -> CheckpointEffect {
    CheckpointEffect::OrderCommit { slot: slot(), id }
}

#[test]
fn a_checkpoint_is_complete_only_when_head_has_moved() {
    let mut bench = Bench::running();
    let id = bench.moving();
    assert_eq!(bench.machine.completed().number, 0);
    let effects = bench.decide(true);
    assert_eq!(effects, [CheckpointEffect::Completed { id }, commit(id)]);
    assert_eq!(bench.machine.completed(), id);
    assert_eq!(bench.confirm(0), [], "an older confirmation is not enough");
    assert_eq!(bench.confirm(1), [CheckpointEffect::AllConfirmed { id }]);
    assert_eq!(bench.confirm(1), [], "once");
}

#[test]
fn t19_l3_commits_are_ordered_again_until_confirmed() {
    let mut bench = Bench::running();
    let id = bench.moving();
    bench.decide(true);
    bench.now_ms += 49;
    assert_eq!(bench.step(CheckpointEvent::Tick), []);
    bench.now_ms += 1;
    assert_eq!(bench.step(CheckpointEvent::Tick), [commit(id)]);
    bench.confirm(1);
    bench.now_ms += 50;
    assert!(!bench.step(CheckpointEvent::Tick).contains(&commit(id)));
}

#[test]
fn the_next_checkpoint_starts_while_the_last_is_unconfirmed() {
    let mut bench = Bench::running();
    bench.moving();
    bench.decide(true);
    let next = bench.trigger();
    assert_eq!(next.number, 2);
    assert_eq!(bench.machine.unconfirmed().count(), 1);
}

#[test]
fn empty_output_is_confirmed_at_once_and_head_says_so() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    bench.ack("in", id, TaskSnapshot::default());
    bench.ack("agg", id, empty());
    bench.step(CheckpointEvent::ManifestWritten { id });
    let effects = bench.decide(true);
    let all = CheckpointEffect::AllConfirmed { id };
    assert_eq!(effects, [CheckpointEffect::Completed { id }, all]);
    assert!(!bench.head.has_pending_output());
}

#[test]
fn schedule_20_acknowledgements_of_other_attempts_or_tries_are_ignored() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    let snapshot = Box::new(TaskSnapshot::default());
    let (task, attempt) = (task("in"), AttemptId(9));
    let stale = CheckpointEvent::Acked {
        task,
        attempt,
        id,
        snapshot,
    };
    assert_eq!(bench.step(stale), []);
    let older = CheckpointId {
        number: id.number,
        epoch: Epoch(9),
    };
    assert_eq!(bench.ack("in", older, TaskSnapshot::default()), []);
    let effects = bench.ack("agg", id, output(id));
    assert_eq!(effects, [], "the source has not acknowledged");
}

#[test]
fn a_timeout_before_the_head_write_declines_and_cleans_up() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    bench.ack("agg", id, output(id));
    bench.now_ms += 1000;
    let effects = bench.step(CheckpointEvent::Tick);
    let [decline, orphans, failed] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*decline, CheckpointEffect::Decline { id });
    let paths = output(id).paths().cloned().collect();
    assert_eq!(*orphans, CheckpointEffect::DeleteOrphans { paths });
    let CheckpointEffect::Failed {
        failure,
        in_a_row: 1,
    } = failed
    else {
        panic!("{failed:?}")
    };
    assert!(
        failure
            .to_string()
            .contains("1 tasks have not answered, first in/0")
    );
    assert_eq!(
        bench.trigger().number,
        2,
        "a number is never tried twice in an epoch"
    );
}

#[test]
fn l1_a_timeout_after_the_put_contests_and_waits() {
    let mut bench = Bench::running();
    let id = bench.moving();
    bench.now_ms += 1000;
    assert_eq!(
        bench.step(CheckpointEvent::Tick),
        [CheckpointEffect::ContestHead]
    );
    assert_eq!(bench.step(CheckpointEvent::Tick), [], "once");
    assert!(bench.machine.is_undecided());
    let mut other = bench.clone();
    assert!(
        bench.decide(true).contains(&commit(id)),
        "the put had landed"
    );
    let effects = other.decide(false);
    assert_eq!(effects[0], CheckpointEffect::Decline { id });
    assert_eq!(other.machine.completed().number, 0);
}

#[test]
fn l1_lost_tasks_wait_for_the_decision_too() {
    let mut bench = Bench::running();
    let id = bench.moving();
    assert_eq!(
        bench.step(CheckpointEvent::TasksLost),
        [CheckpointEffect::ContestHead]
    );
    let effects = bench.decide(true);
    assert_eq!(
        effects,
        [CheckpointEffect::Completed { id }],
        "nobody is there to commit"
    );
    bench.machine.recovered();
    bench.run(2);
    assert_eq!(bench.trigger().number, 2);
}

#[test]
fn t45_a_new_leader_found_in_head_ends_the_machine() {
    let mut bench = Bench::running();
    bench.moving();
    let change = HeadChange::TakeOver {
        slots: BTreeMap::new(),
    };
    let head = bench.head.changed(&change, Nonce(99));
    let newer = Versioned {
        head,
        tag: VersionTag("t".into()),
    };
    bench.written = None;
    let outcome = HeadOutcome::Superseded(Box::new(newer));
    let effects = bench.step(CheckpointEvent::HeadDecided(outcome));
    assert_eq!(effects, [CheckpointEffect::StepDown]);
    assert_eq!(bench.step(CheckpointEvent::Tick), []);
}

#[test]
fn l2_a_snapshot_with_foreign_files_is_refused() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    let writer = DataWriter {
        epoch: Epoch(1),
        attempt: AttemptId(1),
        uid: uid("agg"),
        subtask: SubtaskIndex(0),
    };
    let mut snapshot = empty();
    let entry = FileEntry {
        length: 1,
        checksum: ContentHash(1),
    };
    snapshot.files.insert(writer.file(7, "state"), entry);
    let effects = bench.ack("agg", id, snapshot);
    assert_eq!(effects[0], CheckpointEffect::Decline { id });
}

#[test]
fn l2_files_of_the_last_checkpoint_may_be_named_again() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    let writer = DataWriter {
        epoch: Epoch(1),
        attempt: AttemptId(1),
        uid: uid("agg"),
        subtask: SubtaskIndex(0),
    };
    let mut snapshot = empty();
    let path = writer.file(id.number, "state");
    let entry = FileEntry {
        length: 1,
        checksum: ContentHash(1),
    };
    snapshot.files.insert(path.clone(), entry);
    let range = highwater_types::KeyGroupRange { start: 0, end: 8 };
    let keyed = KeyedFile {
        path,
        range,
        groups: Vec::new(),
        store: None,
    };
    snapshot.keyed.insert(uid("agg"), vec![keyed]);
    for number in [id.number, id.number + 1] {
        let id = if number == id.number {
            id
        } else {
            bench.trigger()
        };
        bench.ack("in", id, TaskSnapshot::default());
        bench.ack("agg", id, snapshot.clone());
        bench.step(CheckpointEvent::ManifestWritten { id });
        bench.decide(true);
    }
    assert_eq!(bench.machine.completed().number, 2);
    bench.trigger();
    bench.now_ms += 1000;
    let effects = bench.step(CheckpointEvent::Tick);
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, CheckpointEffect::DeleteOrphans { .. }))
    );
}

#[test]
fn l2_a_declined_try_loses_the_objects_that_it_stored_and_none_that_it_referred_to() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    let writer = DataWriter {
        epoch: Epoch(1),
        attempt: AttemptId(1),
        uid: uid("agg"),
        subtask: SubtaskIndex(0),
    };
    let entry = FileEntry {
        length: 1,
        checksum: ContentHash(1),
    };
    let mut snapshot = empty();
    let shared = writer.file(id.number, "keyed.0.0");
    snapshot.files.insert(shared.clone(), entry);
    bench.ack("in", id, TaskSnapshot::default());
    bench.ack("agg", id, snapshot.clone());
    bench.step(CheckpointEvent::ManifestWritten { id });
    bench.decide(true);
    let id = bench.trigger();
    let own = writer.file(id.number, "keyed.0.0");
    snapshot.files.insert(own.clone(), entry);
    bench.ack("agg", id, snapshot.clone());
    bench.now_ms += 1000;
    let effects = bench.step(CheckpointEvent::Tick);
    let deleted = effects.iter().find_map(|effect| match effect {
        CheckpointEffect::DeleteOrphans { paths } => Some(paths.clone()),
        _ => None,
    });
    assert_eq!(deleted, Some(vec![own]));
    // What went with the try may not be named by the next one.
    let id = bench.trigger();
    let effects = bench.ack("agg", id, snapshot);
    assert_eq!(effects[0], CheckpointEffect::Decline { id });
    assert!(!effects.iter().any(|effect| matches!(
        effect,
        CheckpointEffect::DeleteOrphans { paths } if paths.contains(&shared)
    )));
}

/// Stops with a savepoint.
const SUSPEND: BarrierKind = BarrierKind::Stop {
    mode: StopMode::Suspend,
    is_savepoint: true,
};
const DRAIN: BarrierKind = BarrierKind::Stop {
    mode: StopMode::Drain,
    is_savepoint: true,
};

fn stop(kind: BarrierKind) -> CheckpointEvent {
    let savepoint = Some("before-upgrade".to_owned());
    CheckpointEvent::Request(SnapshotRequest {
        request: 7,
        savepoint,
        kind,
        redeploy: None,
    })
}

#[test]
fn t18_l7_a_stop_ends_only_when_confirmed_recorded_and_copied() {
    let mut bench = Bench::running();
    let effects = bench.step(stop(SUSPEND));
    assert!(effects.iter().any(|effect| matches!(
        effect,
        CheckpointEffect::SendBarrier { barrier, .. } if barrier.kind == SUSPEND
    )));
    let id = bench.machine.pending().unwrap();
    bench.step(CheckpointEvent::Enumerators {
        id,
        states: BTreeMap::new(),
    });
    bench.ack("in", id, TaskSnapshot::default());
    bench.ack("agg", id, output(id));
    bench.step(CheckpointEvent::ManifestWritten { id });
    assert_eq!(
        bench.decide(true),
        [CheckpointEffect::Completed { id }, commit(id)]
    );
    bench.now_ms += 500;
    assert_eq!(
        bench.step(CheckpointEvent::Tick),
        [commit(id)],
        "no new checkpoint, no end"
    );
    let effects = bench.confirm(1);
    let record = CheckpointEffect::WriteHead(HeadChange::Confirm);
    assert_eq!(effects, [CheckpointEffect::AllConfirmed { id }, record]);
    let effects = bench.decide(true);
    let savepoint = "before-upgrade".to_owned();
    assert_eq!(effects, [CheckpointEffect::Export { id, savepoint }]);
    assert!(!bench.head.has_pending_output());
    let effects = bench.step(CheckpointEvent::Exported { id });
    assert_eq!(effects, [ends(JobEnd::Stopped)], "nobody is told before");
    let effects = bench.decide(true);
    let done = CheckpointEffect::RequestDone { request: 7, id };
    assert_eq!(effects, [done, CheckpointEffect::EndJob(JobEnd::Stopped)]);
    assert_eq!(bench.head.ended, Some(JobEnd::Stopped));
}

fn ends(end: JobEnd) -> CheckpointEffect {
    CheckpointEffect::WriteHead(HeadChange::End(end))
}

#[test]
fn l7_the_next_leader_copies_a_savepoint_before_anything_completes_after_it() {
    for is_copied in [true, false] {
        let mut bench = Bench::taken_for(Some("before-upgrade"));
        let attempt = AttemptId(1);
        let attempts = BTreeMap::from([(task("in"), attempt), (task("agg"), attempt)]);
        let effects = bench.step(CheckpointEvent::TasksRunning { attempts });
        let (id, savepoint) = (bench.head.checkpoint(), "before-upgrade".to_owned());
        assert_eq!(effects, [CheckpointEffect::Export { id, savepoint }]);
        bench.now_ms += 500;
        assert_eq!(bench.step(CheckpointEvent::Tick), [], "nothing overtakes");
        let copied = if is_copied {
            CheckpointEvent::Exported { id }
        } else {
            CheckpointEvent::ExportFailed { id }
        };
        let effects = bench.step(copied);
        let answers = |effect: &CheckpointEffect| {
            matches!(
                effect,
                CheckpointEffect::RequestDone { .. }
                    | CheckpointEffect::RequestFailed { .. }
                    | CheckpointEffect::EndJob(_)
            )
        };
        assert!(!effects.iter().any(answers), "nobody waits: {effects:?}");
        assert!(bench.machine.pending().is_some(), "the job goes on");
    }
}

#[test]
fn l7_the_name_of_a_savepoint_is_durable_before_head_moves() {
    let mut bench = Bench::running();
    bench.step(stop(DRAIN));
    let id = bench.machine.pending().unwrap();
    bench.step(CheckpointEvent::Enumerators {
        id,
        states: BTreeMap::new(),
    });
    bench.ack("in", id, TaskSnapshot::default());
    let effects = bench.ack("agg", id, output(id));
    let written = effects.iter().find_map(|effect| match effect {
        CheckpointEffect::WriteManifest { bytes, .. } => Some(Manifest::decode(bytes).unwrap()),
        _ => None,
    });
    let manifest = written.expect("the manifest is written");
    assert_eq!(manifest.savepoint.as_deref(), Some("before-upgrade"));
    assert!(manifest.drained);
}

#[test]
fn a_drained_job_ends_though_its_savepoint_could_not_be_written() {
    for (kind, expected) in [
        (DRAIN, CheckpointEffect::EndJob(JobEnd::Stopped)),
        (SUSPEND, CheckpointEffect::ResumeSources),
    ] {
        let mut bench = Bench::running();
        bench.step(stop(kind));
        let id = bench.machine.pending().unwrap();
        bench.step(CheckpointEvent::Enumerators {
            id,
            states: BTreeMap::new(),
        });
        bench.ack("in", id, TaskSnapshot::default());
        bench.ack("agg", id, output(id));
        bench.step(CheckpointEvent::ManifestWritten { id });
        bench.decide(true);
        bench.confirm(1);
        bench.decide(true);
        let mut effects = bench.step(CheckpointEvent::ExportFailed { id });
        if kind == DRAIN {
            assert_eq!(effects, [ends(JobEnd::Stopped)], "nobody is told before");
            effects = bench.decide(true);
        }
        let failure = CheckpointFailure::Export { id };
        let failed = CheckpointEffect::RequestFailed {
            request: 7,
            failure,
        };
        assert_eq!(effects, [failed, expected]);
    }
}

#[test]
fn a_split_that_two_tasks_acknowledge_declines_the_checkpoint() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    bench.step(CheckpointEvent::Enumerators {
        id,
        states: BTreeMap::new(),
    });
    let split = || {
        let positions = BTreeMap::from([("split-0".to_owned(), HexBytes(vec![1]))]);
        BTreeMap::from([(uid("in"), positions)])
    };
    let first = TaskSnapshot {
        splits: split(),
        ..TaskSnapshot::default()
    };
    bench.ack("in", id, first);
    let second = TaskSnapshot {
        splits: split(),
        ..output(id)
    };
    let effects = bench.ack("agg", id, second);
    assert!(
        effects.contains(&CheckpointEffect::Decline { id }),
        "{effects:?}"
    );
    let told = effects.iter().find_map(|effect| match effect {
        CheckpointEffect::Failed { failure, .. } => Some(failure.kind()),
        _ => None,
    });
    assert_eq!(told, Some(ErrorKind::Bug));
}

fn kinds_of_barriers(effects: &[CheckpointEffect]) -> Vec<BarrierKind> {
    let kinds = effects.iter().filter_map(|effect| match effect {
        CheckpointEffect::SendBarrier { barrier, .. } => Some(barrier.kind),
        _ => None,
    });
    kinds.collect()
}

fn is_request_failed(effect: &CheckpointEffect) -> bool {
    matches!(effect, CheckpointEffect::RequestFailed { .. })
}

#[test]
fn a_stop_whose_checkpoint_is_given_up_is_held_and_tried_again() {
    for (kind, expected) in [
        (SUSPEND, CheckpointEffect::ResumeSources),
        (DRAIN, CheckpointEffect::RestartRegion),
    ] {
        let mut bench = Bench::running();
        bench.step(stop(kind));
        bench.now_ms += 1000;
        let effects = bench.step(CheckpointEvent::Tick);
        assert!(effects.contains(&expected), "{effects:?}");
        assert!(!effects.iter().any(is_request_failed), "{effects:?}");
        assert!(bench.machine.held_stop().is_some());
        assert_eq!(kinds_of_barriers(&effects), [], "not in a loop");
        if kind == DRAIN {
            bench.step(CheckpointEvent::TasksLost);
            bench.machine.held_stop().expect("a restart keeps it");
            let attempts = [task("in"), task("agg")].map(|task| (task, AttemptId(2)));
            let attempts = BTreeMap::from(attempts);
            let effects = bench.step(CheckpointEvent::TasksRunning { attempts });
            assert_eq!(kinds_of_barriers(&effects), [kind]);
        } else {
            bench.now_ms += SETTINGS.commit_retry_ms;
            let effects = bench.step(CheckpointEvent::Tick);
            assert_eq!(kinds_of_barriers(&effects), [kind]);
        }
    }
}

#[test]
fn a_stop_survives_the_loss_of_the_tasks_that_its_barrier_was_on_its_way_to() {
    let mut bench = Bench::running();
    bench.step(stop(SUSPEND));
    let effects = bench.step(CheckpointEvent::TasksLost);
    assert!(!effects.iter().any(is_request_failed), "{effects:?}");
    let attempts = BTreeMap::from([task("in"), task("agg")].map(|task| (task, AttemptId(2))));
    let effects = bench.step(CheckpointEvent::TasksRunning { attempts });
    assert_eq!(kinds_of_barriers(&effects), [SUSPEND]);
}

#[test]
fn no_wish_of_the_engine_and_no_other_request_stands_in_the_way_of_a_stop() {
    let mut bench = Bench::running();
    let first = bench.trigger();
    bench.step(CheckpointEvent::Wanted);
    for request in 1..=3 {
        let effects = bench.step(CheckpointEvent::Request(SnapshotRequest {
            request,
            savepoint: (request == 3).then(|| "before".to_owned()),
            kind: BarrierKind::Savepoint,
            redeploy: None,
        }));
        assert!(!effects.iter().any(is_request_failed), "{effects:?}");
    }
    let effects = bench.step(stop(SUSPEND));
    assert!(!effects.iter().any(is_request_failed), "{effects:?}");
    let effects = bench.step(stop(SUSPEND));
    assert!(effects.iter().any(is_request_failed), "one stop is enough");
    let refused = CheckpointEvent::Refused {
        task: task("in"),
        attempt: AttemptId(1),
        id: first,
        reason: "disk full".to_owned(),
    };
    bench.step(refused);
    bench.now_ms += SETTINGS.commit_retry_ms;
    let effects = bench.step(CheckpointEvent::Tick);
    assert_eq!(kinds_of_barriers(&effects), [SUSPEND]);
}

#[test]
fn a_wish_of_the_engine_is_kept_until_a_checkpoint_completes() {
    let mut bench = Bench::running();
    bench.now_ms += SETTINGS.min_pause_ms;
    bench.step(CheckpointEvent::Wanted);
    let id = bench.machine.pending().expect("before its time");
    bench.step(CheckpointEvent::Refused {
        task: task("in"),
        attempt: AttemptId(1),
        id,
        reason: "disk full".to_owned(),
    });
    assert_eq!(bench.machine.pending(), None);
    bench.now_ms += SETTINGS.commit_retry_ms;
    bench.step(CheckpointEvent::Tick);
    assert!(
        bench.machine.pending().is_some(),
        "the interval is not over"
    );
}

#[test]
fn a_refused_head_write_declines_its_checkpoint_and_says_why() {
    let mut bench = Bench::running();
    let id = bench.moving();
    bench.written = None;
    let refused = |kind| {
        CheckpointEvent::HeadDecided(HeadOutcome::Refused(Refusal {
            kind,
            reason: "write of `head` is refused: 403".to_owned(),
        }))
    };
    let effects = bench.step(refused(ErrorKind::Invalid));
    assert!(effects.contains(&CheckpointEffect::Decline { id }));
    let told = effects.iter().find_map(|effect| match effect {
        CheckpointEffect::Failed { failure, .. } => Some(failure.to_string()),
        _ => None,
    });
    assert!(told.unwrap().contains("403"));
    let next = bench.trigger();
    assert!(next.number > id.number, "the job goes on");
}

#[test]
fn a_refused_confirmation_is_written_again_after_a_while() {
    let mut bench = Bench::running();
    bench.step(stop(SUSPEND));
    let id = bench.machine.pending().unwrap();
    let states = BTreeMap::new();
    bench.step(CheckpointEvent::Enumerators { id, states });
    bench.ack("in", id, TaskSnapshot::default());
    bench.ack("agg", id, output(id));
    bench.step(CheckpointEvent::ManifestWritten { id });
    bench.decide(true);
    bench.confirm(1);
    bench.written = None;
    let refusal = Refusal {
        kind: ErrorKind::Invalid,
        reason: "403".to_owned(),
    };
    let outcome = HeadOutcome::Refused(refusal);
    assert_eq!(bench.step(CheckpointEvent::HeadDecided(outcome)), []);
    bench.now_ms += SETTINGS.commit_retry_ms;
    let record = CheckpointEffect::WriteHead(HeadChange::Confirm);
    assert_eq!(bench.step(CheckpointEvent::Tick), [record]);
}

#[test]
fn tasks_that_fail_are_no_failed_checkpoints() {
    let mut bench = Bench::running();
    for attempt in 2..10 {
        bench.trigger();
        let effects = bench.step(CheckpointEvent::TasksLost);
        let counted = effects
            .iter()
            .any(|effect| matches!(effect, CheckpointEffect::FailJob { .. }));
        assert!(!counted, "{effects:?}");
        bench.run(attempt);
        bench.now_ms += 1;
    }
}

#[test]
fn t15_a_finished_source_leaves_its_snapshot_and_the_next_task_is_triggered() {
    let mut bench = Bench::running();
    bench.now_ms += 100;
    let effects = bench.step(CheckpointEvent::Tick);
    let triggers = |effects: &[CheckpointEffect], vertex: &str| {
        effects.iter().any(|effect| {
            matches!(effect, CheckpointEffect::SendBarrier { task: to, .. } if *to == task(vertex))
        })
    };
    assert!(triggers(&effects, "in") && !triggers(&effects, "agg"));
    let id = bench.machine.pending().unwrap();
    let splits = BTreeMap::from([("s".to_owned(), HexBytes(vec![9]))]);
    let last = TaskSnapshot {
        splits: BTreeMap::from([(uid("in"), splits)]),
        ..TaskSnapshot::default()
    };
    let (finished, attempt) = (task("in"), AttemptId(1));
    let snapshot = Box::new(last);
    let effects = bench.step(CheckpointEvent::Finished {
        task: finished,
        attempt,
        snapshot,
        passed: None,
    });
    assert!(triggers(&effects, "agg"), "the barrier would never come");
    bench.step(CheckpointEvent::Enumerators {
        id,
        states: BTreeMap::new(),
    });
    let effects = bench.ack("agg", id, empty());
    let [CheckpointEffect::WriteManifest { bytes, .. }] = &effects[..] else {
        panic!()
    };
    let manifest = Manifest::decode(bytes).unwrap();
    assert_eq!(manifest.sources[&uid("in")].splits["s"], HexBytes(vec![9]));
}

#[test]
fn t15_the_last_snapshot_of_a_task_never_stands_for_a_barrier_that_it_passed() {
    let mut bench = Bench::running();
    let id = bench.trigger();
    bench.ack("agg", id, empty());
    let (finished, attempt, passed) = (task("in"), AttemptId(1), Some(id));
    let snapshot = Box::new(TaskSnapshot::default());
    let event = CheckpointEvent::Finished {
        task: finished,
        attempt,
        snapshot,
        passed,
    };
    assert_eq!(bench.step(event), [], "its acknowledgement was lost");
    bench.now_ms += 1000;
    assert_eq!(
        bench.step(CheckpointEvent::Tick)[0],
        CheckpointEffect::Decline { id }
    );
    let next = bench.trigger();
    let effects = bench.ack("agg", next, empty());
    assert!(matches!(
        &effects[..],
        [CheckpointEffect::WriteManifest { .. }]
    ));
}

#[test]
fn a_bounded_job_ends_with_a_confirmed_final_checkpoint() {
    let mut bench = Bench::running();
    bench.now_ms += 10;
    for vertex in ["in", "agg"] {
        let (task, attempt) = (task(vertex), AttemptId(1));
        bench.step(CheckpointEvent::InputEnded { task, attempt });
    }
    let id = bench
        .machine
        .pending()
        .expect("the final checkpoint does not wait for the interval");
    bench.step(CheckpointEvent::Enumerators {
        id,
        states: BTreeMap::new(),
    });
    bench.ack("in", id, TaskSnapshot::default());
    bench.ack("agg", id, output(id));
    bench.step(CheckpointEvent::ManifestWritten { id });
    bench.decide(true);
    bench.confirm(1);
    assert_eq!(bench.decide(true), [ends(JobEnd::Finished)]);
    assert_eq!(
        bench.decide(true),
        [CheckpointEffect::EndJob(JobEnd::Finished)]
    );
}

#[test]
fn tolerated_failures_are_counted_in_a_row() {
    let mut bench = Bench::running();
    for in_a_row in 1..=3 {
        let id = bench.trigger();
        let (task, attempt, reason) = (task("in"), AttemptId(1), "disk full".to_owned());
        let effects = bench.step(CheckpointEvent::Refused {
            task,
            attempt,
            id,
            reason,
        });
        let fails = effects.contains(&CheckpointEffect::FailJob { in_a_row });
        assert_eq!(fails, in_a_row == 3);
    }
}

#[test]
fn a_void_marker_met_while_running_starts_the_region_again() {
    let mut bench = Bench::running();
    bench.moving();
    bench.decide(true);
    let voided = |attempt| CheckpointEvent::Voided {
        slot: slot(),
        attempt: AttemptId(attempt),
    };
    assert_eq!(bench.step(voided(9)), [], "of another attempt");
    assert_eq!(bench.step(voided(1)), [CheckpointEffect::RestartRegion]);
}

#[test]
fn l4_a_reported_checkpoint_is_resolved() {
    let mut bench = Bench::running();
    let id = bench.moving();
    assert_eq!(bench.machine.resolve(id), Resolution::Wait);
    bench.decide(true);
    assert_eq!(bench.machine.resolve(id), Resolution::Commit);
    let foreign = CheckpointId {
        number: 1,
        epoch: Epoch(7),
    };
    assert_eq!(bench.machine.resolve(foreign), Resolution::Decline);
}

proptest! {
    /// Whatever comes in whatever order: one head write at a time, nothing declined while undecided, commits only for
    /// what is in head, numbers rise.
    #[test]
    fn random_lives_keep_the_rules(choices in prop::collection::vec(0u8..13, 1..200)) {
        let mut bench = Bench::running();
        for choice in choices {
            let id = bench.machine.pending();
            let effects = match (choice, id) {
                (0, _) => { bench.now_ms += 60; bench.step(CheckpointEvent::Tick) }
                (1, _) => { bench.now_ms += 700; bench.step(CheckpointEvent::Tick) }
                (2, Some(id)) => bench.ack("in", id, TaskSnapshot::default()),
                (3, Some(id)) => bench.ack("agg", id, output(id)),
                (4, Some(id)) => bench.ack("agg", id, empty()),
                (5, Some(id)) => bench.step(CheckpointEvent::Enumerators { id, states: BTreeMap::new() }),
                (6, Some(id)) => bench.step(CheckpointEvent::ManifestWritten { id }),
                (7, Some(id)) => bench.step(CheckpointEvent::ManifestFailed { id }),
                (8, _) if bench.written.is_some() => bench.decide(true),
                (9, _) if bench.contested => bench.decide(false),
                (10, _) => { let number = bench.head.number; bench.confirm(number) }
                (11, _) => bench.step(stop(BarrierKind::Savepoint)),
                (12, _) => bench.step(CheckpointEvent::Wanted),
                _ => Vec::new(),
            };
            for effect in effects {
                match effect {
                    CheckpointEffect::OrderCommit { id, .. } => {
                        prop_assert_eq!(id, bench.head.checkpoint());
                    }
                    CheckpointEffect::SendBarrier { barrier, .. } => {
                        prop_assert!(barrier.id.number > bench.head.number);
                    }
                    CheckpointEffect::Export { id, .. } => {
                        prop_assert_eq!(id, bench.head.checkpoint());
                        prop_assert!(!bench.head.has_pending_output());
                    }
                    _ => {}
                }
            }
        }
    }
}

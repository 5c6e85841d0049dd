//! Redeployments: what the manifest and `head` say at each moment, when the driver is told, what becomes of them when tasks are lost, time
//! is up or the input ends, and what waits beside them.

use highwater_types::Parallelisms;

use super::*;
use crate::head::SlotCounts;
use crate::recovery::{RegionEffect, RegionRecovery};

/// What the barrier of a redeployment asks for.
const BEHIND: BarrierKind = BarrierKind::Stop {
    mode: StopMode::Suspend,
    is_savepoint: false,
};
/// The number of every redeployment that is asked for here, unless it is a second one.
const ASKED: u64 = 9;

fn at(parallelism: u32) -> Parallelisms {
    let named = ["in", "agg", "out"].map(|name| (uid(name), Parallelism(parallelism)));
    Parallelisms::from(named)
}

/// From parallelism 1 to this one.
fn rescaled(to: u32) -> Rescaled {
    Rescaled {
        configured: at(1),
        to: at(to),
    }
}

fn asked(request: u64, redeploy: Redeploy) -> CheckpointEvent {
    CheckpointEvent::Request(SnapshotRequest {
        request,
        savepoint: None,
        kind: BEHIND,
        redeploy: Some(redeploy),
    })
}

fn rescale() -> CheckpointEvent {
    asked(ASKED, Redeploy::At(rescaled(2)))
}

/// Both kinds of it.
fn both() -> [Redeploy; 2] {
    [Redeploy::Same, Redeploy::At(rescaled(2))]
}

fn refused(failure: CheckpointFailure) -> CheckpointEffect {
    CheckpointEffect::RequestFailed {
        request: ASKED,
        failure,
    }
}

fn confirms() -> CheckpointEffect {
    CheckpointEffect::WriteHead(HeadChange::Confirm)
}

/// The job of [`shape`] at another parallelism.
fn shape_at(parallelism: u32) -> JobShape {
    let mut shape = shape();
    let all = |vertex: &str| {
        let vertex = uid(vertex);
        let subtasks = (0..parallelism).map(SubtaskIndex);
        subtasks.map(move |subtask| TaskId {
            vertex: vertex.clone(),
            subtask,
        })
    };
    shape.tasks = all("in").map(|id| (id, TaskShape::default())).collect();
    let aggregating = all("agg").map(|id| {
        let slot = SlotKey {
            sink: uid("out"),
            slot: id.subtask.0,
        };
        let upstream = all("in").collect();
        let slots = vec![slot];
        (id, TaskShape { upstream, slots })
    });
    shape.tasks.extend(aggregating);
    shape.operators.get_mut(&uid("agg")).unwrap().parallelism = Parallelism(parallelism);
    shape.sinks.get_mut(&uid("out")).unwrap().slots = parallelism;
    shape
}

impl Bench {
    /// All tasks answer the checkpoint on its way; `snapshot` is that of a task with slots. Returns all effects and the manifest.
    fn answered(
        &mut self,
        attempt: u64,
        snapshot: impl Fn(CheckpointId, &SlotKey) -> TaskSnapshot,
    ) -> (CheckpointId, Vec<CheckpointEffect>, Manifest) {
        let id = self.machine.pending().expect("a checkpoint is on its way");
        let states = BTreeMap::new();
        let mut effects = self.step(CheckpointEvent::Enumerators { id, states });
        for (task, of) in self.machine.shape.tasks.clone() {
            let answer = of.slots.first().map(|slot| snapshot(id, slot));
            effects.extend(self.step(CheckpointEvent::Acked {
                task,
                attempt: AttemptId(attempt),
                id,
                snapshot: Box::new(answer.unwrap_or_default()),
            }));
        }
        let manifest = written(&effects).expect("the manifest is written");
        (id, effects, manifest)
    }

    /// The first attempt answers, with output.
    fn collected(&mut self) -> (CheckpointId, Manifest) {
        let (id, _, manifest) = self.answered(1, |id, _| output(id));
        (id, manifest)
    }

    /// A redeployment is complete and none of its output is confirmed.
    fn completed(redeploy: Redeploy) -> (Self, CheckpointId, Manifest) {
        let mut bench = Self::running();
        bench.step(asked(ASKED, redeploy));
        let (id, manifest) = bench.collected();
        bench.step(CheckpointEvent::ManifestWritten { id });
        let effects = bench.decide(true);
        assert_eq!(effects, [CheckpointEffect::Completed { id }, commit(id)]);
        (bench, id, manifest)
    }

    /// The driver was told to redeploy.
    fn told(redeploy: Redeploy) -> (Self, CheckpointId, Manifest) {
        let (mut bench, id, manifest) = Self::completed(redeploy);
        bench.confirm(id.number);
        assert_eq!(bench.decide(true), [CheckpointEffect::Redeploy { id }]);
        (bench, id, manifest)
    }

    /// The machine that takes the place of this one, with what waits in it asked for again.
    fn replaced(self, manifest: &Manifest, shape: JobShape) -> Self {
        let waiting: Vec<SnapshotRequest> = self.machine.held().cloned().collect();
        let (head, tries) = (self.head.clone(), self.machine.into_tries());
        let machine = CheckpointCoordinator::new(SETTINGS, shape, head, manifest, tries);
        let mut next = Self { machine, ..self };
        for request in waiting {
            assert_eq!(next.step(CheckpointEvent::Request(request)), []);
        }
        next
    }

    /// All tasks of its shape run as this attempt.
    fn released(&mut self, attempt: u64) -> Vec<CheckpointEffect> {
        let tasks = self.machine.shape.tasks.keys().cloned();
        let attempts = tasks.map(|task| (task, AttemptId(attempt))).collect();
        self.step(CheckpointEvent::TasksRunning { attempts })
    }

    /// The write on its way is refused by a store that never applied it.
    fn refused(&mut self) -> Vec<CheckpointEffect> {
        self.written.take().expect("a head write was asked for");
        let refusal = Refusal {
            kind: ErrorKind::Invalid,
            reason: "403".to_owned(),
        };
        let outcome = HeadOutcome::Refused(refusal);
        self.step(CheckpointEvent::HeadDecided(outcome))
    }

    fn input_ended(&mut self, vertex: &str) -> Vec<CheckpointEffect> {
        let (task, attempt) = (task(vertex), AttemptId(1));
        self.step(CheckpointEvent::InputEnded { task, attempt })
    }

    /// The job that has read all of its input ends with its final checkpoint.
    fn finishes(&mut self) {
        self.now_ms += SETTINGS.min_pause_ms;
        self.step(CheckpointEvent::Tick);
        let (id, _, manifest) = self.answered(1, |_, slot| nothing(slot));
        assert_eq!(manifest.rescaled, None);
        self.step(CheckpointEvent::ManifestWritten { id });
        let effects = self.decide(true);
        assert_eq!(effects.last(), Some(&ends(JobEnd::Finished)));
        let end = CheckpointEffect::EndJob(JobEnd::Finished);
        assert_eq!(self.decide(true), [end]);
    }
}

fn written(effects: &[CheckpointEffect]) -> Option<Manifest> {
    effects.iter().find_map(|effect| match effect {
        CheckpointEffect::WriteManifest { bytes, .. } => Some(Manifest::decode(bytes).unwrap()),
        _ => None,
    })
}

fn nothing(slot: &SlotKey) -> TaskSnapshot {
    TaskSnapshot {
        outputs: BTreeMap::from([(slot.clone(), SlotOutput::Empty)]),
        ..TaskSnapshot::default()
    }
}

/// The slots that the write that was asked for raises.
fn raised(effects: &[CheckpointEffect]) -> &SlotCounts {
    let [
        ..,
        CheckpointEffect::WriteHead(HeadChange::Complete { slots, .. }),
    ] = effects
    else {
        panic!("{effects:?}")
    };
    slots
}

fn slots(count: u32) -> SlotCounts {
    SlotCounts::from([(uid("out"), count)])
}

#[test]
fn l6_a_rescale_is_told_once_when_all_is_confirmed_and_head_says_so() {
    let mut bench = Bench::running();
    let effects = bench.step(rescale());
    assert_eq!(kinds_of_barriers(&effects), [BEHIND]);
    let (id, manifest) = bench.collected();
    assert_eq!(manifest.rescaled, Some(rescaled(2)));
    assert!(!manifest.drained, "nothing is drained");
    let effects = bench.step(CheckpointEvent::ManifestWritten { id });
    assert_eq!(raised(&effects), &slots(2), "L6: in the completing write");
    assert_eq!(bench.machine.redeploying(), None, "head has not moved");
    bench.decide(true);
    assert_eq!(bench.machine.redeploying(), Some((ASKED, id)));
    assert_eq!(bench.head.slots, slots(2));
    bench.now_ms += 500;
    let effects = bench.step(CheckpointEvent::Tick);
    assert_eq!(effects, [commit(id)], "no checkpoint, not told");
    let all = CheckpointEffect::AllConfirmed { id };
    assert_eq!(bench.confirm(1), [all, confirms()]);
    assert_eq!(bench.decide(true), [CheckpointEffect::Redeploy { id }]);
    assert!(!bench.head.has_pending_output());
    for _ in 0..3 {
        bench.now_ms += 1_000;
        assert_eq!(bench.step(CheckpointEvent::Tick), [], "once");
    }
    assert_eq!(bench.step(CheckpointEvent::TasksLost), []);
    assert_eq!(bench.machine.redeploying(), Some((ASKED, id)));
    let mut next = bench.replaced(&manifest, shape_at(2));
    assert_eq!(next.released(2), [], "whoever asked hears it elsewhere");
    assert_eq!(next.machine.redeploying(), None);
}

#[test]
fn empty_output_is_confirmed_with_the_write_that_completes_the_rescale() {
    let mut bench = Bench::running();
    bench.step(rescale());
    let (id, _, _) = bench.answered(1, |_, slot| nothing(slot));
    bench.step(CheckpointEvent::ManifestWritten { id });
    let effects = bench.decide(true);
    let (completed, all) = (
        CheckpointEffect::Completed { id },
        CheckpointEffect::AllConfirmed { id },
    );
    let told = CheckpointEffect::Redeploy { id };
    assert_eq!(effects, [completed, all, told]);
}

#[test]
fn a_redeployment_elsewhere_changes_neither_parallelism_nor_slots() {
    let mut bench = Bench::running();
    bench.step(asked(ASKED, Redeploy::Same));
    let (id, manifest) = bench.collected();
    assert_eq!(manifest.rescaled, None);
    let effects = bench.step(CheckpointEvent::ManifestWritten { id });
    assert!(raised(&effects).is_empty());
    bench.decide(true);
    assert_eq!(bench.head.slots, slots(1));
}

/// What a recovery from the settled `head` frees, at this parallelism.
fn freed(head: &Head, manifest: &Manifest, parallelism: u32) -> usize {
    let (shape, alive) = (shape_at(parallelism), BTreeSet::new());
    let (_, effects) = RegionRecovery::start(head, manifest, &shape, &alive);
    let frees = |effect: &&RegionEffect| matches!(effect, RegionEffect::Free(_));
    effects.iter().filter(frees).count()
}

#[test]
fn a_dead_leader_is_followed_at_the_old_parallelism_until_head_moves_and_then_at_the_new_one() {
    let mut bench = Bench::running();
    let before = (bench.head.clone(), bench.machine.completed());
    bench.step(rescale());
    let (id, manifest) = bench.collected();
    bench.step(CheckpointEvent::ManifestWritten { id });
    let taken_over = |head: &Head| {
        let change = HeadChange::TakeOver {
            slots: SlotCounts::new(),
        };
        head.changed(&change, Nonce(77))
    };
    // The manifest is durable, and nothing in `head` names it.
    let head = taken_over(&before.0);
    assert_eq!((head.checkpoint(), &head.slots), (before.1, &slots(1)));
    assert_ne!(head.manifest.hash, manifest.encode().1);
    // The write of `head` has landed, and the leader did not hear of it.
    bench.decide(true);
    let head = taken_over(&bench.head);
    let (bytes, hash) = manifest.encode();
    assert_eq!((head.manifest.hash, &head.slots), (hash, &slots(2)));
    let read = Manifest::decode_named(&bytes, head.manifest.hash).unwrap();
    let said = read.rescaled.as_ref().unwrap();
    assert_eq!(said.for_configured(&at(1)), Some(&at(2)));
    assert_eq!(freed(&head, &read, 2), 2, "those of the new parallelism");
    assert_ne!(
        shape_at(1).fingerprint(),
        shape_at(2).fingerprint(),
        "living tasks of the old one are not adopted"
    );
    let tries = TrySource::new(NonceStream::new(Nonce(8)));
    let next = CheckpointCoordinator::new(SETTINGS, shape_at(2), head, &read, tries);
    assert_eq!(next.redeploying(), None, "nobody is there to be answered");
}

#[test]
fn tasks_that_are_lost_before_all_is_confirmed_come_back_behind_the_checkpoint() {
    for redeploy in both() {
        let (mut bench, id, _) = Bench::completed(redeploy);
        assert_eq!(bench.step(CheckpointEvent::TasksLost), []);
        bench.now_ms += 500;
        assert_eq!(bench.step(CheckpointEvent::Tick), [], "nobody is there");
        assert_eq!(bench.machine.redeploying(), Some((ASKED, id)));
        bench.machine.recovered();
        assert_eq!(bench.released(2), [], "it was never told");
        assert_eq!(bench.machine.redeploying(), None);
    }
}

#[test]
fn tasks_that_are_lost_while_head_is_told_of_the_confirmation_come_back_behind_the_checkpoint() {
    for redeploy in both() {
        let (mut bench, id, _) = Bench::completed(redeploy);
        bench.confirm(id.number);
        assert_eq!(bench.step(CheckpointEvent::TasksLost), []);
        assert!(bench.machine.is_undecided());
        assert_eq!(bench.machine.redeploying(), Some((ASKED, id)));
        assert_eq!(bench.decide(true), [], "nobody is there to be redeployed");
        assert_eq!(bench.released(2), []);
        assert_eq!(bench.machine.redeploying(), None);
        bench.now_ms += 100;
        let effects = bench.step(CheckpointEvent::Tick);
        assert_eq!(kinds_of_barriers(&effects), [BarrierKind::Checkpoint]);
    }
}

#[test]
fn a_confirmation_that_is_refused_is_written_again_before_anything_is_told() {
    let (mut bench, id, _) = Bench::completed(Redeploy::Same);
    bench.confirm(id.number);
    assert_eq!(bench.refused(), []);
    bench.now_ms += SETTINGS.commit_retry_ms;
    assert_eq!(bench.step(CheckpointEvent::Tick), [confirms()]);
    assert_eq!(bench.decide(true), [CheckpointEffect::Redeploy { id }]);
}

#[test]
fn tasks_that_are_lost_again_and_again_after_it_was_told_run_once_they_do() {
    let (mut bench, id, _) = Bench::told(Redeploy::Same);
    for _ in 0..3 {
        assert_eq!(bench.step(CheckpointEvent::TasksLost), []);
        assert_eq!(bench.step(CheckpointEvent::Tick), []);
        assert_eq!(bench.machine.redeploying(), Some((ASKED, id)));
    }
    assert_eq!(bench.released(2), []);
    assert_eq!(bench.machine.redeploying(), None);
    assert_eq!(bench.step(CheckpointEvent::TasksLost), []);
    assert_eq!(bench.released(3), [], "it is over");
}

#[test]
fn a_redeployment_that_is_given_up_has_failed_and_the_job_goes_on_as_it_was() {
    for redeploy in both() {
        let mut bench = Bench::running();
        bench.step(asked(ASKED, redeploy));
        let id = bench.machine.pending().unwrap();
        let (at, attempt, reason) = (task("in"), AttemptId(1), "disk full".to_owned());
        let effects = bench.step(CheckpointEvent::Refused {
            task: at.clone(),
            attempt,
            id,
            reason: reason.clone(),
        });
        let failure = CheckpointFailure::Refused {
            task: at,
            id,
            reason,
        };
        let failed = CheckpointEffect::Failed {
            failure: failure.clone(),
            in_a_row: 1,
        };
        let declined = CheckpointEffect::Decline { id };
        let resumed = CheckpointEffect::ResumeSources;
        assert_eq!(effects, [declined, refused(failure), failed, resumed]);
        assert_eq!(bench.machine.held().count(), 0, "it is not asked again");
        bench.now_ms += SETTINGS.commit_retry_ms;
        assert_eq!(bench.step(CheckpointEvent::Tick), []);
        bench.now_ms += SETTINGS.interval_ms;
        let effects = bench.step(CheckpointEvent::Tick);
        assert_eq!(kinds_of_barriers(&effects), [BarrierKind::Checkpoint]);
        let (id, manifest) = bench.collected();
        assert_eq!(manifest.rescaled, None);
        let effects = bench.step(CheckpointEvent::ManifestWritten { id });
        assert!(raised(&effects).is_empty());
        bench.decide(true);
        assert_eq!(bench.head.slots, slots(1));
        assert_eq!(bench.machine.redeploying(), None);
    }
}

#[test]
fn a_redeployment_that_the_leader_withdraws_before_its_manifest_is_written_has_failed() {
    let mut bench = Bench::running();
    bench.step(rescale());
    let (id, _) = bench.collected();
    let reason = "4 slots are needed, 2 are there".to_owned();
    let withdrawn = CheckpointEvent::Withdrawn { id, reason };
    let effects = bench.step(withdrawn.clone());
    let failure = |effect: &CheckpointEffect| match effect {
        CheckpointEffect::RequestFailed { request, failure } if *request == ASKED => {
            Some(failure.to_string())
        }
        _ => None,
    };
    let told = effects
        .iter()
        .find_map(failure)
        .expect("whoever asked hears it");
    assert!(told.contains("2 are there"), "{told}");
    assert!(
        effects.contains(&CheckpointEffect::ResumeSources),
        "{effects:?}"
    );
    assert!(!bench.machine.is_redeploying());
    // Late, it changes nothing.
    assert_eq!(bench.step(withdrawn), []);
}

#[test]
fn l1_a_redeployment_whose_time_is_up_while_head_is_undecided_waits_for_the_decision() {
    for is_lost in [false, true] {
        let mut bench = Bench::running();
        bench.step(rescale());
        let (id, _) = bench.collected();
        bench.step(CheckpointEvent::ManifestWritten { id });
        bench.now_ms += SETTINGS.timeout_ms;
        let event = if is_lost {
            CheckpointEvent::TasksLost
        } else {
            CheckpointEvent::Tick
        };
        let effects = bench.step(event);
        assert_eq!(effects, [CheckpointEffect::ContestHead]);
        assert_eq!(bench.machine.redeploying(), None, "nothing is derived");
        let mut other = bench.clone();
        bench.decide(true);
        assert_eq!(bench.machine.redeploying(), Some((ASKED, id)));
        assert_eq!(bench.head.slots, slots(2));
        let effects = other.decide(false);
        assert_eq!(effects[0], CheckpointEffect::Decline { id });
        assert!(effects.iter().any(is_request_failed), "{effects:?}");
        assert_eq!(other.machine.redeploying(), None);
        assert_eq!(other.head.slots, slots(1));
    }
}

#[test]
fn a_rescale_whose_write_is_refused_has_failed() {
    let mut bench = Bench::running();
    bench.step(rescale());
    let (id, _) = bench.collected();
    bench.step(CheckpointEvent::ManifestWritten { id });
    let reason = "403".to_owned();
    let failure = CheckpointFailure::HeadRefused { id, reason };
    let effects = bench.refused();
    assert!(effects.contains(&refused(failure)), "{effects:?}");
    assert!(effects.contains(&CheckpointEffect::ResumeSources));
    assert_eq!(bench.machine.redeploying(), None);
}

#[test]
fn tasks_that_are_lost_before_all_have_answered_end_the_redeployment() {
    let mut bench = Bench::running();
    bench.step(rescale());
    let id = bench.machine.pending().unwrap();
    let effects = bench.step(CheckpointEvent::TasksLost);
    let failure = CheckpointFailure::TasksLost { id };
    assert!(effects.contains(&refused(failure)), "{effects:?}");
    assert!(!effects.contains(&CheckpointEffect::ResumeSources));
    assert_eq!(kinds_of_barriers(&bench.released(2)), []);
}

#[test]
fn every_later_checkpoint_says_again_what_a_rescale_said_and_the_next_rescale_says_more() {
    let (mut bench, _, manifest) = Bench::told(Redeploy::At(rescaled(2)));
    bench.step(CheckpointEvent::TasksLost);
    let mut bench = bench.replaced(&manifest, shape_at(2));
    bench.released(2);
    let mut last = manifest;
    for wish in [None, Some(Redeploy::Same), None] {
        let is_wished = wish.is_some();
        bench.now_ms += SETTINGS.interval_ms;
        bench.step(match wish {
            Some(redeploy) => asked(ASKED, redeploy),
            None => CheckpointEvent::Tick,
        });
        let attempt = bench.machine.attempts.values().next().unwrap().0;
        let (id, _, manifest) = bench.answered(attempt, |_, slot| nothing(slot));
        assert_eq!(manifest.rescaled, Some(rescaled(2)));
        let effects = bench.step(CheckpointEvent::ManifestWritten { id });
        assert!(raised(&effects).is_empty(), "they are raised already");
        let effects = bench.decide(true);
        let told = effects.contains(&CheckpointEffect::Redeploy { id });
        assert_eq!(told, is_wished);
        if told {
            bench.step(CheckpointEvent::TasksLost);
            bench.released(attempt + 1);
        }
        last = manifest;
    }
    // The machine of the next leadership goes on from what it has read.
    let mut bench = bench.replaced(&last, shape_at(2));
    bench.released(7);
    bench.step(asked(ASKED, Redeploy::At(rescaled(1))));
    let (id, _, manifest) = bench.answered(7, |_, slot| nothing(slot));
    assert_eq!(manifest.rescaled, Some(rescaled(1)));
    bench.step(CheckpointEvent::ManifestWritten { id });
    bench.decide(true);
    assert_eq!(bench.head.slots, slots(2), "slots never fall");
}

#[test]
fn a_redeployment_that_waits_when_the_input_ends_is_refused_and_the_job_ends() {
    let mut bench = Bench::running();
    let first = bench.trigger();
    assert_eq!(bench.step(rescale()), [], "it waits");
    assert_eq!(bench.input_ended("in"), [], "the other task works on");
    let effects = bench.input_ended("agg");
    assert_eq!(effects, [refused(CheckpointFailure::InputEnded)]);
    assert_eq!(bench.machine.held().count(), 0);
    let (id, _) = bench.collected();
    assert_eq!(id, first);
    bench.step(CheckpointEvent::ManifestWritten { id });
    bench.decide(true);
    bench.confirm(id.number);
    bench.finishes();
}

#[test]
fn a_redeployment_that_is_asked_for_after_the_input_has_ended_is_refused() {
    let mut bench = Bench::running();
    bench.input_ended("in");
    bench.input_ended("agg");
    let effects = bench.step(rescale());
    assert_eq!(effects, [refused(CheckpointFailure::InputEnded)]);
    bench.now_ms += SETTINGS.min_pause_ms;
    bench.step(CheckpointEvent::Tick);
    assert!(bench.machine.pending().is_some(), "the final checkpoint");
    let effects = bench.step(rescale());
    assert_eq!(effects, [refused(CheckpointFailure::InputEnded)]);
    bench.finishes();
}

#[test]
fn a_redeployment_whose_input_ends_while_it_is_under_way_is_refused_and_the_job_ends() {
    for redeploy in both() {
        let mut bench = Bench::running();
        bench.input_ended("in");
        let effects = bench.step(asked(ASKED, redeploy));
        assert_eq!(kinds_of_barriers(&effects), [BEHIND], "not all has ended");
        assert_eq!(bench.input_ended("agg"), []);
        let (id, effects, manifest) = bench.answered(1, |_, slot| nothing(slot));
        let failed = refused(CheckpointFailure::InputEnded);
        assert_eq!(effects[..2], [failed, CheckpointEffect::ResumeSources]);
        assert_eq!((manifest.rescaled, manifest.drained), (None, false));
        let effects = bench.step(CheckpointEvent::ManifestWritten { id });
        assert!(raised(&effects).is_empty());
        let effects = bench.decide(true);
        let told = CheckpointEffect::Redeploy { id };
        assert!(!effects.contains(&told), "{effects:?}");
        assert_eq!(bench.machine.redeploying(), None);
        assert_eq!(bench.head.slots, slots(1));
        bench.finishes();
    }
}

#[test]
fn a_second_redeployment_is_refused_until_the_tasks_of_the_first_run() {
    let second = |bench: &mut Bench| {
        let effects = bench.step(asked(ASKED + 1, Redeploy::Same));
        let failure = CheckpointFailure::Redeploying;
        let busy = CheckpointEffect::RequestFailed {
            request: ASKED + 1,
            failure,
        };
        assert_eq!(effects, [busy]);
    };
    let mut bench = Bench::running();
    let first = bench.trigger();
    bench.step(rescale());
    second(&mut bench);
    bench.collected();
    bench.step(CheckpointEvent::ManifestFailed { id: first });
    bench.now_ms += SETTINGS.commit_retry_ms;
    bench.step(CheckpointEvent::Tick);
    second(&mut bench);
    let (id, _) = bench.collected();
    second(&mut bench);
    bench.step(CheckpointEvent::ManifestWritten { id });
    second(&mut bench);
    bench.decide(true);
    second(&mut bench);
    bench.confirm(id.number);
    second(&mut bench);
    bench.decide(true);
    second(&mut bench);
    bench.step(CheckpointEvent::TasksLost);
    second(&mut bench);
    bench.released(2);
    let effects = bench.step(asked(ASKED + 1, Redeploy::Same));
    assert_eq!(kinds_of_barriers(&effects), [BEHIND]);
}

fn savepoint(request: u64) -> CheckpointEvent {
    CheckpointEvent::Request(SnapshotRequest {
        request,
        savepoint: Some("before".to_owned()),
        kind: BarrierKind::Savepoint,
        redeploy: None,
    })
}

fn now(request: u64) -> CheckpointEvent {
    CheckpointEvent::Request(SnapshotRequest {
        request,
        savepoint: None,
        kind: BarrierKind::Checkpoint,
        redeploy: None,
    })
}

#[test]
fn a_stop_goes_before_a_redeployment_and_that_before_savepoints_and_checkpoints() {
    for has_stop in [false, true] {
        let mut bench = Bench::running();
        let first = bench.trigger();
        for event in [now(1), savepoint(2), rescale()] {
            assert_eq!(bench.step(event), []);
        }
        let mut order = vec![ASKED, 1, 2];
        if has_stop {
            assert_eq!(bench.step(stop(SUSPEND)), []);
            order.insert(0, 7);
        }
        let held = bench.machine.held().map(|held| held.request);
        assert_eq!(held.collect::<Vec<_>>(), order, "all that wait");
        let reason = "disk full".to_owned();
        bench.step(CheckpointEvent::Refused {
            task: task("in"),
            attempt: AttemptId(1),
            id: first,
            reason,
        });
        bench.now_ms += SETTINGS.commit_retry_ms;
        let effects = bench.step(CheckpointEvent::Tick);
        let expected = if has_stop { SUSPEND } else { BEHIND };
        assert_eq!(kinds_of_barriers(&effects), [expected]);
        assert_eq!(bench.machine.held().count(), order.len() - 1);
    }
}

#[test]
fn a_redeployment_after_a_stop_is_refused() {
    let mut bench = Bench::running();
    bench.step(stop(SUSPEND));
    let effects = bench.step(rescale());
    assert_eq!(effects, [refused(CheckpointFailure::Stopping)]);
}

#[test]
fn a_stop_that_comes_while_a_redeployment_is_under_way_goes_on_when_its_tasks_run() {
    for redeploy in both() {
        let is_rescale = matches!(redeploy, Redeploy::At(_));
        let mut bench = Bench::running();
        bench.step(asked(ASKED, redeploy));
        assert_eq!(bench.step(stop(SUSPEND)), [], "it is held");
        let (id, manifest) = bench.collected();
        bench.step(CheckpointEvent::ManifestWritten { id });
        bench.decide(true);
        bench.confirm(id.number);
        assert_eq!(bench.decide(true), [CheckpointEffect::Redeploy { id }]);
        assert_eq!(bench.step(CheckpointEvent::TasksLost), []);
        let mut next = if is_rescale {
            bench.replaced(&manifest, shape_at(2))
        } else {
            bench
        };
        assert!(next.machine.held_stop().is_some());
        let barriers = kinds_of_barriers(&next.released(2));
        assert!(!barriers.is_empty());
        assert!(barriers.iter().all(|kind| *kind == SUSPEND));
        let (id, _, manifest) = next.answered(2, |_, slot| nothing(slot));
        assert_eq!(manifest.rescaled, is_rescale.then(|| rescaled(2)));
        next.step(CheckpointEvent::ManifestWritten { id });
        let effects = next.decide(true);
        let exports = |effect: &CheckpointEffect| matches!(effect, CheckpointEffect::Export { .. });
        assert!(effects.iter().any(exports), "{effects:?}");
        let effects = next.step(CheckpointEvent::Exported { id });
        assert_eq!(effects, [ends(JobEnd::Stopped)]);
    }
}

#[test]
#[should_panic(expected = "behind the barrier of a redeployment nothing is read")]
fn a_redeployment_that_drains_is_no_redeployment() {
    let mut bench = Bench::running();
    bench.step(CheckpointEvent::Request(SnapshotRequest {
        request: ASKED,
        savepoint: None,
        kind: DRAIN,
        redeploy: Some(Redeploy::Same),
    }));
}

/// A job, what was asked of it and not answered yet, and the newest manifest that was written.
struct Life {
    bench: Bench,
    attempt: u64,
    runs: bool,
    next: u64,
    waiting: BTreeSet<u64>,
    manifest: Option<Manifest>,
}

impl Life {
    fn new() -> Self {
        Self {
            bench: Bench::running(),
            attempt: 1,
            runs: true,
            next: 100,
            waiting: BTreeSet::new(),
            manifest: None,
        }
    }

    /// What happens next, if it can.
    fn meet(&mut self, choice: u8) -> Vec<CheckpointEffect> {
        let pending = self.bench.machine.pending();
        let id = pending.unwrap_or_else(|| self.bench.head.checkpoint());
        match choice {
            0 => self.later(60),
            1 => self.later(700),
            2 => self.ask(|request| asked(request, Redeploy::Same)),
            3 => self.ask(|request| asked(request, Redeploy::At(rescaled(2)))),
            4 => self.ask(now),
            5 => self.ask(savepoint),
            6 if pending.is_some() => {
                let states = BTreeMap::new();
                self.bench.step(CheckpointEvent::Enumerators { id, states })
            }
            7 if self.runs => self.acked("in", id, TaskSnapshot::default()),
            8 if self.runs => self.acked("agg", id, output(id)),
            9 if self.runs => self.acked("agg", id, empty()),
            10 => self.bench.step(CheckpointEvent::ManifestWritten { id }),
            11 => self.bench.step(CheckpointEvent::ManifestFailed { id }),
            12 if self.bench.written.is_some() => self.bench.decide(true),
            13 if self.bench.contested => self.bench.decide(false),
            14 if self.bench.written.is_some() && !self.bench.contested => self.bench.refused(),
            15 if self.runs => self.confirmed(),
            16 => self.lost(),
            17 if !self.runs && self.bench.written.is_none() => self.recovered(),
            18 if self.runs => self.input_ended("in"),
            19 if self.runs => self.input_ended("agg"),
            20 => self.bench.step(CheckpointEvent::Exported { id }),
            _ => Vec::new(),
        }
    }

    fn later(&mut self, ms: u64) -> Vec<CheckpointEffect> {
        self.bench.now_ms += ms;
        self.bench.step(CheckpointEvent::Tick)
    }

    fn ask(&mut self, wish: impl Fn(u64) -> CheckpointEvent) -> Vec<CheckpointEffect> {
        self.next += 1;
        self.waiting.insert(self.next);
        self.bench.step(wish(self.next))
    }

    fn acked(
        &mut self,
        vertex: &str,
        id: CheckpointId,
        snapshot: TaskSnapshot,
    ) -> Vec<CheckpointEffect> {
        self.bench.step(CheckpointEvent::Acked {
            task: task(vertex),
            attempt: AttemptId(self.attempt),
            id,
            snapshot: Box::new(snapshot),
        })
    }

    fn confirmed(&mut self) -> Vec<CheckpointEffect> {
        self.bench.step(CheckpointEvent::Confirmed {
            slot: slot(),
            attempt: AttemptId(self.attempt),
            number: self.bench.head.number,
        })
    }

    fn lost(&mut self) -> Vec<CheckpointEffect> {
        self.runs = false;
        self.bench.step(CheckpointEvent::TasksLost)
    }

    /// The driver answers the redeployment that is complete.
    fn recovered(&mut self) -> Vec<CheckpointEffect> {
        if let Some((request, _)) = self.bench.machine.redeploying() {
            assert!(self.waiting.remove(&request), "answered once");
        }
        self.runs = true;
        self.attempt += 1;
        self.bench.released(self.attempt)
    }

    fn input_ended(&mut self, vertex: &str) -> Vec<CheckpointEffect> {
        self.bench.step(CheckpointEvent::InputEnded {
            task: task(vertex),
            attempt: AttemptId(self.attempt),
        })
    }

    /// Judges one effect. The driver ends the attempt when it is told to redeploy.
    fn judge(&mut self, effect: &CheckpointEffect) -> Vec<CheckpointEffect> {
        match effect {
            CheckpointEffect::WriteManifest { bytes, .. } => {
                self.manifest = Some(Manifest::decode(bytes).unwrap());
            }
            CheckpointEffect::WriteHead(HeadChange::Complete { slots, .. }) => {
                let said = self.manifest.as_ref().unwrap().rescaled.as_ref();
                assert!(slots.is_empty() || said.is_some(), "raised for nothing");
            }
            CheckpointEffect::RequestDone { request, .. }
            | CheckpointEffect::RequestFailed { request, .. } => {
                assert!(self.waiting.remove(request), "answered once");
            }
            CheckpointEffect::Redeploy { id } => {
                assert_eq!(*id, self.bench.head.checkpoint());
                assert!(!self.bench.head.has_pending_output(), "head says so");
                assert_eq!(self.bench.machine.unconfirmed().count(), 0);
                let (request, of) = self.bench.machine.redeploying().unwrap();
                assert!(of == *id && self.waiting.contains(&request));
                return self.lost();
            }
            _ => {}
        }
        Vec::new()
    }
}

proptest! {
    /// Whatever comes in whatever order: a redeployment is told when `head` says that all is confirmed, slots are raised where the manifest
    /// says why, whoever asked is answered once, and nothing follows the end of the job.
    #[test]
    fn random_redeployments_keep_the_rules(choices in prop::collection::vec(0u8..21, 1..300)) {
        let mut life = Life::new();
        let mut has_ended = false;
        for choice in choices {
            let mut effects = life.meet(choice);
            while !effects.is_empty() {
                prop_assert!(!has_ended, "after the end: {effects:?}");
                let judged: Vec<_> = effects.iter().map(|effect| life.judge(effect)).collect();
                has_ended = effects.iter().any(|effect| matches!(effect, CheckpointEffect::EndJob(_)));
                effects = judged.into_iter().flatten().collect();
            }
            let held = life.bench.machine.held().all(|held| life.waiting.contains(&held.request));
            prop_assert!(held, "what was answered waits no more");
            if has_ended {
                break;
            }
        }
    }
}

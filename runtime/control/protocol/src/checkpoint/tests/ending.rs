//! The end of a job in `head`: written once everything is confirmed and copied, told once it is written, whatever happens to the tasks and
//! to the write meanwhile.

use super::*;

/// A job whose stop with a savepoint is confirmed and being copied.
fn exporting() -> (Bench, CheckpointId) {
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
    let effects = bench.decide(true);
    assert!(matches!(&effects[..], [CheckpointEffect::Export { .. }]));
    (bench, id)
}

/// A job whose end is being written.
fn ending() -> (Bench, CheckpointId) {
    let (mut bench, id) = exporting();
    let effects = bench.step(CheckpointEvent::Exported { id });
    assert_eq!(effects, [ends(JobEnd::Stopped)]);
    (bench, id)
}

/// The write on its way is refused by a store that never applied it.
fn refuse(bench: &mut Bench) -> Vec<CheckpointEffect> {
    bench.written.take().expect("a head write was asked for");
    let refusal = Refusal {
        kind: ErrorKind::Invalid,
        reason: "403".to_owned(),
    };
    let outcome = HeadOutcome::Refused(refusal);
    bench.step(CheckpointEvent::HeadDecided(outcome))
}

fn told(id: CheckpointId) -> [CheckpointEffect; 2] {
    let done = CheckpointEffect::RequestDone { request: 7, id };
    [done, CheckpointEffect::EndJob(JobEnd::Stopped)]
}

#[test]
fn a_job_whose_tasks_are_lost_while_its_end_is_written_has_ended() {
    let (mut bench, id) = ending();
    assert_eq!(bench.step(CheckpointEvent::TasksLost), [], "no contest");
    assert!(bench.machine.is_undecided());
    assert_eq!(bench.decide(true), told(id));
    assert_eq!(bench.step(CheckpointEvent::Tick), []);
}

#[test]
fn tasks_that_come_back_while_the_end_is_written_change_nothing() {
    let (mut bench, id) = exporting();
    assert_eq!(bench.step(CheckpointEvent::TasksLost), []);
    // The copy is done while the recovery is under way.
    let effects = bench.step(CheckpointEvent::Exported { id });
    assert_eq!(effects, [ends(JobEnd::Stopped)]);
    bench.run(2);
    bench.now_ms += 1_000;
    assert_eq!(bench.step(CheckpointEvent::Tick), [], "nothing begins");
    assert_eq!(bench.decide(true), told(id));
}

#[test]
fn an_end_that_is_refused_is_written_again_after_a_while_and_the_copy_is_not_made_again() {
    let (mut bench, id) = ending();
    assert_eq!(refuse(&mut bench), [], "nobody is told");
    assert_eq!(bench.head.ended, None);
    let effects = bench.step(stop(SUSPEND));
    assert!(effects.iter().any(is_request_failed), "one stop is enough");
    bench.now_ms += SETTINGS.commit_retry_ms;
    let effects = bench.step(CheckpointEvent::Tick);
    assert_eq!(effects, [ends(JobEnd::Stopped)]);
    assert_eq!(bench.decide(true), told(id));
}

#[test]
fn an_end_that_is_refused_after_the_tasks_were_lost_is_written_once_they_are_back() {
    for come_before in [false, true] {
        let (mut bench, id) = ending();
        bench.step(CheckpointEvent::TasksLost);
        if come_before {
            bench.run(2);
        }
        assert_eq!(refuse(&mut bench), []);
        bench.now_ms += SETTINGS.commit_retry_ms;
        let mut effects = bench.step(CheckpointEvent::Tick);
        if !come_before {
            assert_eq!(effects, [], "nobody is there");
            let attempts = [task("in"), task("agg")].map(|task| (task, AttemptId(2)));
            let attempts = BTreeMap::from(attempts);
            effects = bench.step(CheckpointEvent::TasksRunning { attempts });
        }
        assert_eq!(effects, [ends(JobEnd::Stopped)]);
        assert_eq!(bench.decide(true), told(id));
    }
}

#[test]
fn a_leader_that_finds_another_while_it_writes_the_end_tells_nobody() {
    let (mut bench, _) = ending();
    let change = HeadChange::TakeOver {
        slots: BTreeMap::new(),
    };
    let newer = Versioned {
        head: bench.head.changed(&change, Nonce(99)),
        tag: VersionTag("t".into()),
    };
    bench.written = None;
    let outcome = HeadOutcome::Superseded(Box::new(newer));
    let effects = bench.step(CheckpointEvent::HeadDecided(outcome));
    assert_eq!(effects, [CheckpointEffect::StepDown]);
}

/// The machine with its tasks, which come and go: their number, whether they run, and whether a recovery is under way.
struct Life {
    bench: Bench,
    attempt: u64,
    runs: bool,
    recovers: bool,
}

impl Life {
    /// What happens next, if it can.
    fn meet(&mut self, choice: u8) -> Vec<CheckpointEffect> {
        let attempt = AttemptId(self.attempt);
        let pending = self.bench.machine.pending();
        let id = pending.unwrap_or_else(|| self.bench.head.checkpoint());
        match choice {
            0 => self.tick(),
            1 if self.runs => self.bench.step(stop(SUSPEND)),
            2 if self.runs => self.bench.step(stop(DRAIN)),
            3 if pending.is_some() => {
                let states = BTreeMap::new();
                self.bench.step(CheckpointEvent::Enumerators { id, states })
            }
            4 | 5 if self.runs => {
                let (name, snapshot) = if choice == 4 {
                    ("in", TaskSnapshot::default())
                } else {
                    ("agg", output(id))
                };
                self.bench.step(CheckpointEvent::Acked {
                    task: task(name),
                    attempt,
                    id,
                    snapshot: Box::new(snapshot),
                })
            }
            6 => self.bench.step(CheckpointEvent::ManifestWritten { id }),
            7 if self.bench.written.is_some() => self.bench.decide(true),
            8 if self.bench.contested => self.bench.decide(false),
            9 if self.runs => {
                let (slot, number) = (slot(), self.bench.head.number);
                self.bench.step(CheckpointEvent::Confirmed {
                    slot,
                    attempt,
                    number,
                })
            }
            10 => self.bench.step(CheckpointEvent::Exported { id }),
            11 => self.bench.step(CheckpointEvent::ExportFailed { id }),
            12 if self.bench.written.is_some() && !self.bench.contested => refuse(&mut self.bench),
            13 => {
                (self.runs, self.recovers) = (false, false);
                self.bench.step(CheckpointEvent::TasksLost)
            }
            // A recovery begins with a settled head, and ends whatever is written then.
            14 if !self.runs && self.bench.written.is_none() => {
                self.recovers = true;
                Vec::new()
            }
            15 if self.recovers => self.recovered(),
            _ => Vec::new(),
        }
    }

    fn tick(&mut self) -> Vec<CheckpointEffect> {
        self.bench.now_ms += 60;
        self.bench.step(CheckpointEvent::Tick)
    }

    fn recovered(&mut self) -> Vec<CheckpointEffect> {
        (self.runs, self.recovers) = (true, false);
        self.attempt += 1;
        let attempt = AttemptId(self.attempt);
        let attempts = BTreeMap::from([task("in"), task("agg")].map(|task| (task, attempt)));
        self.bench.step(CheckpointEvent::TasksRunning { attempts })
    }
}

proptest! {
    /// Whatever comes in whatever order: the end of a job and the answer to its stop follow the write of the end, and nothing follows them.
    #[test]
    fn random_ends_are_told_after_head_says_them(choices in prop::collection::vec(0u8..16, 1..300)) {
        let mut life = Life { bench: Bench::running(), attempt: 1, runs: true, recovers: false };
        let mut has_ended = false;
        for choice in choices {
            for effect in life.meet(choice) {
                prop_assert!(!has_ended, "after the end: {effect:?}");
                match effect {
                    CheckpointEffect::EndJob(end) => {
                        prop_assert_eq!(life.bench.head.ended, Some(end));
                        has_ended = true;
                    }
                    CheckpointEffect::RequestDone { .. } => {
                        prop_assert!(life.bench.head.ended.is_some());
                    }
                    CheckpointEffect::WriteHead(HeadChange::End(_)) => {
                        prop_assert!(!life.bench.head.has_pending_output());
                    }
                    _ => {}
                }
            }
            if has_ended {
                break;
            }
        }
    }
}

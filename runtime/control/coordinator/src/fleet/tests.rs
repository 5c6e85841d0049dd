//! The fleet as a machine: what goes to whom, and what is told of it.

use highwater_protocol::hash::ContentHash;
use highwater_protocol::job::TaskId;
use highwater_protocol::recovery::{SlotDuty, UnmatchedState};
use highwater_protocol::sink_slot::Purpose;
use highwater_types::{CheckpointId, Epoch, Lineage};
use highwater_worker::{AttemptNews, History, OperatorSubtask, RestoredState};

use super::*;

const ATTEMPT: AttemptId = AttemptId(4);
const PASS: Nonce = Nonce(77);

fn uid(name: &str) -> OperatorUid {
    OperatorUid::parse(name).unwrap()
}

fn id() -> CheckpointId {
    CheckpointId {
        number: 1,
        epoch: Epoch(1),
    }
}

fn deployment() -> Box<Deployment> {
    deployment_at(4)
}

fn deployment_at(shares: u32) -> Box<Deployment> {
    let states = (0..shares).map(|subtask| {
        let of = OperatorSubtask {
            uid: uid("count"),
            subtask: SubtaskIndex(subtask),
        };
        (of, RestoredState::default())
    });
    Box::new(Deployment {
        epoch: Epoch(1),
        attempt: ATTEMPT,
        shape: ContentHash(1),
        parallelism: BTreeMap::from([(uid("count"), Parallelism(shares))]),
        lineage: Lineage(1),
        restored: id(),
        history: History::Restored,
        unmatched: UnmatchedState::Refuse,
        states: states.collect(),
        splits: BTreeMap::new(),
        complete: Vec::new(),
        markers: BTreeMap::new(),
        logs: Vec::new(),
        standing: Standing::Alone,
    })
}

fn member(name: &str, slots: u32) -> Member {
    Member {
        offer: WorkerOffer {
            name: name.to_owned(),
            slots,
        },
        address: format!("{name}:1"),
        holds: None,
    }
}

fn fleet() -> Fleet {
    Fleet::new(shape(4))
}

fn shape(shares: u32) -> FleetShape {
    FleetShape {
        shares,
        sinks: BTreeMap::from([(uid("out"), Parallelism(shares))]),
    }
}

fn joined(fleet: &mut Fleet, worker: u32, slots: u32) -> Vec<FleetOutput> {
    let member = member(&format!("w{worker}"), slots);
    fleet.step(FleetInput::Joined(WorkerIndex(worker), member), PASS)
}

fn told(fleet: &mut Fleet, command: WorkerCommand) -> Vec<FleetOutput> {
    fleet.step(FleetInput::Command(command), PASS)
}

fn said(fleet: &mut Fleet, worker: u32, event: WorkerEvent) -> Vec<FleetOutput> {
    fleet.step(FleetInput::Said(WorkerIndex(worker), event), PASS)
}

fn left(fleet: &mut Fleet, worker: u32) -> Vec<FleetOutput> {
    fleet.step(
        FleetInput::Left(WorkerIndex(worker), "it is silent".to_owned()),
        PASS,
    )
}

fn leaving(fleet: &mut Fleet, worker: u32) -> Vec<FleetOutput> {
    fleet.step(FleetInput::Leaving(WorkerIndex(worker)), PASS)
}

fn reshaped(fleet: &mut Fleet, shares: u32) -> Vec<FleetOutput> {
    fleet.step(FleetInput::Shape(shape(shares)), PASS)
}

fn sent(outputs: &[FleetOutput]) -> Vec<(u32, &WorkerCommand)> {
    let sent = outputs.iter().map(|output| match output {
        FleetOutput::Send(worker, command) => (worker.0, command),
        FleetOutput::Tell(event) => panic!("{event:?} was told"),
    });
    sent.collect()
}

fn heard(outputs: &[FleetOutput]) -> Vec<&WorkerEvent> {
    let heard = outputs.iter().filter_map(|output| match output {
        FleetOutput::Tell(event) => Some(event),
        FleetOutput::Send(..) => None,
    });
    heard.collect()
}

/// Two workers with two shares each hold the attempt.
fn deployed() -> Fleet {
    let mut fleet = fleet();
    joined(&mut fleet, 0, 2);
    joined(&mut fleet, 1, 2);
    let outputs = told(&mut fleet, WorkerCommand::Prepare(deployment()));
    assert_eq!(sent(&outputs).len(), 2);
    fleet
}

fn worker_of(fleet: &Fleet, subtask: u32) -> u32 {
    fleet
        .placed(ATTEMPT)
        .unwrap()
        .placement
        .of(SubtaskIndex(subtask))
        .worker
        .0
}

#[test]
fn each_worker_is_told_its_own_part_and_who_the_others_are() {
    let mut fleet = fleet();
    joined(&mut fleet, 0, 2);
    joined(&mut fleet, 1, 2);
    let outputs = told(&mut fleet, WorkerCommand::Prepare(deployment()));
    let mut subtasks = BTreeSet::new();
    for (worker, command) in sent(&outputs) {
        let WorkerCommand::Prepare(part) = command else {
            panic!("{command:?}")
        };
        let Standing::Among(peers) = &part.standing else {
            panic!("{:?}", part.standing)
        };
        assert_eq!((peers.me.0, peers.pass), (worker, PASS));
        assert_eq!(peers.addresses.len(), 2);
        assert_eq!(part.states.len(), 2);
        for of in part.states.keys() {
            assert_eq!(part.standing.other_of(of.subtask), None);
            assert!(subtasks.insert(of.subtask));
        }
    }
    assert_eq!(subtasks.len(), 4);
}

#[test]
fn without_enough_slots_it_waits_and_says_what_is_missing() {
    let mut fleet = fleet();
    joined(&mut fleet, 0, 2);
    let outputs = told(&mut fleet, WorkerCommand::Prepare(deployment()));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::WaitsForSlots(ATTEMPT, text)] if text.contains("4 slots are needed, 2 are there")
    ));
    let outputs = joined(&mut fleet, 1, 1);
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::WaitsForSlots(ATTEMPT, text)] if text.contains("3 are there")
    ));
    let outputs = joined(&mut fleet, 2, 1);
    assert_eq!(sent(&outputs).len(), 3);
}

#[test]
fn an_attempt_that_waits_for_slots_can_be_cancelled() {
    let mut fleet = fleet();
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    let outputs = told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Cancelled(ATTEMPT)]
    ));
    assert!(joined(&mut fleet, 0, 4).is_empty());
}

#[test]
fn it_is_verified_open_and_ended_once_all_workers_say_so() {
    let mut fleet = deployed();
    let verified =
        |fetched, local| WorkerEvent::Verified(ATTEMPT, RestoredBytes { fetched, local });
    assert!(said(&mut fleet, 0, verified(1, 10)).is_empty());
    let outputs = said(&mut fleet, 1, verified(2, 20));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Verified(
            ATTEMPT,
            RestoredBytes {
                fetched: 3,
                local: 30
            }
        )]
    ));
    assert!(said(&mut fleet, 1, WorkerEvent::Opened(ATTEMPT)).is_empty());
    let outputs = said(&mut fleet, 0, WorkerEvent::Opened(ATTEMPT));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Opened(ATTEMPT)]
    ));
    let outputs = told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert_eq!(sent(&outputs).len(), 2);
    assert!(said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT)).is_empty());
    let outputs = said(&mut fleet, 1, WorkerEvent::Cancelled(ATTEMPT));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Cancelled(ATTEMPT)]
    ));
}

#[test]
fn what_concerns_one_subtask_goes_to_its_worker_alone() {
    let mut fleet = deployed();
    for subtask in 0..4 {
        let task = TaskId {
            vertex: uid("count"),
            subtask: SubtaskIndex(subtask),
        };
        let outputs = told(
            &mut fleet,
            WorkerCommand::Assign {
                attempt: ATTEMPT,
                to: task,
                splits: Vec::new(),
                complete: true,
            },
        );
        let worker = worker_of(&fleet, subtask);
        assert!(matches!(sent(&outputs)[..], [(to, _)] if to == worker));
        // A slot that is not used any more belongs to the share that it falls on.
        for slot in [subtask, subtask + 4] {
            let slot = SlotKey {
                sink: uid("out"),
                slot,
            };
            let outputs = told(&mut fleet, WorkerCommand::Commit(ATTEMPT, slot, id()));
            assert!(matches!(sent(&outputs)[..], [(to, _)] if to == worker));
        }
    }
}

#[test]
fn duties_go_to_the_worker_of_their_task_and_the_others_are_told_that_they_have_none() {
    let mut fleet = deployed();
    let duty = SlotDuty {
        slot: SlotKey {
            sink: uid("out"),
            slot: 5,
        },
        task: TaskId {
            vertex: uid("out"),
            subtask: SubtaskIndex(1),
        },
        id: id(),
        log: Vec::new(),
        from: 0,
        purpose: Purpose::Confirm,
    };
    let outputs = told(&mut fleet, WorkerCommand::Confirm(ATTEMPT, vec![duty]));
    let counts: BTreeMap<u32, usize> = sent(&outputs)
        .into_iter()
        .map(|(worker, command)| match command {
            WorkerCommand::Confirm(_, duties) => (worker, duties.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts[&worker_of(&fleet, 1)], 1);
    assert_eq!(counts.values().sum::<usize>(), 1);
    assert_eq!(counts.len(), 2);
}

#[test]
fn a_lost_worker_fails_the_attempt_once_and_its_end_is_not_waited_for() {
    let mut fleet = deployed();
    let outputs = left(&mut fleet, 1);
    let [WorkerEvent::Failed(ATTEMPT, report)] = heard(&outputs)[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(report.worker.as_deref(), Some("1 (w1)"), "{report:?}");
    assert_eq!(report.kind, ErrorKind::Transient);
    assert!(report.message.contains("it is silent"));
    let follows = WorkerEvent::Failed(ATTEMPT, report.clone());
    assert!(
        said(&mut fleet, 0, follows).is_empty(),
        "the link was lost with it"
    );
    let outputs = told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert!(matches!(sent(&outputs)[..], [(0, _)]));
    let outputs = said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Cancelled(ATTEMPT)]
    ));
}

#[test]
fn a_worker_that_is_lost_while_the_attempt_ends_is_not_waited_for_either() {
    let mut fleet = deployed();
    told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert!(said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT)).is_empty());
    let outputs = left(&mut fleet, 1);
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Cancelled(ATTEMPT)]
    ));
}

#[test]
fn all_workers_lost_ends_the_attempt_as_soon_as_it_is_cancelled() {
    let mut fleet = deployed();
    assert_eq!(left(&mut fleet, 0).len(), 1);
    assert!(left(&mut fleet, 1).is_empty());
    let outputs = told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Cancelled(ATTEMPT)]
    ));
}

#[test]
fn a_worker_without_a_share_comes_and_goes_unnoticed() {
    let mut fleet = deployed();
    assert!(joined(&mut fleet, 2, 4).is_empty());
    assert!(left(&mut fleet, 2).is_empty());
    assert!(said(&mut fleet, 2, WorkerEvent::Opened(ATTEMPT)).is_empty());
}

#[test]
fn the_next_attempt_goes_back_to_where_the_state_lies() {
    let mut fleet = deployed();
    let had: Vec<_> = (0..4).map(|subtask| worker_of(&fleet, subtask)).collect();
    left(&mut fleet, 1);
    told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT));
    // The process comes back under a new number and its old name.
    let again = FleetInput::Joined(WorkerIndex(7), member("w1", 2));
    fleet.step(again, PASS);
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    let has: Vec<_> = (0..4).map(|subtask| worker_of(&fleet, subtask)).collect();
    let expected: Vec<_> = had
        .iter()
        .map(|worker| if *worker == 1 { 7 } else { 0 })
        .collect();
    assert_eq!(has, expected);
}

#[test]
fn events_of_another_attempt_or_of_no_worker_are_dropped() {
    let mut fleet = deployed();
    let other = WorkerEvent::Opened(AttemptId(3));
    assert!(said(&mut fleet, 0, other).is_empty());
    assert!(said(&mut fleet, 9, WorkerEvent::Opened(ATTEMPT)).is_empty());
}

/// A worker comes that holds the attempt for an older leader, in which it has the number `was`.
fn comes_holding(fleet: &mut Fleet, worker: u32, was: u32) -> Vec<FleetOutput> {
    let holds = Some(HeldPart {
        attempt: ATTEMPT,
        worker: WorkerIndex(was),
    });
    let member = Member {
        holds,
        ..member(&format!("w{worker}"), 2)
    };
    fleet.step(FleetInput::Joined(WorkerIndex(worker), member), PASS)
}

fn adopt() -> WorkerCommand {
    WorkerCommand::Adopt(ATTEMPT, Epoch(2), id())
}

/// What a worker reports: the placement is that of two workers with two slots each.
fn reported() -> WorkerEvent {
    let placement = deployed().placed(ATTEMPT).unwrap().placement.clone();
    let news = AttemptNews {
        tasks: Vec::new(),
        begun: BTreeSet::new(),
        placement,
    };
    WorkerEvent::Reported(ATTEMPT, Box::new(news))
}

/// Two workers hold the attempt for an older leader, and have reported.
fn asked() -> Fleet {
    let mut fleet = fleet();
    assert!(comes_holding(&mut fleet, 0, 0).is_empty());
    let outputs = told(&mut fleet, WorkerCommand::Report(Epoch(2)));
    assert!(matches!(
        outputs[..],
        [
            FleetOutput::Send(WorkerIndex(0), WorkerCommand::Report(Epoch(2))),
            FleetOutput::Tell(WorkerEvent::AllFree(false))
        ]
    ));
    let outputs = comes_holding(&mut fleet, 1, 1);
    assert!(matches!(
        outputs[0],
        FleetOutput::Send(WorkerIndex(1), WorkerCommand::Report(Epoch(2)))
    ));
    for worker in [0, 1] {
        let outputs = said(&mut fleet, worker, reported());
        assert!(matches!(
            heard(&outputs)[..],
            [WorkerEvent::Reported(ATTEMPT, _)]
        ));
    }
    fleet
}

#[test]
fn an_attempt_that_is_adopted_is_commanded_as_one_that_was_placed() {
    let mut fleet = asked();
    let outputs = told(&mut fleet, adopt());
    assert!(matches!(
        sent(&outputs)[..],
        [(0, WorkerCommand::Adopt(..)), (1, WorkerCommand::Adopt(..))]
    ));
    let outputs = told(&mut fleet, WorkerCommand::Completed(ATTEMPT, id()));
    assert_eq!(sent(&outputs).len(), 2);
    let outputs = said(&mut fleet, 1, WorkerEvent::RequestCheckpoint(ATTEMPT));
    assert_eq!(heard(&outputs).len(), 1);
    let outputs = left(&mut fleet, 1);
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Failed(ATTEMPT, _)]
    ));
}

#[test]
fn what_happens_between_report_and_decision_is_told() {
    let mut fleet = asked();
    let task = TaskId {
        vertex: uid("count"),
        subtask: SubtaskIndex(0),
    };
    let outputs = said(&mut fleet, 0, WorkerEvent::InputEnded(ATTEMPT, task));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::InputEnded(ATTEMPT, _)]
    ));
}

#[test]
fn a_worker_that_left_before_its_attempt_was_adopted_fails_it() {
    let mut fleet = asked();
    left(&mut fleet, 1);
    let outputs = told(&mut fleet, adopt());
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Failed(ATTEMPT, _)]
    ));
    let outputs = told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert!(matches!(sent(&outputs)[..], [(0, _)]), "{outputs:?}");
    let outputs = said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT));
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Cancelled(ATTEMPT)]
    ));
}

#[test]
fn an_attempt_that_nobody_reported_is_not_adopted() {
    let mut fleet = fleet();
    told(&mut fleet, WorkerCommand::Report(Epoch(2)));
    let outputs = told(&mut fleet, adopt());
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::Failed(ATTEMPT, _)]
    ));
}

#[test]
fn workers_that_hold_an_attempt_get_the_next_one_once_theirs_has_ended() {
    let mut fleet = asked();
    let next = AttemptId(9);
    let deployment = Box::new(Deployment {
        attempt: next,
        ..*deployment()
    });
    let outputs = told(&mut fleet, WorkerCommand::Prepare(deployment));
    let ended = outputs
        .iter()
        .filter(|one| matches!(one, FleetOutput::Send(_, WorkerCommand::Cancel(ATTEMPT))));
    assert_eq!(ended.count(), 2);
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::WaitsForSlots(..)]
    ));
    let outputs = said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT));
    assert!(sent_none(&outputs), "{outputs:?}");
    let outputs = said(&mut fleet, 1, WorkerEvent::Cancelled(ATTEMPT));
    assert_eq!(sent(&outputs).len(), 2);
    // One that comes late with the old attempt ends it, and is free then.
    let outputs = comes_holding(&mut fleet, 5, 0);
    assert!(matches!(
        sent(&outputs)[..],
        [(5, WorkerCommand::Cancel(ATTEMPT))]
    ));
}

fn sent_none(outputs: &[FleetOutput]) -> bool {
    let mut outputs = outputs.iter();
    outputs.all(|output| matches!(output, FleetOutput::Tell(_)))
}

#[test]
fn a_worker_whose_number_another_has_cannot_be_adopted() {
    let mut fleet = fleet();
    told(&mut fleet, WorkerCommand::Report(Epoch(2)));
    let outputs = comes_holding(&mut fleet, 3, 0);
    assert!(matches!(
        sent(&outputs)[..],
        [(3, WorkerCommand::Cancel(ATTEMPT))]
    ));
}

#[test]
fn a_leader_hears_when_all_are_free_and_enough() {
    let mut fleet = fleet();
    let outputs = told(&mut fleet, WorkerCommand::Report(Epoch(2)));
    assert!(matches!(heard(&outputs)[..], [WorkerEvent::AllFree(false)]));
    let outputs = joined(&mut fleet, 0, 4);
    assert!(matches!(heard(&outputs)[..], [WorkerEvent::AllFree(true)]));
    let outputs = comes_holding(&mut fleet, 1, 1);
    assert!(matches!(heard(&outputs)[..], [WorkerEvent::AllFree(false)]));
    let outputs = left(&mut fleet, 1);
    assert!(matches!(heard(&outputs)[..], [WorkerEvent::AllFree(true)]));
}

#[test]
fn duties_that_are_told_while_an_attempt_waits_for_slots_are_not_forgotten() {
    let mut fleet = fleet();
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    let confirm = WorkerCommand::Confirm(ATTEMPT, Vec::new());
    assert!(told(&mut fleet, confirm).is_empty());
    let outputs = joined(&mut fleet, 0, 4);
    assert!(matches!(
        sent(&outputs)[..],
        [
            (0, WorkerCommand::Prepare(_)),
            (0, WorkerCommand::Confirm(ATTEMPT, _))
        ]
    ));
}

#[test]
fn an_attempt_that_is_not_the_one_that_was_reported_ends_like_the_others() {
    let mut fleet = asked();
    let other = WorkerCommand::Adopt(AttemptId(3), Epoch(2), id());
    let outputs = told(&mut fleet, other);
    let ended = outputs
        .iter()
        .filter(|one| matches!(one, FleetOutput::Send(_, WorkerCommand::Cancel(ATTEMPT))));
    assert_eq!(ended.count(), 2);
}

/// The worker of each share.
fn places(fleet: &Fleet) -> Vec<u32> {
    let placed = fleet.placed(ATTEMPT).unwrap();
    placed
        .placement
        .shares()
        .map(|place| place.worker.0)
        .collect()
}

/// The attempt ends on all workers that have it.
fn ended(fleet: &mut Fleet) {
    told(fleet, WorkerCommand::Cancel(ATTEMPT));
    let on = fleet.placed(ATTEMPT).map(|placed| placed.on.clone());
    for worker in on.into_iter().flatten() {
        said(fleet, worker.0, WorkerEvent::Cancelled(ATTEMPT));
    }
    assert!(fleet.held.is_none());
}

#[test]
fn shares_of_a_job_that_is_rescaled_go_to_where_their_key_groups_lie() {
    let mut fleet = fleet();
    joined(&mut fleet, 0, 4);
    joined(&mut fleet, 1, 4);
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    assert_eq!(places(&fleet), [0, 0, 1, 1]);
    for (shares, expected) in [
        (8, vec![0, 0, 0, 0, 1, 1, 1, 1]),
        (2, vec![0, 1]),
        (3, vec![0, 0, 1]),
        (4, vec![0, 0, 1, 1]),
    ] {
        ended(&mut fleet);
        assert!(reshaped(&mut fleet, shares).is_empty());
        let outputs = told(&mut fleet, WorkerCommand::Prepare(deployment_at(shares)));
        assert_eq!(sent(&outputs).len(), 2);
        assert_eq!(places(&fleet), expected, "{shares}");
    }
}

#[test]
fn names_are_stretched_to_whoever_had_most_of_the_key_groups_of_each_share() {
    let names: Vec<_> = ["a", "b", "c", "d"].map(str::to_owned).into();
    assert_eq!(stretched(&names, 4), names);
    assert_eq!(stretched(&names, 2), ["a", "c"]);
    assert_eq!(stretched(&names, 1), ["a"]);
    assert_eq!(stretched(&names, 6), ["a", "a", "b", "c", "c", "d"]);
    assert_eq!(stretched(&names, 3), ["a", "b", "d"]);
    assert_eq!(stretched(&names[..3], 2), ["a", "c"]);
    assert_eq!(stretched(&names[..3], 4), ["a", "b", "b", "c"]);
    assert!(stretched(&[], 3).is_empty());
}

#[test]
fn an_attempt_keeps_the_shape_with_which_it_was_prepared() {
    let mut fleet = deployed();
    reshaped(&mut fleet, 2);
    let slot = SlotKey {
        sink: uid("out"),
        slot: 3,
    };
    let outputs = told(&mut fleet, WorkerCommand::Commit(ATTEMPT, slot, id()));
    let worker = worker_of(&fleet, 3);
    assert!(matches!(sent(&outputs)[..], [(to, _)] if to == worker));
    // One that still waits as well.
    let mut fleet = Fleet::new(shape(4));
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    reshaped(&mut fleet, 1);
    let outputs = joined(&mut fleet, 0, 1);
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::WaitsForSlots(ATTEMPT, text)] if text.contains("4 slots are needed")
    ));
    let outputs = joined(&mut fleet, 1, 3);
    assert_eq!(sent(&outputs).len(), 2);
    assert_eq!(places(&fleet).len(), 4);
}

#[test]
fn a_worker_that_leaves_ends_once_its_part_has_and_gets_no_share_again() {
    let mut fleet = deployed();
    assert!(leaving(&mut fleet, 1).is_empty(), "it has tasks");
    assert!(leaving(&mut fleet, 1).is_empty(), "it is known");
    let seen = fleet.seen();
    let leave: Vec<_> = seen.iter().map(|seen| seen.is_leaving).collect();
    assert_eq!(leave, [false, true]);
    assert_eq!(seen[1].subtasks.len(), 2, "it works on");
    assert!(joined(&mut fleet, 2, 2).is_empty());
    told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    let outputs = said(&mut fleet, 1, WorkerEvent::Cancelled(ATTEMPT));
    assert!(matches!(sent(&outputs)[..], [(1, WorkerCommand::Shutdown)]));
    let outputs = said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT));
    assert!(matches!(
        outputs[..],
        [FleetOutput::Tell(WorkerEvent::Cancelled(ATTEMPT))]
    ));
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    assert_eq!(places(&fleet), [0, 0, 2, 2]);
    // That it ends is no loss, and what it still says concerns nobody.
    assert!(fleet.is_dismissed(WorkerIndex(1)));
    assert!(said(&mut fleet, 1, WorkerEvent::Opened(ATTEMPT)).is_empty());
    assert!(left(&mut fleet, 1).is_empty());
    assert!(!fleet.is_dismissed(WorkerIndex(1)));
}

#[test]
fn a_worker_that_leaves_and_runs_nothing_ends_at_once() {
    let ends_at_once = |outputs: &[FleetOutput], worker: u32| {
        let sent = sent(outputs);
        assert!(
            matches!(sent[..], [(to, WorkerCommand::Shutdown)] if to == worker),
            "{sent:?}"
        );
    };
    let mut fleet = fleet();
    joined(&mut fleet, 0, 2);
    ends_at_once(&leaving(&mut fleet, 0), 0);
    assert!(leaving(&mut fleet, 7).is_empty(), "there is no such worker");
    // While an attempt waits for slots it has no share either.
    let mut fleet = Fleet::new(shape(4));
    joined(&mut fleet, 0, 2);
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    ends_at_once(&leaving(&mut fleet, 0), 0);
    let outputs = joined(&mut fleet, 1, 2);
    assert!(matches!(
        heard(&outputs)[..],
        [WorkerEvent::WaitsForSlots(ATTEMPT, text)] if text.contains("2 are there on 1 workers")
    ));
    joined(&mut fleet, 2, 2);
    assert_eq!(places(&fleet), [1, 1, 2, 2]);
    // And where another worker runs the attempt.
    joined(&mut fleet, 3, 2);
    ends_at_once(&leaving(&mut fleet, 3), 3);
    // Its part has ended before that of another.
    told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert!(said(&mut fleet, 1, WorkerEvent::Cancelled(ATTEMPT)).is_empty());
    ends_at_once(&leaving(&mut fleet, 1), 1);
}

#[test]
fn a_worker_that_leaves_an_attempt_that_ends_anyway_waits_for_that_and_is_not_told_of() {
    let shut_down = |outputs: &[FleetOutput]| {
        matches!(
            outputs,
            [FleetOutput::Send(WorkerIndex(1), WorkerCommand::Shutdown)]
        )
    };
    let mut fleet = deployed();
    told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    assert!(leaving(&mut fleet, 1).is_empty());
    assert!(shut_down(&said(
        &mut fleet,
        1,
        WorkerEvent::Cancelled(ATTEMPT)
    )));
    let mut fleet = deployed();
    left(&mut fleet, 0);
    assert!(leaving(&mut fleet, 1).is_empty(), "it has failed");
    told(&mut fleet, WorkerCommand::Cancel(ATTEMPT));
    let outputs = said(&mut fleet, 1, WorkerEvent::Cancelled(ATTEMPT));
    assert!(matches!(
        outputs[..],
        [
            FleetOutput::Tell(WorkerEvent::Cancelled(ATTEMPT)),
            FleetOutput::Send(WorkerIndex(1), WorkerCommand::Shutdown)
        ]
    ));
}

#[test]
fn a_worker_that_leaves_and_dies_first_is_lost_and_may_come_again() {
    let mut fleet = deployed();
    leaving(&mut fleet, 1);
    assert!(!fleet.is_dismissed(WorkerIndex(1)));
    let outputs = left(&mut fleet, 1);
    assert!(matches!(
        outputs[..],
        [FleetOutput::Tell(WorkerEvent::Failed(ATTEMPT, _))]
    ));
    ended(&mut fleet);
    assert!(joined(&mut fleet, 1, 2).is_empty());
    told(&mut fleet, WorkerCommand::Prepare(deployment()));
    assert_eq!(places(&fleet), [0, 0, 1, 1]);
}

#[test]
fn a_worker_that_leaves_with_the_attempt_of_an_older_leader_leaves_tasks_once_that_is_adopted() {
    let mut fleet = asked();
    let outputs = leaving(&mut fleet, 1);
    assert!(matches!(
        outputs[..],
        [FleetOutput::Tell(WorkerEvent::AllFree(false))]
    ));
    let outputs = told(&mut fleet, adopt());
    assert!(matches!(
        outputs[..],
        [
            FleetOutput::Send(WorkerIndex(0), WorkerCommand::Adopt(..)),
            FleetOutput::Send(WorkerIndex(1), WorkerCommand::Adopt(..))
        ]
    ));
    let seen = &fleet.seen()[1];
    assert!(seen.is_leaving && !seen.subtasks.is_empty(), "{seen:?}");
}

#[test]
fn a_worker_that_leaves_with_the_attempt_of_an_older_leader_ends_when_that_has_ended() {
    let mut fleet = asked();
    leaving(&mut fleet, 1);
    let deployment = Box::new(Deployment {
        attempt: AttemptId(9),
        ..*deployment()
    });
    told(&mut fleet, WorkerCommand::Prepare(deployment));
    let outputs = said(&mut fleet, 1, WorkerEvent::Cancelled(ATTEMPT));
    assert!(matches!(
        outputs[..],
        [
            FleetOutput::Tell(WorkerEvent::WaitsForSlots(AttemptId(9), _)),
            FleetOutput::Send(WorkerIndex(1), WorkerCommand::Shutdown)
        ]
    ));
    let outputs = said(&mut fleet, 0, WorkerEvent::Cancelled(ATTEMPT));
    assert!(sent_none(&outputs), "{outputs:?}");
    let outputs = joined(&mut fleet, 2, 2);
    let to: Vec<_> = sent(&outputs).into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, [0, 2]);
}

#[test]
fn a_leader_hears_that_there_are_not_enough_any_more() {
    let mut fleet = fleet();
    told(&mut fleet, WorkerCommand::Report(Epoch(2)));
    joined(&mut fleet, 0, 4);
    let outputs = leaving(&mut fleet, 0);
    assert!(matches!(
        outputs[..],
        [
            FleetOutput::Tell(WorkerEvent::AllFree(false)),
            FleetOutput::Send(WorkerIndex(0), WorkerCommand::Shutdown)
        ]
    ));
    let outputs = joined(&mut fleet, 1, 2);
    assert!(matches!(heard(&outputs)[..], [WorkerEvent::AllFree(false)]));
    let outputs = reshaped(&mut fleet, 2);
    assert!(matches!(heard(&outputs)[..], [WorkerEvent::AllFree(true)]));
}

//! Several candidates over one simulated store, whose answers are late, lost or wrong.

use std::collections::VecDeque;
use std::sync::Arc;

use highwater_types::ErrorKind;
use proptest::prelude::*;

use super::*;

const DURATION: u64 = 1_000;

fn candidate(number: u64) -> Candidate {
    Candidate {
        name: format!("c{number}"),
        address: format!("127.0.0.1:{number}"),
        status: format!("127.0.0.2:{number}"),
        process: Nonce(u128::from(number) + 1),
        about_others: AboutOthers::Wait,
        begins: false,
        found_ended: None,
    }
}

fn election(number: u64) -> Election {
    Election::new(candidate(number), DURATION)
}

/// The object, with a tag that counts its writes.
#[derive(Clone, Debug, Default)]
struct Store {
    held: Option<LeaseRecord>,
    writes: u64,
}

impl Store {
    fn tag(&self) -> VersionTag {
        VersionTag(Arc::from(self.writes.to_string()))
    }

    fn read(&self) -> LeaseRead {
        let found = |record: &LeaseRecord| LeaseRead::Found(record.clone(), self.tag());
        self.held.as_ref().map_or(LeaseRead::Absent, found)
    }

    fn write(&mut self, record: LeaseRecord, if_match: Option<&VersionTag>) -> PutOutcome {
        let own = self.held.is_some().then(|| self.tag());
        if own.as_ref() != if_match {
            return PutOutcome::Precondition;
        }
        self.held = Some(record);
        self.writes += 1;
        PutOutcome::Applied(self.tag())
    }

    /// Performs effects and what follows from them; returns what is not for the store.
    fn perform(
        &mut self,
        election: &mut Election,
        now: u64,
        first: ElectionEvent,
    ) -> Vec<ElectionEffect> {
        let (mut told, mut effects) = (Vec::new(), VecDeque::from(election.step(now, first)));
        while let Some(effect) = effects.pop_front() {
            let event = match effect {
                ElectionEffect::Read => ElectionEvent::Read(self.read()),
                ElectionEffect::Write { record, if_match } => {
                    ElectionEvent::Written(self.write(record, if_match.as_ref()))
                }
                other => {
                    told.push(other);
                    continue;
                }
            };
            effects.extend(election.step(now, event));
        }
        told
    }
}

/// Ticks until nothing is due at or before `until`.
fn run_until(store: &mut Store, election: &mut Election, until: u64) -> Vec<ElectionEffect> {
    let mut told = Vec::new();
    while let Some(at) = election.wake_at().filter(|at| *at <= until) {
        told.extend(store.perform(election, at, ElectionEvent::Tick));
    }
    told
}

#[test]
fn the_first_leads_and_the_second_waits_for_a_whole_duration_after_its_last_renewal() {
    let (mut store, mut one, mut two) = (Store::default(), election(1), election(2));
    assert_eq!(run_until(&mut store, &mut one, 0), [ElectionEffect::Lead]);
    let follows = run_until(&mut store, &mut two, 0);
    assert!(
        matches!(&follows[..], [ElectionEffect::Follow(Some(record))] if record.holder == "c1")
    );
    for now in 1..10 * DURATION {
        assert!(run_until(&mut store, &mut one, now).is_empty());
        assert!(run_until(&mut store, &mut two, now).is_empty(), "at {now}");
    }
    // The first is gone.
    let gone = 10 * DURATION;
    let led = (gone..gone + 10 * DURATION)
        .find(|now| run_until(&mut store, &mut two, *now) == [ElectionEffect::Lead]);
    let waited = led.unwrap() - gone;
    assert!(
        (DURATION - DURATION / 4..=2 * DURATION).contains(&waited),
        "{waited}"
    );
    // The first comes back.
    let lost = run_until(&mut store, &mut one, gone + 3 * DURATION);
    assert_eq!(lost, [ElectionEffect::Lost("c2".to_owned())]);
    assert_eq!(one.wake_at(), None);
}

/// Another process that wants the lease.
fn other(name: u64, about_others: AboutOthers) -> Election {
    let me = Candidate {
        process: Nonce(99),
        about_others,
        ..candidate(name)
    };
    Election::new(me, DURATION)
}

#[test]
fn a_successor_of_the_same_name_waits_for_half_of_the_time_and_for_one_that_lives() {
    let (mut store, mut one) = (Store::default(), election(1));
    run_until(&mut store, &mut one, 0);
    let mut again = other(1, AboutOthers::Wait);
    for now in 0..3 * DURATION {
        run_until(&mut store, &mut one, now);
        assert!(!run_until(&mut store, &mut again, now).contains(&ElectionEffect::Lead));
    }
    let gone = 3 * DURATION;
    let led = (gone..gone + 10 * DURATION)
        .find(|now| run_until(&mut store, &mut again, *now) == [ElectionEffect::Lead]);
    assert!(led.unwrap() - gone <= DURATION / 2);
}

#[test]
fn one_that_is_told_to_take_over_does_not_wait() {
    let (mut store, mut one) = (Store::default(), election(1));
    let mut two = other(2, AboutOthers::TakeOver);
    run_until(&mut store, &mut one, 0);
    assert_eq!(run_until(&mut store, &mut two, 1), [ElectionEffect::Lead]);
    let lost = run_until(&mut store, &mut one, DURATION);
    assert_eq!(lost, [ElectionEffect::Lost("c2".to_owned())]);
}

#[test]
fn one_that_begins_something_does_not_do_it_behind_the_back_of_another() {
    let (mut store, mut one) = (Store::default(), election(1));
    run_until(&mut store, &mut one, 0);
    let refused = run_until(&mut store, &mut other(1, AboutOthers::Refuse), 1);
    assert!(matches!(&refused[..], [ElectionEffect::Occupied(record)] if record.holder == "c1"));
    store.perform(&mut one, 5, ElectionEvent::Leave(LeaseState::Released));
    let led = run_until(&mut store, &mut other(2, AboutOthers::Refuse), 6);
    assert_eq!(led, [ElectionEffect::Lead]);
}

#[test]
fn what_a_leader_was_told_to_begin_with_is_remembered_until_the_job_has_ended() {
    let begins = Candidate {
        begins: true,
        ..candidate(1)
    };
    let (mut store, mut one) = (Store::default(), Election::new(begins, DURATION));
    run_until(&mut store, &mut one, 0);
    assert!(!one.mandate().only_goes_on);
    // It dies; its follower fails, and comes again.
    let mut two = other(2, AboutOthers::TakeOver);
    run_until(&mut store, &mut two, 1);
    assert!(two.mandate().only_goes_on);
    store.perform(&mut two, 2, ElectionEvent::Leave(LeaseState::Released));
    let mut again = election(2);
    assert_eq!(run_until(&mut store, &mut again, 3), [ElectionEffect::Lead]);
    assert!(again.mandate().only_goes_on);
    let ended = LeaseState::Ended("finished".to_owned());
    store.perform(&mut again, 4, ElectionEvent::Leave(ended));
    let mut later = election(3);
    assert_eq!(run_until(&mut store, &mut later, 5), [ElectionEffect::Lead]);
    assert!(!later.mandate().only_goes_on);
}

#[test]
fn the_end_of_a_job_ends_those_who_wait_and_nobody_who_comes_later() {
    let (mut store, mut one, mut two) = (Store::default(), election(1), election(2));
    run_until(&mut store, &mut one, 0);
    run_until(&mut store, &mut two, 0);
    let ended = ElectionEvent::Leave(LeaseState::Ended("stopped".to_owned()));
    assert_eq!(store.perform(&mut one, 5, ended), [ElectionEffect::Over]);
    let told = run_until(&mut store, &mut two, DURATION);
    assert_eq!(told, [ElectionEffect::NothingToLead("stopped".to_owned())]);
    let mut three = election(3);
    assert_eq!(
        run_until(&mut store, &mut three, DURATION),
        [ElectionEffect::Lead]
    );
}

/// `head` said that the job has ended in this epoch when a process was started.
const END: Option<Epoch> = Some(Epoch(3));

/// A process that was started when `head` said so.
fn after_end(number: u64) -> Election {
    Election::new(
        Candidate {
            found_ended: END,
            ..candidate(number)
        },
        DURATION,
    )
}

/// A store whose lease was left like this, with the wish that it has then.
fn left(state: LeaseState, goes_past: Option<Epoch>) -> Store {
    let (mut store, mut one) = (Store::default(), election(1));
    run_until(&mut store, &mut one, 0);
    store.perform(&mut one, 1, ElectionEvent::Leave(state));
    store.held.as_mut().unwrap().goes_past = goes_past;
    store
}

fn ended() -> LeaseState {
    LeaseState::Ended("stopped".to_owned())
}

fn leads(store: &mut Store, election: &mut Election, now: u64) {
    assert_eq!(run_until(store, election, now), [ElectionEffect::Lead]);
}

#[test]
fn an_end_is_gone_past_by_who_is_started_where_the_lease_says_it_or_where_there_is_none() {
    for mut store in [Store::default(), left(ended(), None)] {
        let mut one = after_end(2);
        leads(&mut store, &mut one, 2);
        assert_eq!(one.mandate().goes_past, END);
        assert_eq!(store.held.unwrap().goes_past, END, "it is durable");
    }
    let mut store = left(LeaseState::Released, None);
    let mut two = after_end(2);
    leads(&mut store, &mut two, 2);
    assert_eq!(two.mandate().goes_past, None, "nobody said so");
}

#[test]
fn who_takes_the_lease_over_goes_past_the_end_and_one_that_waited_does_not() {
    let (mut store, mut one) = (Store::default(), election(1));
    run_until(&mut store, &mut one, 0);
    let mut waits = after_end(2);
    run_until(&mut store, &mut waits, 0);
    let led = (1..10 * DURATION)
        .find(|now| run_until(&mut store, &mut waits, *now) == [ElectionEffect::Lead]);
    assert!(led.is_some());
    assert_eq!(waits.mandate().goes_past, None);
    let mut takes = Election::new(
        Candidate {
            found_ended: END,
            process: Nonce(99),
            about_others: AboutOthers::TakeOver,
            ..candidate(3)
        },
        DURATION,
    );
    leads(&mut store, &mut takes, 10 * DURATION);
    assert_eq!(takes.mandate().goes_past, END);
}

#[test]
fn who_follows_one_that_was_to_begin_anew_does_not_go_on_with_the_job_that_has_ended() {
    let mut store = left(ended(), None);
    let begins = Candidate {
        begins: true,
        about_others: AboutOthers::Refuse,
        found_ended: END,
        ..candidate(2)
    };
    let mut one = Election::new(begins, DURATION);
    leads(&mut store, &mut one, 2);
    assert_eq!(one.mandate().goes_past, END, "it may");
    // It fails before it has begun: what was there is what somebody wanted gone.
    store.perform(&mut one, 3, ElectionEvent::Leave(LeaseState::Released));
    let mut two = election(3);
    leads(&mut store, &mut two, 4);
    assert_eq!(two.mandate().goes_past, None);
    assert!(two.mandate().only_goes_on);
}

#[test]
fn a_wish_to_go_past_an_end_is_inherited_until_head_is_taken() {
    let mut store = left(ended(), None);
    let mut one = after_end(2);
    leads(&mut store, &mut one, 2);
    // Its start fails before it has taken `head`. So does that of the next one, which nobody told anything.
    store.perform(&mut one, 3, ElectionEvent::Leave(LeaseState::Released));
    let mut two = election(3);
    leads(&mut store, &mut two, 4);
    assert_eq!(two.mandate().goes_past, END);
    // It dies.
    let mut three = other(4, AboutOthers::Wait);
    let led = (5..10 * DURATION)
        .find(|now| run_until(&mut store, &mut three, *now) == [ElectionEffect::Lead]);
    let now = led.unwrap();
    assert_eq!(three.mandate().goes_past, END);
    assert!(
        store
            .perform(&mut three, now, ElectionEvent::Leads)
            .is_empty()
    );
    assert!(run_until(&mut store, &mut three, now + DURATION).is_empty());
    assert_eq!(store.held.as_ref().unwrap().goes_past, None, "it is done");
    let released = ElectionEvent::Leave(LeaseState::Released);
    store.perform(&mut three, now + DURATION, released);
    let mut four = election(5);
    leads(&mut store, &mut four, now + DURATION);
    assert_eq!(four.mandate().goes_past, None);
}

#[test]
fn the_newer_of_two_ends_is_gone_past_and_an_end_drops_the_wish() {
    let mut store = left(ended(), Some(Epoch(9)));
    let mut one = after_end(2);
    leads(&mut store, &mut one, 2);
    assert_eq!(
        one.mandate().goes_past,
        END,
        "what was wished before it is over"
    );
    store.perform(&mut one, 3, ElectionEvent::Leave(ended()));
    assert_eq!(store.held.unwrap().goes_past, None);
    let mut store = left(LeaseState::Released, Some(Epoch(9)));
    let mut takes = Election::new(
        Candidate {
            found_ended: END,
            about_others: AboutOthers::TakeOver,
            ..candidate(2)
        },
        DURATION,
    );
    leads(&mut store, &mut takes, 2);
    assert_eq!(takes.mandate().goes_past, Some(Epoch(9)));
}

#[test]
fn one_that_lost_a_race_for_a_released_lease_does_not_go_on_with_the_job_that_has_ended_since() {
    for mut store in [Store::default(), left(LeaseState::Released, None)] {
        let (mut fast, mut slow) = (after_end(2), after_end(3));
        let read = ElectionEvent::Read(store.read());
        assert_eq!(slow.step(2, ElectionEvent::Tick), [ElectionEffect::Read]);
        let claim = slow.step(2, read);
        let [ElectionEffect::Write { record, if_match }] = &claim[..] else {
            panic!("{claim:?}")
        };
        leads(&mut store, &mut fast, 2);
        // It finds the job ended, and says so before the other looks again.
        store.perform(&mut fast, 3, ElectionEvent::Leave(ended()));
        let written = store.write(record.clone(), if_match.as_ref());
        assert_eq!(written, PutOutcome::Precondition);
        let told = store.perform(&mut slow, 4, ElectionEvent::Written(written));
        assert_eq!(told, [ElectionEffect::NothingToLead("stopped".to_owned())]);
    }
}

#[test]
fn a_record_of_an_older_version_wishes_nothing() {
    let old = r#"{"holder":"c1","address":"a:1","status":"http://a:2","process":"00000000000000000000000000000007","turn":4,
        "duration_ms":1000,"begins":false,"state":"released"}"#;
    let record: LeaseRecord = serde_json::from_str(old).unwrap();
    assert_eq!(record.goes_past, None);
    let text = serde_json::to_string(&record).unwrap();
    assert!(!text.contains("goes_past"), "as it was: {text}");
    let wished = LeaseRecord {
        goes_past: END,
        ..record
    };
    let text = serde_json::to_string(&wished).unwrap();
    assert!(text.contains("\"goes_past\":3"), "{text}");
    assert_eq!(serde_json::from_str::<LeaseRecord>(&text).unwrap(), wished);
}

#[test]
fn a_lease_that_is_released_is_taken_at_the_next_look() {
    let (mut store, mut one, mut two) = (Store::default(), election(1), election(2));
    run_until(&mut store, &mut one, 0);
    run_until(&mut store, &mut two, 0);
    let released = ElectionEvent::Leave(LeaseState::Released);
    assert_eq!(store.perform(&mut one, 5, released), [ElectionEffect::Over]);
    assert_eq!(
        run_until(&mut store, &mut two, DURATION / 4),
        [ElectionEffect::Lead]
    );
}

#[test]
fn an_end_that_comes_while_a_renewal_is_on_its_way_is_told_by_the_next_write() {
    let (mut store, mut one) = (Store::default(), election(1));
    run_until(&mut store, &mut one, 0);
    let renewal = one.step(DURATION, ElectionEvent::Tick);
    let [ElectionEffect::Write { record, if_match }] = &renewal[..] else {
        panic!("{renewal:?}")
    };
    let ended = LeaseState::Ended("done".to_owned());
    assert!(
        one.step(DURATION, ElectionEvent::Leave(ended.clone()))
            .is_empty()
    );
    let written = store.write(record.clone(), if_match.as_ref());
    let told = store.perform(&mut one, DURATION, ElectionEvent::Written(written));
    assert_eq!(told, [ElectionEffect::Over]);
    assert_eq!(store.held.unwrap().state, ended);
}

#[test]
fn an_answer_that_took_too_long_makes_nobody_a_leader() {
    let (mut store, mut one, mut two) = (Store::default(), election(1), election(2));
    one.step(0, ElectionEvent::Tick);
    let claim = one.step(0, ElectionEvent::Read(LeaseRead::Absent));
    let [ElectionEffect::Write { record, if_match }] = &claim[..] else {
        panic!("{claim:?}")
    };
    let written = store.write(record.clone(), if_match.as_ref());
    // It is frozen, and the other waits for the duration.
    for now in 0..=DURATION {
        run_until(&mut store, &mut two, now);
    }
    assert_eq!(store.held.as_ref().unwrap().holder, "c2");
    let late = store.perform(&mut one, DURATION + 1, ElectionEvent::Written(written));
    assert!(late.is_empty(), "{late:?}");
    let told = run_until(&mut store, &mut one, 2 * DURATION);
    assert!(matches!(&told[..], [ElectionEffect::Follow(Some(record))] if record.holder == "c2"));
}

#[test]
fn a_store_that_does_not_answer_writes_is_not_written_to_without_rest() {
    let (mut store, mut one) = (Store::default(), election(1));
    run_until(&mut store, &mut one, 0);
    let mut writes = 0;
    for now in 1..=4 * DURATION {
        let mut effects = one.step(now, ElectionEvent::Tick);
        while let Some(effect) = effects.pop() {
            effects.extend(match effect {
                ElectionEffect::Read => one.step(now, ElectionEvent::Read(store.read())),
                ElectionEffect::Write { .. } => {
                    writes += 1;
                    one.step(now, ElectionEvent::Written(PutOutcome::Ambiguous))
                }
                other => panic!("{other:?}"),
            });
        }
    }
    assert!((5..=16).contains(&writes), "{writes}");
}

#[test]
fn a_store_that_was_away_gives_the_holder_a_whole_duration_again() {
    let (mut store, mut one, mut two) = (Store::default(), election(1), election(2));
    run_until(&mut store, &mut one, 0);
    run_until(&mut store, &mut two, 0);
    let mut now = 0;
    while now < 5 * DURATION {
        now = two.wake_at().unwrap();
        assert_eq!(two.step(now, ElectionEvent::Tick), [ElectionEffect::Read]);
        two.step(now, ElectionEvent::Read(LeaseRead::Failed));
    }
    let back = two.wake_at().unwrap();
    assert!(
        run_until(&mut store, &mut two, back).is_empty(),
        "it may renew first"
    );
    run_until(&mut store, &mut one, back + 1);
    assert!(run_until(&mut store, &mut two, back + DURATION).is_empty());
}

#[test]
fn a_lease_that_was_deleted_or_damaged_costs_time_only() {
    let (mut store, mut one, mut two) = (Store::default(), election(1), election(2));
    run_until(&mut store, &mut one, 0);
    store.held = None;
    assert!(run_until(&mut store, &mut one, DURATION).is_empty());
    assert_eq!(store.held.as_ref().unwrap().holder, "c1");
    let read = |now| (now, ElectionEvent::Read(LeaseRead::Unreadable(store.tag())));
    assert_eq!(two.step(0, ElectionEvent::Tick), [ElectionEffect::Read]);
    let (now, unreadable) = read(0);
    assert_eq!(two.step(now, unreadable), [ElectionEffect::Follow(None)]);
    while two.wake_at().unwrap() < DURATION {
        let at = two.wake_at().unwrap();
        two.step(at, ElectionEvent::Tick);
        let (now, unreadable) = read(at);
        assert!(two.step(now, unreadable).is_empty());
    }
    two.step(DURATION, ElectionEvent::Tick);
    let (now, unreadable) = read(DURATION);
    assert!(matches!(
        &two.step(now, unreadable)[..],
        [ElectionEffect::Write { .. }]
    ));
}

#[test]
fn a_refused_write_is_told_and_tried_again() {
    let mut one = election(1);
    one.step(0, ElectionEvent::Tick);
    one.step(0, ElectionEvent::Read(LeaseRead::Absent));
    let refusal = Refusal {
        kind: ErrorKind::Invalid,
        reason: "the bucket is read only".to_owned(),
    };
    let told = one.step(
        0,
        ElectionEvent::Written(PutOutcome::Refused(refusal.clone())),
    );
    assert_eq!(told, [ElectionEffect::Refused(refusal)]);
    assert_eq!(one.wake_at(), Some(DURATION / 4));
}

/// What a process of the simulation has on its way: performed at the store at a time, answered at another.
#[derive(Clone, Debug)]
struct Call {
    effect: ElectionEffect,
    lands_at: u64,
    answered_at: u64,
    /// The answer is lost: an error comes in its place, perhaps before the call lands.
    is_lost: bool,
    answer: Option<ElectionEvent>,
}

impl Call {
    /// Performs it, if it is time.
    fn land(&mut self, now: u64, store: &mut Store) {
        if self.answer.is_some() || now < self.lands_at {
            return;
        }
        self.answer = Some(match &self.effect {
            ElectionEffect::Read => ElectionEvent::Read(store.read()),
            ElectionEffect::Write { record, if_match } => {
                ElectionEvent::Written(store.write(record.clone(), if_match.as_ref()))
            }
            other => panic!("{other:?}"),
        });
    }

    fn answer(self) -> ElectionEvent {
        match (self.is_lost, self.answer, self.effect) {
            (true, _, ElectionEffect::Read) => ElectionEvent::Read(LeaseRead::Failed),
            (true, ..) => ElectionEvent::Written(PutOutcome::Ambiguous),
            (false, answer, _) => answer.expect("it has landed"),
        }
    }
}

struct Process {
    election: Election,
    call: Option<Call>,
    /// Writes that were given up and may land yet.
    late: Vec<Call>,
    leads: bool,
    /// Frozen, with what it has on its way, until then.
    frozen_until: u64,
}

impl Process {
    fn new(number: u64, process: u64) -> Self {
        let me = Candidate {
            process: Nonce(u128::from(process)),
            ..candidate(number)
        };
        Self {
            election: Election::new(me, DURATION),
            call: None,
            late: Vec::new(),
            leads: false,
            frozen_until: 0,
        }
    }

    /// The event that it meets now, if there is one.
    fn event(&mut self, now: u64) -> Option<ElectionEvent> {
        if now < self.frozen_until {
            return None;
        }
        match self.call.take() {
            Some(call) if now >= call.answered_at => {
                if call.is_lost && call.answer.is_none() {
                    self.late.push(call.clone());
                }
                Some(call.answer())
            }
            Some(call) => {
                self.call = Some(call);
                None
            }
            None => {
                let is_due = self.election.wake_at().is_some_and(|at| at <= now);
                is_due.then_some(ElectionEvent::Tick)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whoever_holds_the_lease_leads_alone_once_the_store_answers(
        seed in any::<u64>(),
        trouble_until in 0u64..20_000,
    ) {
        let mut random = seed | 1;
        let mut draw = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let (mut store, mut started) = (Store::default(), 3);
        let mut processes: Vec<_> = (0..3).map(|at| Process::new(at, at)).collect();
        for now in 0..trouble_until + 6 * DURATION {
            let trouble = now < trouble_until;
            for at in 0..3 {
                let process = &mut processes[at as usize];
                if trouble && draw(4_000) == 0 {
                    process.frozen_until = now + draw(3 * DURATION);
                }
                for call in process.call.iter_mut().chain(&mut process.late) {
                    call.land(now, &mut store);
                }
                let Some(event) = process.event(now) else { continue };
                for effect in process.election.step(now, event) {
                    match effect {
                        ElectionEffect::Lead => process.leads = true,
                        ElectionEffect::Lost(_) => {
                            // Starts anew, as a pod does.
                            *process = Process::new(at, started);
                            started += 1;
                        }
                        ElectionEffect::Follow(_) => {}
                        effect => {
                            let is_lost = trouble && draw(5) == 0;
                            let slow = if trouble { 400 } else { 20 };
                            let (lands_at, answered_at) = (now + draw(slow), now + draw(slow));
                            let answered_at = if is_lost { answered_at } else { answered_at.max(lands_at + 1) };
                            process.call = Some(Call { effect, lands_at, answered_at, is_lost, answer: None });
                        }
                    }
                }
            }
        }
        let leading: Vec<_> = (0..3).filter(|at| processes[*at].leads).map(|at| format!("c{at}")).collect();
        prop_assert_eq!(leading, vec![store.held.unwrap().holder]);
    }
}

//! Every interleaving of two owners of one slot: the production machine against a broker that may do its worst.
//!
//! Both recover the same checkpoint and neither is ever stopped: any of them may stall at any step and wake late. Replies
//! get lost, ends of transactions arrive late or twice, a transaction times out. Whatever happens, the output becomes
//! visible at most once, exactly once when anybody says "confirmed", and nothing of the next checkpoint ever does.

use std::collections::{BTreeSet, VecDeque};

use super::*;

const OWNERS: usize = 2;
const SESSIONS_MAX: u64 = 4;

#[derive(Clone, Debug, Default)]
struct Txn {
    epoch: u64,
    output: bool,
    marker: bool,
    next: bool,
}

#[derive(Clone, Debug, Default)]
struct Broker {
    epoch: u64,
    open: Option<Txn>,
    outputs: u32,
    markers: u32,
    nexts: u32,
    late_ends: Vec<u64>,
    timeouts: u32,
    surprises: u32,
}

impl Broker {
    fn init(&mut self) -> u64 {
        self.open = None;
        self.epoch += 1;
        self.epoch
    }

    fn open(&mut self, epoch: u64) -> Option<&mut Txn> {
        (epoch == self.epoch).then(|| {
            self.open.get_or_insert_with(|| Txn {
                epoch,
                ..Txn::default()
            })
        })
    }

    fn commit(&mut self, epoch: u64) -> bool {
        let Some(txn) = self.open.take_if(|txn| txn.epoch == epoch) else {
            return false;
        };
        self.outputs += u32::from(txn.output);
        self.markers += u32::from(txn.marker);
        self.nexts += u32::from(txn.next);
        true
    }
}

#[derive(Clone, Debug)]
struct Owner {
    slot: SinkSlot,
    todo: VecDeque<SlotEffect>,
    epoch: u64,
    confirmed: bool,
}

impl Owner {
    fn new() -> Self {
        let (mut slot, effects) = SinkSlot::recover(config(), claim(Purpose::Confirm));
        slot.step(SlotEvent::Released);
        let todo = effects.into();
        Self {
            slot,
            todo,
            epoch: 0,
            confirmed: false,
        }
    }

    fn step(&mut self, event: SlotEvent) {
        for effect in self.slot.step(event) {
            match effect {
                SlotEffect::OpenSession { .. } => {
                    self.todo.clear();
                    self.todo.push_back(effect);
                }
                SlotEffect::ReportConfirmed { .. } => self.confirmed = true,
                SlotEffect::ReleaseSpool { .. } | SlotEffect::Abort { .. } => {}
                SlotEffect::Stop(stop) => panic!("nothing is lost here, yet {stop}"),
                other => self.todo.push_back(other),
            }
        }
    }

    fn lost(&mut self) {
        self.todo.clear();
        let session = self.slot.session;
        self.step(SlotEvent::TxnLost { session });
    }
}

#[derive(Clone, Debug)]
struct World {
    broker: Broker,
    owners: Vec<Owner>,
}

impl World {
    fn check(&self) -> Result<(), &'static str> {
        let Broker { outputs, nexts, .. } = self.broker;
        if outputs > 1 {
            return Err("the output is visible twice");
        }
        if nexts > 0 {
            return Err("output of the next checkpoint is visible");
        }
        if outputs == 0 && self.owners.iter().any(|owner| owner.confirmed) {
            return Err("confirmed and not visible");
        }
        Ok(())
    }

    /// Lets owner `at` perform its next effect, in every way that the broker may answer.
    fn performed(&self, at: usize) -> Vec<Self> {
        let mut next = self.clone();
        let owner = &mut next.owners[at];
        let Some(effect) = owner.todo.pop_front() else {
            return Vec::new();
        };
        let session = owner.slot.session;
        match effect {
            SlotEffect::OpenSession { .. } if session.0 > SESSIONS_MAX => return Vec::new(),
            SlotEffect::OpenSession { .. } => {
                owner.epoch = next.broker.init();
                owner.step(SlotEvent::Opened { session });
            }
            SlotEffect::WriteSync { .. } => owner.step(SlotEvent::SyncWritten { session }),
            SlotEffect::ReadMarkers { .. } => {
                if next.broker.open.as_ref().is_some_and(|txn| txn.marker) {
                    return Vec::new();
                }
                let seen = [(1, MarkerKind::Output)];
                let found = &seen[..usize::from(next.broker.markers > 0)];
                let reading = reading(found);
                owner.step(SlotEvent::MarkersRead { session, reading });
            }
            SlotEffect::AskLeader { .. } => owner.step(SlotEvent::LeaderSays(Authority::Current)),
            SlotEffect::EndTxn { .. } => return self.ended(at),
            SlotEffect::Begin { .. } => {}
            other => match next.broker.open(owner.epoch) {
                Some(txn) => match other {
                    SlotEffect::Publish(_) => txn.output = true,
                    SlotEffect::WriteMarker { .. } => txn.marker = true,
                    SlotEffect::Send(_) => txn.next = true,
                    other => panic!("{other:?} is not expected here"),
                },
                None => owner.lost(),
            },
        }
        vec![next]
    }

    fn ended(&self, at: usize) -> Vec<Self> {
        let mut base = self.clone();
        base.owners[at].todo.pop_front();
        let (epoch, session) = (base.owners[at].epoch, base.owners[at].slot.session);
        let answered = |mut world: Self, answer| {
            world.owners[at].step(SlotEvent::EndTxn { session, answer });
            world
        };
        let clear = EndAnswer::Committed { marker_offset: 9 };
        let mut applied = base.clone();
        let done = applied.broker.commit(epoch);
        let mut next = vec![if done {
            answered(applied.clone(), clear)
        } else {
            answered(base.clone(), EndAnswer::Unclear)
        }];
        if done && base.broker.surprises > 0 {
            // The reply is lost; the request comes late; it comes now and once more.
            base.broker.surprises -= 1;
            applied.broker.surprises -= 1;
            next.push(answered(applied.clone(), EndAnswer::Unclear));
            base.broker.late_ends.push(epoch);
            next.push(answered(base, EndAnswer::Unclear));
            applied.broker.late_ends.push(epoch);
            next.push(answered(applied, clear));
        }
        next
    }

    fn successors(&self) -> Vec<Self> {
        let mut next: Vec<Self> = (0..self.owners.len())
            .flat_map(|at| self.performed(at))
            .collect();
        for (at, owner) in self.owners.iter().enumerate() {
            if owner.confirmed && owner.slot.spool().is_empty() {
                let mut world = self.clone();
                world.owners[at].step(OUTPUT);
                next.push(world);
            }
        }
        for at in 0..self.broker.late_ends.len() {
            let mut world = self.clone();
            let epoch = world.broker.late_ends.remove(at);
            world.broker.commit(epoch);
            next.push(world);
        }
        if self.broker.timeouts > 0 && self.broker.open.is_some() {
            let mut world = self.clone();
            world.broker.timeouts -= 1;
            world.broker.init();
            next.push(world);
        }
        next
    }
}

/// Walks every reachable state; answers how many there are, or what is wrong with one.
fn explore() -> Result<usize, &'static str> {
    let broker = Broker {
        timeouts: 1,
        surprises: 1,
        ..Broker::default()
    };
    let owners = (0..OWNERS).map(|_| Owner::new()).collect();
    let first = World { broker, owners };
    let (mut seen, mut stack) = (BTreeSet::new(), vec![first]);
    while let Some(world) = stack.pop() {
        world.check()?;
        for next in world.successors() {
            if seen.insert(ContentHash::of(format!("{next:?}").as_bytes())) {
                stack.push(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn two_owners_never_lose_nor_double_an_output_in_any_interleaving() {
    let states = explore().expect("the protocol holds");
    assert!(states > 10_000, "only {states} states");
}

#[cfg(feature = "mutants")]
#[test]
fn the_walk_finds_what_the_rules_prevent() {
    use crate::mutant::select;

    let cases = [
        (Mutant::ReadBeforeSession, "the output is visible twice"),
        (Mutant::PublishInNewSession, "the output is visible twice"),
        (
            Mutant::SameProducerEpoch,
            "output of the next checkpoint is visible",
        ),
        (Mutant::UnclearIsSuccess, "confirmed and not visible"),
    ];
    for (mutant, expected) in cases {
        select(Some(mutant));
        let found = explore();
        select(None);
        assert_eq!(found, Err(expected), "{mutant}");
    }
}

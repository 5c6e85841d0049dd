//! Where processes freeze by themselves, so that a fault begins exactly at a step of the protocol.
//!
//! A process that is frozen right before a step is where the fault is made, and then goes on, or is killed. Which process takes a
//! step is known here and nowhere else in this test.

use highwater_connectors::Random;
use highwater_protocol::steps::Step;

use super::machine::Machine;

/// The first checkpoint that is disturbed, and how many later ones may be.
const FIRST: u64 = 3;
const SPREAD: u64 = 6;
/// About how often a worker acknowledges for one checkpoint: once for each of its subtasks.
const ACKS: u64 = 6;
/// A step that a worker takes for each of its subtasks or sinks is met at one of so many.
const SUBTASKS: u64 = 4;

/// Who takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Coordinator,
    Worker,
}

impl Role {
    /// Of a step.
    pub(super) const fn of(step: Step) -> Self {
        match step {
            Step::P3 | Step::P4 | Step::P5 | Step::P6 | Step::P10 | Step::P11 => Self::Worker,
            _ => Self::Coordinator,
        }
    }

    /// Whether a machine has it.
    pub(super) const fn is_at(self, machine: Machine) -> bool {
        matches!(
            (self, machine),
            (Self::Coordinator, Machine::Coordinator(_)) | (Self::Worker, Machine::Worker(_))
        )
    }
}

/// Where processes freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arming {
    /// The coordinator that leads first.
    first: Option<String>,
    /// The one that stands by.
    second: Option<String>,
    /// Each worker.
    workers: Option<String>,
}

impl Arming {
    /// Nowhere.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Right before a step of a random checkpoint, whoever takes it.
    pub(super) fn at(step: Step, random: &mut Random) -> Self {
        let checkpoint = FIRST + random.below(SPREAD);
        match Role::of(step) {
            Role::Coordinator => Self::leader_at(step, checkpoint),
            Role::Worker => Self::workers_at(step, checkpoint, random),
        }
    }

    /// The first leader, right before the first such step behind the start of its so-manieth checkpoint.
    pub(super) fn leader_at(step: Step, checkpoint: u64) -> Self {
        let route = if step == Step::P1 {
            format!("freeze:P1:{checkpoint}")
        } else {
            format!("freeze:P1:{checkpoint},{step}:1")
        };
        Self {
            first: Some(route),
            ..Self::default()
        }
    }

    /// Workers, right before one of such steps of about the so-manieth checkpoint.
    pub(super) fn workers_at(step: Step, checkpoint: u64, random: &mut Random) -> Self {
        let time = 1 + random.below(SUBTASKS);
        Self {
            workers: Some(format!("freeze:P6:{},{step}:{time}", checkpoint * ACKS)),
            ..Self::default()
        }
    }

    /// Right before the first such step of the first checkpoint, or of the attempt behind it.
    pub(super) fn at_first(step: Step) -> Self {
        match Role::of(step) {
            Role::Coordinator => Self::leader_at(step, 1),
            Role::Worker => Self {
                workers: Some(freeze_at(step)),
                ..Self::default()
            },
        }
    }

    /// The coordinator that stands by, at the first such step that it takes.
    pub(super) fn second_at(step: Step) -> Self {
        Self {
            second: Some(freeze_at(step)),
            ..Self::default()
        }
    }

    /// Workers as here, and the first leader as there.
    pub(super) fn and_leader(self, leader: Self) -> Self {
        Self {
            first: leader.first,
            ..self
        }
    }

    /// Where the process of a machine freezes.
    pub(super) fn of(&self, machine: Machine) -> Option<&str> {
        match machine {
            Machine::Coordinator(1) => self.first.as_deref(),
            Machine::Coordinator(2) => self.second.as_deref(),
            Machine::Worker(_) => self.workers.as_deref(),
            _ => None,
        }
    }
}

/// The first such step that a process takes.
pub(super) fn freeze_at(step: Step) -> String {
    format!("freeze:{step}:1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Machine = Machine::Coordinator(1);
    const STANDBY: Machine = Machine::Coordinator(2);
    const WORKER: Machine = Machine::Worker(2);

    #[test]
    fn whoever_takes_a_step_freezes_there_and_nobody_else() {
        let mut random = Random::new(1);
        for step in Step::ALL {
            let arming = Arming::at(step, &mut random);
            let armed = |machine| arming.of(machine).is_some();
            let by_worker = Role::of(step) == Role::Worker;
            assert_eq!(
                (armed(LEADER), armed(WORKER)),
                (!by_worker, by_worker),
                "{step}"
            );
            assert!(!armed(STANDBY) && !armed(Machine::Hub));
        }
    }

    #[test]
    fn a_route_leads_to_its_step_behind_a_checkpoint() {
        let of = |arming: &Arming, machine| arming.of(machine).unwrap().to_owned();
        let leader = Arming::leader_at(Step::P9, 5);
        assert_eq!(of(&leader, LEADER), "freeze:P1:5,P9:1");
        assert_eq!(of(&Arming::leader_at(Step::P1, 4), LEADER), "freeze:P1:4");
        assert_eq!(of(&Arming::second_at(Step::R5), STANDBY), "freeze:R5:1");
        assert_eq!(of(&Arming::at_first(Step::R3), LEADER), "freeze:P1:1,R3:1");
        assert_eq!(of(&Arming::at_first(Step::P4), WORKER), "freeze:P4:1");
        let workers = Arming::workers_at(Step::P10, 4, &mut Random::new(1));
        assert!(of(&workers, WORKER).starts_with("freeze:P6:24,P10:"));
        let both = workers.and_leader(leader);
        assert!(both.of(LEADER).is_some() && both.of(WORKER).is_some());
    }

    #[test]
    fn a_role_is_that_of_its_machines() {
        assert!(Role::Worker.is_at(WORKER) && !Role::Worker.is_at(LEADER));
        assert!(Role::Coordinator.is_at(STANDBY) && !Role::Coordinator.is_at(Machine::Hub));
    }
}

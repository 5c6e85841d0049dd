//! What goes wrong: kills, pauses, outages, partitions, rot, wishes of the user; and the end of all faults.
//!
//! Called by [`super::World`] at the times of the swarm. Everything here is inside the fault model.

use super::{COORDINATORS, Event, FIRST_WORKER, Process, World};
use crate::job::paths;
use crate::node::{Micros, NodeId};
use crate::swarm::Fault;

/// How long a worker that is told to end waits until its tasks are elsewhere.
const LEAVE_TIMEOUT: Micros = 800_000;
/// How long a worker that has left is away.
const AWAY: Micros = 60_000;
/// Tell the numbers of rescales, and of workers that leave, from those of other requests.
const RESCALES: u64 = 1 << 40;
const LEAVES: u64 = 1 << 41;

impl World {
    fn victim(&self, which: u64, coordinator: bool) -> NodeId {
        let leading = self.nodes.iter().find(
            |(_, node)| matches!(&node.process, Some(Process::Coordinator(c)) if c.is_leading()),
        );
        if coordinator {
            return leading.map_or(0, |(id, _)| *id);
        }
        FIRST_WORKER + (which % u64::from(self.swarm.workers)) as u32
    }

    pub(super) fn fault(&mut self, fault: &Fault) {
        if self.shared.trace {
            crate::report::line(&format!("{:>9} fault {fault:?}", self.now));
        }
        match *fault {
            Fault::Kill {
                which,
                coordinator,
                down,
            } => {
                self.kill(self.victim(which, coordinator), down);
            }
            Fault::Pause {
                which,
                coordinator,
                length,
            } => {
                self.pause(self.victim(which, coordinator), length);
            }
            Fault::KillAll { down } => {
                for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.kill(id, down + u64::from(id) * 3_000);
                }
            }
            Fault::StealLease => self.shared.lease = None,
            Fault::StoreOutage { length } => self.store.outage_until = self.now + length,
            Fault::KafkaOutage { length } => self.kafka.outage_until = self.now + length,
            Fault::Partition {
                which,
                length,
                both,
            } => {
                let id = self.victim(which, which % 3 == 0);
                let until = self.now + length;
                for other in self.nodes.keys().copied().collect::<Vec<_>>() {
                    if other != id {
                        self.cut.insert((id, other), until);
                        if both {
                            self.cut.insert((other, id), until);
                        }
                    }
                }
            }
            Fault::Configure { parallelism } => {
                self.shared.desired.configured.parallelism = parallelism;
            }
            Fault::Request { stop, drain } => {
                let number = self.created;
                if self.shared.desired.request.is_none() {
                    self.shared.desired.request = Some((number, stop, drain));
                }
            }
            Fault::Rescale(to) => {
                let number = RESCALES | self.created;
                self.shared.desired.rescale.get_or_insert((number, to));
            }
            Fault::Leave { which } => self.leave(self.victim(which, false)),
            Fault::Corrupt => self.corrupt(),
            Fault::Mend => self.mend(),
        }
    }

    fn leave(&mut self, id: NodeId) {
        let number = LEAVES | self.created;
        let node = self.nodes.get(&id);
        if node.is_some_and(|node| node.process.is_some()) {
            let leaving = &mut self.shared.desired.leaving;
            leaving.entry(id).or_insert(number);
            self.schedule(LEAVE_TIMEOUT, Event::Gone(id, number));
        }
    }

    /// Ends the workers that were told to end and have no task any more.
    pub(super) fn let_go(&mut self) {
        let has_left = |id: &&NodeId| {
            let node = self.nodes.get(*id);
            let awake = node.filter(|node| node.paused_until <= self.now);
            let process = awake.and_then(|node| node.process.as_ref());
            matches!(process, Some(Process::Worker(worker)) if worker.is_idle())
        };
        let leaving = self.shared.desired.leaving.keys();
        for id in leaving.filter(has_left).copied().collect::<Vec<_>>() {
            self.kill(id, AWAY);
        }
    }

    /// A worker that was told to end has waited long enough.
    pub(super) fn gone(&mut self, id: NodeId, number: u64) {
        if self.shared.desired.leaving.get(&id) == Some(&number) {
            self.kill(id, AWAY);
        }
    }

    /// A worker froze on its way into a session: the checkpoint at stake rots behind its back, and nobody reaches it for
    /// a while after it has thawed.
    pub(super) fn leave_alone(&mut self, id: NodeId, length: Micros) {
        self.schedule(20_000, Event::Fault(Fault::Corrupt));
        for coordinator in 0..COORDINATORS {
            self.cut
                .insert((id, coordinator), self.now + length + 400_000);
        }
    }

    /// A state file of the newest checkpoint rots, and everybody awake dies, so that it is needed.
    fn corrupt(&mut self) {
        let Some(head) = self.oracle.head().cloned() else {
            return;
        };
        let id = head.checkpoint();
        let below = format!("{}/data/{}-", paths().prefix(), id.epoch);
        let number = format!("/{}-state", id.number);
        let found = self
            .store
            .paths()
            .find(|path| path.starts_with(&below) && path.ends_with(&number));
        if let Some(path) = found.cloned() {
            self.store.corrupt(&path);
            self.oracle.rotten.insert(path);
            let awake = self
                .nodes
                .iter()
                .filter(|(_, node)| node.paused_until <= self.now);
            for node in awake.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.kill(node, 50_000);
            }
        }
    }

    /// What has rotted is read well again, and whoever was about to give it up dies.
    fn mend(&mut self) {
        for path in std::mem::take(&mut self.oracle.rotten) {
            self.store.corrupt(&path);
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.kill(id, 50_000);
        }
    }

    pub(super) fn heal(&mut self) {
        self.shared.unhealed = false;
        self.swarm.net_drop = 0;
        self.swarm.net_duplicate = 0;
        self.swarm.kafka_lost = 0;
        self.swarm.kafka_late_end = 0;
        self.store.faults = crate::store::StoreFaults::default();
        self.store.outage_until = 0;
        self.kafka.outage_until = 0;
        self.cut.clear();
        self.shared.steps.planned.clear();
        self.shared.steps.session = None;
        self.shared.steps.redeploying = None;
        self.shared.steps.armed = None;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.paused_until = self.now;
            }
            self.schedule(0, Event::Resume(id));
            self.schedule(1, Event::Restart(id));
        }
        self.healed = Some(self.oracle.checkpoints);
    }
}

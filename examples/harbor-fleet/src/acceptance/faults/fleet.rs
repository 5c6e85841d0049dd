//! The processes of one run at work: started, tended, caught where they freeze, killed, waited for.
//!
//! Called by the scripts, which are made of these acts. Whatever is waited for, the processes are tended meanwhile as a platform
//! would: one that ends by itself is started again, one that freezes where nobody has use for it goes on, and `head` is looked at.
//! The rule: an end that asks its user for something else is no end that a platform cures, and fails the run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use highwater_connectors::Random;
use highwater_testkit::process::wait_until;
use highwater_testkit::{ControlGroup, S3, TestbedError};
use serde_json::Value;

use super::arming::{Arming, Role};
use super::certificates::Certificates;
use super::chain::{Chain, Look};
use super::conditions::{Bound, Conditions, WORKER_BYTES};
use super::cut::{Cut, Partition, is_connected};
use super::evidence::Hit;
use super::ground::Ground;
use super::machine::Machine;
use super::network::{Machines, enter};
use super::process::{Process, Spec};
use super::spans::{Pace, Span};
use crate::acceptance::args::Backing;
use crate::acceptance::feed::{Feed, Rate};
use crate::acceptance::scene::{RunName, Topics};
use crate::acceptance::store::Store;

/// Whatever is waited for is there within this time, also on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_mins(3);
/// A freeze that does not come within this time does not come.
const CATCH_PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at `head`.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A process that ended by itself is started again after this time.
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// One process may end by itself so often in a run.
const RESTARTS_MAX: u32 = 20;
/// Looks at `head` in a row that may fail.
const BLIND_MAX: u32 = 100;
const ANSWER: Duration = Duration::from_secs(2);
/// Exit codes that ask for another call, another job or another store.
const INCURABLE: [i32; 3] = [2, 5, 6];
pub(super) const FIRST: Machine = Machine::Coordinator(1);
pub(super) const SECOND: Machine = Machine::Coordinator(2);
const WORKERS: [Machine; 3] = [Machine::Worker(1), Machine::Worker(2), Machine::Worker(3)];

/// Why a run ends before its judge.
#[derive(Debug)]
pub(super) enum Halt {
    /// It proves nothing: again, at another instant.
    Invalid(String),
    /// This host cannot play it, and why.
    Refused(String),
    /// Somebody wants the test to end.
    Interrupted,
    /// Something is wrong.
    Failed(anyhow::Error),
}

impl Halt {
    /// An end that proves nothing, for this reason.
    pub(super) fn invalid(reason: &str) -> Self {
        Self::Invalid(reason.to_owned())
    }
}

impl From<anyhow::Error> for Halt {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<TestbedError> for Halt {
    fn from(error: TestbedError) -> Self {
        Self::Failed(error.into())
    }
}

/// The process that has a machine for itself, and what is to become of it.
#[derive(Debug, Default)]
struct Occupant {
    process: Option<Process>,
    /// It is started again when it ends.
    is_wanted: bool,
    /// When and how it ended by itself.
    ended: Option<(Duration, ExitStatus)>,
    restarts: u32,
}

/// What a look at a process shows.
enum Seen {
    Nothing,
    Runs,
    Frozen,
    Ended(ExitStatus),
}

impl Occupant {
    fn look(&mut self, now: Duration) -> anyhow::Result<Seen> {
        let Some(process) = &mut self.process else {
            return Ok(Seen::Nothing);
        };
        if let Some(status) = process.ended()? {
            self.process = None;
            self.ended = Some((now, status));
            return Ok(Seen::Ended(status));
        }
        Ok(if process.is_frozen() {
            Seen::Frozen
        } else {
            Seen::Runs
        })
    }
}

/// One run.
pub(super) struct Fleet<'a> {
    pub(super) ground: &'a Ground,
    pub(super) pace: Pace,
    pub(super) spec: Spec,
    pub(super) store: Store,
    pub(super) topics: Topics,
    pub(super) partitions: i32,
    pub(super) random: Random,
    pub(super) chain: Chain,
    /// The fault that is under way, or was the last.
    pub(super) hit: Option<Hit>,
    /// From each fault until output that was written after it was committed.
    pub(super) recoveries: Vec<Duration>,
    /// What an oracle beside that of the output has to say against the run.
    pub(super) wrong: Vec<String>,
    /// What somebody may want to know of the run.
    pub(super) notes: Vec<String>,
    pub(super) feed: Feed,
    occupants: BTreeMap<Machine, Occupant>,
    /// Those that stay frozen until they are told to go on.
    held: BTreeSet<Machine>,
    catching: Option<Role>,
    is_ending: bool,
    look_at: Duration,
    blind: u32,
    // Dropped in this order: a group and a machine go once nothing runs there.
    pub(super) groups: BTreeMap<Machine, ControlGroup>,
    _machines: Machines,
}

/// The groups of the processes that are bound.
fn groups(ground: &Ground, bound: Bound) -> Result<BTreeMap<Machine, ControlGroup>, TestbedError> {
    let machines: &[Machine] = match bound {
        Bound::Nobody => &[],
        Bound::Leader => &[FIRST],
        Bound::Workers => &WORKERS,
    };
    let mut groups = BTreeMap::new();
    for &machine in machines {
        let group = ControlGroup::make(&ground.names().group(machine))?;
        if bound == Bound::Workers {
            group.limit_memory(WORKER_BYTES)?;
        }
        groups.insert(machine, group);
    }
    Ok(groups)
}

/// What the processes of a run are told.
fn spec(
    ground: &Ground,
    run: &RunName,
    conditions: &Conditions,
    backing: &Backing,
) -> anyhow::Result<Spec> {
    let folder = ground.root.join(&run.text);
    fs::create_dir_all(&folder).context("the directory of the run")?;
    let mut parameters = ground.parameters();
    parameters.extend(Conditions::parameters());
    parameters.push(("topics", Topics::of(run).name("")));
    parameters.push(("rule", run.rule.to_owned()));
    parameters.push(("trap", folder.join("trap").display().to_string()));
    Ok(Spec {
        names: ground.names(),
        job: run.text.clone(),
        state: format!("s3://{}/acceptance", S3::BUCKET),
        s3_endpoint: ground.s3_endpoint(),
        parameters,
        settings: conditions.settings(),
        backing: backing.clone(),
        coordinators: conditions.coordinators,
        certificates: conditions
            .tls
            .then(|| Certificates::new(folder.join("certificates"))),
        folder,
    })
}

impl<'a> Fleet<'a> {
    /// Makes machines and topics, and starts to write the payments.
    pub(super) fn open(
        ground: &'a Ground,
        run: &RunName,
        conditions: &Conditions,
        (backing, seed): (&Backing, u64),
    ) -> Result<Self, Halt> {
        let groups =
            groups(ground, conditions.bound).map_err(|error| Halt::Refused(error.to_string()))?;
        let spec = spec(ground, run, conditions, backing)?;
        let coordinators = (1..=conditions.coordinators).map(Machine::Coordinator);
        let wanted: Vec<_> = coordinators.chain(WORKERS).collect();
        let machines = Machines::make(ground.names(), &wanted)?;
        if let Some(certificates) = &spec.certificates {
            for machine in &wanted {
                certificates.equip(*machine)?;
            }
        }
        let (topics, profile) = (Topics::of(run), conditions.profile(seed));
        let partitions = profile.partitions as i32;
        ground.cluster.create(&topics.all(partitions))?;
        let store = Store::open(&spec.state, &spec.s3_endpoint, &spec.job, ground.rim())?;
        let rate = Rate::PerSecond(conditions.rate);
        let feed = Feed::start(&ground.cluster, &topics.input(), profile, rate)?;
        Ok(Self {
            ground,
            pace: conditions.pace,
            spec,
            store,
            topics,
            partitions,
            random: Random::new(seed),
            chain: Chain::default(),
            hit: None,
            recoveries: Vec::new(),
            wrong: Vec::new(),
            notes: Vec::new(),
            feed,
            occupants: BTreeMap::new(),
            held: BTreeSet::new(),
            catching: None,
            is_ending: false,
            look_at: Duration::ZERO,
            blind: 0,
            groups,
            _machines: machines,
        })
    }

    /// Starts two coordinators, of which the first leads, and all workers.
    pub(super) fn begin(&mut self, arming: &Arming) -> Result<(), Halt> {
        for worker in WORKERS {
            self.start(worker, arming.of(worker))?;
        }
        self.start(FIRST, arming.of(FIRST))?;
        self.wait("the first coordinator leads", PATIENCE, |fleet| {
            Ok(fleet.leader() == Some(FIRST))
        })?;
        self.start(SECOND, arming.of(SECOND))
    }

    /// The same, and waits until output is committed.
    pub(super) fn begin_running(&mut self, arming: &Arming) -> Result<(), Halt> {
        const WARM: u64 = 3;
        self.begin(arming)?;
        self.wait("checkpoints complete", PATIENCE, |fleet| {
            Ok(fleet.chain.number() >= WARM)
        })
    }

    /// Starts the process of a machine.
    pub(super) fn start(&mut self, machine: Machine, stop_at: Option<&str>) -> Result<(), Halt> {
        let group = self.groups.get(&machine);
        let process = self.spec.start(machine, stop_at, group)?;
        let occupant = self.occupants.entry(machine).or_default();
        occupant.process = Some(process);
        occupant.is_wanted = true;
        occupant.ended = None;
        Ok(())
    }

    /// SIGKILL to the process of a machine, which stays down.
    pub(super) fn kill(&mut self, machine: Machine) -> Result<(), Halt> {
        self.held.remove(&machine);
        let Some(occupant) = self.occupants.get_mut(&machine) else {
            return Ok(());
        };
        occupant.is_wanted = false;
        if let Some(mut process) = occupant.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Kills all of them at once, and starts them again after a while.
    pub(super) fn replace(&mut self, machines: &[Machine]) -> Result<(), Halt> {
        for machine in machines {
            self.kill(*machine)?;
        }
        self.pass(Span::Down)?;
        for machine in machines {
            self.start(*machine, None)?;
        }
        Ok(())
    }

    /// Lets a process that is frozen go on.
    pub(super) fn thaw(&mut self, machine: Machine) -> Result<(), Halt> {
        self.held.remove(&machine);
        self.signal(machine, "CONT")
    }

    fn signal(&self, machine: Machine, signal: &str) -> Result<(), Halt> {
        let occupant = self.occupants.get(&machine);
        match occupant.and_then(|occupant| occupant.process.as_ref()) {
            Some(process) => Ok(process.signal(signal)?),
            None => Ok(()),
        }
    }

    /// Leaves a process that ends as it is, and does not start it again.
    pub(super) fn let_end(&mut self, machine: Machine) {
        if let Some(occupant) = self.occupants.get_mut(&machine) {
            occupant.is_wanted = false;
        }
    }

    /// How the process of a machine ended by itself, if it has.
    pub(super) fn end_of(&self, machine: Machine) -> Option<ExitStatus> {
        self.occupants
            .get(&machine)?
            .ended
            .map(|(_, status)| status)
    }

    /// How often processes ended by themselves and were started again.
    pub(super) fn restarts(&self) -> u32 {
        self.occupants
            .values()
            .map(|occupant| occupant.restarts)
            .sum()
    }

    pub(super) fn now(&self) -> Duration {
        self.ground.clock.now()
    }

    /// Waits until `done` holds.
    pub(super) fn wait(
        &mut self,
        what: &str,
        patience: Duration,
        done: impl FnMut(&mut Self) -> Result<bool, Halt>,
    ) -> Result<(), Halt> {
        if self.wait_at_most(patience, done)? {
            return Ok(());
        }
        let tails: Vec<_> = self
            .occupants
            .keys()
            .map(|machine| format!("{machine}:\n{}", self.spec.tail(*machine)))
            .collect();
        let within = patience.as_secs();
        let reason = anyhow!("not within {within} s: {what}\n{}", tails.join("\n"));
        Err(Halt::Failed(reason))
    }

    /// Waits until `done` holds, at most so long. Whether it did.
    pub(super) fn wait_at_most(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&mut Self) -> Result<bool, Halt>,
    ) -> Result<bool, Halt> {
        let mut reached = Ok(false);
        wait_until(patience, || {
            reached = self.tend().and_then(|()| done(self));
            !matches!(reached, Ok(false))
        });
        reached
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, span: Span) -> Result<(), Halt> {
        let length = self.pace.length(span);
        self.wait_at_most(length, |_| Ok(false)).map(drop)
    }

    /// Waits until a process of this role freezes, which it is armed to do, and returns where. It stays frozen.
    pub(super) fn catch(&mut self, role: Role) -> Result<Machine, Halt> {
        let held = self.held.clone();
        let caught = |fleet: &Self| fleet.held.difference(&held).copied().next();
        self.catching = Some(role);
        let mut found = None;
        self.wait_at_most(CATCH_PATIENCE, |fleet| {
            found = caught(fleet);
            Ok(found.is_some() || fleet.feed.is_over())
        })?;
        self.catching = None;
        found.ok_or_else(|| Halt::invalid("its step was not reached in time"))
    }

    /// Makes these cuts.
    pub(super) fn cut(&self, cuts: impl IntoIterator<Item = Cut>) -> Result<Partition, Halt> {
        let cuts = cuts.into_iter().collect();
        Ok(Partition::make(self.spec.names, cuts)?)
    }

    /// The coordinator that holds the lease.
    pub(super) fn leader(&self) -> Option<Machine> {
        let address = self.store.leader()?;
        Machine::coordinator_at(&address)
    }

    /// The machines that have a process.
    pub(super) fn living(&self) -> Vec<Machine> {
        let living = self
            .occupants
            .iter()
            .filter(|(_, occupant)| occupant.process.is_some());
        living.map(|(machine, _)| *machine).collect()
    }

    /// Those of them with this role.
    pub(super) fn living_as(&self, role: Role) -> Vec<Machine> {
        let mut living = self.living();
        living.retain(|machine| role.is_at(*machine));
        living
    }

    /// The workers that run tasks: those that are connected with the broker.
    pub(super) fn busy(&self) -> Result<Vec<Machine>, Halt> {
        let port = self.ground.kafka_port()?;
        let mut busy = Vec::new();
        for machine in self.living_as(Role::Worker) {
            let occupant = self.occupants.get(&machine);
            let process = occupant.and_then(|occupant| occupant.process.as_ref());
            let Some(process) = process else { continue };
            let table = fs::read_to_string(format!("/proc/{}/net/tcp", process.id()));
            let table = table.unwrap_or_default();
            if is_connected(&table, Machine::Hub.address(), port) {
                busy.push(machine);
            }
        }
        Ok(busy)
    }

    /// One of the workers that run tasks, other than `not`.
    pub(super) fn busy_other_than(&mut self, not: Machine) -> Result<Machine, Halt> {
        let mut busy = self.busy()?;
        busy.retain(|machine| *machine != not);
        let nobody = || Halt::invalid("no other worker runs tasks");
        let at = self.random.below(busy.len() as u64) as usize;
        busy.get(at).copied().ok_or_else(nobody)
    }

    /// What the status server of a coordinator answers to GET `path`, asked on its machine.
    pub(super) fn ask(&self, machine: Machine, path: &str) -> Option<Value> {
        let base = fs::read_to_string(self.spec.note_of(machine)).ok()?;
        let url = format!("{}{path}", base.trim());
        let namespace = self.spec.names.path(machine);
        // A thread of its own: it is on the other machine for good.
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                enter(&namespace).ok()?;
                get(&url)
            });
            asking.join().ok().flatten()
        })?;
        serde_json::from_str(&answer).ok()
    }

    /// What the leader says of the job.
    pub(super) fn status(&self) -> Option<Value> {
        self.ask(self.leader()?, "/v1/status")
    }

    /// From here on processes end for good.
    pub(super) fn ends(&mut self) {
        self.is_ending = true;
    }

    fn tend(&mut self) -> Result<(), Halt> {
        if self.ground.is_interrupted() {
            return Err(Halt::Interrupted);
        }
        self.look()?;
        let now = self.now();
        for machine in self.occupants.keys().copied().collect::<Vec<_>>() {
            let Some(occupant) = self.occupants.get_mut(&machine) else {
                continue;
            };
            match occupant.look(now)? {
                Seen::Runs => {}
                Seen::Frozen => self.frozen(machine)?,
                Seen::Ended(status) => self.ended(machine, status)?,
                Seen::Nothing => self.restart(machine, now)?,
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Halt> {
        if self.now() < self.look_at {
            return Ok(());
        }
        match self.store.head() {
            Ok(Some(head)) => self.chain.see(Look::at(&head)),
            Ok(None) => {}
            Err(error) if self.blind >= BLIND_MAX => return Err(error.into()),
            Err(_) => {
                self.blind += 1;
                return Ok(());
            }
        }
        self.blind = 0;
        self.look_at = self.now() + LOOK_EVERY;
        Ok(())
    }

    /// A process froze: it is what is waited for, or it goes on.
    fn frozen(&mut self, machine: Machine) -> Result<(), Halt> {
        if self.held.contains(&machine) {
            return Ok(());
        }
        if self.catching.is_some_and(|role| role.is_at(machine)) {
            self.catching = None;
            self.held.insert(machine);
            return Ok(());
        }
        self.signal(machine, "CONT")
    }

    fn ended(&mut self, machine: Machine, status: ExitStatus) -> Result<(), Halt> {
        self.held.remove(&machine);
        let is_wanted = self
            .occupants
            .get(&machine)
            .is_some_and(|occupant| occupant.is_wanted);
        if self.is_ending || !is_wanted {
            return Ok(());
        }
        if status.code().is_some_and(|code| INCURABLE.contains(&code)) {
            let tail = self.spec.tail(machine);
            return Err(Halt::Failed(anyhow!("{machine} ended ({status})\n{tail}")));
        }
        self.notes.push(format!("{machine} ended ({status})"));
        Ok(())
    }

    fn restart(&mut self, machine: Machine, now: Duration) -> Result<(), Halt> {
        let Some(occupant) = self.occupants.get_mut(&machine) else {
            return Ok(());
        };
        let is_due = occupant
            .ended
            .is_some_and(|(at, _)| now >= at + RESTART_AFTER);
        if self.is_ending || !occupant.is_wanted || !is_due {
            return Ok(());
        }
        occupant.restarts += 1;
        if occupant.restarts > RESTARTS_MAX {
            let tail = self.spec.tail(machine);
            return Err(Halt::Failed(anyhow!(
                "{machine} ends again and again\n{tail}"
            )));
        }
        self.start(machine, None)
    }
}

/// Asks over HTTP, in a runtime of this thread.
fn get(url: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER);
        let answer = client.build().ok()?.get(url).send().await.ok()?;
        answer.text().await.ok()
    })
}

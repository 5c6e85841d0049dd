//! One run: a job with topics, checkpoints and payments of its own, and what may happen to it.
//!
//! Called by the drills, which are made of these acts. Whatever is waited for, a job that ends meanwhile fails the run.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use harbor_fleet::generator::Profile;
use harbor_fleet::payments::{
    ALERTS_TOPIC, COUNTS_TOPIC, DEAD_LETTER_TOPIC, LATE_TOPIC, PAYMENTS_TOPIC,
};
use highwater_connectors::Random;
use highwater_testkit::S3;
use highwater_testkit::process::wait_until;
use serde_json::Value;

use super::cluster::{Cluster, Isolation};
use super::feed::{Feed, Logs, Rate};
use super::process::{JobSpec, Process, Start, Stopped, is_stop_point};
use super::store::{Store, positions};
use super::testbed::Testbed;

/// Whatever is waited for is there within this time, also on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// The outputs and their numbers of partitions.
pub(super) const OUTPUTS: [(&str, i32); 4] = [
    (ALERTS_TOPIC, 2),
    (COUNTS_TOPIC, 4),
    (LATE_TOPIC, 2),
    (DEAD_LETTER_TOPIC, 1),
];

/// Why a run ends before its judge.
pub(super) enum Halt {
    /// It proves nothing: again, at another instant.
    Invalid(String),
    /// Something is wrong.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Halt {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// A record of an output: topic, partition, offset.
pub(super) type Place = (&'static str, i32, i64);

/// One end of the process.
pub(super) struct Kill {
    /// Where.
    pub(super) step: String,
    /// The records of output that no reader of committed records saw.
    pub(super) pending: BTreeSet<Place>,
    /// The last completed checkpoint.
    pub(super) number: u64,
    /// From the kill until records flowed again.
    pub(super) recovery: Option<Duration>,
    at: Duration,
}

/// What tells one run from another.
#[derive(Clone, Debug)]
pub(super) struct RunName {
    /// Lower-case letters, digits and dashes: names topics, checkpoints and the directory.
    pub(super) text: String,
    /// Rule R1 as process function or as window operator.
    pub(super) rule: &'static str,
}

/// The topics of one run.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    prefix: String,
}

impl Topics {
    pub(super) fn of(run: &RunName) -> Self {
        Self {
            prefix: format!("{}.", run.text),
        }
    }

    pub(super) fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    pub(super) fn input(&self) -> String {
        self.name(PAYMENTS_TOPIC)
    }

    pub(super) fn group(&self) -> String {
        self.name("harbor-fleet")
    }

    /// All of them, with their numbers of partitions.
    pub(super) fn all(&self, partitions: i32) -> Vec<(String, i32)> {
        let outputs = OUTPUTS.iter();
        let mut all: Vec<_> = outputs
            .map(|(topic, partitions)| (self.name(topic), *partitions))
            .collect();
        all.push((self.input(), partitions));
        all
    }

    /// The start of every partition.
    pub(super) fn beginning(partitions: i32) -> BTreeMap<i32, i64> {
        (0..partitions).map(|partition| (partition, 0)).collect()
    }
}

/// Describes the job of a run.
pub(super) fn job_of(testbed: &Testbed, run: &RunName) -> JobSpec {
    let topics = Topics::of(run);
    JobSpec {
        name: run.text.clone(),
        folder: testbed.root.join(&run.text),
        parameters: vec![
            ("kafka", testbed.bootstrap()),
            ("topics", topics.prefix),
            ("blocklist", testbed.blocklist().to_string()),
            ("rule", run.rule.to_owned()),
        ],
        state: format!("s3://{}/acceptance", S3::BUCKET),
        s3_endpoint: testbed.s3_endpoint(),
        interval: "1s",
        backing: testbed.backing.clone(),
        workers: testbed.workers,
        parallelism_max: 0,
        small_disk: None,
    }
}

/// One run.
pub(super) struct Scene<'a> {
    pub(super) testbed: &'a Testbed,
    pub(super) cluster: &'a Cluster,
    pub(super) spec: JobSpec,
    pub(super) store: Store,
    pub(super) topics: Topics,
    pub(super) kills: Vec<Kill>,
    /// How long records stood still at each rescale that nothing disturbed.
    pub(super) pauses: Vec<Duration>,
    pub(super) random: Random,
    partitions: i32,
    feed: Feed,
    process: Option<Process>,
}

impl<'a> Scene<'a> {
    /// Makes the topics and starts to write the payments.
    pub(super) fn open(
        testbed: &'a Testbed,
        cluster: &'a Cluster,
        run: &RunName,
        (profile, rate): (Profile, Rate),
        random: Random,
    ) -> anyhow::Result<Self> {
        let (spec, topics) = (job_of(testbed, run), Topics::of(run));
        std::fs::create_dir_all(&spec.folder).context("the directory of the run")?;
        let partitions = profile.partitions as i32;
        cluster.create(&topics.all(partitions))?;
        let store = Store::open(&spec.state, &spec.s3_endpoint, &spec.name, testbed.rim())?;
        let feed = Feed::start(cluster, &topics.input(), profile, rate)?;
        Ok(Self {
            testbed,
            cluster,
            spec,
            store,
            topics,
            kills: Vec::new(),
            pauses: Vec::new(),
            random,
            partitions,
            feed,
            process: None,
        })
    }

    /// Starts the job, or has it go on.
    pub(super) fn start(&mut self, parallelism: u32, stop_at: Option<&str>) -> anyhow::Result<()> {
        let how = Start {
            stop_at,
            savepoint: None,
        };
        self.process = Some(self.spec.start(parallelism, how)?);
        Ok(())
    }

    /// Starts the job from a savepoint, which it goes back to.
    pub(super) fn start_from(&mut self, parallelism: u32, savepoint: &str) -> anyhow::Result<()> {
        let how = Start {
            stop_at: None,
            savepoint: Some(savepoint),
        };
        self.process = Some(self.spec.start(parallelism, how)?);
        Ok(())
    }

    /// The process that runs, if one does.
    pub(super) fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Whether the process has ended by itself, and how.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match &mut self.process {
            Some(process) => process.ended(),
            None => Ok(None),
        }
    }

    /// Waits until `done` holds. The job must live as long.
    pub(super) fn wait(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<()> {
        let (mut reached, mut ended) = (false, None);
        wait_until(PATIENCE, || {
            reached = done(self);
            let process = self.process.as_mut();
            ended = process.and_then(|process| process.ended().transpose());
            reached || ended.is_some()
        });
        match ended {
            _ if reached => Ok(()),
            Some(ended) => bail!(
                "the job ended ({}) while this was waited for: {what}\n{}",
                ended?,
                self.spec.tail()
            ),
            None => bail!("this did not come: {what}\n{}", self.spec.tail()),
        }
    }

    /// Waits until the status is as wanted or the process has ended by itself. Returns the last status with a failure.
    pub(super) fn wait_any_end(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Option<String>> {
        let (mut last, mut reached) = (None, Ok(false));
        wait_until(PATIENCE, || {
            if let Some(status) = self.spec.status(self.testbed.rim()) {
                reached = Ok(done(&status));
                last = Some(status.to_string());
            }
            match self.ended() {
                Ok(Some(_)) => reached = Ok(true),
                Ok(None) => {}
                Err(error) => reached = Err(error),
            }
            !matches!(reached, Ok(false))
        });
        if !reached? {
            bail!("this did not come: {what}\n{}", self.spec.tail());
        }
        Ok(last)
    }

    /// Waits until records flow, after the last kill if there was one.
    pub(super) fn wait_running(&mut self) -> anyhow::Result<()> {
        self.wait("records flow", |scene| {
            scene.spec.is_running(scene.testbed.rim())
        })?;
        let now = self.testbed.clock.now();
        if let Some(kill) = self.kills.last_mut() {
            kill.recovery
                .get_or_insert_with(|| now.saturating_sub(kill.at));
        }
        Ok(())
    }

    /// Waits until the running process has completed `count` checkpoints of its own.
    pub(super) fn wait_checkpoints(&mut self, count: u64) -> anyhow::Result<()> {
        self.wait("checkpoints complete", |scene| {
            let status = scene.spec.status(scene.testbed.rim());
            status.is_some_and(|status| {
                status["checkpoints"]["completed_count"].as_u64() >= Some(count)
            })
        })
    }

    /// Waits until the running process has completed `count` more checkpoints.
    pub(super) fn wait_more_checkpoints(&mut self, count: u64) -> anyhow::Result<()> {
        let status = self.spec.status(self.testbed.rim()).unwrap_or_default();
        let done = status["checkpoints"]["completed_count"].as_u64();
        self.wait_checkpoints(done.unwrap_or(0) + count)
    }

    /// Lets a random time pass, at most `most`.
    pub(super) fn pass_time(&mut self, most: Duration) {
        let millis = self.random.below(most.as_millis() as u64 + 1);
        wait_until(Duration::from_millis(millis), || false);
    }

    /// SIGKILL at the next instant at which a reader of committed records is kept from something.
    pub(super) fn kill(&mut self) -> Result<(), Halt> {
        let (mut is_pending, mut is_over) = (false, false);
        self.wait("output is pending", |scene| {
            is_pending = scene.open_ends().is_ok_and(|open| !open.is_empty());
            is_over = scene.feed.is_over();
            is_pending || is_over
        })?;
        if !is_pending {
            return Err(Halt::Invalid("the input ended before the kill".to_owned()));
        }
        let mut process = self.process.take().context("nothing runs")?;
        if let Some(ended) = process.ended()? {
            return Err(anyhow!("the job ended by itself ({ended})\n{}", self.spec.tail()).into());
        }
        process.kill()?;
        self.note_kill("SIGKILL".to_owned(), MustPend::Yes)
    }

    /// Waits until the process ends itself at a stop point, or a worker of it does; then all of it is killed.
    pub(super) fn wait_stop(&mut self, step: &str, must: MustPend) -> Result<(), Halt> {
        let mut process = self.process.take().context("nothing runs")?;
        let mut stopped = process.wait_stopped(Duration::ZERO)?;
        while stopped.is_none() {
            // Once everything is read no step brings output any more.
            let last = self.feed.is_over();
            stopped = process.wait_stopped(Duration::from_secs(1))?;
            if last && stopped.is_none() {
                return Err(Halt::Invalid(format!("{step} was not reached in time")));
            }
        }
        match stopped {
            Some(Stopped::Whole(status)) if is_stop_point(status) => {}
            Some(Stopped::Whole(status)) => {
                let tail = self.spec.tail();
                let reason = anyhow!("the job ended ({status}) instead of at {step}\n{tail}");
                return Err(reason.into());
            }
            Some(Stopped::Worker) => process.kill()?,
            None => return Err(anyhow!("the job did not end").into()),
        }
        self.note_kill(step.to_owned(), must)
    }

    /// The partitions of outputs in which a transaction is open, and from where on.
    fn open_ends(&self) -> anyhow::Result<BTreeMap<&'static str, BTreeMap<i32, i64>>> {
        let mut open: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (topic, partitions) in OUTPUTS {
            let name = self.topics.name(topic);
            for partition in 0..partitions {
                let ends = self.cluster.ends(&name, partition)?;
                if ends.stable < ends.high {
                    open.entry(topic)
                        .or_default()
                        .insert(partition, ends.stable);
                }
            }
        }
        Ok(open)
    }

    /// Notes what is pending right after the end of a process.
    fn note_kill(&mut self, step: String, must: MustPend) -> Result<(), Halt> {
        let at = self.testbed.clock.now();
        let mut pending = BTreeSet::new();
        for (topic, open) in self.open_ends()? {
            let name = self.topics.name(topic);
            let seen = self.cluster.read(&name, &open, Isolation::Uncommitted)?;
            pending.extend(seen.iter().map(|seen| (topic, seen.partition, seen.offset)));
        }
        if pending.is_empty() && must == MustPend::Yes {
            return Err(Halt::Invalid(format!("nothing was pending at {step}")));
        }
        let number = match self.store.head()? {
            Some(head) => head.number,
            None => return Err(Halt::Invalid("there was no checkpoint yet".to_owned())),
        };
        self.check_group_is_behind()?;
        self.kills.push(Kill {
            step,
            pending,
            number,
            recovery: None,
            at,
        });
        Ok(())
    }

    /// The group is never ahead of the last completed checkpoint (HB-73).
    fn check_group_is_behind(&self) -> anyhow::Result<()> {
        let (_, manifest) = self.store.last()?;
        let positions = positions(&manifest)?;
        for (partition, offset) in self.group()? {
            let position = positions.get(&partition).copied().unwrap_or(0);
            if offset > position {
                bail!(
                    "HB-73: the group is at {offset} in partition {partition}, and the last completed checkpoint at {position}"
                );
            }
        }
        Ok(())
    }

    /// The offsets of the group.
    pub(super) fn group(&self) -> anyhow::Result<BTreeMap<i32, i64>> {
        let (group, input) = (self.topics.group(), self.topics.input());
        self.cluster.group(&group, &input, self.partitions)
    }

    /// Whether payments are still being written.
    pub(super) fn is_fed(&self) -> bool {
        !self.feed.is_over()
    }

    /// Has the running job go on at another parallelism, and notes how long records stood still.
    pub(super) fn rescale(&mut self, parallelism: u32) -> anyhow::Result<()> {
        let before = self.redeployments();
        let wanted = parallelism.to_string();
        self.spec.call(&["rescale", "--parallelism", &wanted])?;
        self.expect_parallelism(&[parallelism])?;
        let after = self.redeployments();
        if after.0 > before.0 {
            self.pauses.push(Duration::from_millis(after.1));
        }
        Ok(())
    }

    /// Asks for another parallelism, and does not wait for it.
    pub(super) fn ask_rescale(&self, parallelism: u32) -> anyhow::Result<()> {
        let wanted = parallelism.to_string();
        let words = ["rescale", "--parallelism", &wanted, "--detach"];
        self.spec.call(&words)
    }

    /// How often the tasks of the process began anew without a failure, and how long records stood still at the last time, in
    /// milliseconds.
    fn redeployments(&self) -> (u64, u64) {
        let status = self.spec.status(self.testbed.rim()).unwrap_or_default();
        let part = |name: &str| status["redeployments"][name].as_u64().unwrap_or(0);
        (part("count"), part("pause_ms"))
    }

    /// The running job is at one of these.
    pub(super) fn expect_parallelism(&mut self, allowed: &[u32]) -> anyhow::Result<()> {
        let mut found = None;
        self.wait("the job tells its parallelism", |scene| {
            found = scene.spec.parallelism(scene.testbed.rim());
            found.is_some()
        })?;
        let is_allowed = |one: &u32| found == Some(u64::from(*one));
        if !allowed.iter().any(is_allowed) {
            bail!("HC-02: the job runs at {found:?}, and one of {allowed:?} is due");
        }
        Ok(())
    }

    /// Stops with state kept and a savepoint of this name.
    pub(super) fn suspend(&mut self, savepoint: &str) -> anyhow::Result<()> {
        self.spec.call(&["stop", "--savepoint", savepoint])?;
        self.wait_end()
    }

    /// Stops drained.
    pub(super) fn drain(&mut self) -> anyhow::Result<()> {
        self.spec.call(&["stop", "--drain"])?;
        self.wait_end()
    }

    fn wait_end(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("nothing runs")?;
        match process.wait(PATIENCE)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("the stopped job ended with {status}\n{}", self.spec.tail()),
            None => bail!("the stopped job does not end\n{}", self.spec.tail()),
        }
    }

    /// Waits until all payments are written and read, and a checkpoint covers them.
    pub(super) fn wait_read(&mut self) -> anyhow::Result<Logs> {
        self.wait("the payments are written", |scene| scene.feed.is_over())?;
        let logs = self.feed.logs()?;
        let input = self.topics.input();
        let ends = logs.ends();
        for (&partition, &lines) in &ends {
            let end = self.cluster.ends(&input, partition)?.high;
            if end != lines {
                bail!("partition {partition} of the input holds {end} records of {lines}");
            }
        }
        self.wait("a checkpoint covers all payments", |scene| {
            scene.group().is_ok_and(|group| group == ends)
        })?;
        Ok(logs)
    }

    /// Ends the writing of payments, wherever it is.
    pub(super) fn end_input(&mut self) -> anyhow::Result<Logs> {
        self.feed.stop();
        self.feed.logs()
    }
}

/// Whether a kill without pending output makes the run invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MustPend {
    Yes,
    /// It is the second of a pair, and something was pending at the first; or all output is confirmed at this step.
    No,
}

//! The boundary vectors of rule R1 of Harbor Fleet, all but V2, each through a job of its own on real topics.
//!
//! A vector writes payments one after another, waits until a checkpoint covers them, and compares what a reader of
//! committed records sees with what the specification says: exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use harbor_fleet::payments::{ALERTS_TOPIC, COUNTS_TOPIC, LATE_TOPIC};
use highwater_testkit::process::wait_until;
use rdkafka::producer::{BaseProducer, Producer as _};
use serde_json::Value;

use super::cluster::Cluster;
use super::drill::Shown;
use super::feed::send;
use super::judge::{Verdict, committed};
use super::process::{JobSpec, Process, Start};
use super::scene::{Halt, PATIENCE, RunName, Topics, job_of};
use super::store::Store;
use super::testbed::Testbed;

/// 2026-03-02, 10:00 UTC: the start of the window.
const TEN: i64 = 1_772_445_600_000;
const NEXT: i64 = TEN + 600_000;
/// Before 1970: the window that ends at the epoch.
const BEFORE: i64 = -600_000;
/// V5 looks while the silent partition still counts as active, so this is long.
const IDLE_MS: i64 = 6_000;

/// An instant in milliseconds: minutes and milliseconds after ten.
const fn at(minute: i64, millis: i64) -> i64 {
    TEN + minute * 60_000 + millis
}

/// A payment that only moves event time.
const MOVES: &str = "APPROVED";
const DECLINED: &str = "DECLINED";

/// What is committed: counts by window in order, alerts by window, late payments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Output {
    counts: Vec<(String, i64, u64)>,
    alerts: Vec<(String, i64, bool)>,
    late: Vec<(String, i64)>,
}

impl Output {
    fn counts(counts: &[(i64, u64)]) -> Self {
        let of_user = |(window, count): &(i64, u64)| ("u1".to_owned(), *window, *count);
        Self {
            counts: counts.iter().map(of_user).collect(),
            ..Self::default()
        }
    }

    fn alert(mut self, window: i64, is_late: bool) -> Self {
        self.alerts.push(("u1".to_owned(), window, is_late));
        self
    }
}

/// One vector at work.
struct Stage<'a> {
    testbed: &'a Testbed,
    cluster: &'a Cluster,
    spec: JobSpec,
    topics: Topics,
    store: Store,
    producer: BaseProducer,
    written: BTreeMap<i32, i64>,
    process: Process,
}

type Script = fn(&mut Stage<'_>) -> Result<Output, Halt>;

/// Names, numbers of partitions and acts. Each returns what must stand there after the drained stop.
const VECTORS: &[(&str, i32, Script)] = &[
    ("V1", 1, v1),
    ("V1b", 1, v1b),
    ("V1c", 1, v1c),
    ("V3", 1, v3),
    ("V3b", 1, v3b),
    ("V4", 1, v4),
    ("V4b", 1, v4b),
    ("V5", 2, v5),
    ("V6", 1, v6),
    ("V7", 1, v7),
    ("V8", 1, v8),
];

fn five(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    for millis in 59_994..59_999 {
        stage.pay(0, "u1", at(9, millis), DECLINED)?;
    }
    Ok(())
}

fn v1(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    five(stage)?;
    Ok(Output::counts(&[(TEN, 5)]))
}

fn v1b(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    five(stage)?;
    stage.pay(0, "u1", at(9, 59_999), DECLINED)?;
    Ok(Output::counts(&[(TEN, 6)]).alert(TEN, false))
}

fn v1c(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    five(stage)?;
    stage.pay(0, "u1", at(10, 0), DECLINED)?;
    Ok(Output::counts(&[(TEN, 5), (NEXT, 1)]))
}

fn v3(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    five(stage)?;
    stage.pay(0, "other", at(10, 44_999), MOVES)?;
    stage.settle()?;
    stage.expect(&Output::default())?;
    Ok(Output::counts(&[(TEN, 5)]))
}

fn v3b(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    five(stage)?;
    stage.pay(0, "other", at(10, 45_000), MOVES)?;
    stage.settle()?;
    let last = Output::counts(&[(TEN, 5)]);
    stage.expect(&last)?;
    Ok(last)
}

fn v4(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    five(stage)?;
    stage.pay(0, "other", at(15, 44_999), MOVES)?;
    stage.settle()?;
    stage.expect(&Output::counts(&[(TEN, 5)]))?;
    stage.pay(0, "u1", at(5, 0), DECLINED)?;
    stage.settle()?;
    let last = Output::counts(&[(TEN, 5), (TEN, 6)]).alert(TEN, true);
    stage.expect(&last)?;
    Ok(last)
}

fn v4b(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    five(stage)?;
    stage.pay(0, "other", at(15, 45_000), MOVES)?;
    stage.settle()?;
    stage.pay(0, "u1", at(5, 0), DECLINED)?;
    stage.settle()?;
    let mut last = Output::counts(&[(TEN, 5)]);
    last.late.push(("u1".to_owned(), at(5, 0)));
    stage.expect(&last)?;
    Ok(last)
}

fn v5(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    stage.wait_running()?;
    let started = stage.testbed.clock.now();
    stage.pay(1, "other", at(0, 0), MOVES)?;
    five(stage)?;
    stage.pay(0, "other", at(10, 45_000), MOVES)?;
    stage.settle()?;
    let before = stage.output()?;
    let passed = stage.testbed.clock.now().saturating_sub(started);
    if passed >= Duration::from_millis(IDLE_MS as u64) {
        let reason = "the machine was too slow to look before the silent partition was idle";
        return Err(Halt::Invalid(reason.to_owned()));
    }
    if before != Output::default() {
        let text = "a window was final before the silent partition was idle";
        return Err(anyhow!("{text}: {before:?}").into());
    }
    let mut last = Output::counts(&[(TEN, 5)]);
    stage.wait_for(&last)?;
    // The silent partition wakes with an old decline, still within the allowed lateness.
    stage.pay(1, "u1", at(5, 0), DECLINED)?;
    last = Output::counts(&[(TEN, 5), (TEN, 6)]).alert(TEN, true);
    stage.wait_for(&last)?;
    // Event time moves on once it is idle again: now the same decline is too late.
    stage.pay(0, "other", at(15, 45_000), MOVES)?;
    stage.wait_watermark(at(14, 59_999))?;
    stage.settle()?;
    stage.pay(1, "u1", at(5, 0), DECLINED)?;
    last.late.push(("u1".to_owned(), at(5, 0)));
    stage.wait_for(&last)?;
    Ok(last)
}

fn v6(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    for millis in 1..=6 {
        stage.pay(0, "u1", -millis, DECLINED)?;
    }
    Ok(Output::counts(&[(BEFORE, 6)]).alert(BEFORE, false))
}

fn v7(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    stage.pay(0, "u1", at(5, 0), DECLINED)?;
    stage.pay(0, "u1", at(5, 0), DECLINED)?;
    Ok(Output::counts(&[(TEN, 2)]))
}

fn v8(stage: &mut Stage<'_>) -> Result<Output, Halt> {
    for millis in 0..6 {
        stage.pay(0, "u1", at(5, millis), "declined")?;
    }
    Ok(Output::default())
}

/// Runs all vectors with the rule of `run`.
///
/// # Errors
/// When one of them shows anything else than the specification says.
pub(super) fn run(testbed: &Testbed, cluster: &Cluster, run: &RunName) -> Result<Shown, Halt> {
    for &(name, partitions, script) in VECTORS {
        let text = format!("{}-{}", run.text, name.to_ascii_lowercase());
        let of_vector = RunName {
            text,
            rule: run.rule,
        };
        let played = Stage::open(testbed, cluster, &of_vector, partitions)
            .map_err(Halt::from)
            .and_then(|stage| stage.play(script, partitions));
        played.map_err(|halt| match halt {
            Halt::Invalid(reason) => Halt::Invalid(format!("vector {name}: {reason}")),
            Halt::Failed(error) => Halt::Failed(error.context(format!("vector {name}"))),
        })?;
    }
    Ok(Shown {
        verdict: Verdict::default(),
        kills: Vec::new(),
        pauses: Vec::new(),
    })
}

impl<'a> Stage<'a> {
    fn open(
        testbed: &'a Testbed,
        cluster: &'a Cluster,
        run: &RunName,
        partitions: i32,
    ) -> anyhow::Result<Self> {
        let mut spec = job_of(testbed, run);
        spec.interval = "200ms";
        spec.parameters.push(("idle-ms", IDLE_MS.to_string()));
        std::fs::create_dir_all(&spec.folder).context("the directory of the vector")?;
        let topics = Topics::of(run);
        cluster.create(&topics.all(partitions))?;
        Ok(Self {
            testbed,
            cluster,
            store: Store::open(&spec.state, &spec.s3_endpoint, &spec.name, testbed.rim())?,
            producer: cluster.producer()?,
            written: BTreeMap::new(),
            process: spec.start(1, Start::default())?,
            spec,
            topics,
        })
    }

    fn play(mut self, script: Script, partitions: i32) -> Result<(), Halt> {
        let last = script(&mut self)?;
        Ok(self.end(&last, partitions)?)
    }

    /// Stops drained and compares what is there then.
    fn end(mut self, last: &Output, partitions: i32) -> anyhow::Result<()> {
        self.settle()?;
        self.spec.call(&["stop", "--drain"])?;
        match self.process.wait(PATIENCE)? {
            Some(status) if status.success() => {}
            ended => bail!("the drained job ended with {ended:?}\n{}", self.spec.tail()),
        }
        self.expect(last)?;
        let topics = self.topics.all(partitions).into_iter();
        let names: Vec<_> = topics.map(|(name, _)| name).collect();
        self.cluster.delete(&names)?;
        self.store.remove()
    }

    fn pay(&mut self, partition: i32, user: &str, time: i64, status: &str) -> anyhow::Result<()> {
        let line = format!(
            r#"{{"event_time":{time},"user_id":"{user}","amount":1.00,"status":"{status}"}}"#
        );
        send(
            &self.producer,
            &self.topics.input(),
            partition,
            line.as_bytes(),
        )?;
        self.producer.flush(PATIENCE).context("a payment")?;
        *self.written.entry(partition).or_default() += 1;
        Ok(())
    }

    fn wait(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let mut reached = Ok(false);
        let mut ended = None;
        wait_until(PATIENCE, || {
            reached = done(self);
            ended = self.process.ended().transpose();
            !matches!(reached, Ok(false)) || ended.is_some()
        });
        match (reached?, ended) {
            (true, _) => Ok(()),
            (false, Some(ended)) => {
                bail!(
                    "the job ended ({}) before: {what}\n{}",
                    ended?,
                    self.spec.tail()
                )
            }
            (false, None) => bail!("this did not come: {what}\n{}", self.spec.tail()),
        }
    }

    /// Waits until everything written is read and what came of it is committed.
    fn settle(&mut self) -> anyhow::Result<()> {
        let (group, input) = (self.topics.group(), self.topics.input());
        let written = self.written.clone();
        let partitions = written.keys().last().map_or(1, |last| last + 1);
        self.wait("a checkpoint covers the payments", |stage| {
            let read = stage.cluster.group(&group, &input, partitions)?;
            let is_read = |(partition, end): (&i32, &i64)| read.get(partition) == Some(end);
            Ok(written.iter().all(is_read))
        })?;
        // The second checkpoint from now completes only when the output of the first is committed.
        let rim = self.testbed.rim();
        let next = self.spec.completed(rim) + 2;
        self.wait("two more checkpoints", |stage| {
            Ok(stage.spec.completed(rim) >= next)
        })
    }

    fn wait_running(&mut self) -> anyhow::Result<()> {
        let rim = self.testbed.rim();
        self.wait("records flow", |stage| Ok(stage.spec.is_running(rim)))
    }

    fn wait_watermark(&mut self, wanted: i64) -> anyhow::Result<()> {
        let rim = self.testbed.rim();
        self.wait("event time moves on", |stage| {
            let status = stage.spec.status(rim);
            let watermark = status.and_then(|status| status["watermark"].as_i64());
            Ok(watermark >= Some(wanted))
        })
    }

    fn wait_for(&mut self, wanted: &Output) -> anyhow::Result<()> {
        let came = self.wait("the output", |stage| Ok(stage.output()? == *wanted));
        came.with_context(|| format!("wanted {wanted:?}, there is {:?}", self.output()))
    }

    fn expect(&self, wanted: &Output) -> anyhow::Result<()> {
        let output = self.output()?;
        if output == *wanted {
            return Ok(());
        }
        bail!("wanted {wanted:?}, there is {output:?}")
    }

    fn values(&self, topic: &str) -> anyhow::Result<Vec<Value>> {
        let seen = committed(self.cluster, &self.topics, topic)?;
        let values = seen.iter().map(|seen| serde_json::from_slice(&seen.value));
        values.collect::<Result<_, _>>().context("a line of output")
    }

    /// What is committed now.
    fn output(&self) -> anyhow::Result<Output> {
        let mut output = Output::default();
        for value in self.values(COUNTS_TOPIC)? {
            let count = value["count"].as_u64().context("a count")?;
            output
                .counts
                .push((user(&value), time(&value, "window_start")?, count));
        }
        // Counts of one window are in order, those of different windows lie in different partitions.
        output.counts.sort_by_key(|(_, window, _)| *window);
        for value in self.values(ALERTS_TOPIC)? {
            let is_late = value["late"].as_bool().context("the late flag")?;
            output
                .alerts
                .push((user(&value), time(&value, "window_start")?, is_late));
        }
        for value in self.values(LATE_TOPIC)? {
            output
                .late
                .push((user(&value), time(&value, "event_time")?));
        }
        Ok(output)
    }
}

fn user(value: &Value) -> String {
    value["user_id"].as_str().unwrap_or_default().to_owned()
}

/// A time of the output, by the reader of the oracle.
fn time(value: &Value, field: &str) -> anyhow::Result<i64> {
    let text = &value[field];
    harbor_fleet::oracle::time_ms(text).with_context(|| format!("`{field}` is no time: {text}"))
}

//! Judges a run that has ended: the oracle over the committed output, the group, open transactions, the store.
//!
//! Source: the rules HB-11, HB-32, HB-33, HB-34, HB-73, HB-74 and HB-80 of Harbor Fleet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use harbor_fleet::oracle::{Expected, Observed, Report};
use harbor_fleet::payments::{ALERTS_TOPIC, COUNTS_TOPIC, DEAD_LETTER_TOPIC, LATE_TOPIC};
use highwater_testkit::process::wait_until;

use super::cluster::{Cluster, Isolation, Seen};
use super::feed::Logs;
use super::scene::{OUTPUTS, Place, Scene, Topics};
use super::store::positions;

/// An ended transaction is visible some milliseconds after its end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// For so much event time after its silence a partition may be read behind the others: two seconds at the pace of the drills,
/// on a busy machine.
const WAKING_MS: i64 = 1_200_000;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    /// Expected and missing.
    pub(super) lost: u64,
    /// There more than once.
    pub(super) doubled: u64,
    /// Records that were pending at a kill.
    pub(super) pending: u64,
    /// Of these: never seen by a reader of committed records.
    pub(super) discarded: u64,
    /// The rules that are broken, with where and how.
    pub(super) violations: Vec<String>,
}

/// The committed values of an output of a run.
pub(super) fn committed(
    cluster: &Cluster,
    topics: &Topics,
    topic: &str,
) -> anyhow::Result<Vec<Seen>> {
    let partitions = OUTPUTS.iter().find(|(name, _)| *name == topic);
    let (_, partitions) = partitions.context("an output of the job")?;
    let from = Topics::beginning(*partitions);
    cluster.read(&topics.name(topic), &from, Isolation::Committed)
}

/// Judges a run whose job has read `logs` as far as its last checkpoint says, and was drained.
pub(super) fn judge(scene: &Scene<'_>, logs: &Logs) -> anyhow::Result<Verdict> {
    let (head, manifest) = scene.store.last()?;
    let positions = positions(&manifest)?;
    let markers = format!("hw.{}.markers", head.lineage);
    let open = open_transactions((scene.cluster, &scene.topics), &markers)?;
    let (mut verdict, places) = judge_output((scene.cluster, &scene.topics), logs, &positions)?;
    verdict.violations.extend(open);

    let pending: BTreeSet<Place> = scene
        .kills
        .iter()
        .flat_map(|kill| kill.pending.iter().copied())
        .collect();
    verdict.pending = pending.len() as u64;
    verdict.discarded = pending.difference(&places).count() as u64;

    let group = scene.group()?;
    if group != positions {
        let text =
            format!("HB-73: the group is at {group:?}, the last checkpoint at {positions:?}");
        verdict.violations.push(text);
    }
    for kill in &scene.kills {
        if head.number <= kill.number {
            let text = format!("HD-01: checkpoint {} follows {}", head.number, kill.number);
            verdict.violations.push(text);
        }
    }
    let orphans = scene.store.orphans()?;
    if !orphans.is_empty() {
        verdict
            .violations
            .push(format!("orphans: {}", orphans.join(", ")));
    }
    if let Err(error) = scene.spec.call(&["checkpoints", "verify"]) {
        verdict.violations.push(format!("verify: {error:#}"));
    }
    Ok(verdict)
}

/// Compares what is committed with `logs`, read up to these positions. Returns with it where each committed record is.
pub(super) fn judge_output(
    (cluster, topics): (&Cluster, &Topics),
    logs: &Logs,
    positions: &BTreeMap<i32, i64>,
) -> anyhow::Result<(Verdict, BTreeSet<Place>)> {
    let mut expected = Expected::with_waking(WAKING_MS);
    logs.expect(positions, &mut expected);
    let (mut observed, mut places) = (Observed::default(), BTreeSet::new());
    let mut values = |topic: &'static str| -> anyhow::Result<Vec<Vec<u8>>> {
        let seen = committed(cluster, topics, topic)?;
        places.extend(seen.iter().map(|seen| (topic, seen.partition, seen.offset)));
        Ok(seen.into_iter().map(|seen| seen.value).collect())
    };
    observed.add_alerts(values(ALERTS_TOPIC)?)?;
    observed.add_counts(values(COUNTS_TOPIC)?)?;
    observed.add_late(values(LATE_TOPIC)?)?;
    observed.add_dead_letters(values(DEAD_LETTER_TOPIC)?);
    let report = Report::new(&expected, &observed);
    let broken = report.violations.iter();
    let verdict = Verdict {
        lost: report.lost,
        doubled: report.doubled,
        violations: broken
            .map(|one| format!("{}: {}", one.rule, one.what))
            .collect(),
        ..Verdict::default()
    };
    Ok((verdict, places))
}

/// Partitions on which a transaction is open after the final stop (HB-74).
pub(super) fn open_transactions(
    (cluster, topics): (&Cluster, &Topics),
    markers: &str,
) -> anyhow::Result<Vec<String>> {
    let outputs = OUTPUTS.iter().flat_map(|(topic, partitions)| {
        (0..*partitions).map(|partition| (topics.name(topic), partition))
    });
    let mut open = Vec::new();
    for (topic, partition) in outputs.chain([(markers.to_owned(), 0)]) {
        let mut last = cluster.ends(&topic, partition)?;
        wait_until(END_PATIENCE, || {
            match cluster.ends(&topic, partition) {
                Ok(ends) => last = ends,
                Err(_) => return false,
            }
            last.stable == last.high
        });
        if last.stable != last.high {
            open.push(format!(
                "HB-74: a transaction is open in {topic}/{partition} from {} to {}",
                last.stable, last.high
            ));
        }
    }
    Ok(open)
}

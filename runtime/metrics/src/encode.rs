//! OpenMetrics text from the tables and the cells.
//!
//! `prometheus-client` writes the format; this module shows it our cells through its collector seam. A family without a
//! sample is left out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as OpenUnit};

use crate::metric::{Kind, Metric, Unit};
use crate::registry::{MetricsRegistry, Sample, SampleValue};

/// Everything in `registry` as OpenMetrics text.
pub(crate) fn text(registry: &MetricsRegistry) -> String {
    let identity = (Cow::from("identity"), Cow::from(registry.job().to_owned()));
    let mut open = Registry::with_labels(std::iter::once(identity));
    open.register_collector(Box::new(Families(registry.clone())));
    let mut text = String::new();
    encode(&mut text, &open).expect("writing into a string does not fail");
    text
}

#[derive(Debug)]
struct Families(MetricsRegistry);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut families: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        for sample in self.0.samples() {
            families.entry(sample.metric.name).or_default().push(sample);
        }
        for samples in families.values() {
            family(&mut encoder, samples[0].metric, samples)?;
        }
        Ok(())
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    samples: &[Sample],
) -> Result<(), std::fmt::Error> {
    let kind = match metric.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram(_) => MetricType::Histogram,
    };
    let unit = open_unit(metric.unit);
    let mut encoder = encoder.encode_descriptor(metric.stem(), metric.help, unit.as_ref(), kind)?;
    for sample in samples {
        if sample.labels.is_empty() {
            value(&mut encoder, metric.kind, &sample.value)?;
        } else {
            value(
                &mut encoder.encode_family(&sample.labels)?,
                metric.kind,
                &sample.value,
            )?;
        }
    }
    Ok(())
}

fn open_unit(unit: Unit) -> Option<OpenUnit> {
    match unit.suffix() {
        "" => None,
        "bytes" => Some(OpenUnit::Bytes),
        "seconds" => Some(OpenUnit::Seconds),
        other => Some(OpenUnit::Other(other.to_owned())),
    }
}

fn value(
    encoder: &mut MetricEncoder<'_>,
    kind: Kind,
    value: &SampleValue,
) -> Result<(), std::fmt::Error> {
    match (kind, value) {
        (Kind::Counter, SampleValue::Whole(value)) => {
            encoder.encode_counter::<NoLabelSet, u64, f64>(value, None)
        }
        (Kind::Counter, SampleValue::Real(value)) => {
            encoder.encode_counter::<NoLabelSet, f64, f64>(value, None)
        }
        (_, SampleValue::Whole(value)) => encoder.encode_gauge(&(*value as f64)),
        (_, SampleValue::Real(value)) => encoder.encode_gauge(value),
        (_, SampleValue::Histogram { buckets, sum }) => {
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use highwater_types::{JobIdentity, OperatorUid, SubtaskIndex};

    use super::*;
    use crate::labels::{NoLabels, SubtaskLabels};
    use crate::table::checkpoint::{self, CheckpointScope};
    use crate::table::task::{self, TaskScope};

    fn sample_text() -> String {
        let registry = MetricsRegistry::new(&JobIdentity::parse("fleet").unwrap());
        let operator = OperatorUid::parse("r1-count").unwrap();
        let task = registry.cells::<TaskScope>(&SubtaskLabels {
            operator,
            subtask: SubtaskIndex(3),
        });
        task.add(task::BUSY, Duration::from_millis(1_500));
        task.add(task::LETTERS, 2);
        task.set(task::BUSY_RATIO, 0.25);
        let checkpoints = registry.cells::<CheckpointScope>(&NoLabels);
        checkpoints.observe(checkpoint::DURATION, Duration::from_millis(7));
        checkpoints.set(checkpoint::LAST_BYTES, 4_096);
        registry.open_metrics()
    }

    #[test]
    fn the_text_carries_names_units_and_labels_as_documented() {
        let text = sample_text();
        for line in [
            "# TYPE highwater_task_busy_seconds counter",
            "# UNIT highwater_task_busy_seconds seconds",
            "highwater_task_busy_seconds_total{identity=\"fleet\",operator=\"r1-count\",subtask=\"3\"} 1.5",
            "highwater_task_letters_total{identity=\"fleet\",operator=\"r1-count\",subtask=\"3\"} 2",
            "highwater_task_busy_ratio{identity=\"fleet\",operator=\"r1-count\",subtask=\"3\"} 0.25",
            "highwater_checkpoint_last_written_bytes{identity=\"fleet\"} 4096.0",
            "highwater_checkpoint_duration_seconds_bucket{identity=\"fleet\",le=\"0.01\"} 1",
            "highwater_checkpoint_duration_seconds_bucket{identity=\"fleet\",le=\"+Inf\"} 1",
            "highwater_checkpoint_duration_seconds_count{identity=\"fleet\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no line `{line}` in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_name_in_the_text_stands_in_the_table() {
        let text = sample_text();
        let known = crate::table::ALL
            .iter()
            .flat_map(|table| table.metrics)
            .map(|metric| metric.name)
            .collect::<Vec<_>>();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let plain = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            assert!(
                known.contains(&name) || plain.is_some_and(|name| known.contains(&name)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_gauge_that_was_never_set_has_no_line() {
        assert!(!sample_text().contains("highwater_task_waiting_output"));
    }
}

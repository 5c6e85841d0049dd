//! The dashboard for Grafana, `deploy/observability/dashboard.json`, printed by the example `dashboard-json`.
//!
//! First an overview that names its metrics by their handles, then a row for each scope of the table with a panel for each of its metrics. The
//! rule: a metric of the table is on the dashboard, whoever adds it.

use crate::json::Json;
use crate::metric::{Kind, Metric, Unit};
use crate::table::backpressure::CULPRIT;
use crate::table::hot_keys::SHARE;
use crate::table::operator::{
    LATE_ACCEPTED, LATE_DROPPED, LATE_SIDE, LATENESS, RECORDS_OUT, SUGGESTED_BOUND,
};
use crate::table::process::{STATE_BUDGET, STATE_USED};
use crate::table::source::{DEAD_LETTERS, DROPPED, PENDING_BYTES, PENDING_RECORDS};
use crate::table::task::{BACKPRESSURED_RATIO, BUSY_RATIO, WAITING_OUTPUT, WATERMARK_LAG};
use crate::table::{ALL, Table, checkpoint, job};

/// Panels beside each other.
const COLUMNS: usize = 3;
/// The grid has 24 columns.
const WIDTH: u64 = 24 / COLUMNS as u64;
/// Lines of the grid that a panel takes.
const HEIGHT: u64 = 8;

/// One line of a panel.
struct Query {
    expression: String,
    legend: String,
}

/// One panel.
struct Panel {
    title: String,
    help: String,
    unit: &'static str,
    queries: Vec<Query>,
}

impl Panel {
    fn new(title: &str, help: &str, unit: &'static str) -> Self {
        Self {
            title: title.to_owned(),
            help: help.to_owned(),
            unit,
            queries: Vec::new(),
        }
    }

    fn with(mut self, expression: String, legend: &str) -> Self {
        let legend = legend.to_owned();
        self.queries.push(Query { expression, legend });
        self
    }
}

/// The samples of a metric that belong to the chosen job.
fn of_job(metric: &Metric) -> String {
    format!("{}{{identity=\"$identity\"}}", metric.name)
}

fn rate(metric: &Metric, by: &str) -> String {
    format!("sum by ({by}) (rate({}[$__rate_interval]))", of_job(metric))
}

fn most(metric: &Metric, by: &str) -> String {
    format!("max by ({by}) ({})", of_job(metric))
}

fn sum(metric: &Metric, by: &str) -> String {
    format!("sum by ({by}) ({})", of_job(metric))
}

/// What a share of the observations of a histogram does not exceed.
fn quantile(metric: &Metric, by: &str, share: &str) -> String {
    let name = metric.name;
    format!(
        "histogram_quantile({share}, sum by ({by}, le) (rate({name}_bucket{{identity=\"$identity\"}}[$__rate_interval])))"
    )
}

fn overview() -> Vec<Panel> {
    let panels = [of_flow(), of_lateness(), of_checkpoints(), of_the_rest()];
    panels.into_iter().flatten().collect()
}

fn of_flow() -> Vec<Panel> {
    let operator = "{{operator}}";
    vec![
        Panel::new(
            "Records out",
            "Records a second that each operator emits.",
            "cps",
        )
        .with(rate(RECORDS_OUT.metric(), "operator"), operator),
        Panel::new(
            "Busy and held back",
            "The subtask of each task with the largest share of its time: busy, and held back by what comes behind it.",
            "percentunit",
        )
        .with(most(BUSY_RATIO.metric(), "operator"), "{{operator}} busy")
        .with(
            most(BACKPRESSURED_RATIO.metric(), "operator"),
            "{{operator}} held back",
        ),
        Panel::new(
            "Who holds the others back",
            CULPRIT.metric().help,
            "percentunit",
        )
        .with(most(CULPRIT.metric(), "operator"), operator),
        Panel::new("Watermark lag", WATERMARK_LAG.metric().help, "s")
            .with(most(WATERMARK_LAG.metric(), "operator"), operator),
        Panel::new(
            "Waits in the sources",
            "Records, or bytes, between the positions of the readers and the ends of their splits, where the system can tell.",
            "short",
        )
        .with(
            sum(PENDING_RECORDS.metric(), "operator"),
            "{{operator}} records",
        )
        .with(
            sum(PENDING_BYTES.metric(), "operator"),
            "{{operator}} bytes",
        ),
        Panel::new("Hot keys", SHARE.metric().help, "percentunit").with(
            most(SHARE.metric(), "operator, rank"),
            "{{operator}} {{rank}}",
        ),
    ]
}

fn of_lateness() -> Vec<Panel> {
    vec![
        Panel::new(
            "Late records",
            "Records a second that came behind the watermark: dropped, to a side output, counted all the same.",
            "cps",
        )
        .with(rate(LATE_DROPPED.metric(), "operator"), "{{operator}} dropped")
        .with(rate(LATE_SIDE.metric(), "operator"), "{{operator}} aside")
        .with(
            rate(LATE_ACCEPTED.metric(), "operator"),
            "{{operator}} counted",
        ),
        Panel::new("How late", SUGGESTED_BOUND.metric().help, "s")
            .with(
                quantile(LATENESS.metric(), "operator", "0.5"),
                "{{operator}} half",
            )
            .with(
                quantile(LATENESS.metric(), "operator", "0.99"),
                "{{operator}} 99 %",
            )
            .with(
                most(SUGGESTED_BOUND.metric(), "operator"),
                "{{operator}} suggested bound",
            ),
    ]
}

fn of_checkpoints() -> Vec<Panel> {
    let (last, confirmed) = (
        checkpoint::LAST_NUMBER.metric(),
        checkpoint::CONFIRMED_NUMBER.metric(),
    );
    vec![
        Panel::new(
            "Checkpoints",
            "How long the last one took, and how often one is taken.",
            "s",
        )
        .with(most(checkpoint::LAST_DURATION.metric(), "identity"), "took")
        .with(most(checkpoint::INTERVAL.metric(), "identity"), "interval")
        .with(
            format!(
                "time() - {}",
                most(checkpoint::LAST_TIME.metric(), "identity")
            ),
            "age",
        ),
        Panel::new(
            "Bytes of checkpoints",
            "What the last one wrote, and what a restore of it reads.",
            "bytes",
        )
        .with(most(checkpoint::LAST_BYTES.metric(), "identity"), "written")
        .with(
            most(checkpoint::LAST_FULL_BYTES.metric(), "identity"),
            "whole",
        ),
        Panel::new(
            "Waits for a commit",
            "Completed checkpoints whose output is not confirmed in every sink.",
            "short",
        )
        .with(
            format!(
                "{} - {}",
                most(last, "identity"),
                most(confirmed, "identity")
            ),
            "checkpoints",
        ),
    ]
}

fn of_the_rest() -> Vec<Panel> {
    vec![
        Panel::new(
            "Failures",
            "Restarts within an hour, and checkpoints that failed in a row.",
            "short",
        )
        .with(
            format!(
                "sum by (identity) (increase({}[1h]))",
                of_job(job::RESTARTS.metric())
            ),
            "restarts",
        )
        .with(
            most(checkpoint::FAILED_IN_A_ROW.metric(), "identity"),
            "failed checkpoints",
        ),
        Panel::new(
            "Slots and subtasks",
            "Slots that are there and needed, and subtasks that run.",
            "short",
        )
        .with(most(job::SLOTS.metric(), "identity"), "slots")
        .with(most(job::SLOTS_NEEDED.metric(), "identity"), "needed")
        .with(
            most(job::SUBTASKS_RUNNING.metric(), "identity"),
            "running subtasks",
        ),
        Panel::new(
            "State in memory",
            "What state takes in each process, and what it may take.",
            "bytes",
        )
        .with(sum(STATE_USED.metric(), "instance"), "{{instance}}")
        .with(
            sum(STATE_BUDGET.metric(), "instance"),
            "{{instance}} budget",
        ),
        Panel::new(
            "Refused records",
            "Records a second that a source refused: as dead letters, or dropped.",
            "cps",
        )
        .with(
            rate(DEAD_LETTERS.metric(), "operator"),
            "{{operator}} dead letters",
        )
        .with(rate(DROPPED.metric(), "operator"), "{{operator}} dropped"),
    ]
}

/// The panel of a metric, from what the table says of it.
fn panel(table: &Table, metric: &Metric) -> Panel {
    let labels = table.labels.iter().filter(|label| **label != "subtask");
    let mut labels: Vec<&str> = labels.copied().collect();
    if labels.is_empty() {
        labels.push("instance");
    }
    let by = labels.join(", ");
    let legend = labels.iter().map(|label| format!("{{{{{label}}}}}"));
    let legend = legend.collect::<Vec<_>>().join(" ");
    let title = metric
        .name
        .strip_prefix("highwater_")
        .unwrap_or(metric.name);
    let title = title.strip_suffix("_total").unwrap_or(title);
    let title = title.replace('_', " ");
    let new = |unit| Panel::new(&title, metric.help, unit);
    match metric.kind {
        Kind::Counter => new(unit_of_rate(metric.unit)).with(rate(metric, &by), &legend),
        Kind::Gauge if metric.name.ends_with("_timestamp_seconds") => {
            let ago = format!("time() - {}", most(metric, &by));
            new("s").with(ago, &legend)
        }
        // An index of an output: how many wait says more than the sum.
        Kind::Gauge if metric.name == WAITING_OUTPUT.metric().name => {
            let waiting = format!("count by ({by}) ({})", of_job(metric));
            new("short").with(waiting, &legend)
        }
        Kind::Gauge if matches!(metric.unit, Unit::Count | Unit::Bytes) => {
            new(unit_of(metric.unit)).with(sum(metric, &by), &legend)
        }
        Kind::Gauge => new(unit_of(metric.unit)).with(most(metric, &by), &legend),
        Kind::Histogram(_) => new(unit_of(metric.unit))
            .with(quantile(metric, &by, "0.5"), &format!("{legend} half"))
            .with(quantile(metric, &by, "0.99"), &format!("{legend} 99 %")),
    }
}

/// The unit as Grafana calls it.
const fn unit_of(unit: Unit) -> &'static str {
    match unit {
        Unit::Count | Unit::Number => "short",
        Unit::Bytes => "bytes",
        Unit::Nanos | Unit::Millis => "s",
        Unit::Ratio => "percentunit",
    }
}

/// The unit of so much a second. Seconds a second are a share.
const fn unit_of_rate(unit: Unit) -> &'static str {
    match unit {
        Unit::Count | Unit::Number => "cps",
        Unit::Bytes => "Bps",
        Unit::Nanos | Unit::Millis | Unit::Ratio => "percentunit",
    }
}

fn data_source() -> Json {
    Json::Object(vec![
        ("type", Json::text("prometheus")),
        ("uid", Json::text("${datasource}")),
    ])
}

/// Lays panels out, and numbers them.
struct Layout {
    /// The number of the last panel or row.
    id: u64,
    /// The next free line of the grid.
    line: u64,
}

impl Layout {
    const fn next_id(&mut self) -> Json {
        self.id += 1;
        Json::Number(self.id)
    }

    fn row(&mut self, title: &str, panels: Option<Vec<Json>>) -> Json {
        let place = vec![
            ("h", Json::Number(1)),
            ("w", Json::Number(24)),
            ("x", Json::Number(0)),
            ("y", Json::Number(self.line)),
        ];
        self.line += 1;
        Json::Object(vec![
            ("id", self.next_id()),
            ("type", Json::text("row")),
            ("title", Json::text(title)),
            ("collapsed", Json::Flag(panels.is_some())),
            ("gridPos", Json::Object(place)),
            ("panels", Json::List(panels.unwrap_or_default())),
        ])
    }

    /// Panels below the last row.
    fn panels(&mut self, panels: Vec<Panel>) -> Vec<Json> {
        let first = self.line;
        let laid = panels.into_iter().enumerate().map(|(at, panel)| {
            let line = first + (at / COLUMNS) as u64 * HEIGHT;
            self.line = line + HEIGHT;
            let place = vec![
                ("h", Json::Number(HEIGHT)),
                ("w", Json::Number(WIDTH)),
                ("x", Json::Number((at % COLUMNS) as u64 * WIDTH)),
                ("y", Json::Number(line)),
            ];
            self.panel(panel, place)
        });
        laid.collect()
    }

    fn panel(&mut self, panel: Panel, place: Vec<(&'static str, Json)>) -> Json {
        let targets = panel.queries.into_iter().zip('A'..='Z');
        let targets = targets.map(|(query, letter)| {
            Json::Object(vec![
                ("refId", Json::text(letter)),
                ("datasource", data_source()),
                ("expr", Json::Text(query.expression)),
                ("legendFormat", Json::Text(query.legend)),
            ])
        });
        let defaults = vec![("unit", Json::text(panel.unit))];
        Json::Object(vec![
            ("id", self.next_id()),
            ("type", Json::text("timeseries")),
            ("title", Json::Text(panel.title)),
            ("description", Json::Text(panel.help)),
            ("datasource", data_source()),
            ("gridPos", Json::Object(place)),
            (
                "fieldConfig",
                Json::Object(vec![
                    ("defaults", Json::Object(defaults)),
                    ("overrides", Json::List(Vec::new())),
                ]),
            ),
            ("targets", Json::List(targets.collect())),
        ])
    }
}

/// What somebody chooses at the top: the data source, and the job.
fn variables() -> Json {
    let leads = job::LEADS.metric().name;
    let source = vec![
        ("name", Json::text("datasource")),
        ("label", Json::text("Data source")),
        ("type", Json::text("datasource")),
        ("query", Json::text("prometheus")),
    ];
    let identity = vec![
        ("name", Json::text("identity")),
        ("label", Json::text("Job")),
        ("type", Json::text("query")),
        ("datasource", data_source()),
        (
            "query",
            Json::text(format!("label_values({leads}, identity)")),
        ),
        ("refresh", Json::Number(2)),
    ];
    let both = vec![Json::Object(source), Json::Object(identity)];
    Json::Object(vec![("list", Json::List(both))])
}

/// The file.
pub fn dashboard() -> String {
    let mut layout = Layout { id: 0, line: 0 };
    let mut panels = vec![layout.row("Overview", None)];
    panels.extend(layout.panels(overview()));
    for table in ALL {
        let mut title = table.scope.to_owned();
        title[..1].make_ascii_uppercase();
        let line = layout.line;
        layout.line += 1;
        let all = table.metrics.iter().map(|metric| panel(table, metric));
        let inside = layout.panels(all.collect());
        // A row that is closed takes one line, whatever is in it.
        layout.line = line;
        panels.push(layout.row(&title, Some(inside)));
    }
    let time = vec![("from", Json::text("now-1h")), ("to", Json::text("now"))];
    let help =
        "Generated by `cargo xtask tidy --write` from the table of metrics: changes belong there.";
    let dashboard = Json::Object(vec![
        ("title", Json::text("Highwater job")),
        ("uid", Json::text("highwater-job")),
        ("description", Json::text(help)),
        ("tags", Json::List(vec![Json::text("highwater")])),
        ("schemaVersion", Json::Number(39)),
        ("refresh", Json::text("30s")),
        ("time", Json::Object(time)),
        ("templating", variables()),
        ("panels", Json::List(panels)),
    ]);
    format!("{dashboard}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::alerts::tests::{known, metrics_in};

    /// All panels, those inside of rows too.
    fn panels(dashboard: &Value) -> Vec<&Value> {
        let outer = dashboard["panels"].as_array().unwrap();
        let inner = outer
            .iter()
            .filter_map(|panel| panel["panels"].as_array())
            .flatten();
        outer.iter().chain(inner).collect()
    }

    fn expressions(dashboard: &Value) -> Vec<&str> {
        let all = panels(dashboard).into_iter();
        let targets = all
            .filter_map(|panel| panel["targets"].as_array())
            .flatten();
        targets
            .map(|target| target["expr"].as_str().unwrap())
            .collect()
    }

    #[test]
    fn the_file_is_up_to_date() {
        let file = include_str!("../../../deploy/observability/dashboard.json");
        assert_eq!(file, dashboard(), "run `cargo xtask tidy --write`");
    }

    #[test]
    fn every_metric_of_the_table_is_shown_and_nothing_else() {
        let dashboard: Value = serde_json::from_str(&dashboard()).unwrap();
        let shown: BTreeSet<_> = expressions(&dashboard)
            .into_iter()
            .flat_map(metrics_in)
            .collect();
        assert_eq!(shown, known());
    }

    #[test]
    fn every_panel_has_a_number_of_its_own_a_place_and_a_query() {
        let dashboard: Value = serde_json::from_str(&dashboard()).unwrap();
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            let place = &panel["gridPos"];
            let right = place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap();
            assert!(right <= 24, "{panel}");
            if panel["type"] == "row" {
                continue;
            }
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{panel}");
            for target in targets {
                let expression = target["expr"].as_str().unwrap();
                assert!(
                    expression.contains("identity=\"$identity\""),
                    "{expression}"
                );
            }
        }
    }
}

//! What the log says that the output must be.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use super::parse::payment;
use super::{OracleError, Pair};

const WINDOW_MS: i64 = 600_000;
/// A payment at most this much behind the newest of its partition is ahead of every watermark.
const IN_TIME_MS: i64 = 45_000;

/// A partition that brings nothing for so much event time has been idle: a second of wall time at the pace of the drills.
const SILENCE_MS: i64 = 540_000;

/// The declines of one user in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declines {
    /// All of them.
    pub total: u64,
    /// Those that no watermark can have overtaken: they are counted whatever the reader's pace.
    pub in_time: u64,
}

/// What the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Lines that are payments.
    pub payments: u64,
    /// Lines that are none.
    pub malformed: u64,
    /// Payments that are neither `APPROVED` nor `DECLINED`.
    pub other_statuses: u64,
    /// The declines of each user and window that has any.
    pub declines: BTreeMap<Pair, Declines>,
    /// For how long after a silence nothing of a partition is promised to be in time, in milliseconds of event time.
    waking_ms: i64,
}

impl Expected {
    /// Promises nothing of a partition for `waking_ms` of event time after a silence.
    ///
    /// A silent partition is idle, and what it brings when it wakes is judged by what the others have reached (V5): by how
    /// far they were read ahead, which is a matter of the reader's pace. Such declines are counted or late, and both are
    /// right; HB-33 and HB-80 hold of them all the same.
    pub fn with_waking(waking_ms: i64) -> Self {
        Self {
            waking_ms,
            ..Self::default()
        }
    }

    /// Reads `<root>/<topic>/<partition>.jsonl`, all partitions.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(root: &Path, topic: &str) -> Result<Self, OracleError> {
        let directory = root.join(topic);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OracleError::ReadLog { path, source }
        };
        let mut expected = Self::default();
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
            let path = entry.map_err(failed(&directory))?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "jsonl")
            {
                files.push(path);
            }
        }
        files.sort();
        for path in files {
            let bytes = fs::read(&path).map_err(failed(&path))?;
            expected.add_partition(&bytes);
        }
        Ok(expected)
    }

    /// Adds the log of one partition: lines, each with its newline.
    pub fn add_partition(&mut self, log: &[u8]) {
        let mut of_partition = self.partition();
        for line in log.split_inclusive(|&byte| byte == b'\n') {
            if let Some(line) = line.strip_suffix(b"\n") {
                of_partition.line(line);
            }
        }
        self.add(of_partition);
    }

    /// A partition of which nothing was read yet, to be read line by line.
    pub fn partition(&self) -> PartitionLog {
        PartitionLog {
            newest: i64::MIN,
            awake_from: i64::MIN,
            waking_ms: self.waking_ms,
            payments: 0,
            malformed: 0,
            other_statuses: 0,
            declines: HashMap::new(),
        }
    }

    /// Adds what was read of a partition.
    pub fn add(&mut self, log: PartitionLog) {
        self.payments += log.payments;
        self.malformed += log.malformed;
        self.other_statuses += log.other_statuses;
        for ((user_id, window_start_ms), of_pair) in log.declines {
            let pair = Pair {
                user_id,
                window_start_ms,
            };
            let sum = self.declines.entry(pair).or_default();
            sum.total += of_pair.total;
            sum.in_time += of_pair.in_time;
        }
    }

    /// The pairs that must have an alert, whatever the reader's pace.
    pub fn hits(&self) -> impl Iterator<Item = &Pair> {
        let pairs = self.declines.iter();
        pairs
            .filter(|(_, declines)| declines.in_time >= super::report::ALERT_AT)
            .map(|(pair, _)| pair)
    }

    /// Whether the output depends on nothing but the log: no decline is late.
    pub fn is_unique(&self) -> bool {
        self.declines
            .values()
            .all(|declines| declines.in_time == declines.total)
    }
}

/// What the log of one partition says, read line by line.
#[derive(Clone, Debug)]
pub struct PartitionLog {
    newest: i64,
    awake_from: i64,
    waking_ms: i64,
    payments: u64,
    malformed: u64,
    other_statuses: u64,
    declines: HashMap<(String, i64), Declines>,
}

impl PartitionLog {
    /// Reads the next line, without its newline.
    pub fn line(&mut self, line: &[u8]) {
        let Some(seen) = payment(line) else {
            self.malformed += 1;
            return;
        };
        self.payments += 1;
        if self.newest > i64::MIN && seen.event_time_ms.saturating_sub(self.newest) >= SILENCE_MS {
            self.awake_from = seen.event_time_ms.saturating_add(self.waking_ms);
        }
        let in_time = seen.event_time_ms >= self.newest.saturating_sub(IN_TIME_MS)
            && seen.event_time_ms >= self.awake_from;
        self.newest = self.newest.max(seen.event_time_ms);
        match seen.status.as_str() {
            "DECLINED" => {
                let start = seen.event_time_ms.div_euclid(WINDOW_MS) * WINDOW_MS;
                let declines = self.declines.entry((seen.user_id, start)).or_default();
                declines.total += 1;
                declines.in_time += u64::from(in_time);
            }
            "APPROVED" => {}
            _ => self.other_statuses += 1,
        }
    }
}

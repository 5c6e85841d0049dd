//! What a process has noted of itself, read while it runs: when records came out, and when its sinks began.
//!
//! Moments are seconds of the clock that all processes have in common. Pure but for the file that is read. The rule: a gap is told
//! as it was sampled, from one look at which more records had come out to the next one.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::latency::Histogram;
use crate::line::value_at;

/// What all sinks of a process have seen when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) records: u64,
    pub(super) digest: u64,
}

/// The notes of one process.
#[derive(Debug, Default)]
pub(super) struct Pulses {
    file: PathBuf,
    /// Bytes of it that were read.
    read: u64,
    /// Moments and the records that had come out, in order.
    beats: Vec<(f64, f64)>,
    /// When a writer of the sink was made, and for which subtask.
    opened: Vec<(f64, u32)>,
    /// When the first records of such a writer had come.
    flowed: Vec<(f64, u32)>,
    latency: Option<Histogram>,
    end: Option<End>,
}

impl Pulses {
    /// Those in a file, which need not be there yet; nothing of it is read.
    pub(super) fn of(file: PathBuf) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }

    /// Reads what has come since the last look.
    pub(super) fn look(&mut self) -> Result<()> {
        let mut file = match File::open(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened.with_context(|| self.file.display().to_string())?,
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // The line that is being written may be torn.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        for line in text[..whole].lines() {
            let added = self.add(line);
            added.with_context(|| format!("`{line}` in {}", self.file.display()))?;
        }
        Ok(())
    }

    /// Adds a line; those of others are passed over. `None` = it is of another form than its first word says.
    fn add(&mut self, line: &str) -> Option<()> {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split_whitespace();
        match what {
            "pulse" => self
                .beats
                .push((moment(words.next()?)?, number(words.next()?)? as f64)),
            "open" => self
                .opened
                .push((moment(words.next()?)?, words.next()?.parse().ok()?)),
            "flow" => self
                .flowed
                .push((moment(words.next()?)?, words.next()?.parse().ok()?)),
            "buckets" => self.latency = Some(Histogram::parse(rest)?),
            "end" => {
                self.end = Some(End {
                    records: number(words.next()?)?,
                    digest: u64::from_str_radix(words.next()?, 16).ok()?,
                });
            }
            _ => {}
        }
        Some(())
    }

    /// Records that had come out at the last look.
    pub(super) fn records(&self) -> u64 {
        self.beats.last().map_or(0, |(_, records)| *records as u64)
    }

    /// What the process ended with.
    pub(super) const fn end(&self) -> Option<End> {
        self.end
    }

    /// The latencies that it measured.
    pub(super) const fn latency(&self) -> Option<&Histogram> {
        self.latency.as_ref()
    }

    /// How many writers were made from one moment to another.
    pub(super) fn opened_within(&self, (from, to): (f64, f64)) -> usize {
        let opened = self.opened.iter();
        opened.filter(|(at, _)| (from..=to).contains(at)).count()
    }

    /// The moments at which more records had come out than at the look before.
    pub(super) fn growths(&self) -> impl Iterator<Item = f64> + '_ {
        let pairs = self.beats.windows(2);
        pairs.filter_map(|pair| (pair[1].1 > pair[0].1).then_some(pair[1].0))
    }

    /// Records that had come out at a moment: none before the first look, all of them behind the last.
    fn records_at(&self, at: f64) -> f64 {
        value_at(&self.beats, at).unwrap_or_else(|| {
            let last = self.beats.last().filter(|(moment, _)| *moment < at);
            last.map_or(0.0, |(_, records)| *records)
        })
    }
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// A moment that stands in nanoseconds.
fn moment(text: &str) -> Option<f64> {
    Some(number(text)? as f64 / 1e9)
}

/// The longest time from one of `moments` to the next, from one moment to another; both of these count as one.
fn longest_gap(moments: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> f64 {
    let within = moments.filter(|at| (from..=to).contains(at));
    let mut within: Vec<_> = within.chain([from, to]).collect();
    within.sort_by(f64::total_cmp);
    let gaps = within.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.fold(0.0, f64::max)
}

/// The longest time in which one of these had no record, whatever the others did.
pub(super) fn longest_gap_of_any(all: &[&Pulses], span: (f64, f64)) -> f64 {
    let gaps = all.iter();
    let gaps = gaps.map(|pulses| longest_gap(pulses.growths(), span));
    gaps.fold(0.0, f64::max)
}

/// The longest time in which none of these had a record.
pub(super) fn longest_gap_of_all(all: &[&Pulses], span: (f64, f64)) -> f64 {
    longest_gap(all.iter().flat_map(|pulses| pulses.growths()), span)
}

/// Records that had come out of all of these at a moment.
pub(super) fn records_at(all: &[&Pulses], at: f64) -> f64 {
    all.iter().map(|pulses| pulses.records_at(at)).sum()
}

/// The first look at which so many records had come out of all of these; `None` = that never was.
pub(super) fn moment_of(all: &[&Pulses], records: f64) -> Option<f64> {
    let beats = all.iter().flat_map(|pulses| &pulses.beats);
    let mut moments: Vec<_> = beats.map(|(at, _)| *at).collect();
    moments.sort_by(f64::total_cmp);
    let mut moments = moments.into_iter();
    moments.find(|at| records_at(all, *at) >= records)
}

/// When the first and the last of so many subtasks had their first records behind `after`; `None` = one of them has none yet.
pub(super) fn all_flow(all: &[&Pulses], subtasks: u32, after: f64) -> Option<(f64, f64)> {
    let first_of = |subtask: u32| {
        let flowed = all.iter().flat_map(|pulses| &pulses.flowed);
        let of_it = flowed.filter(|(at, of)| *of == subtask && *at > after);
        of_it.map(|(at, _)| *at).min_by(f64::total_cmp)
    };
    let moments: Vec<_> = (0..subtasks).map(first_of).collect::<Option<_>>()?;
    let first = moments.iter().copied().min_by(f64::total_cmp)?;
    let last = moments.iter().copied().max_by(f64::total_cmp)?;
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn beating(beats: &[(f64, f64)]) -> Pulses {
        Pulses {
            beats: beats.to_vec(),
            ..Pulses::default()
        }
    }

    #[test]
    fn whole_lines_are_read_once_and_torn_ones_later() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report");
        let mut pulses = Pulses::of(file.clone());
        pulses.look().unwrap();
        assert_eq!(pulses.records(), 0);
        fs::write(
            &file,
            "first 7\npulse 1000000000 5\nopen 1500000000 1\npulse 20",
        )
        .unwrap();
        pulses.look().unwrap();
        pulses.look().unwrap();
        assert_eq!(pulses.beats, [(1.0, 5.0)]);
        assert_eq!(pulses.opened_within((1.0, 2.0)), 1);
        let text = "first 7\npulse 1000000000 5\nopen 1500000000 1\npulse 2000000000 9\n\
                    flow 2500000000 1\nbuckets 30 3:2\nend 9 00ff 2048\n";
        fs::write(&file, text).unwrap();
        pulses.look().unwrap();
        assert_eq!(pulses.beats, [(1.0, 5.0), (2.0, 9.0)]);
        assert_eq!(pulses.flowed, [(2.5, 1)]);
        assert_eq!(pulses.latency().unwrap().percentiles().records, 2);
        let end = End {
            records: 9,
            digest: 255,
        };
        assert_eq!(pulses.end(), Some(end));
    }

    #[test]
    fn a_line_of_another_form_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report");
        fs::write(&file, "pulse soon 5\n").unwrap();
        let refused = Pulses::of(file).look().unwrap_err().to_string();
        assert!(refused.contains("pulse soon 5"), "{refused}");
    }

    #[test]
    fn a_gap_is_from_growth_to_growth_and_counts_open_ends() {
        let pulses = beating(&[(1.0, 1.0), (2.0, 2.0), (3.0, 2.0), (5.0, 4.0), (6.0, 5.0)]);
        let gap = |span| longest_gap(pulses.growths(), span);
        assert!((gap((2.0, 6.0)) - 3.0).abs() < 1e-9);
        assert!(
            (gap((5.0, 9.0)) - 3.0).abs() < 1e-9,
            "nothing came at the end"
        );
        assert!((gap((2.5, 5.0)) - 2.5).abs() < 1e-9);
        // What another process puts out fills the gap of all, and not that of each.
        let other = beating(&[(3.5, 0.0), (4.0, 1.0)]);
        let (both, span) = ([&pulses, &other], (2.0, 6.0));
        assert!((longest_gap_of_all(&both, span) - 2.0).abs() < 1e-9);
        assert!((longest_gap_of_any(&both, span) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn records_of_all_processes_add_up() {
        let (one, other) = (
            beating(&[(1.0, 0.0), (3.0, 20.0)]),
            beating(&[(2.0, 0.0), (4.0, 10.0)]),
        );
        let all = [&one, &other];
        assert!((records_at(&all, 2.0) - 10.0).abs() < 1e-9);
        assert!((records_at(&all, 3.0) - 25.0).abs() < 1e-9);
        assert!((records_at(&all, 9.0) - 30.0).abs() < 1e-9);
        assert_eq!(moment_of(&all, 10.0), Some(2.0));
        assert_eq!(moment_of(&all, 31.0), None);
    }

    #[test]
    fn subtasks_flow_when_the_last_one_does() {
        let mut one = beating(&[]);
        one.flowed = vec![(1.0, 0), (5.0, 0)];
        let mut other = beating(&[]);
        assert_eq!(all_flow(&[&one, &other], 2, 2.0), None);
        other.flowed = vec![(1.5, 1), (4.0, 1), (8.0, 1)];
        assert_eq!(all_flow(&[&one, &other], 2, 2.0), Some((4.0, 5.0)));
        assert_eq!(all_flow(&[&one, &other], 2, 0.0), Some((1.0, 1.5)));
    }
}

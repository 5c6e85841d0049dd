//! The names of the file sink: where a slot lies and which file stands for which marker.
//!
//! Numbers are padded, so that the order of names is the order of checkpoints.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use highwater_types::{Lineage, OperatorUid, SubtaskIndex};

use crate::sink::{Marker, MarkerKind};

const OUTPUT: &str = "output";
const VOID: &str = "void";

/// The directory of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotDirectory {
    path: PathBuf,
}

impl SlotDirectory {
    pub(super) fn new(
        directory: &Path,
        lineage: Lineage,
        uid: &OperatorUid,
        slot: SubtaskIndex,
    ) -> Self {
        let sink = directory.join(lineage.to_string()).join(uid.as_str());
        Self {
            path: sink.join(slot.to_string()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the slot may be prepared before it exists.
    pub(super) fn prepared(&self, at: u32) -> PathBuf {
        self.path.with_extension(format!("new-{at}"))
    }

    pub(super) fn sessions(&self) -> PathBuf {
        self.path.join("sessions")
    }

    pub(super) fn session(&self, number: u64) -> PathBuf {
        self.sessions().join(number.to_string())
    }

    pub(super) fn published(&self, marker: Marker) -> PathBuf {
        self.path.join(file_name(marker))
    }

    /// The largest number of any marker of the sink, over all of its slots: positions are those of the whole sink, so that
    /// a slot without output does not seem to have lost markers that another slot has seen.
    pub(super) fn newest_of_sink(&self) -> io::Result<Option<u64>> {
        let sink = self.path.parent().unwrap_or(&self.path);
        let mut newest = None;
        for slot in fs::read_dir(sink)? {
            let slot = slot?;
            if !slot.file_type()?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(slot.path())? {
                let marker = entry?.file_name().to_str().and_then(parse_file_name);
                newest = newest.max(marker.map(|marker| marker.number));
            }
        }
        Ok(newest)
    }

    /// The markers of the slot, in no order.
    pub(super) fn markers(&self) -> io::Result<Vec<(Marker, PathBuf)>> {
        let mut markers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let marker = entry.file_name().to_str().and_then(parse_file_name);
            markers.extend(marker.map(|marker| (marker, entry.path())));
        }
        Ok(markers)
    }
}

pub(super) fn file_name(marker: Marker) -> String {
    let kind = match marker.kind {
        MarkerKind::Output => OUTPUT,
        MarkerKind::Void => VOID,
    };
    let Marker {
        number,
        epoch,
        attempt,
        ..
    } = marker;
    format!("{number:020}-{epoch:010}-{attempt:010}.{kind}")
}

pub(super) fn parse_file_name(name: &str) -> Option<Marker> {
    let (numbers, kind) = name.rsplit_once('.')?;
    let mut parts = numbers.split('-');
    let mut next = || parts.next()?.parse::<u64>().ok();
    let marker = Marker {
        number: next()?,
        epoch: next()?,
        attempt: next()?,
        kind: match kind {
            OUTPUT => MarkerKind::Output,
            VOID => MarkerKind::Void,
            _ => return None,
        },
    };
    (file_name(marker) == name).then_some(marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_marker_and_names_sort_by_number() {
        let marker = |number, kind| Marker {
            number,
            kind,
            epoch: 12_345_678_901,
            attempt: 2,
        };
        for kind in [MarkerKind::Output, MarkerKind::Void] {
            let marker = marker(u64::MAX, kind);
            assert_eq!(parse_file_name(&file_name(marker)), Some(marker));
        }
        let name = |number| file_name(marker(number, MarkerKind::Output));
        assert!(name(9) < name(10));
        for stranger in ["sessions", "1-2-3.output", "a.void", "README.md", ""] {
            assert_eq!(parse_file_name(stranger), None);
        }
    }
}

//! Retention and garbage collection: which objects of a job are reachable, and in what order the others go (P12).
//!
//! Called by the leader's driver while no head write is undecided. The rules: nothing reachable from a retained
//! manifest goes; nothing that a try of the current epoch may still name goes; `head` is read again after the listing
//! and before the first delete, and another epoch there ends the collection; manifests go before the data that only
//! they name. Objects that the layout does not know are left alone. Savepoints lie elsewhere and are never touched.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{CheckpointId, Epoch};

use crate::head::{Head, ManifestRef};
use crate::manifest::{Manifest, SlotOutput};
use crate::mutant::{Mutant, planted};
use crate::paths::{ManifestName, ObjectName, RelativePath, manifest as manifest_path};
use crate::source_start::base_elsewhere;

/// How many checkpoints are retained, at least 1. The one before the last is kept in any case: *Going back* leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention(u32);

/// A number of retained checkpoints that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("retained checkpoints {0} is out of range; keep at least 1, the default is 3")]
pub struct RetentionError(u32);

impl Retention {
    /// The default.
    pub const DEFAULT: Self = Self(3);

    /// Checks and takes a number, at least 1.
    pub const fn try_new(count: u32) -> Result<Self, RetentionError> {
        if count == 0 {
            Err(RetentionError(count))
        } else {
            Ok(Self(count))
        }
    }
}

/// What a manifest keeps alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Its parent.
    pub parent: Option<ManifestRef>,
    /// The checkpoint that its sources' starts belong to, if it is not itself: they are kept, whether it is or not.
    pub starts: Option<ManifestName>,
    /// Its state files.
    pub files: BTreeSet<RelativePath>,
    /// Its sink logs: needed only while it is the one in `head`.
    pub logs: BTreeSet<RelativePath>,
}

impl Reach {
    /// What `manifest` keeps alive.
    pub fn of(manifest: &Manifest) -> Self {
        let outputs = manifest.sinks.values().flat_map(|sink| sink.slots.values());
        let logs = outputs.filter_map(|output| match output {
            SlotOutput::Log(parts) => Some(parts),
            SlotOutput::Empty => None,
        });
        Self {
            parent: manifest.parent,
            starts: base_elsewhere(manifest),
            files: manifest.files.keys().cloned().collect(),
            logs: logs.flatten().map(|part| part.path.clone()).collect(),
        }
    }
}

/// What wakes a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GcEvent {
    /// All objects below the prefix of the job.
    Listed(Vec<RelativePath>),
    /// A manifest was read. `None` = it cannot be read: the collection ends, everything stays.
    ManifestRead(ManifestName, Option<Box<Reach>>),
    /// `head` was read again. `None` = it cannot be read.
    HeadRead(Option<Box<Head>>),
    /// The batch is deleted; objects that were gone already count as deleted.
    Deleted,
    /// Something failed: the next collection finds what is left.
    Failed,
}

/// What the driver does for a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GcEffect {
    /// Lists all objects below the prefix of the job.
    List,
    /// Reads a manifest.
    ReadManifest(ManifestRef),
    /// Reads `head`.
    ReadHead,
    /// Deletes a batch: first manifests, then what only they named.
    Delete(Vec<RelativePath>),
    /// The collection has ended.
    Done(GcEnd),
}

/// How a collection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcEnd {
    /// Everything unreachable is gone.
    Clean {
        /// How many objects were deleted.
        deleted: usize,
    },
    /// A newer leader owns the job: nothing was deleted after that was known.
    Deposed,
    /// The store did not answer, or a retained manifest cannot be read.
    Unfinished,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Listing,
    Reading(ManifestRef),
    Checking,
    Deleting { next: Vec<RelativePath> },
    Done,
}

/// One collection.
#[derive(Clone, Debug)]
pub struct Gc {
    phase: Phase,
    epoch: Epoch,
    head: ManifestRef,
    retained: u32,
    protected_from: u64,
    listed: Vec<RelativePath>,
    reaches: BTreeMap<ManifestName, Reach>,
    deleted: usize,
}

impl Gc {
    /// Starts from the settled `head`. Tries of this epoch numbered `protected_from` or more are on their way.
    pub fn start(head: &Head, retention: Retention, protected_from: u64) -> (Self, Vec<GcEffect>) {
        assert!(
            protected_from > head.number,
            "a try on its way is newer than head"
        );
        let gc = Self {
            phase: Phase::Listing,
            epoch: head.epoch,
            head: head.manifest,
            // The next leader may go back to the one before `head` while this one, deposed, still deletes.
            retained: retention.0.max(2),
            protected_from,
            listed: Vec::new(),
            reaches: BTreeMap::new(),
            deleted: 0,
        };
        (gc, vec![GcEffect::List])
    }

    /// Handles one event.
    pub fn step(&mut self, event: GcEvent) -> Vec<GcEffect> {
        match (self.phase.clone(), event) {
            (Phase::Done, _) => Vec::new(),
            (Phase::Listing, GcEvent::Listed(paths)) => {
                self.listed = paths;
                self.phase = Phase::Reading(self.head);
                vec![GcEffect::ReadManifest(self.head)]
            }
            (Phase::Reading(wanted), GcEvent::ManifestRead(name, reach)) if wanted.name == name => {
                self.manifest_read(name, reach)
            }
            (Phase::Checking, GcEvent::HeadRead(Some(head))) => self.head_read(&head),
            (Phase::Deleting { next }, GcEvent::Deleted) => self.delete(next, Vec::new()),
            _ => self.done(GcEnd::Unfinished),
        }
    }

    fn manifest_read(&mut self, name: ManifestName, reach: Option<Box<Reach>>) -> Vec<GcEffect> {
        let Some(reach) = reach else {
            return self.done(GcEnd::Unfinished);
        };
        let parent = reach.parent;
        self.reaches.insert(name, *reach);
        let listed = |parent: &ManifestRef| self.listed.contains(&manifest_path(&parent.name));
        match parent.filter(listed) {
            Some(parent) if self.reaches.len() < self.retained as usize => {
                self.phase = Phase::Reading(parent);
                vec![GcEffect::ReadManifest(parent)]
            }
            _ => {
                self.phase = Phase::Checking;
                vec![GcEffect::ReadHead]
            }
        }
    }

    fn head_read(&mut self, head: &Head) -> Vec<GcEffect> {
        if head.epoch != self.epoch {
            return self.done(GcEnd::Deposed);
        }
        let kept = self.kept();
        let (manifests, others) = self
            .listed
            .iter()
            .filter(|path| !kept.contains(path) && self.is_over(path))
            .cloned()
            .partition(|path| matches!(ObjectName::parse(path), Some(ObjectName::Manifest(_))));
        self.delete(manifests, others)
    }

    fn delete(&mut self, first: Vec<RelativePath>, then: Vec<RelativePath>) -> Vec<GcEffect> {
        let (batch, next) = if first.is_empty() {
            (then, Vec::new())
        } else {
            (first, then)
        };
        if batch.is_empty() {
            return self.done(GcEnd::Clean {
                deleted: self.deleted,
            });
        }
        self.deleted += batch.len();
        self.phase = Phase::Deleting { next };
        vec![GcEffect::Delete(batch)]
    }

    /// Everything that a retained manifest reaches.
    pub fn kept(&self) -> BTreeSet<RelativePath> {
        let mut kept: BTreeSet<_> = self.starts().cloned().collect();
        for (name, reach) in &self.reaches {
            kept.insert(manifest_path(name));
            kept.extend(reach.files.iter().cloned());
            if *name == self.head.name {
                kept.extend(reach.logs.iter().cloned());
            }
        }
        if planted(Mutant::GcDeletesReferenced) {
            let files = self.reaches.get(&self.head.name).map(|reach| &reach.files);
            if let Some(victim) = files.and_then(BTreeSet::first) {
                kept.remove(victim);
            }
        }
        if planted(Mutant::GcByNumber) {
            let oldest = self.reaches.keys().map(|name| name.number).min();
            kept.retain(|path| match ObjectName::parse(path) {
                Some(ObjectName::Data { number, .. }) => Some(number) >= oldest,
                _ => true,
            });
        }
        kept
    }

    /// The starts of sources that were added after a retained checkpoint or its parent, or after the one whose state came
    /// back in a retained one, however long ago.
    fn starts(&self) -> impl Iterator<Item = &RelativePath> {
        let reaches = self.reaches.values();
        let named =
            reaches.flat_map(|reach| [reach.parent.map(|parent| parent.name), reach.starts]);
        let bases = named.flatten().chain(self.reaches.keys().copied());
        let bases: BTreeSet<_> = bases.collect();
        let of_base = move |path: &RelativePath| match ObjectName::parse(path) {
            Some(ObjectName::SourceStart(base)) => bases.contains(&base),
            _ => false,
        };
        self.listed.iter().filter(move |path| of_base(path))
    }

    /// Whether the try that wrote an object can name it no more.
    fn is_over(&self, path: &RelativePath) -> bool {
        let id = ObjectName::parse(path).and_then(|name| name.id());
        id.is_some_and(|CheckpointId { number, epoch }| {
            epoch < self.epoch || epoch == self.epoch && number < self.protected_from
        })
    }

    fn done(&mut self, end: GcEnd) -> Vec<GcEffect> {
        self.phase = Phase::Done;
        vec![GcEffect::Done(end)]
    }
}

#[cfg(test)]
#[path = "gc/tests.rs"]
mod tests;

//! Tests of shared files: each step of a try's life cut off, packing, and a model of stores, leaders and collections.

use highwater_types::{AttemptId, Epoch, OperatorUid, SubtaskIndex};
use proptest::prelude::*;

use super::*;
use crate::hash::ContentHash;
use crate::paths::DataWriter;

const STORE: &str = "rocksdb";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn id(number: u64) -> CheckpointId {
    CheckpointId {
        number,
        epoch: Epoch(1),
    }
}

fn file(name: &str, length: u64) -> LocalFile {
    LocalFile {
        name: name.to_owned(),
        length,
        is_immutable: name.contains(".sst"),
    }
}

fn path(id: CheckpointId, at: usize) -> RelativePath {
    let writer = DataWriter {
        epoch: id.epoch,
        attempt: AttemptId(1),
        uid: OperatorUid::parse("count").unwrap(),
        subtask: SubtaskIndex(0),
    };
    writer.file(id.number, &format!("keyed.0.{at}"))
}

fn entry(length: u64) -> FileEntry {
    FileEntry {
        length,
        checksum: ContentHash(length),
    }
}

/// What a worker holds after it has carried out a plan. The content of a file is a number that is its checksum.
fn carried_out(id: CheckpointId, plan: &FilePlan, content: impl Fn(&str) -> u64) -> HeldFiles {
    let mut parts = plan.referenced.clone();
    let mut objects = plan.kept.clone();
    for (at, object) in plan.objects.iter().enumerate() {
        let (path, mut offset) = (path(id, at), 0);
        for file in object {
            parts.push(FilePart {
                name: file.name.clone(),
                is_immutable: file.is_immutable,
                path: path.clone(),
                offset,
                length: file.length,
                checksum: ContentHash(content(&file.name)),
            });
            offset += file.length;
        }
        objects.insert(path, entry(offset));
    }
    let store = StoreParts {
        store: STORE.to_owned(),
        parts,
    };
    HeldFiles::new(&store, objects)
}

/// One subtask whose files never change their content.
struct Bench {
    machine: SharedFiles,
}

impl Bench {
    fn new() -> Self {
        Self {
            machine: SharedFiles::start(id(0), HeldFiles::none()),
        }
    }

    fn plan(&mut self, number: u64, files: &[LocalFile]) -> FilePlan {
        self.machine
            .begin(id(number))
            .plan(STORE, files, &BTreeSet::new())
    }

    fn store(&mut self, number: u64, plan: &FilePlan) -> bool {
        let held = carried_out(id(number), plan, |_| 1);
        self.machine.stored(id(number), held)
    }

    fn complete(&mut self, number: u64, files: &[LocalFile]) -> FilePlan {
        let plan = self.plan(number, files);
        assert!(self.store(number, &plan));
        self.machine.completed(id(number));
        plan
    }
}

fn names(parts: &[FilePart]) -> Vec<&str> {
    parts.iter().map(|part| part.name.as_str()).collect()
}

#[test]
fn an_unchanged_store_is_referred_to_and_only_its_changeable_files_are_stored() {
    let mut bench = Bench::new();
    let files = [
        file("1.sst", 3 * MIB),
        file("2.sst", 5 * KIB),
        file("CURRENT", 16),
    ];
    let first = bench.complete(1, &files);
    assert!(first.referenced.is_empty());
    assert_eq!(first.objects.len(), 2, "CURRENT rides with the small file");
    let second = bench.complete(2, &files);
    assert_eq!(names(&second.referenced), ["1.sst", "2.sst"]);
    assert_eq!(second.objects, [vec![file("CURRENT", 16)]]);
}

#[test]
fn l2_a_file_of_a_declined_try_is_stored_again() {
    let mut bench = Bench::new();
    let (old, new) = (file("1.sst", KIB), file("2.sst", KIB));
    bench.complete(1, std::slice::from_ref(&old));
    let files = [old, new];
    let plan = bench.plan(2, &files);
    assert!(bench.store(2, &plan));
    bench.machine.declined(id(2));
    assert_eq!(names(&bench.plan(3, &files).referenced), ["1.sst"]);
}

#[test]
fn what_an_undecided_try_holds_elsewhere_is_not_referred_to() {
    let mut bench = Bench::new();
    let old = [file("1.sst", 10 * KIB), file("2.sst", 15 * KIB)];
    bench.complete(1, &old);
    // The share of the object that lives fell below half: the second try holds the file in an object of its own.
    let plan = bench.plan(2, &old[..1]);
    assert!(plan.referenced.is_empty());
    assert!(bench.store(2, &plan));
    let third = bench.plan(3, &old[..1]);
    assert!(third.referenced.is_empty(), "2 may be in head, or 1");
    bench.machine.completed(id(2));
    assert_eq!(names(&bench.plan(4, &old[..1]).referenced), ["1.sst"]);
}

#[test]
fn a_try_that_was_declined_or_overtaken_while_it_was_stored_is_not_acknowledged() {
    let mut bench = Bench::new();
    let files = [file("1.sst", KIB)];
    let plan = bench.plan(1, &files);
    bench.machine.declined(id(1));
    assert!(!bench.store(1, &plan), "declined");
    let second = bench.plan(2, &files);
    let third = bench.plan(3, &files);
    assert!(!bench.store(2, &second), "overtaken");
    assert!(bench.store(3, &third));
    assert!(!bench.store(3, &third), "told twice");
}

#[test]
fn a_late_completion_refers_to_the_checkpoint_that_it_names() {
    let mut bench = Bench::new();
    let files = [file("1.sst", KIB)];
    for number in [1, 2] {
        let plan = bench.plan(number, &files);
        assert!(bench.store(number, &plan));
    }
    bench.machine.completed(id(2));
    bench.machine.completed(id(1));
    let plan = bench.plan(3, &files);
    assert_eq!(
        plan.referenced[0].path,
        path(id(2), 0),
        "not of an older one"
    );
}

#[test]
fn a_completion_of_which_the_subtask_knows_nothing_leaves_nothing_to_refer_to() {
    let mut bench = Bench::new();
    let files = [file("1.sst", KIB)];
    bench.complete(1, &files);
    bench.machine.completed(id(2));
    assert!(bench.plan(3, &files).referenced.is_empty());
}

#[test]
fn a_restored_file_is_referred_to_only_if_its_bytes_were_compared() {
    let mut bench = Bench::new();
    let files = [file("1.sst", KIB), file("2.sst", KIB), file("CURRENT", 16)];
    let plan = bench.complete(1, &files);
    let held = carried_out(id(1), &plan, |_| 1);
    let mut machine = SharedFiles::start(id(1), held);
    let now = [
        file("1.sst", KIB),
        file("2.sst", 2 * KIB),
        file("CURRENT", 16),
    ];
    let referable = machine.begin(id(2));
    assert_eq!(names(&referable.unproven(STORE, &now)), ["1.sst"]);
    assert!(referable.unproven("other", &now).is_empty());
    assert!(
        referable
            .plan(STORE, &now, &BTreeSet::new())
            .referenced
            .is_empty()
    );
    // Half of the object, less what CURRENT takes of it, is dead: it is left behind although the file is the same.
    let equal = BTreeSet::from(["1.sst".to_owned()]);
    assert!(referable.plan(STORE, &now, &equal).referenced.is_empty());
    let equal = BTreeSet::from(["1.sst".to_owned(), "2.sst".to_owned()]);
    let whole = referable.plan(STORE, &files, &equal);
    assert_eq!(names(&whole.referenced), ["1.sst", "2.sst"]);
    let next = carried_out(id(2), &whole, |_| 1);
    assert!(machine.stored(id(2), next));
    machine.completed(id(2));
    assert!(
        machine.begin(id(3)).unproven(STORE, &files).is_empty(),
        "proven once"
    );
}

#[test]
fn small_files_share_few_objects_and_large_ones_have_their_own() {
    let mut bench = Bench::new();
    let small = (0..100).map(|at| file(&format!("{at}.sst"), 512 * KIB));
    let large = (100..103).map(|at| file(&format!("{at}.sst"), 64 * MIB));
    let changing = [file("CURRENT", 16), file("MANIFEST", 30 * KIB)];
    let files: Vec<_> = small.chain(large).chain(changing).collect();
    let plan = bench.plan(1, &files);
    let lengths: Vec<_> = plan.objects.iter().map(|object| bytes_of(object)).collect();
    assert_eq!(lengths.len(), 3 + 4, "{lengths:?}");
    let packed = lengths.iter().filter(|&&length| length < 64 * MIB);
    assert!(
        packed
            .clone()
            .all(|&length| length <= PACK_BYTES + SMALL_BYTES)
    );
    let mut stored: Vec<_> = plan.objects.concat();
    stored.sort();
    let mut wanted = files;
    wanted.sort();
    assert_eq!(stored, wanted, "each file once");
}

#[test]
fn changeable_files_that_outweigh_the_unchangeable_have_an_object_of_their_own() {
    let mut bench = Bench::new();
    let plan = bench.plan(1, &[file("1.sst", 3 * KIB), file("MANIFEST", KIB)]);
    assert_eq!(plan.objects.len(), 2);
}

/// A store, a leader and a bucket, of which anything may be lost or late.
struct Model {
    machine: SharedFiles,
    /// The files of the local store: length and content.
    local: BTreeMap<String, (u64, u64)>,
    next_file: u64,
    next_content: u64,
    /// Objects that are there, with length and the content at each offset.
    bucket: BTreeMap<RelativePath, (u64, BTreeMap<u64, u64>)>,
    /// Completed checkpoints, oldest first; the last is in head.
    completed: Vec<(u64, Vec<FilePart>, BTreeSet<RelativePath>)>,
    number: u64,
    /// A stored try that may complete.
    acked: Option<(u64, HeldFiles, BTreeMap<String, u64>)>,
    /// Words to the worker that are on their way.
    words: Vec<(bool, u64)>,
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64),
    Compact,
    Try,
    Complete,
    Decline,
    Hear,
    Lose,
    Collect,
    Restart { store_is_new: bool },
}

impl Model {
    fn new() -> Self {
        Self {
            machine: SharedFiles::start(id(0), HeldFiles::none()),
            local: BTreeMap::new(),
            next_file: 0,
            next_content: 0,
            bucket: BTreeMap::new(),
            completed: Vec::new(),
            number: 0,
            acked: None,
            words: Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write(length) => self.write(length),
            Op::Compact => {
                let gone: Vec<_> = self.local.keys().step_by(2).cloned().collect();
                let length = gone
                    .iter()
                    .filter_map(|name| self.local.remove(name))
                    .map(|(length, _)| length)
                    .sum();
                if length > 0 {
                    self.write(length);
                }
            }
            Op::Try => self.take_try(),
            Op::Complete => self.complete(),
            Op::Decline => {
                if let Some((number, ..)) = self.acked.take() {
                    self.bucket
                        .retain(|path, _| !path.as_str().contains(&format!("/{number}-")));
                    self.words.push((false, number));
                }
            }
            Op::Hear => {
                if !self.words.is_empty() {
                    match self.words.remove(0) {
                        (true, number) => self.machine.completed(id(number)),
                        (false, number) => self.machine.declined(id(number)),
                    }
                }
            }
            Op::Lose => drop(self.words.pop()),
            Op::Collect => self.collect(),
            Op::Restart { store_is_new } => self.restart(store_is_new),
        }
    }

    fn write(&mut self, length: u64) {
        self.next_content += 1;
        self.next_file += 1;
        let name = format!("{}.sst", self.next_file);
        self.local.insert(name, (length, self.next_content));
    }

    fn take_try(&mut self) {
        if self.acked.is_some() {
            return;
        }
        self.number += 1;
        let id = id(self.number);
        let mut files: Vec<_> = self
            .local
            .iter()
            .map(|(name, (length, _))| file(name, *length))
            .collect();
        files.push(file("CURRENT", 16));
        let mut content: BTreeMap<_, _> = self
            .local
            .iter()
            .map(|(name, (_, content))| (name.clone(), *content))
            .collect();
        self.next_content += 1;
        content.insert("CURRENT".to_owned(), self.next_content);
        let referable = self.machine.begin(id);
        let unproven = referable.unproven(STORE, &files);
        let equal = unproven
            .iter()
            .filter(|part| part.checksum.0 == content[&part.name]);
        let equal = equal.map(|part| part.name.clone()).collect();
        let plan = referable.plan(STORE, &files, &equal);
        let held = carried_out(id, &plan, |name| content[name]);
        for (at, object) in plan.objects.iter().enumerate() {
            let (mut offset, mut slices) = (0, BTreeMap::new());
            for file in object {
                slices.insert(offset, content[&file.name]);
                offset += file.length;
            }
            self.bucket.insert(path(id, at), (offset, slices));
        }
        assert!(self.machine.stored(id, held.clone()));
        self.acked = Some((self.number, held, content));
    }

    fn complete(&mut self) {
        let Some((number, held, content)) = self.acked.take() else {
            return;
        };
        let objects: BTreeSet<_> = held.objects.keys().cloned().collect();
        let base = self.completed.last().map(|(_, _, objects)| objects);
        for path in &objects {
            let is_own = path.as_str().contains(&format!("/{number}-"));
            assert!(
                is_own || base.is_some_and(|base| base.contains(path)),
                "L2: {path}"
            );
        }
        let parts: Vec<_> = held.parts.values().cloned().collect();
        assert_eq!(parts.len(), content.len(), "each file once");
        for part in &parts {
            assert_eq!(
                self.bucket[&part.path].1[&part.offset], content[&part.name],
                "{}",
                part.name
            );
        }
        let live: u64 = parts.iter().map(|part| part.length).sum();
        let stored: u64 = objects.iter().map(|path| self.bucket[path].0).sum();
        assert!(stored <= 2 * live, "{stored} bytes hold {live}");
        self.completed.push((number, parts, objects));
        self.words.push((true, number));
    }

    /// What the collection does: everything that the last two checkpoints do not reach and no try on its way names.
    fn collect(&mut self) {
        let from = self.completed.len().saturating_sub(2);
        let kept: BTreeSet<_> = self.completed[from..]
            .iter()
            .flat_map(|(_, _, objects)| objects)
            .collect();
        let on_way = self
            .acked
            .as_ref()
            .map(|(number, ..)| format!("/{number}-"));
        self.bucket.retain(|path, _| {
            kept.contains(path)
                || on_way
                    .as_ref()
                    .is_some_and(|try_of| path.as_str().contains(try_of))
        });
    }

    fn restart(&mut self, store_is_new: bool) {
        self.acked = None;
        self.words.clear();
        let restored = self.completed.last();
        let number = restored.map_or(0, |(number, ..)| *number);
        let parts = restored.map_or(Vec::new(), |(_, parts, _)| parts.clone());
        let lengths = parts
            .iter()
            .map(|part| (part.path.clone(), entry(self.bucket[&part.path].0)));
        let lengths = lengths.collect();
        let files = parts.iter().filter(|part| part.is_immutable);
        self.local = files
            .clone()
            .map(|part| (part.name.clone(), (part.length, part.checksum.0)))
            .collect();
        // A store that goes on with its files numbers new ones behind them, whatever another one wrote meanwhile.
        let numbers = self
            .local
            .keys()
            .filter_map(|name| name.strip_suffix(".sst")?.parse().ok());
        self.next_file = numbers.fold(self.next_file, u64::max);
        if store_is_new {
            // The same names for other bytes.
            self.next_file = 0;
            let written: Vec<_> = self.local.values().map(|(length, _)| *length).collect();
            self.local.clear();
            for length in written {
                self.write(length);
            }
        }
        let store = StoreParts {
            store: STORE.to_owned(),
            parts,
        };
        self.machine = SharedFiles::start(id(number), HeldFiles::new(&store, lengths));
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop_oneof![1..20 * KIB, 900 * KIB..2 * MIB].prop_map(Op::Write),
        2 => Just(Op::Compact),
        6 => Just(Op::Try),
        6 => Just(Op::Complete),
        2 => Just(Op::Decline),
        6 => Just(Op::Hear),
        1 => Just(Op::Lose),
        3 => Just(Op::Collect),
        1 => any::<bool>().prop_map(|store_is_new| Op::Restart { store_is_new }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_completed_checkpoint_names_an_object_that_a_collection_may_delete(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut model = Model::new();
        for op in &ops {
            model.apply(op);
            let from = model.completed.len().saturating_sub(2);
            for (number, parts, _) in &model.completed[from..] {
                for part in parts {
                    prop_assert!(
                        model.bucket.contains_key(&part.path),
                        "{number} lost {} after {op:?}", part.path
                    );
                }
            }
        }
    }
}

//! The laws of [`OutputTarget`], with the zombies of the sink protocol.

use highwater_types::SubtaskIndex;

use super::chance::{
    faults_by_chance_neither_lose_nor_double_output,
    two_racing_writers_publish_every_checkpoint_once, writers_in_turns_follow_the_model,
};
use crate::output::{OutputBatch, OutputRecord};
use crate::sink::{
    KnownMarkers, Marker, MarkerKind, MarkerPosition, MarkerReading, OutputTarget, TargetError,
};

/// How long the suite tries to break the laws by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// How many checkpoints two racing writers publish.
    pub races: u64,
    /// How many steps three writers take in turns.
    pub steps: u64,
}

impl Effort {
    /// For targets that answer within a millisecond.
    pub const FULL: Self = Self {
        races: 200,
        steps: 600,
    };
    /// For targets behind a network.
    pub const SHORT: Self = Self {
        races: 10,
        steps: 60,
    };
}

/// Opens one more target of a slot. Targets of one slot write to the same place.
type Make<'a> = &'a mut dyn FnMut(SubtaskIndex) -> Box<dyn OutputTarget>;
/// All values that a reader of committed data sees, in any order between slots.
type ReadCommitted<'a> = &'a mut dyn FnMut() -> Vec<Vec<u8>>;

/// Checks the laws of [`OutputTarget`] on slots 0 to 12 of a place that holds nothing yet.
///
/// # Panics
/// When a law does not hold.
pub fn output_target_suite(effort: Effort, make: Make<'_>, read_committed: ReadCommitted<'_>) {
    let mut slots = (0..).map(SubtaskIndex);
    let mut bench = |check: fn(&mut Bench<'_>)| {
        let slot = slots.next().expect("slots do not end");
        check(&mut Bench {
            slot,
            effort,
            make: &mut *make,
            read_committed: &mut *read_committed,
        });
    };
    bench(output_is_visible_with_its_marker_and_not_before);
    bench(aborted_output_stays_invisible);
    bench(lost_writer_leaves_nothing_behind);
    bench(late_commit_of_an_old_session_is_refused);
    bench(late_send_and_commit_after_republishing_change_nothing);
    bench(void_marker_is_read_and_shows_no_output);
    bench(later_marker_is_reported);
    bench(calls_without_a_session_are_refused);
    bench(position_lies_before_markers_to_come);
    bench(place_that_is_required_is_found_or_lost);
    bench(writers_in_turns_follow_the_model);
    bench(faults_by_chance_neither_lose_nor_double_output);
    bench(two_racing_writers_publish_every_checkpoint_once);
}

pub(super) struct Bench<'a> {
    pub(super) slot: SubtaskIndex,
    pub(super) effort: Effort,
    make: Make<'a>,
    read_committed: ReadCommitted<'a>,
}

impl Bench<'_> {
    pub(super) fn target(&mut self) -> Box<dyn OutputTarget> {
        (self.make)(self.slot)
    }

    fn session(&mut self) -> Box<dyn OutputTarget> {
        let mut target = self.target();
        target.open_session().expect("a session opens");
        target
    }

    /// The values of this slot that are visible, without the prefix of the slot.
    pub(super) fn visible(&mut self) -> Vec<String> {
        let prefix = format!("slot {}: ", self.slot);
        let values = (self.read_committed)();
        let texts = values.iter().map(|value| String::from_utf8_lossy(value));
        texts
            .filter_map(|text| text.strip_prefix(&prefix).map(str::to_owned))
            .collect()
    }

    fn batch(&self, values: &[&str]) -> OutputBatch {
        batch(self.slot, values)
    }
}

pub(super) fn batch(slot: SubtaskIndex, values: &[&str]) -> OutputBatch {
    let mut batch = OutputBatch::default();
    for value in values {
        let value = format!("slot {slot}: {value}");
        batch.push(&OutputRecord::of_value(value.as_bytes()));
    }
    batch
}

pub(super) const fn output(number: u64, epoch: u64) -> Marker {
    Marker {
        number,
        kind: MarkerKind::Output,
        epoch,
        attempt: 1,
    }
}

/// The markers that a session reads from `from` on, after its sync record.
pub(super) fn try_read(
    target: &mut dyn OutputTarget,
    from: MarkerPosition,
) -> Result<MarkerReading, TargetError> {
    target.write_sync()?;
    let reading = target.read_markers(from)?;
    let place = target.identity()?.markers;
    assert_eq!(
        reading.place, place,
        "the reading names the place of the markers"
    );
    assert!(reading.start <= reading.end && from <= reading.end);
    Ok(reading)
}

/// What the markers say about checkpoint `number`.
pub(super) fn said(reading: &MarkerReading, number: u64) -> Option<MarkerKind> {
    let mut of_number = reading.markers.iter().filter(|(at, _)| *at == number);
    let kind = of_number.next().map(|&(_, kind)| kind);
    assert!(
        of_number.next().is_none(),
        "checkpoint {number} has two markers"
    );
    kind
}

fn read(target: &mut dyn OutputTarget, number: u64) -> Option<MarkerKind> {
    let reading = try_read(target, MarkerPosition::default());
    said(&reading.expect("a fresh session reads markers"), number)
}

fn stage(target: &mut dyn OutputTarget, batch: &OutputBatch) {
    target.begin().expect("a transaction begins");
    target.send(batch).expect("records are sent");
    target.flush().expect("records arrive");
}

fn output_is_visible_with_its_marker_and_not_before(bench: &mut Bench<'_>) {
    let mut target = bench.session();
    assert_eq!(read(&mut *target, 1), None);
    stage(&mut *target, &bench.batch(&["a", "b"]));
    target
        .send(&bench.batch(&["c"]))
        .expect("more records are sent");
    assert!(
        bench.visible().is_empty(),
        "law 4: sent records are visible before the commit"
    );
    target.commit(output(1, 1)).expect("the commit succeeds");
    assert_eq!(
        bench.visible(),
        ["a", "b", "c"],
        "law 3: committed records are visible, in order"
    );
    let mut next = bench.session();
    assert_eq!(
        read(&mut *next, 1),
        Some(MarkerKind::Output),
        "law 2: the marker is read"
    );
    assert_eq!(read(&mut *next, 2), None);
}

fn aborted_output_stays_invisible(bench: &mut Bench<'_>) {
    let mut target = bench.session();
    stage(&mut *target, &bench.batch(&["given up"]));
    target.abort().expect("the transaction is given up");
    stage(&mut *target, &bench.batch(&["kept"]));
    target.commit(output(1, 1)).expect("the commit succeeds");
    assert_eq!(bench.visible(), ["kept"]);
}

fn lost_writer_leaves_nothing_behind(bench: &mut Bench<'_>) {
    let mut lost = bench.session();
    stage(&mut *lost, &bench.batch(&["a"]));
    drop(lost);
    let mut target = bench.session();
    assert_eq!(read(&mut *target, 1), None);
    stage(&mut *target, &bench.batch(&["a"]));
    target.commit(output(1, 2)).expect("re-publishing succeeds");
    assert_eq!(bench.visible(), ["a"]);
}

fn late_commit_of_an_old_session_is_refused(bench: &mut Bench<'_>) {
    let mut zombie = bench.session();
    stage(&mut *zombie, &bench.batch(&["a"]));
    let mut target = bench.session();
    assert_eq!(read(&mut *target, 1), None);
    let late = zombie.commit(output(1, 1));
    assert!(
        matches!(late, Err(TargetError::SessionLost(_))),
        "law 1: an old session commits after a new one was opened: {late:?}"
    );
    assert!(
        bench.visible().is_empty(),
        "law 1: output of an old session is visible"
    );
    assert_eq!(
        read(&mut *target, 1),
        None,
        "what was missing stays missing"
    );
}

fn late_send_and_commit_after_republishing_change_nothing(bench: &mut Bench<'_>) {
    let mut zombie = bench.session();
    stage(&mut *zombie, &bench.batch(&["a"]));
    let mut target = bench.session();
    stage(&mut *target, &bench.batch(&["a"]));
    // Whether a zombie may still send is its own affair; nobody may see it.
    drop(zombie.send(&bench.batch(&["zombie"])));
    assert!(
        zombie.commit(output(1, 1)).is_err(),
        "law 1: a zombie commits"
    );
    assert!(
        bench.visible().is_empty(),
        "law 5: a late commit ends the transaction of another"
    );
    target.commit(output(1, 2)).expect("re-publishing succeeds");
    assert!(zombie.begin().is_err() || zombie.commit(output(2, 1)).is_err());
    let mut again = bench.session();
    assert_eq!(read(&mut *again, 1), Some(MarkerKind::Output));
    assert_eq!(bench.visible(), ["a"]);
}

fn void_marker_is_read_and_shows_no_output(bench: &mut Bench<'_>) {
    let mut target = bench.session();
    target.begin().expect("a transaction begins");
    let void = Marker {
        kind: MarkerKind::Void,
        ..output(1, 1)
    };
    target.commit(void).expect("a void marker is committed");
    let mut next = bench.session();
    assert_eq!(read(&mut *next, 1), Some(MarkerKind::Void));
    stage(&mut *next, &bench.batch(&["b"]));
    next.commit(output(2, 1))
        .expect("the next checkpoint commits");
    assert_eq!(bench.visible(), ["b"]);
}

fn later_marker_is_reported(bench: &mut Bench<'_>) {
    for number in [1, 5] {
        let mut target = bench.session();
        stage(&mut *target, &bench.batch(&["x"]));
        target
            .commit(output(number, 1))
            .expect("the commit succeeds");
    }
    let mut target = bench.session();
    let reading = try_read(&mut *target, MarkerPosition::default());
    let reading = reading.expect("a fresh session reads markers");
    let last = reading.markers.last();
    assert_eq!(
        last,
        Some(&(5, MarkerKind::Output)),
        "the last marker comes last"
    );
    assert_eq!(said(&reading, 3), None);
}

fn calls_without_a_session_are_refused(bench: &mut Bench<'_>) {
    let mut target = bench.target();
    let calls = [
        target.begin(),
        target.send(&bench.batch(&["x"])),
        target.commit(output(1, 1)).map(|_| ()),
        target.write_sync(),
        target.read_markers(MarkerPosition::default()).map(|_| ()),
    ];
    for call in calls {
        assert!(matches!(call, Err(TargetError::SessionLost(_))), "{call:?}");
    }
    target.open_session().expect("a session opens");
    assert!(target.commit(output(1, 1)).is_err(), "nothing was begun");
    assert!(bench.visible().is_empty());
}

fn position_lies_before_markers_to_come(bench: &mut Bench<'_>) {
    let mut known = bench.target();
    for number in 1..=3 {
        let from = known
            .marker_position()
            .expect("a position is known without a session");
        let mut target = bench.session();
        stage(&mut *target, &bench.batch(&["x"]));
        let behind = target
            .commit(output(number, 1))
            .expect("the commit succeeds");
        assert!(from <= behind, "a commit ends behind what was known before");
        let mut next = bench.session();
        let reading = try_read(&mut *next, from).expect("markers are read");
        assert_eq!(said(&reading, number), Some(MarkerKind::Output));
        assert!(
            behind <= reading.end,
            "a later reading reaches the position of the commit"
        );
    }
    let identity = known
        .identity()
        .expect("the place has an identity without a session");
    let mut other = bench.session();
    assert_eq!(
        other.identity().expect("the place has an identity"),
        identity
    );
}

fn place_that_is_required_is_found_or_lost(bench: &mut Bench<'_>) {
    let mut first = bench.session();
    let known = first.identity().expect("the place has an identity");
    stage(&mut *first, &bench.batch(&["x"]));
    first.commit(output(1, 1)).expect("the commit succeeds");
    let system = known.system.clone();
    let named = |place: &str| KnownMarkers::In {
        system: system.clone(),
        place: place.to_owned(),
    };
    let made = |place: &str| KnownMarkers::Made(Some(place.to_owned()));
    let there = [named(&known.markers), made(&known.markers)];
    for required in there.into_iter().chain([KnownMarkers::Made(None)]) {
        let mut target = bench.target();
        target.expect_markers(required);
        assert_eq!(target.identity().expect("the place is there"), known);
        target.open_session().expect("a session opens");
        assert_eq!(read(&mut *target, 1), Some(MarkerKind::Output));
    }
    for required in [named("another place"), made("another place")] {
        let mut target = bench.target();
        target.expect_markers(required);
        for lost in [target.identity().map(drop), target.open_session()] {
            assert!(
                matches!(lost, Err(TargetError::MarkerLost(_))),
                "law 6: another place stands for the one that is required: {lost:?}"
            );
        }
    }
}

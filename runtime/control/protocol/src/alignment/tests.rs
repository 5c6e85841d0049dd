//! Tests of alignment: claims, and random runs against the definition of a consistent cut.

use highwater_types::BarrierKind;
use proptest::prelude::*;

use super::*;

fn barrier(epoch: u64, number: u64) -> CheckpointBarrier {
    CheckpointBarrier {
        id: CheckpointId {
            number,
            epoch: Epoch(epoch),
        },
        kind: BarrierKind::Checkpoint,
    }
}

fn arrive(
    alignment: &mut Alignment,
    channel: u32,
    barrier: CheckpointBarrier,
) -> Vec<AlignmentEffect> {
    alignment.step(AlignmentEvent::Barrier {
        channel: ChannelIndex(channel),
        barrier,
    })
}

fn hold(channel: u32) -> AlignmentEffect {
    AlignmentEffect::Hold(ChannelIndex(channel))
}

const RESUME: AlignmentEffect = AlignmentEffect::ResumeAll;

#[test]
fn the_last_channel_completes_the_alignment() {
    let mut alignment = Alignment::new(2);
    let one = barrier(1, 1);
    assert_eq!(arrive(&mut alignment, 0, one), [hold(0)]);
    assert!(alignment.is_held(ChannelIndex(0)) && !alignment.is_held(ChannelIndex(1)));
    assert_eq!(
        arrive(&mut alignment, 1, one),
        [AlignmentEffect::Snapshot(one), RESUME]
    );
    assert!(!alignment.is_held(ChannelIndex(0)));
}

#[test]
fn t13_an_ended_channel_counts_as_aligned() {
    let mut alignment = Alignment::new(3);
    let one = barrier(1, 1);
    alignment.step(AlignmentEvent::Ended {
        channel: ChannelIndex(2),
    });
    arrive(&mut alignment, 0, one);
    let effects = alignment.step(AlignmentEvent::Ended {
        channel: ChannelIndex(1),
    });
    assert_eq!(effects, [AlignmentEffect::Snapshot(one), RESUME]);
}

#[test]
fn t13_a_newer_barrier_cancels_an_older_alignment() {
    let mut alignment = Alignment::new(2);
    arrive(&mut alignment, 0, barrier(1, 1));
    assert_eq!(arrive(&mut alignment, 1, barrier(1, 2)), [RESUME, hold(1)]);
    assert_eq!(
        arrive(&mut alignment, 0, barrier(1, 2)),
        [AlignmentEffect::Snapshot(barrier(1, 2)), RESUME]
    );
    assert_eq!(
        arrive(&mut alignment, 1, barrier(1, 1)),
        [],
        "late and ignored"
    );
}

#[test]
fn t13_barriers_of_a_cancelled_checkpoint_are_ignored() {
    let mut alignment = Alignment::new(2);
    arrive(&mut alignment, 0, barrier(1, 1));
    assert_eq!(
        alignment.step(AlignmentEvent::Cancelled {
            id: barrier(1, 1).id
        }),
        [RESUME]
    );
    assert_eq!(arrive(&mut alignment, 1, barrier(1, 1)), []);
    assert_eq!(alignment.current(), None);
    let early = alignment.step(AlignmentEvent::Cancelled {
        id: barrier(1, 5).id,
    });
    assert_eq!(early, []);
    assert_eq!(arrive(&mut alignment, 0, barrier(1, 5)), []);
}

#[test]
fn a_newer_leader_comes_after_every_number_of_an_older_one() {
    let mut alignment = Alignment::new(2);
    arrive(&mut alignment, 0, barrier(1, 9));
    assert_eq!(arrive(&mut alignment, 1, barrier(2, 3)), [RESUME, hold(1)]);
    assert_eq!(
        arrive(&mut alignment, 0, barrier(1, 10)),
        [],
        "an older leader is ignored"
    );
}

#[test]
fn a_source_and_a_task_whose_inputs_end_late_are_triggered() {
    let mut source = Alignment::new(0);
    let one = barrier(1, 1);
    let effects = source.step(AlignmentEvent::Triggered { barrier: one });
    assert_eq!(effects, [AlignmentEffect::Snapshot(one), RESUME]);
    assert_eq!(
        source.step(AlignmentEvent::Triggered { barrier: one }),
        [],
        "once"
    );
    let mut task = Alignment::new(1);
    assert_eq!(task.step(AlignmentEvent::Triggered { barrier: one }), []);
    let effects = task.step(AlignmentEvent::Ended {
        channel: ChannelIndex(0),
    });
    assert_eq!(effects, [AlignmentEffect::Snapshot(one), RESUME]);
}

#[test]
#[should_panic(expected = "delivers after its end")]
fn a_channel_that_delivers_after_its_end_is_a_bug() {
    let mut alignment = Alignment::new(1);
    alignment.step(AlignmentEvent::Ended {
        channel: ChannelIndex(0),
    });
    arrive(&mut alignment, 0, barrier(1, 1));
}

proptest! {
    /// Channels deliver records and barriers 1..=n in order; some barriers are cancelled. Whatever the interleaving, a
    /// snapshot of n is taken when each channel has delivered exactly its barriers up to n and no record after it.
    #[test]
    fn t13_a_snapshot_is_always_a_consistent_cut(
        choices in prop::collection::vec((0u32..3, 0u8..20), 1..300),
    ) {
        let mut alignment = Alignment::new(3);
        let mut delivered = [0u64; 3];
        let mut records = [0u64; 3];
        let mut snapshots = Vec::new();
        for (channel, choice) in choices {
            if alignment.is_held(ChannelIndex(channel)) {
                continue;
            }
            let at = channel as usize;
            let effects = match choice {
                0..4 => {
                    delivered[at] += 1;
                    records[at] = 0;
                    arrive(&mut alignment, channel, barrier(1, delivered[at]))
                }
                4 => alignment.step(AlignmentEvent::Cancelled { id: barrier(1, delivered[at] + 1).id }),
                _ => {
                    records[at] += 1;
                    Vec::new()
                }
            };
            for effect in effects {
                if let AlignmentEffect::Snapshot(taken) = effect {
                    prop_assert!(delivered.iter().all(|&n| n == taken.id.number));
                    prop_assert_eq!(records, [0, 0, 0]);
                    snapshots.push(taken.id.number);
                }
            }
        }
        prop_assert!(snapshots.windows(2).all(|pair| pair[0] < pair[1]));
    }
}

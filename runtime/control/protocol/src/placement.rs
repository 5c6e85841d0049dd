//! Placement: which slot of which worker runs which subtask.
//!
//! Decided by the leader when it deploys an attempt, from what the workers offer, and told to every worker. Subtask `i` of every
//! task is one *share*: a slice of the whole pipeline that runs in one slot, so that forward edges stay inside a thread. So a job
//! needs as many slots as its largest parallelism. Source: Flink slot sharing (default group), `taskmanager.load-balance.mode`.
//!
//! The rule: the same offers and the same history give the same placement. Shares are spread over the workers; inside the
//! spread a share goes back to the worker that had it, because its state may lie on that worker's disk.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{SlotIndex, SubtaskIndex, WorkerIndex};
use serde::{Deserialize, Serialize};

/// What a worker offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerOffer {
    /// Stays the same when the process is started again in the same place, with the same disk.
    pub name: String,
    /// Slot threads.
    pub slots: u32,
}

/// A slot of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The worker.
    pub worker: WorkerIndex,
    /// Its slot.
    pub slot: SlotIndex,
}

/// Where the shares of an attempt run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement(Vec<Place>);

/// There are fewer slots than the job needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} slots are needed, {there} are there on {workers} workers")]
pub struct SlotsMissing {
    /// The largest parallelism of the job.
    pub needed: u32,
    /// All slots that are offered.
    pub there: u32,
    /// The workers that offer them.
    pub workers: usize,
}

impl Placement {
    /// Places `shares` over `offers`. `before` names the worker that had each share, as far as one had.
    ///
    /// # Errors
    /// When there are too few slots.
    pub fn over(
        shares: u32,
        offers: &BTreeMap<WorkerIndex, WorkerOffer>,
        before: &[String],
    ) -> Result<Self, SlotsMissing> {
        let there = offers.values().map(|offer| offer.slots).sum();
        if there < shares {
            return Err(SlotsMissing {
                needed: shares,
                there,
                workers: offers.len(),
            });
        }
        let mut quotas = spread(shares, offers, before);
        let mut of_share: Vec<Option<WorkerIndex>> = vec![None; shares as usize];
        for (share, name) in before.iter().enumerate().take(shares as usize) {
            let had = offers.iter().find(|(_, offer)| offer.name == *name);
            if let Some((worker, _)) = had
                && let Some(left) = quotas.get_mut(worker).filter(|left| **left > 0)
            {
                *left -= 1;
                of_share[share] = Some(*worker);
            }
        }
        let mut free = quotas
            .into_iter()
            .flat_map(|(worker, left)| (0..left).map(move |_| worker));
        let mut used: BTreeMap<WorkerIndex, u32> = BTreeMap::new();
        let placed = of_share.into_iter().map(|worker| {
            let worker = worker.or_else(|| free.next());
            let worker = worker.unwrap_or_else(|| unreachable!("the quotas add up to the shares"));
            let slot = used.entry(worker).or_default();
            *slot += 1;
            Place {
                worker,
                slot: SlotIndex(*slot - 1),
            }
        });
        Ok(Self(placed.collect()))
    }

    /// Where a subtask runs.
    ///
    /// # Panics
    /// If the job has no such subtask.
    pub fn of(&self, subtask: SubtaskIndex) -> Place {
        self.0[subtask.0 as usize]
    }

    /// The workers that run something.
    pub fn workers(&self) -> BTreeSet<WorkerIndex> {
        self.0.iter().map(|place| place.worker).collect()
    }

    /// The worker of each share, in order.
    pub fn shares(&self) -> impl Iterator<Item = Place> + '_ {
        self.0.iter().copied()
    }
}

/// How many shares each worker gets: one after another goes to whoever has fewest, of those to whoever had most of them before,
/// then to the first.
fn spread(
    shares: u32,
    offers: &BTreeMap<WorkerIndex, WorkerOffer>,
    before: &[String],
) -> BTreeMap<WorkerIndex, u32> {
    let had =
        |offer: &WorkerOffer| before.iter().filter(|name| **name == offer.name).count() as u32;
    let mut quotas: BTreeMap<WorkerIndex, u32> = offers.keys().map(|worker| (*worker, 0)).collect();
    for _ in 0..shares {
        let open = offers
            .iter()
            .filter(|(worker, offer)| quotas[worker] < offer.slots);
        let next = open.min_by_key(|(worker, offer)| {
            let has = quotas[worker];
            (
                has,
                std::cmp::Reverse(had(offer).saturating_sub(has)),
                **worker,
            )
        });
        if let Some((worker, _)) = next {
            *quotas.entry(*worker).or_default() += 1;
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offers(slots: &[u32]) -> BTreeMap<WorkerIndex, WorkerOffer> {
        let named = slots.iter().enumerate().map(|(index, slots)| {
            let offer = WorkerOffer {
                name: format!("w{index}"),
                slots: *slots,
            };
            (WorkerIndex(index as u32), offer)
        });
        named.collect()
    }

    fn workers(placement: &Placement) -> Vec<u32> {
        placement.shares().map(|place| place.worker.0).collect()
    }

    #[test]
    fn shares_are_spread_over_all_workers() {
        let placed = Placement::over(4, &offers(&[4, 4]), &[]).unwrap();
        let mut of = workers(&placed);
        of.sort_unstable();
        assert_eq!(of, [0, 0, 1, 1]);
        let placed = Placement::over(2, &offers(&[4, 4, 4]), &[]).unwrap();
        assert_eq!(placed.workers().len(), 2);
    }

    #[test]
    fn a_share_goes_back_to_where_its_state_lies() {
        let before = ["w1", "w0", "w1", "w0"].map(str::to_owned);
        let placed = Placement::over(4, &offers(&[2, 2]), &before).unwrap();
        assert_eq!(workers(&placed), [1, 0, 1, 0]);
        // A worker is gone, another has come: only what was on the one that is gone moves.
        let mut others = offers(&[2, 2, 2]);
        others.remove(&WorkerIndex(1));
        let placed = Placement::over(4, &others, &before).unwrap();
        assert_eq!(workers(&placed), [2, 0, 2, 0]);
    }

    #[test]
    fn too_few_slots_are_counted() {
        let missing = Placement::over(5, &offers(&[2, 2]), &[]).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "5 slots are needed, 4 are there on 2 workers"
        );
    }

    proptest! {
        #[test]
        fn every_share_has_a_slot_of_its_own_and_no_worker_carries_more_than_it_must(
            slots in prop::collection::vec(1u32..6, 1..6),
            share_of in 0.0f64..1.0,
            before in prop::collection::vec("w[0-9]", 0..20),
        ) {
            let all: u32 = slots.iter().sum();
            let shares = 1 + (f64::from(all - 1) * share_of) as u32;
            let offers = offers(&slots);
            let placed = Placement::over(shares, &offers, &before).unwrap();
            let places: BTreeSet<_> = placed.shares().collect();
            prop_assert_eq!(places.len(), shares as usize);
            let mut count: BTreeMap<WorkerIndex, u32> = BTreeMap::new();
            for place in &places {
                prop_assert!(place.slot.0 < offers[&place.worker].slots);
                *count.entry(place.worker).or_default() += 1;
            }
            let most = count.values().copied().max().unwrap_or(0);
            for (worker, offer) in &offers {
                let has = count.get(worker).copied().unwrap_or(0);
                prop_assert!(has == offer.slots || has + 1 >= most, "{count:?}");
            }
            prop_assert_eq!(&placed, &Placement::over(shares, &offers, &before).unwrap());
        }
    }
}

//! The cases, as data: how large the state is beside the budget, and how popular its keys are.

use std::collections::BTreeSet;

use clap::ValueEnum;

use crate::state_job::ROW_BYTES;

/// How large the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Size {
    /// An eighth of the budget: everything is in memory, on both sides.
    Cached,
    /// Four times the budget.
    Four,
    /// Ten times the budget.
    Ten,
}

/// How popular the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Keys {
    /// All alike.
    Uniform,
    /// By the law of Zipf with exponent 1.
    Zipf,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) size: Size,
    pub(crate) keys: Keys,
}

/// Records of one run behind those that give each key its account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records {
    /// That warm caches up and pay the debt of the fill, as many on both sides. They are in no rate.
    pub(crate) warm_up: u64,
    /// That are measured on our side.
    pub(crate) ours: u64,
    /// That are measured on the peer's.
    pub(crate) peer: u64,
}

impl Size {
    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Four => "four",
            Self::Ten => "ten",
        }
    }
}

impl Keys {
    /// Its name on the command line.
    pub(crate) const fn option(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform keys",
            Self::Zipf => "Zipf keys",
        }
    }
}

impl Case {
    pub(crate) const fn name(self) -> &'static str {
        match (self.size, self.keys) {
            (Size::Cached, Keys::Uniform) => "state in cache, uniform keys",
            (Size::Cached, Keys::Zipf) => "state in cache, Zipf keys",
            (Size::Four, Keys::Uniform) => "state 4 x the budget, uniform keys",
            (Size::Four, Keys::Zipf) => "state 4 x the budget, Zipf keys",
            (Size::Ten, Keys::Uniform) => "state 10 x the budget, uniform keys",
            (Size::Ten, Keys::Zipf) => "state 10 x the budget, Zipf keys",
        }
    }

    /// How many keys make the state as large as the case says; counted are bytes of rows, not what either side adds.
    pub(crate) const fn keys_of(self, budget: u64) -> u64 {
        match self.size {
            Size::Cached => budget / 8 / ROW_BYTES,
            Size::Four => 4 * budget / ROW_BYTES,
            Size::Ten => 10 * budget / ROW_BYTES,
        }
    }

    /// Records behind those that fill: one to ten minutes of either side on two cores.
    pub(crate) fn records(self, scale: f64) -> Records {
        let (warm_up, ours, peer) = match (self.size, self.keys) {
            (Size::Cached, Keys::Uniform) => (10e6, 1_500e6, 30e6),
            (Size::Cached, Keys::Zipf) => (10e6, 1_500e6, 40e6),
            (Size::Four, Keys::Uniform) => (4e6, 16e6, 4e6),
            (Size::Four, Keys::Zipf) => (8e6, 40e6, 10e6),
            (Size::Ten, Keys::Uniform) => (3e6, 7e6, 2e6),
            (Size::Ten, Keys::Zipf) => (6e6, 20e6, 5e6),
        };
        let scaled = |count: f64| (count * scale) as u64;
        Records {
            warm_up: scaled(warm_up),
            ours: scaled(ours),
            peer: scaled(peer),
        }
    }

    /// How many times the peer's events per CPU-second are promised; `None` = the figure is reported only.
    pub(crate) const fn promised(self) -> Option<f64> {
        match self.size {
            Size::Cached => Some(30.0),
            Size::Four => Some(3.0),
            Size::Ten => None,
        }
    }
}

/// Each size with each kind of keys, once.
pub(crate) fn all(sizes: &[Size], keys: &[Keys]) -> Vec<Case> {
    let each = |&size| keys.iter().map(move |&keys| Case { size, keys });
    let cases: BTreeSet<_> = sizes.iter().flat_map(each).collect();
    cases.into_iter().collect()
}

//! The cases, as data: how large the state is beside the budget, and how popular its keys are.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    pub(crate) ours: u64,
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

    /// Records of either side behind those that fill: one to ten minutes each on two cores.
    pub(crate) fn records(self, scale: f64) -> Records {
        let (ours, peer) = match self {
            Self::Cached => (800e6, 20e6),
            Self::Four => (20e6, 5e6),
            Self::Ten => (10e6, 3e6),
        };
        let scaled = |count: f64| (count * scale) as u64;
        Records {
            ours: scaled(ours),
            peer: scaled(peer),
        }
    }
}

impl Keys {
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

    /// How many times the peer's events per CPU-second are promised; `None` = the figure is reported only.
    pub(crate) const fn promised(self) -> Option<f64> {
        match self.size {
            Size::Cached => Some(30.0),
            Size::Four => Some(3.0),
            Size::Ten => None,
        }
    }
}

/// Each size with both kinds of keys.
pub(crate) fn all(sizes: &[Size]) -> Vec<Case> {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    sizes.dedup();
    let both = [Keys::Uniform, Keys::Zipf];
    let cases = sizes.into_iter();
    cases
        .flat_map(|size| both.map(|keys| Case { size, keys }))
        .collect()
}

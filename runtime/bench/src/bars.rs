//! The bars, as data: what was promised, and whether the figures keep it.
//!
//! Made by the benchmarks, each with the bounds that it promises. The rule: what is no number meets no bar.

use std::fmt;

/// Which side of the bar is good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

/// One promise and what was found.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: &'static str,
    pub(crate) bound: Bound,
    pub(crate) unit: &'static str,
    /// The value, with two decimals in messages.
    pub(crate) value: f64,
}

impl Bar {
    fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::AtMost(bound) => self.value <= bound,
        }
    }

    /// The words of a missed bar; `None` when it is met.
    pub(crate) fn missed(&self) -> Option<String> {
        (!self.is_met()).then(|| format!("{} {:.2}{}", self.name, self.value, self.unit))
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_met() { "met" } else { "MISSED" };
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => (">=", bound),
            Bound::AtMost(bound) => ("<=", bound),
        };
        let Self {
            name, unit, value, ..
        } = self;
        write!(
            f,
            "{name:<44} {sign} {bound}{unit:<14} {value:>10.2}{unit:<14} {word}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_on_its_good_side_only() {
        let bar = |bound, value| Bar {
            name: "wait",
            bound,
            unit: " s",
            value,
        };
        assert_eq!(bar(Bound::AtMost(1.0), 1.0).missed(), None);
        assert_eq!(bar(Bound::AtLeast(1.0), 1.0).missed(), None);
        assert_eq!(
            bar(Bound::AtMost(1.0), 1.25).missed().as_deref(),
            Some("wait 1.25 s")
        );
        assert!(bar(Bound::AtLeast(1.0), 0.5).missed().is_some());
        assert!(bar(Bound::AtLeast(1.0), f64::NAN).missed().is_some());
    }
}

//! Median, least and most: how every benchmark says a figure that it took several times.

/// Median, least and most of several values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted = values.collect::<Vec<_>>();
        sorted.sort_by(f64::total_cmp);
        let at = |share: usize| sorted.get(share).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            least: at(0),
            most: at(last),
        }
    }

    /// In thousands or millions or as it is, with the spread.
    pub(crate) fn shown(self, unit: f64) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(|value| value / unit);
        format!("{median:.2} ({least:.2} to {most:.2})")
    }
}

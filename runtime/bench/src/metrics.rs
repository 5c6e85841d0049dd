//! The metrics text of a job, summed over all labels: what the benchmarks need of it.

use std::collections::BTreeMap;

/// Sums and greatest values by name, and the counts of histograms by name and upper bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    sums: BTreeMap<String, f64>,
    most: BTreeMap<String, f64>,
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Metrics {
    /// Reads OpenMetrics text; lines of another form are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        Self::parse_with(text, "")
    }

    /// Reads the lines that hold a label, such as `operator="book"`.
    pub(crate) fn parse_with(text: &str, label: &str) -> Self {
        let mut all = Self::default();
        let lines = text.lines().filter(|line| line.contains(label));
        for line in lines.filter(|line| !line.starts_with('#')) {
            let (head, rest) = match line.split_once('{') {
                Some((name, rest)) => (name, rest.rsplit_once('}').unwrap_or((rest, ""))),
                None => match line.split_once(' ') {
                    Some((name, rest)) => (name, ("", rest)),
                    None => continue,
                },
            };
            let (labels, value) = rest;
            let value = value
                .split_whitespace()
                .next()
                .and_then(|text| text.parse().ok());
            let Some(value) = value else { continue };
            if let Some((name, bound)) = head.strip_suffix("_bucket").zip(bound(labels)) {
                all.add_bucket(name, bound, value);
            } else {
                *all.sums.entry(head.to_owned()).or_default() += value;
                let most = all.most.entry(head.to_owned()).or_insert(value);
                *most = most.max(value);
            }
        }
        all
    }

    fn add_bucket(&mut self, name: &str, bound: f64, count: f64) {
        let buckets = self.buckets.entry(name.to_owned()).or_default();
        match buckets
            .iter_mut()
            .find(|(known, _)| known.total_cmp(&bound).is_eq())
        {
            Some((_, sum)) => *sum += count,
            None => buckets.push((bound, count)),
        }
    }

    /// The sum of a metric over all labels; `None` = nobody wrote it.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.sums.get(name).copied()
    }

    /// The greatest value of a metric over all labels; `None` = nobody wrote it.
    pub(crate) fn most(&self, name: &str) -> Option<f64> {
        self.most.get(name).copied()
    }

    /// The bucket of a histogram in which the share `quantile` lies: its bounds, the lower one 0 for the first. `None`
    /// without an observation.
    pub(crate) fn quantile(&self, name: &str, quantile: f64) -> Option<(f64, f64)> {
        let mut buckets = self.buckets.get(name)?.clone();
        buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        let total = buckets.last()?.1;
        let at = buckets
            .iter()
            .position(|(_, count)| *count >= quantile * total)?;
        let lower = at.checked_sub(1).map_or(0.0, |before| buckets[before].0);
        (total > 0.0).then_some((lower, buckets[at].0))
    }
}

fn bound(labels: &str) -> Option<f64> {
    let (_, rest) = labels.split_once("le=\"")?;
    match rest.split_once('"')?.0 {
        "+Inf" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\nplain 7\n\
                        h_bucket{t=\"1\",le=\"0.1\"} 98\nh_bucket{t=\"2\",le=\"0.1\"} 1\n\
                        h_bucket{t=\"1\",le=\"1.0\"} 98\nh_bucket{t=\"2\",le=\"1.0\"} 2\n\
                        h_bucket{t=\"1\",le=\"+Inf\"} 98\nh_bucket{t=\"2\",le=\"+Inf\"} 2\nh_count{t=\"1\"} 98\n# EOF\n";

    #[test]
    fn sums_go_over_all_labels() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("a_total"), Some(5.0));
        assert_eq!(metrics.most("a_total"), Some(3.0));
        assert_eq!(metrics.sum("plain"), Some(7.0));
        let second = Metrics::parse_with(TEXT, "x=\"2\"");
        assert_eq!(second.sum("a_total"), Some(3.0));
        assert_eq!(metrics.sum("b_total"), None);
    }

    #[test]
    fn a_quantile_is_the_bucket_in_which_it_lies() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.quantile("h", 0.5), Some((0.0, 0.1)));
        assert_eq!(metrics.quantile("h", 0.995), Some((0.1, 1.0)));
        assert_eq!(metrics.quantile("none", 0.5), None);
    }
}

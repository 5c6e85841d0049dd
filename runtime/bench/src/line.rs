//! A figure that is known at some moments, and in between as if it grew evenly.
//!
//! Used by the benchmarks that look at CPU time and at records at different moments. The rule: outside of what was looked at
//! there is no value.

/// The value at `at` on the straight line through the two points around it; points are in order of their moments. `None` =
/// nobody looked before or after it.
pub(crate) fn value_at(points: &[(f64, f64)], at: f64) -> Option<f64> {
    let after = points.partition_point(|(moment, _)| *moment < at);
    let (before, after) = (points.get(after.checked_sub(1)?)?, points.get(after)?);
    let share = (at - before.0) / (after.0 - before.0);
    Some(before.1 + share * (after.1 - before.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_between_two_looks_lies_on_a_straight_line() {
        let points = [(1.0, 0.0), (2.0, 2.0), (4.0, 3.0)];
        assert_eq!(value_at(&points, 1.5), Some(1.0));
        assert_eq!(value_at(&points, 3.0), Some(2.5));
        assert_eq!(value_at(&points, 4.0), Some(3.0));
        assert_eq!(
            (value_at(&points, 0.5), value_at(&points, 4.5)),
            (None, None)
        );
        assert_eq!(value_at(&[], 1.0), None);
    }
}

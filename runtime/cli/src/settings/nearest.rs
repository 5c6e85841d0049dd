//! The known name nearest to one that nobody knows, for messages.

/// The candidate with the smallest edit distance to `wanted`; the first of equals.
pub(super) fn nearest<'a>(
    wanted: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .min_by_key(|candidate| distance(wanted, candidate))
}

/// How many letters must be inserted, removed or replaced.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (at, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("slots", "slot"), 1);
        assert_eq!(distance("intervall", "interval"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn the_nearest_name_wins() {
        let known = ["checkpoint.interval", "checkpoint.timeout", "slots"];
        assert_eq!(nearest("chekpoint.intervall", known), Some(known[0]));
        assert_eq!(nearest("slot", known), Some("slots"));
        assert_eq!(nearest("slot", []), None);
    }
}

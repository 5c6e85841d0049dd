//! What a request for another parallelism asks of the coordinator.
//!
//! Called by the route. Pure. The rule: what no job could run at is refused before anything is under way; whether this job has such an
//! operator, can run at that parallelism, and has the slots, is for the coordinator to say.

use std::time::Duration;

use highwater_coordinator::{RescaleWish, SnapshotWish};
use highwater_types::{MaxParallelism, OperatorUid, Parallelism, Parallelisms};
use highwater_web_api as api;

use crate::ask::Asked;

/// The longest wait for slots, in milliseconds: a day.
const SLOTS_WITHIN_MS_MAX: u64 = 86_400_000;
/// What is told to a request that says no parallelism.
const NOTHING: &str =
    "nothing is asked for; say `parallelism`, or `operators` with the parallelism of each by uid";

/// What is asked for; a refusal says why it is nothing.
pub(crate) fn asked(request: api::RescaleRequest) -> Result<Asked, String> {
    let api::RescaleRequest {
        parallelism,
        operators,
        slots_within_ms,
        operation,
        wait,
    } = request;
    if parallelism.is_none() && operators.is_empty() {
        return Err(NOTHING.to_owned());
    }
    let parallelism = parallelism.map(|count| counted("`parallelism`", count));
    let operators: Result<Parallelisms, String> = operators.into_iter().map(single).collect();
    let slots_within_ms = slots_within_ms.unwrap_or_default();
    if slots_within_ms > SLOTS_WITHIN_MS_MAX {
        return Err(format!(
            "`slots_within_ms` is {slots_within_ms}; it may be 0 to {SLOTS_WITHIN_MS_MAX}, which is a day"
        ));
    }
    Ok(Asked {
        wish: SnapshotWish::Rescale(RescaleWish {
            parallelism: parallelism.transpose()?,
            operators: operators?,
            slots_within: Duration::from_millis(slots_within_ms),
        }),
        operation,
        wait,
    })
}

fn single((uid, count): (String, u32)) -> Result<(OperatorUid, Parallelism), String> {
    let uid = OperatorUid::parse(&uid).map_err(|error| error.to_string())?;
    let parallelism = counted(uid.as_str(), count)?;
    Ok((uid, parallelism))
}

fn counted(of: &str, count: u32) -> Result<Parallelism, String> {
    let most = MaxParallelism::LIMIT;
    if (1..=most).contains(&count) {
        return Ok(Parallelism(count));
    }
    Err(format!("{of} is {count}; a parallelism may be 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn operators(given: &[(&str, u32)]) -> BTreeMap<String, u32> {
        let owned = given.iter().map(|&(uid, count)| (uid.to_owned(), count));
        owned.collect()
    }

    fn refusal(request: api::RescaleRequest) -> String {
        asked(request).unwrap_err()
    }

    #[test]
    fn what_is_asked_for_reaches_the_coordinator() {
        let request = api::RescaleRequest {
            parallelism: Some(4),
            operators: operators(&[("count", 8), ("sum", 1)]),
            slots_within_ms: Some(300_000),
            operation: Some("one".to_owned()),
            wait: Some(false),
        };
        let asked = asked(request).unwrap();
        let of = |uid: &str, count| (OperatorUid::parse(uid).unwrap(), Parallelism(count));
        let expected = RescaleWish {
            parallelism: Some(Parallelism(4)),
            operators: [of("count", 8), of("sum", 1)].into(),
            slots_within: Duration::from_mins(5),
        };
        assert_eq!(asked.wish, SnapshotWish::Rescale(expected));
        assert_eq!(
            (asked.operation.as_deref(), asked.wait),
            (Some("one"), Some(false))
        );
    }

    #[test]
    fn slots_are_not_waited_for_where_nothing_is_said() {
        let request = api::RescaleRequest {
            operators: operators(&[("count", 32_768)]),
            ..api::RescaleRequest::default()
        };
        let SnapshotWish::Rescale(wish) = asked(request).unwrap().wish else {
            panic!("a rescale is asked for");
        };
        assert_eq!(wish.parallelism, None);
        assert_eq!(wish.slots_within, Duration::ZERO);
    }

    #[test]
    fn what_no_job_could_run_at_is_refused_by_name() {
        let nothing = refusal(api::RescaleRequest::default());
        assert!(nothing.contains("say `parallelism`"), "{nothing}");
        for (given, words) in [
            (("count", 0), "count is 0; a parallelism may be 1 to 32768"),
            (("count", 32_769), "count is 32769"),
            (("Count", 2), "operator uid `Count`"),
            (("", 2), "operator uid ``"),
        ] {
            let request = api::RescaleRequest {
                operators: operators(&[given]),
                ..api::RescaleRequest::default()
            };
            let refused = refusal(request);
            assert!(refused.contains(words), "{refused}");
        }
        let request = |parallelism, slots_within_ms| api::RescaleRequest {
            parallelism: Some(parallelism),
            slots_within_ms: Some(slots_within_ms),
            ..api::RescaleRequest::default()
        };
        let refused = refusal(request(0, 0));
        assert!(refused.starts_with("`parallelism` is 0"), "{refused}");
        let refused = refusal(request(1, SLOTS_WITHIN_MS_MAX + 1));
        assert!(refused.contains("which is a day"), "{refused}");
        assert!(asked(request(1, SLOTS_WITHIN_MS_MAX)).is_ok());
    }
}

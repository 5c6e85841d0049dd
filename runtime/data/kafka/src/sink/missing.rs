//! An output topic that a broker does not know: gone, made anew with fewer partitions, or only not known there for a moment.
//!
//! Called by the target and by the direct writer after such an answer. Metadata travels from broker to broker, so one answer
//! decides nothing: the topic is looked for again and again, and the output is refused by name only for what was seen then.

use highwater_connectors::ConnectorError;

use crate::connection::KafkaConnection;
use crate::topic::{TopicFacts, TopicInspector};

/// What is to be done after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A new session tries again.
    Again,
    /// The topic does not exist.
    Missing,
    /// It has so many partitions only, and this one is written to.
    Fewer { partitions: i32, partition: i32 },
}

/// Looks for the topic, with clients of its own: the one that was told so may hold to it for long. `partition` = the
/// last one that is written to.
pub(super) fn look_for(connection: &KafkaConnection, topic: &str, partition: i32) -> Verdict {
    let found = TopicInspector::open(connection, topic);
    match found.and_then(|one| one.find_with(partition.saturating_add(1))) {
        Ok(found) => judge(found, partition),
        Err(error) => {
            tracing::warn!(target: "highwater::kafka", topic, %error, "whether the topic exists is not known");
            Verdict::Again
        }
    }
}

/// Judges what many looks have found.
const fn judge(found: Option<TopicFacts>, partition: i32) -> Verdict {
    match found {
        None => Verdict::Missing,
        Some(TopicFacts { partitions, .. }) if partition >= partitions => Verdict::Fewer {
            partitions,
            partition,
        },
        Some(_) => Verdict::Again,
    }
}

/// The refusal, with the next step; `None` = it is tried again.
pub(super) fn refusal(verdict: Verdict, object: &str) -> Option<ConnectorError> {
    let reason = match verdict {
        Verdict::Again => return None,
        Verdict::Missing => {
            "the topic does not exist any more; create it again and start the job again".to_owned()
        }
        Verdict::Fewer {
            partitions,
            partition,
        } => format!(
            "the topic has {partitions} partitions, and partition {partition} is written to: it was made anew with fewer; \
             give it as many as before and start the job again"
        ),
    };
    Some(ConnectorError::Configuration {
        connector: object.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn topic(partitions: i32) -> TopicFacts {
        TopicFacts {
            partitions,
            replication: 1,
        }
    }

    #[test]
    fn only_what_was_seen_is_refused() {
        assert_eq!(judge(None, 0), Verdict::Missing);
        assert_eq!(judge(Some(topic(4)), 3), Verdict::Again, "for a moment");
        let (partitions, partition) = (4, 4);
        let fewer = Verdict::Fewer {
            partitions,
            partition,
        };
        assert_eq!(judge(Some(topic(4)), 4), fewer);
    }

    #[test]
    fn a_refusal_names_the_topic_and_the_next_step() {
        assert!(refusal(Verdict::Again, "kafka topic t").is_none());
        for verdict in [judge(None, 0), judge(Some(topic(1)), 1)] {
            let text = refusal(verdict, "kafka topic t").unwrap().to_string();
            assert!(text.contains("kafka topic t") && text.contains("start the job again"));
        }
    }
}

//! An output topic that a broker does not know: gone, or only not known there for a moment.
//!
//! Called by the target and by the direct writer after such an answer. Metadata travels from broker to broker, so one answer
//! decides nothing: the topic is looked for again and again, and only then, or after many such answers in a row although it
//! is found, the output is refused by name.

use highwater_connectors::ConnectorError;

use crate::connection::KafkaConnection;
use crate::topic::TopicInspector;

/// Answers in a row before the output is refused although the topic is there: a partition that is written to is not. With
/// the pace of lost sessions some twenty seconds.
const REPORTS_MAX: u32 = 10;

/// What is to be done after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A new session tries again.
    Again,
    /// The topic does not exist.
    Missing,
    /// It exists and is not what the output is made for.
    Other,
}

/// Counts the answers of one slot.
#[derive(Debug, Default)]
pub(super) struct MissingReports(u32);

impl MissingReports {
    /// Records have arrived: whatever was missing is there.
    pub(super) fn arrived(&mut self) {
        self.0 = 0;
    }

    /// Judges one more answer. `found` = whether the topic was found afterwards; `None` = nobody could say.
    pub(super) fn judge(&mut self, found: Option<bool>) -> Verdict {
        self.0 = self.0.saturating_add(1);
        match found {
            Some(false) => Verdict::Missing,
            Some(true) if self.0 >= REPORTS_MAX => Verdict::Other,
            Some(true) | None => Verdict::Again,
        }
    }
}

/// Looks for the topic, with clients of its own: the one that was told so may hold to it for long.
pub(super) fn look_for(connection: &KafkaConnection, topic: &str) -> Option<bool> {
    let found = TopicInspector::open(connection, topic).and_then(|one| one.find_patiently());
    match found {
        Ok(found) => Some(found.is_some()),
        Err(error) => {
            tracing::warn!(target: "highwater::kafka", topic, %error, "whether the topic exists is not known");
            None
        }
    }
}

/// The refusal, with the next step; `None` = it is tried again.
pub(super) fn refusal(verdict: Verdict, object: &str) -> Option<ConnectorError> {
    let reason = match verdict {
        Verdict::Again => return None,
        Verdict::Missing => {
            "the topic does not exist any more; create it again and start the job again"
        }
        Verdict::Other => {
            "the topic exists, but a partition that is written to does not: it was made anew with fewer partitions; give it \
             as many as before and start the job again"
        }
    };
    Some(ConnectorError::Configuration {
        connector: object.to_owned(),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_missing_only_after_it_was_looked_for() {
        let mut reports = MissingReports::default();
        assert_eq!(reports.judge(Some(true)), Verdict::Again, "for a moment");
        assert_eq!(reports.judge(None), Verdict::Again, "no answer is none");
        assert_eq!(reports.judge(Some(false)), Verdict::Missing);
    }

    #[test]
    fn what_is_found_and_reported_as_missing_for_ever_is_refused() {
        let mut reports = MissingReports::default();
        for _ in 1..REPORTS_MAX {
            assert_eq!(reports.judge(Some(true)), Verdict::Again);
        }
        assert_eq!(reports.judge(Some(true)), Verdict::Other);
        reports.arrived();
        assert_eq!(reports.judge(Some(true)), Verdict::Again);
        for _ in 0..REPORTS_MAX {
            assert_eq!(reports.judge(None), Verdict::Again, "no broker answers");
        }
    }

    #[test]
    fn a_refusal_names_the_topic_and_the_next_step() {
        assert!(refusal(Verdict::Again, "kafka topic t").is_none());
        for verdict in [Verdict::Missing, Verdict::Other] {
            let text = refusal(verdict, "kafka topic t").unwrap().to_string();
            assert!(text.contains("kafka topic t") && text.contains("start the job again"));
        }
    }
}

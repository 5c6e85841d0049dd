//! What a broker says for a moment only: brokers of the client library that answer as they are told to.

use highwater_connectors::Source;
use highwater_kafka::{EndPosition, KafkaSource};
use highwater_types::{Classified, ErrorKind};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::broker::{Cluster, unique};

type Mock = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

fn cluster_of(mock: &Mock) -> Cluster {
    Cluster {
        bootstrap: mock.bootstrap_servers(),
    }
}

/// A leader that has just been elected does not know its end yet.
#[test]
fn an_end_that_is_not_available_yet_is_waited_for() {
    let mock = Mock::new(2).expect("a mock cluster");
    let cluster = cluster_of(&mock);
    let topic = unique("elected");
    mock.create_topic(&topic, 1, 2).expect("a topic");
    cluster.write(&topic, 0, &["a", "b"]);
    let unit = |_: &[u8]| Ok(());
    let source = KafkaSource::new(cluster.connection(), &topic, unit).until(EndPosition::Latest);
    mock.request_errors(
        RDKafkaApiKey::ListOffsets,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE; 8],
    );
    let mut enumerator = source.enumerator().expect("an enumerator");
    let error = enumerator.discover().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    mock.clear_request_errors(RDKafkaApiKey::ListOffsets);
    let found = enumerator.discover().expect("the end is known");
    assert_eq!(found.splits.len(), 1);
    assert!(found.splits[0].position.contains(&2), "{:?}", found.splits);
}

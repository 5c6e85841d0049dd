//! The servers really start, survive a kill, and are gone afterwards.

use std::net::TcpStream;

use highwater_testkit::{Cache, Kafka, KafkaOptions, Resident, S3, Service};

#[test]
fn kafka_starts_survives_a_kill_and_leaves_nothing() {
    let mut kafka = Kafka::start_temporary(&KafkaOptions::default()).expect("kafka starts");
    let folder = kafka.folder().to_owned();
    let first = kafka.key().expect("it runs");
    TcpStream::connect(kafka.bootstrap()).expect("it listens");
    kafka.kill().expect("it can be killed");
    assert!(!first.is_alive());
    kafka.restart().expect("it starts again on its data");
    TcpStream::connect(kafka.bootstrap()).expect("it listens on the same port");
    let second = kafka.key().expect("it runs");
    drop(kafka);
    assert!(!second.is_alive());
    assert!(!folder.exists());
}

#[test]
fn a_resident_s3_server_goes_up_once_and_down_without_a_trace() {
    let user = Cache::of_user().expect("a home folder");
    let fetched = S3::start_temporary().expect("s3 starts");
    drop(fetched);
    let root = tempfile::tempdir().expect("a folder");
    let cache = Cache::at(root.path().to_owned());
    let program = user.root().join("versitygw-1.8.0");
    std::os::unix::fs::symlink(program, cache.root().join("versitygw-1.8.0")).expect("a link");
    let up = Resident::up(Service::S3, &cache).expect("it starts");
    assert_eq!(Resident::up(Service::S3, &cache).expect("it runs"), up);
    assert!(up.variables()[0].starts_with("S3_ENDPOINT=http://127.0.0.1:"));
    assert!(Resident::down(Service::S3, &cache).expect("it stops"));
    assert!(!up.key.is_alive() && !up.folder.exists());
    assert_eq!(
        Resident::running(Service::S3, &cache).expect("a record"),
        None
    );
}

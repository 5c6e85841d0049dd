//! A real S3 server keeps the contract; its refusals name bucket and reason. Built with the feature `s3`.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use highwater_storage::{
    Location, ObjectPath, ObjectStorage, S3Options, S3Storage, Secret, contract, open, probe,
};
use highwater_testkit::S3;
use highwater_types::{Classified, ErrorKind, Nonce};

fn server() -> &'static S3 {
    static SERVER: OnceLock<S3> = OnceLock::new();
    SERVER.get_or_init(|| S3::start_temporary().unwrap_or_else(|error| panic!("{error}")))
}

fn options() -> S3Options {
    S3Options {
        endpoint: Some(server().endpoint()),
        region: Some(S3::REGION.to_owned()),
        access_key_id: Some(S3::ACCESS_KEY_ID.to_owned()),
        secret_access_key: Some(Secret::new(S3::SECRET_ACCESS_KEY)),
        ..S3Options::default()
    }
}

fn opened(location: &str, options: &S3Options) -> Arc<dyn ObjectStorage> {
    let location = Location::parse(location).expect("the location is valid");
    open(&location, options).expect("the options are valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_s3_server_keeps_the_contract() {
    let storage = opened("s3://highwater/jobs/it", &options());
    let folder = ObjectPath::parse("suite/run-1").unwrap();
    contract::run(storage, &folder).await;
}

#[tokio::test]
async fn a_prefix_hides_what_lies_beside_it() {
    let outside = opened("s3://highwater/a", &options());
    let inside = opened("s3://highwater/a/b", &options());
    let near = opened("s3://highwater/a/bc", &options());
    let path = ObjectPath::parse("x").unwrap();
    for storage in [&inside, &near] {
        storage.put(&path, Bytes::from_static(b"1")).await.unwrap();
    }
    let listed = inside.list(None).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].path, path);
    let all: Vec<_> = outside.list(None).await.unwrap();
    let names: Vec<_> = all.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["b/x", "bc/x"]);
    for storage in [&inside, &near] {
        storage.delete(&path).await.unwrap();
    }
}

#[tokio::test]
async fn the_probe_accepts_the_bucket_and_leaves_nothing() {
    let storage = opened("s3://highwater/probed", &options());
    probe(storage.as_ref(), Nonce(3)).await.unwrap();
    assert_eq!(storage.list(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_bucket_and_wrong_keys_are_refused_by_name() {
    let mut wrong = options();
    wrong.secret_access_key = Some(Secret::new("not-the-key"));
    for (location, options, reason) in [
        ("s3://no-such-bucket", options(), "NoSuchBucket"),
        ("s3://highwater", wrong, "SignatureDoesNotMatch"),
    ] {
        let storage = opened(location, &options);
        let error = probe(storage.as_ref(), Nonce(1)).await.unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{message}");
        for part in [location, "create if absent", reason] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("not-the-key"), "{message}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_makes_a_conditional_write_unknown() {
    let mut own = S3::start_temporary().unwrap();
    let mut reach = options();
    reach.endpoint = Some(own.endpoint());
    let storage = S3Storage::open(S3::BUCKET, None, &reach).unwrap();
    let path = ObjectPath::parse("head").unwrap();
    own.kill().unwrap();
    let outcome = storage.put_new(&path, Bytes::from_static(b"1")).await;
    assert!(
        matches!(outcome, Ok(highwater_storage::PutOutcome::Unknown(_))),
        "{outcome:?}"
    );
    let error = probe(&storage, Nonce(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    own.restart().unwrap();
    probe(&storage, Nonce(1)).await.unwrap();
}

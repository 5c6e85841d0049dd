//! A store in a bucket of an S3-compatible service: conditional writes by `If-None-Match` and `If-Match`.
//!
//! Two clients share the options. The one for conditional writes never retries, and the outcome derives from the HTTP
//! status of its single request, never from error text: 412 is a conflict; a timeout, 5xx, 409 or 429 is unknown. The
//! other one, for reads and for writes that may be repeated, retries with backoff.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, Extensions, GetOptions, GetRange, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, PutResult, RetryConfig, UpdateVersion,
};

use crate::error::StorageError;
use crate::location::{S3Options, Secret};
use crate::path::ObjectPath;
use crate::storage::{Object, ObjectEntry, ObjectStorage, PutOutcome, Version};

/// Longer than a healthy store needs for a small object; after it the outcome is unknown.
const CONDITIONAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Room for objects of some hundred megabytes on a slow line.
const DATA_TIMEOUT: Duration = Duration::from_mins(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DATA_RETRIES_MAX: usize = 6;
const REASON_LENGTH_MAX: usize = 400;

/// Objects in a bucket.
pub struct S3Storage {
    location: String,
    prefix: Option<ObjectPath>,
    conditional: AmazonS3,
    data: AmazonS3,
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Storage({})", self.location)
    }
}

impl S3Storage {
    /// Opens a bucket. Sends nothing yet: call the start-up probe.
    ///
    /// # Errors
    /// `Invalid` when the options cannot work.
    pub fn open(
        bucket: &str,
        prefix: Option<&ObjectPath>,
        options: &S3Options,
    ) -> Result<Self, StorageError> {
        let below = prefix.map_or_else(String::new, |prefix| format!("/{prefix}"));
        let location = format!("s3://{bucket}{below}");
        let client = |timeout, retries| {
            builder(bucket, options, timeout, retries)
                .build()
                .map_err(|error| StorageError::Location {
                    value: location.clone(),
                    reason: shorten(&error.to_string()),
                })
        };
        Ok(Self {
            conditional: client(CONDITIONAL_TIMEOUT, 0)?,
            data: client(DATA_TIMEOUT, DATA_RETRIES_MAX)?,
            prefix: prefix.cloned(),
            location,
        })
    }

    fn key(&self, path: &ObjectPath) -> Path {
        match &self.prefix {
            Some(prefix) => Path::from(format!("{prefix}/{path}")),
            None => Path::from(path.as_str()),
        }
    }

    fn failed(&self, operation: &'static str, path: &str, error: &Error) -> StorageError {
        let object = format!("{}/{path}", self.location);
        let reason = shorten(&error.to_string());
        match error {
            Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotFound { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. } => StorageError::Refused {
                operation,
                object,
                reason,
            },
            _ => StorageError::Unavailable {
                operation,
                object,
                reason,
            },
        }
    }

    async fn put_conditionally(
        &self,
        operation: &'static str,
        path: &ObjectPath,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<PutOutcome, StorageError> {
        let seen = SeenStatus::default();
        let mut extensions = Extensions::new();
        extensions.insert(seen.clone());
        let options = PutOptions {
            mode,
            extensions,
            ..PutOptions::default()
        };
        let answer = self
            .conditional
            .put_opts(&self.key(path), bytes.into(), options)
            .await;
        match answer {
            Ok(PutResult {
                e_tag: Some(tag), ..
            }) => Ok(PutOutcome::Written(Version::new(tag))),
            Ok(_) => Ok(PutOutcome::Unknown(StorageError::Unavailable {
                operation,
                object: format!("{}/{path}", self.location),
                reason: "the store answered without an ETag".to_owned(),
            })),
            Err(error) => {
                let failed = self.failed(operation, path.as_str(), &error);
                decide(seen.get(), operation == UPDATE, failed)
            }
        }
    }

    fn entry(&self, meta: &ObjectMeta) -> Option<ObjectEntry> {
        let key = meta.location.as_ref();
        let inside = match &self.prefix {
            Some(prefix) => key.strip_prefix(prefix.as_str())?.strip_prefix('/')?,
            None => key,
        };
        // A key that no object of ours can have belongs to somebody else.
        Some(ObjectEntry {
            path: ObjectPath::parse(inside).ok()?,
            length: meta.size,
        })
    }
}

const CREATE: &str = "create if absent";
const UPDATE: &str = "replace if unchanged";

/// What the status of a failed conditional write says about its outcome; 0 = no answer came.
fn decide(status: u16, of_update: bool, error: StorageError) -> Result<PutOutcome, StorageError> {
    match status {
        412 | 304 => Ok(PutOutcome::Conflict),
        // A conditional update of an object (or bucket) that does not exist.
        404 if of_update => Ok(PutOutcome::Conflict),
        408 | 409 | 425 | 429 => Ok(PutOutcome::Unknown(error)),
        300..=499 => Err(match error {
            StorageError::Unavailable {
                operation,
                object,
                reason,
            } => StorageError::Refused {
                operation,
                object,
                reason,
            },
            other => other,
        }),
        _ => Ok(PutOutcome::Unknown(error)),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(REASON_LENGTH_MAX).collect()
}

fn builder(
    bucket: &str,
    options: &S3Options,
    timeout: Duration,
    retries: usize,
) -> AmazonS3Builder {
    let plain_http = options
        .endpoint
        .as_ref()
        .is_some_and(|url| url.starts_with("http://"));
    let client = ClientOptions::new()
        .with_timeout(timeout)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(plain_http);
    let retry = RetryConfig {
        max_retries: retries,
        retry_timeout: timeout,
        backoff: BackoffConfig::default(),
    };
    let region = options.region.as_deref().unwrap_or("us-east-1");
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(client)
        .with_retry(retry)
        .with_http_connector(WatchedConnector);
    let expose = |secret: &Option<Secret>| secret.as_ref().map(|text| text.expose().to_owned());
    for (key, value) in [
        (AmazonS3ConfigKey::Endpoint, options.endpoint.clone()),
        (
            AmazonS3ConfigKey::AccessKeyId,
            options.access_key_id.clone(),
        ),
        (
            AmazonS3ConfigKey::SecretAccessKey,
            expose(&options.secret_access_key),
        ),
        (AmazonS3ConfigKey::Token, expose(&options.session_token)),
        (AmazonS3ConfigKey::RoleArn, options.role_arn.clone()),
        (
            AmazonS3ConfigKey::WebIdentityTokenFile,
            options.web_identity_token_file.clone(),
        ),
    ] {
        if let Some(value) = value {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// Rides along with a request and keeps the status of its answer: the client's own errors do not tell 409 from 412.
#[derive(Clone, Debug, Default)]
struct SeenStatus(Arc<AtomicU16>);

impl SeenStatus {
    fn get(&self) -> u16 {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct WatchedConnector;

impl HttpConnector for WatchedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(WatchedService(inner)))
    }
}

#[derive(Debug)]
struct WatchedService(HttpClient);

#[async_trait]
impl HttpService for WatchedService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let seen = request.extensions().get::<SeenStatus>().cloned();
        let answer = self.0.execute(request).await?;
        if let Some(seen) = seen {
            seen.0.store(answer.status().as_u16(), Ordering::Release);
        }
        Ok(answer)
    }
}

#[async_trait]
impl ObjectStorage for S3Storage {
    fn location(&self) -> &str {
        &self.location
    }

    async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        self.put_conditionally(CREATE, path, bytes, PutMode::Create)
            .await
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        bytes: Bytes,
        version: &Version,
    ) -> Result<PutOutcome, StorageError> {
        let expected = UpdateVersion {
            e_tag: Some(version.as_str().to_owned()),
            version: None,
        };
        self.put_conditionally(UPDATE, path, bytes, PutMode::Update(expected))
            .await
    }

    async fn put(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), StorageError> {
        let put = self.data.put(&self.key(path), bytes.into()).await;
        put.map(drop)
            .map_err(|error| self.failed("write", path.as_str(), &error))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Option<Object>, StorageError> {
        let failed = |error| self.failed("read", path.as_str(), &error);
        let found = match self.data.get(&self.key(path)).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(failed)?,
        };
        let Some(tag) = found.meta.e_tag.clone() else {
            return Err(StorageError::Refused {
                operation: "read",
                object: format!("{}/{path}", self.location),
                reason: "the store answered without an ETag".to_owned(),
            });
        };
        Ok(Some(Object {
            bytes: found.bytes().await.map_err(failed)?,
            version: Version::new(tag),
        }))
    }

    async fn get_range(
        &self,
        path: &ObjectPath,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        let failed = |error: &Error| self.failed("read", path.as_str(), error);
        let Some(entry) = self.stat(path).await? else {
            return Ok(None);
        };
        if range.start > range.end || range.end > entry.length {
            return Err(StorageError::Range {
                object: format!("{}/{path}", self.location),
                length: entry.length,
                start: range.start,
                end: range.end,
            });
        }
        if range.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        match self.data.get_opts(&self.key(path), options).await {
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&error)),
            Ok(found) => Ok(Some(found.bytes().await.map_err(|error| failed(&error))?)),
        }
    }

    async fn stat(&self, path: &ObjectPath) -> Result<Option<ObjectEntry>, StorageError> {
        match self.data.head(&self.key(path)).await {
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("stat", path.as_str(), &error)),
            Ok(meta) => Ok(Some(ObjectEntry {
                path: path.clone(),
                length: meta.size,
            })),
        }
    }

    async fn list(&self, folder: Option<&ObjectPath>) -> Result<Vec<ObjectEntry>, StorageError> {
        let start = match folder {
            Some(folder) => Some(self.key(folder)),
            None => self
                .prefix
                .as_ref()
                .map(|prefix| Path::from(prefix.as_str())),
        };
        let listing: Result<Vec<ObjectMeta>, Error> =
            self.data.list(start.as_ref()).try_collect().await;
        let named = folder.map_or("", ObjectPath::as_str);
        let listing = listing.map_err(|error| self.failed("list", named, &error))?;
        let entries = listing.iter().filter_map(|meta| self.entry(meta));
        let mut inside: Vec<_> = entries
            .filter(|entry| folder.is_none_or(|folder| entry.path.is_below(folder)))
            .collect();
        inside.sort_unstable();
        Ok(inside)
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        match self.data.delete(&self.key(path)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", path.as_str(), &error)),
        }
    }

    async fn delete_many(&self, paths: &[ObjectPath]) -> Result<(), StorageError> {
        let keys: Vec<_> = paths.iter().map(|path| Ok(self.key(path))).collect();
        let mut answers = self.data.delete_stream(stream::iter(keys).boxed());
        let mut result = Ok(());
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) if result.is_ok() => result = Err(self.failed("delete", "", &error)),
                // One reason is enough to act on; the others are of the same call.
                Err(_) => {}
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage() -> StorageError {
        StorageError::Unavailable {
            operation: CREATE,
            object: "s3://bucket/head".to_owned(),
            reason: "answer".to_owned(),
        }
    }

    #[test]
    fn only_a_failed_precondition_is_a_conflict() {
        assert!(matches!(
            decide(412, false, outage()),
            Ok(PutOutcome::Conflict)
        ));
        assert!(matches!(
            decide(404, true, outage()),
            Ok(PutOutcome::Conflict)
        ));
        for unclear in [0, 200, 408, 409, 429, 500, 502, 503, 504] {
            let outcome = decide(unclear, true, outage());
            assert!(matches!(outcome, Ok(PutOutcome::Unknown(_))), "{unclear}");
        }
        for definite in [301, 400, 401, 403] {
            let outcome = decide(definite, true, outage());
            assert!(
                matches!(outcome, Err(StorageError::Refused { .. })),
                "{definite}"
            );
        }
        assert!(decide(404, false, outage()).is_err());
    }
}

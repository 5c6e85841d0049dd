//! Servers that stay after the command that started them: `cargo xtask testbed up|down|status`.
//!
//! One of each service per user. Its record (process id and start time, folder, address) lies in the cache; `down`
//! stops exactly that process and removes folder and record.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::Cache;
use crate::error::TestbedError;
use crate::kafka::{Kafka, removing_on_failure, temporary_folder};
use crate::process::ProcessKey;
use crate::s3::S3;

const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A service of the testbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Apache Kafka.
    Kafka,
    /// An S3 server.
    S3,
}

impl Service {
    /// Every service.
    pub const ALL: [Self; 2] = [Self::Kafka, Self::S3];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::S3 => "s3",
        }
    }

    /// The service of this name.
    ///
    /// # Errors
    /// Lists the names.
    pub fn parse(name: &str) -> Result<Self, TestbedError> {
        let found = Self::ALL.into_iter().find(|service| service.name() == name);
        found.ok_or_else(|| {
            TestbedError::State(format!(
                "there is no service `{name}`; name `kafka` or `s3`"
            ))
        })
    }
}

/// A running resident server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Which service.
    pub service: Service,
    /// Its process.
    pub key: ProcessKey,
    /// Its folder.
    pub folder: PathBuf,
    /// Where it listens.
    pub address: String,
}

impl Resident {
    /// Starts `service`, or returns the one that runs.
    ///
    /// # Errors
    /// `Missing` tools, or a server that does not start.
    pub fn up(service: Service, cache: &Cache) -> Result<Self, TestbedError> {
        let _lock = lock(service, cache)?;
        if let Some(running) = Self::running(service, cache)? {
            return Ok(running);
        }
        let folder = temporary_folder(service.name())?;
        let started = match service {
            Service::Kafka => Kafka::start_resident(&folder, cache),
            Service::S3 => S3::start_resident(&folder, cache),
        };
        let (key, address) = removing_on_failure(&folder, started)?;
        let resident = Self {
            service,
            key,
            folder,
            address,
        };
        let record = record_path(service, cache);
        fs::write(&record, resident.to_record()).map_err(TestbedError::io("write", &record))?;
        Ok(resident)
    }

    /// Stops `service` and removes all of it. Whether there was one.
    ///
    /// # Errors
    /// When it cannot be stopped or removed.
    pub fn down(service: Service, cache: &Cache) -> Result<bool, TestbedError> {
        let _lock = lock(service, cache)?;
        let Some(resident) = Self::recorded(service, cache)? else {
            return Ok(false);
        };
        resident.key.stop(STOP_PATIENCE)?;
        if resident.folder.exists() {
            let folder = &resident.folder;
            fs::remove_dir_all(folder).map_err(TestbedError::io("remove", folder))?;
        }
        let record = record_path(service, cache);
        fs::remove_file(&record).map_err(TestbedError::io("remove", &record))?;
        Ok(true)
    }

    /// The resident server, when it runs.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn running(service: Service, cache: &Cache) -> Result<Option<Self>, TestbedError> {
        let recorded = Self::recorded(service, cache)?;
        Ok(recorded.filter(|resident| resident.key.is_alive()))
    }

    /// What a shell needs to use the server: `NAME=value` lines.
    pub fn variables(&self) -> Vec<String> {
        let address = &self.address;
        match self.service {
            Service::Kafka => vec![format!("KAFKA_BOOTSTRAP={address}")],
            Service::S3 => vec![
                format!("S3_ENDPOINT={address}"),
                format!("S3_BUCKET={}", S3::BUCKET),
                format!("AWS_ACCESS_KEY_ID={}", S3::ACCESS_KEY_ID),
                format!("AWS_SECRET_ACCESS_KEY={}", S3::SECRET_ACCESS_KEY),
                format!("AWS_REGION={}", S3::REGION),
            ],
        }
    }

    fn to_record(&self) -> String {
        let ProcessKey { pid, start } = self.key;
        format!(
            "{pid}\n{start}\n{}\n{}\n",
            self.folder.display(),
            self.address
        )
    }

    fn recorded(service: Service, cache: &Cache) -> Result<Option<Self>, TestbedError> {
        let path = record_path(service, cache);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).map_err(TestbedError::io("read", &path))?;
        let record = Self::from_record(service, &text).ok_or_else(|| {
            TestbedError::State(format!(
                "{} is damaged; stop the server by hand and remove the file",
                path.display()
            ))
        })?;
        Ok(Some(record))
    }

    fn from_record(service: Service, text: &str) -> Option<Self> {
        let mut lines = text.lines();
        Some(Self {
            service,
            key: ProcessKey {
                pid: lines.next()?.parse().ok()?,
                start: lines.next()?.parse().ok()?,
            },
            folder: PathBuf::from(lines.next()?),
            address: lines.next()?.to_owned(),
        })
    }
}

fn record_path(service: Service, cache: &Cache) -> PathBuf {
    cache.root().join(format!("{}.running", service.name()))
}

/// One `up` or `down` at a time.
fn lock(service: Service, cache: &Cache) -> Result<File, TestbedError> {
    let root = cache.root();
    fs::create_dir_all(root).map_err(TestbedError::io("create", root))?;
    let path = root.join(format!("{}.running.lock", service.name()));
    let file = File::create(&path).map_err(TestbedError::io("create", &path))?;
    file.lock().map_err(TestbedError::io("lock", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_a_dead_server_is_not_running_but_can_be_cleared() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path().to_owned());
        let folder = root.path().join("run");
        fs::create_dir(&folder).unwrap();
        let gone = Resident {
            service: Service::Kafka,
            key: ProcessKey {
                pid: std::process::id(),
                start: 1,
            },
            folder: folder.clone(),
            address: "127.0.0.1:18000".to_owned(),
        };
        assert!(!Resident::down(Service::Kafka, &cache).unwrap());
        fs::write(record_path(Service::Kafka, &cache), gone.to_record()).unwrap();
        assert_eq!(
            Resident::recorded(Service::Kafka, &cache).unwrap(),
            Some(gone)
        );
        assert_eq!(Resident::running(Service::Kafka, &cache).unwrap(), None);
        assert!(Resident::down(Service::Kafka, &cache).unwrap());
        assert!(!folder.exists());
        assert!(!record_path(Service::Kafka, &cache).exists());
    }

    #[test]
    fn an_unknown_service_lists_the_names() {
        let error = Service::parse("redis").unwrap_err().to_string();
        assert!(error.contains("`redis`") && error.contains("`kafka` or `s3`"));
    }
}

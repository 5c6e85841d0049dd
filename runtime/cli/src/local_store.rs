//! The local store of a worker, out of the settings: called once by `run`, before anything starts.
//!
//! With `heap` local disk serves to read a checkpoint of the other backend, if the program has that. The rule: what cannot
//! work is refused here, by the name of the setting.

use highwater_state::Store;
use highwater_types::JobIdentity;
#[cfg(feature = "rocksdb")]
use highwater_types::{Classified as _, ErrorKind};
use highwater_worker::LocalDirs;
#[cfg(feature = "rocksdb")]
use highwater_worker::slot::error_chain;

use crate::exit::{Code, Failure};
#[cfg(feature = "rocksdb")]
use crate::run::random;
use crate::settings::{RunSettings, StateBackend};

/// Where keyed state rests, and the directory of this process on local disk if it has one.
pub(crate) struct LocalState {
    /// The backend.
    pub(crate) store: Store,
    /// Where it keeps files.
    pub(crate) dirs: Option<LocalDirs>,
}

impl LocalState {
    /// Makes what the settings ask for.
    ///
    /// # Errors
    /// When this program has no such backend, or the directory cannot be used.
    #[cfg(feature = "rocksdb")]
    pub(crate) fn open(settings: &RunSettings, job: &JobIdentity) -> Result<Self, Failure> {
        let dirs = LocalDirs::open(&settings.state.local_dir, job, random());
        let slots = settings.worker.slots;
        match (settings.state.backend, dirs) {
            (StateBackend::RocksDb, dirs) => {
                let dirs = dirs.map_err(|error| match error.kind() {
                    ErrorKind::Invalid => Failure::new(Code::Usage, error_chain(&error)),
                    _ => Failure::of(&error),
                })?;
                Ok(Self {
                    store: Store::Local {
                        factory: rocksdb(&dirs, slots, settings.worker.store_bytes_max)?,
                    },
                    dirs: Some(dirs),
                })
            }
            (StateBackend::Heap, Ok(dirs)) => Ok(Self {
                store: Store::Heap {
                    reads: Some(rocksdb(&dirs, slots, READ_BYTES)?),
                },
                dirs: Some(dirs),
            }),
            // Local disk is wanted only if the checkpoint is one of `rocksdb`, and then the restore says what it lacks.
            (StateBackend::Heap, Err(error)) => {
                let error = error_chain(&error);
                tracing::info!(
                    error,
                    "checkpoints of `rocksdb` cannot be read by this process"
                );
                Ok(Self {
                    store: Store::heap(),
                    dirs: None,
                })
            }
        }
    }

    /// Makes what the settings ask for.
    ///
    /// # Errors
    /// When this program has no such backend.
    #[cfg(not(feature = "rocksdb"))]
    pub(crate) fn open(settings: &RunSettings, _: &JobIdentity) -> Result<Self, Failure> {
        match settings.state.backend {
            StateBackend::Heap => Ok(Self {
                store: Store::heap(),
                dirs: None,
            }),
            StateBackend::RocksDb => Err(Failure::new(
                Code::Usage,
                "state.backend: this program was built without the feature `rocksdb`; build it with that feature of \
                 `highwater`, or use `heap`",
            )),
        }
    }
}

/// The memory of a store that is only read, while state comes into the heap.
#[cfg(feature = "rocksdb")]
const READ_BYTES: u64 = 16 << 20;

#[cfg(feature = "rocksdb")]
fn rocksdb(
    dirs: &LocalDirs,
    slots: u32,
    memory_bytes: u64,
) -> Result<std::sync::Arc<dyn highwater_state::StoreFactory>, Failure> {
    let factory = highwater_rocksdb::RocksFactory::new(highwater_rocksdb::RocksOptions {
        local_dir: dirs.path().to_owned(),
        memory_bytes,
        background_threads: slots.div_ceil(2),
    });
    match factory {
        Ok(factory) => Ok(std::sync::Arc::new(factory)),
        Err(error) => Err(Failure::new(Code::Other, error_chain(&error))),
    }
}

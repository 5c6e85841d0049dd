//! How RocksDB is set up: what a worker shares between its stores, and the options of databases and column families.
//!
//! Made by the factory, read whenever a database or column family is opened. Everything that differs from the default
//! of RocksDB says why. Figures in microseconds and percent of a row are of 2 million rows of 16 + 24 bytes in batches of 1,024 on
//! two cores, 64 MiB of memory, as `examples/store_cost.rs` measures them, with one option changed at a time. How files are merged was chosen as
//! a whole with 29 million accounts of 74 bytes and four times the memory (`bench state`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ChecksumType, DBCompressionType, Env,
    InfoLogger, LogLevel, Options, WriteBufferManager,
};

use crate::expiry::RowExpiry;
use crate::shared::LoggedError;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A freeze writes out what the buffers hold, and an insert into a small one stays in the cache of the processor: 4 MiB take
/// 8 ms and 590 ns a row; 16 MiB take 50 ms and 820 ns. But small buffers are small files, which are merged more often.
const WRITE_BUFFER_MAX: usize = 8 * MIB;

/// Sorted runs from which on some are merged: files of the top level, and each level below. Each is one more for a read of a key, of
/// which its filter spares nearly all.
pub(crate) const FILES_AT_TOP: u32 = 8;

/// Levels of a store. Each below the top is one run; so many are never in use at once, so that what is merged goes below the top and is cut
/// into files there.
const LEVELS: u32 = 16;

/// How many percent of the rows at the bottom those above may make up, before they are merged into it.
const SPACE_PERCENT: u32 = 50;

/// Bytes of a block of rows before it is compressed. A miss of 16 + 24 bytes whose block is in the page cache costs 2.6 us, and 8 % more
/// with blocks of 4 KiB, which halve the index. Where half of the blocks are not there (`bench state`, four times 256 MiB) those of 4 KiB
/// take 15 % more of a record: compressed they lie across two pages more often than not, and the kernel makes room for each page.
const BLOCK: usize = 2 * KIB;

/// Bytes of a file below the top, by the memory: RocksDB reads the blocks of a batch together file by file, so fewer files are fewer
/// waits; but what a compaction changes goes to the next checkpoint by whole files, each of which passes through memory.
const FILE_LEAST: u64 = 16 * MIB as u64;
const FILE_MOST: u64 = 32 * MIB as u64;

/// Bits of the filter of a file for each of its rows.
const FILTER_BITS: u32 = 10;

/// Compactions of one store at a time, beside the one into its bottom. RocksDB would flush on two threads with six.
const STORE_COMPACTIONS: i32 = 2;

/// By how much threads that compact stand behind those that process records, in the steps of `nice`: a third of the weight.
/// A writer that outruns them waits for them, which gives them the core. Flushes do not stand behind: a freeze waits for them.
const COMPACTION_NICENESS: i32 = 5;

/// What the stores of a worker are made of.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// All databases lie below it. The caller made it, and nobody else writes there.
    pub local_dir: PathBuf,
    /// Bytes of memory of all stores together: blocks, indexes, filters and write buffers.
    pub memory_bytes: u64,
    /// Threads that compact, shared by all stores, at least 1; one more where they are 1 or 2, which RocksDB wants for one store alone. As
    /// many as are given here merge into the bottom of a store besides, and one writes out full write buffers.
    pub background_threads: u32,
}

/// Says of a column family that is open what [`Resources::table`] says of one that is opened in a large store. Files that
/// are there already stay as they are until a compaction rewrites them.
pub(crate) const IN_PARTS: [(&str, &str); 1] = [(
    "block_based_table_factory",
    "{index_type=kTwoLevelIndexSearch;partition_filters=true;metadata_block_size=4096;pin_top_level_index_and_filter=true;\
     pin_l0_filter_and_index_blocks_in_cache=false}",
)];

/// Lets a column family be merged that was opened with merges held back.
pub(crate) const MERGING: [(&str, &str); 1] = [("disable_auto_compactions", "false")];

/// What the stores of a worker share.
pub(crate) struct Resources {
    pub(crate) cache: Cache,
    write_buffers: WriteBufferManager,
    env: Env,
    background_threads: i32,
    write_buffer_bytes: usize,
    /// Bytes of the indexes and filters of all stores, as of the last freeze of each.
    index_bytes: AtomicU64,
    memory_bytes: u64,
}

/// Starts the threads that compact, and as many that merge into the bottom of a store: such a merge takes as long as the store is large, and
/// files of the top are merged among themselves meanwhile. Behind it a writer waited for seconds until there were few enough of them.
///
/// They begin now, and as Linux has it with the niceness of the thread that starts them; where that is refused they compact all the same.
/// RocksDB raises their number to what one store may compact at once, on the thread that opens it: so many begin here.
fn start_compaction_threads(env: &mut Env, count: i32) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _niceness = rustix::process::nice(COMPACTION_NICENESS);
            env.set_low_priority_background_threads(count.max(compactions_of_one(count)));
            env.set_bottom_priority_background_threads(count);
        });
    });
}

/// How many compactions one store runs at a time, of so many threads that compact: that into its bottom among them.
fn compactions_of_one(threads: i32) -> i32 {
    threads.min(STORE_COMPACTIONS) + 1
}

impl Resources {
    pub(crate) fn new(options: &RocksOptions) -> Result<Self, rocksdb::Error> {
        let memory = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX);
        let cache = Cache::new_hyper_clock_cache(memory, 0);
        // A quarter goes to write buffers, charged to the cache. No stall: one would stop all slots until the idle
        // store that holds the memory is written to again. Beyond the quarter each write makes its store flush.
        let buffers = (memory / 4).max(MIB);
        let write_buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(buffers, false, cache.clone());
        let background_threads =
            i32::try_from(options.background_threads.max(1)).unwrap_or(i32::MAX);
        let mut env = Env::new()?;
        start_compaction_threads(&mut env, background_threads);
        // Flushes have a thread of their own: a freeze waits for them and must not wait for a compaction.
        env.set_high_priority_background_threads(1);
        Ok(Self {
            cache,
            write_buffers,
            env,
            background_threads,
            memory_bytes: options.memory_bytes,
            index_bytes: AtomicU64::new(0),
            write_buffer_bytes: (buffers / 4).clamp(MIB, WRITE_BUFFER_MAX),
        })
    }

    /// Options of a database. What it logs of errors goes to `errors`.
    pub(crate) fn database(&self, errors: &LoggedError) -> Result<Options, rocksdb::Error> {
        // Only a string can say these. A store that closes has nothing to save, and one that met an error is not used
        // any more: RocksDB must not mend it behind our back.
        let text = "avoid_flush_during_shutdown=true;max_bgerror_resume_count=0";
        let mut options = Options::default().get_options_from_string(text)?;
        options.set_env(&self.env);
        options.set_write_buffer_manager(&self.write_buffers);
        // One flush, up to two compactions and one into the bottom of this store at a time; the threads are shared with the others.
        // RocksDB allows the second one from 16 runs on, twice what a merge takes.
        options.set_max_background_jobs(compactions_of_one(self.background_threads) + 1);
        // Without a limit every file of every store stays open. So many hold 16 GiB of rows.
        options.set_max_open_files(1_024);
        // Every checkpoint copies the manifest: it begins anew beyond this size, or 6 times what it must say.
        options.set_max_manifest_file_size(64 * KIB);
        options.set_manifest_preallocation_size(64 * KIB);
        // No threads for statistics.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        // One writer, the subtask: 8 % less for a row.
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_write_thread_adaptive_yield(false);
        let errors = errors.clone();
        // A warning names the error before it counts; headers come at any level.
        options.set_info_logger(InfoLogger::new_callback_logger(
            LogLevel::Warn,
            move |level, message| {
                let is_said = matches!(level, LogLevel::Warn | LogLevel::Error | LogLevel::Fatal);
                if is_said {
                    errors.hear(message);
                }
            },
        ));
        Ok(options)
    }

    /// Options of the column family of one state; `in_parts` = with indexes and filters in parts.
    pub(crate) fn column_family(
        &self,
        expiry: RowExpiry,
        in_parts: bool,
    ) -> Result<Options, rocksdb::Error> {
        // By size: rows that are changed in no order have a merge by level rewrite most of each level again and again. With four times the
        // memory this takes a quarter less CPU for a record, and a fifth less is written. Not `incremental`, which would merge into the
        // bottom in pieces: its picker reads behind the list of the files there where those above it begin later (RocksDB 11.8.1,
        // `PickIncrementalForReduceSizeAmp`), and took the process with it. No file is merged for its age alone, for which RocksDB would
        // merge all of a store. Only a string can say these.
        let text = format!(
            "compaction_style=kCompactionStyleUniversal;num_levels={LEVELS};compaction_options_universal={{\
             max_size_amplification_percent={SPACE_PERCENT};allow_trivial_move=true}};ttl=0;periodic_compaction_seconds=0"
        );
        let mut options = Options::default().get_options_from_string(text)?;
        options.set_block_based_table_factory(&self.table(in_parts));
        options.set_write_buffer_size(self.write_buffer_bytes);
        // One that is written to while two are written out.
        options.set_max_write_buffer_number(3);
        // The default is 1 MiB, which every state of every subtask would take with its first row.
        options.set_arena_block_size(64 * KIB);
        options.set_level_zero_file_num_compaction_trigger(FILES_AT_TOP as i32);
        options.set_target_file_size_base((self.memory_bytes / 4).clamp(FILE_LEAST, FILE_MOST));
        // RocksDB holds back no writer and no freeze for want of compaction: it would wait for a full disk as well. A
        // writer waits outside of it, where it sees errors.
        options.set_level_zero_slowdown_writes_trigger(i32::MAX);
        options.set_level_zero_stop_writes_trigger(i32::MAX);
        options.set_soft_pending_compaction_bytes_limit(0);
        options.set_hard_pending_compaction_bytes_limit(0);
        // Also at the top, though it costs 7 % of the CPU of writes and 5 % of reads: those files are what a checkpoint
        // uploads.
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_compaction_filter_factory(expiry);
        Ok(options)
    }

    /// Whether a store keeps indexes and filters in parts, if those of all stores have so many bytes. Write buffers take up to a
    /// quarter of the memory, and what is scanned needs some.
    pub(crate) const fn wants_parts(&self, index_bytes: u64) -> bool {
        index_bytes > self.memory_bytes / 8 * 5
    }

    /// Replaces what one store has of indexes and filters. Returns what all have together.
    pub(crate) fn replace_index_bytes(&self, old: u64, new: u64) -> u64 {
        let all = &self.index_bytes;
        if new >= old {
            all.fetch_add(new - old, Ordering::Relaxed) + (new - old)
        } else {
            all.fetch_sub(old - new, Ordering::Relaxed) - (old - new)
        }
    }

    fn table(&self, in_parts: bool) -> BlockBasedOptions {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_block_size(BLOCK);
        table.set_format_version(6);
        // A key that is nowhere costs 0.3 us. Ribbon filters save a third of 1.25 bytes a row and cost 10 % of reads.
        table.set_bloom_filter(f64::from(FILTER_BITS), false);
        table.set_checksum_type(ChecksumType::XXH3);
        // Indexes and filters count against the budget, and are some 4 % of small rows. Where they would not fit they are
        // kept in parts, of which the cache then has the hot ones. That costs a third more for a row that is read and 0.5 us
        // for a key that is nowhere.
        table.set_cache_index_and_filter_blocks(true);
        // What is pinned may go beyond the memory: not where that is short.
        table.set_pin_l0_filter_and_index_blocks_in_cache(!in_parts);
        if in_parts {
            table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            table.set_partition_filters(true);
            table.set_metadata_block_size(4 * KIB);
            table.set_pin_top_level_index_and_filter(true);
        }
        table
    }
}

/// Bytes of indexes and filters of `rows` rows that take `stored_bytes` on disk: the bits of the filter, and some 16 bytes for
/// each block of 2 KiB, which may be half as large on disk.
pub(crate) fn index_bytes(rows: u64, stored_bytes: u64) -> u64 {
    rows * u64::from(FILTER_BITS) / 8 + stored_bytes / 64
}

//! The job of the benchmark `state`: an account of 64 bytes for each key, read, changed and written with each payment.
//!
//! Record `index` is key `scattered(index)` while there are keys that had none, so that all state is there first; then
//! keys by popularity: uniform, or Zipf where `ranks` names a table ([`Ranks`]). The function is a keyed process function
//! with one value state, as in Flink's job: reading, changing and writing are three steps in both. What comes out for a
//! record is by how much the digest of all accounts has grown: the sum over all output is the digest of the final state,
//! whatever the order. The rule: every field of an account is a commutative sum, and the Java job repeats all of it.

use std::path::Path;
use std::sync::Arc;

use highwater::api::SourceStream;
use highwater::connectors::{GeneratorSource, Random, RecordsPerSecond, SystemClock};
use highwater::operators::KeyedContext;
use highwater::prelude::*;

use crate::gated::Gated;
use crate::job::{Counted, KEYS, SEED};
use crate::tally::{Fold, TallySink};

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
/// Scatters ranks over keys; a prime above every number of keys that is taken, so that no two ranks meet.
const SCATTER: u64 = 2_654_435_761;
/// No more keys than this: the product with [`SCATTER`] stays a positive number in Java too.
pub(crate) const KEYS_MAX: u64 = 1 << 31;
/// Bytes of state for a key: its key group, itself, its account.
pub(crate) const ROW_BYTES: u64 = 2 + 8 + 64;
/// Into so many parts of equal probability a table of ranks is cut.
const SLOTS: usize = 1 << 16;

/// How many keys make a state of so many GB (10^9 bytes of rows).
pub(crate) fn keys_of(gigabytes: f64) -> u64 {
    (gigabytes * 1e9 / ROW_BYTES as f64) as u64
}

/// What is remembered of a key.
#[derive(Clone, Debug, PartialEq, Eq, Record)]
pub(crate) struct Account {
    count: u64,
    sum: u64,
    least: u64,
    most: u64,
    squares: u64,
    folded: u64,
    low: u64,
    high: u64,
}

impl Account {
    /// Of a key without a payment.
    pub(crate) const EMPTY: Self = Self {
        count: 0,
        sum: 0,
        // Java has no unsigned numbers.
        least: i64::MAX as u64,
        most: 0,
        squares: 0,
        folded: 0,
        low: 0,
        high: 0,
    };

    /// Adds a payment.
    #[inline]
    pub(crate) fn add(&mut self, amount: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(amount);
        self.least = self.least.min(amount);
        self.most = self.most.max(amount);
        self.squares = self.squares.wrapping_add(amount.wrapping_mul(amount));
        self.folded ^= amount.wrapping_mul(GAMMA);
        self.low += amount & 0xffff;
        self.high += amount >> 16;
    }

    /// The digest of this account of `key`; 0 before the first payment.
    #[inline]
    pub(crate) fn digest(&self, key: u64) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let fields = [
            self.count,
            self.sum,
            self.least,
            self.most,
            self.squares,
            self.folded,
            self.low,
            self.high,
        ];
        let sum = (0u64..)
            .zip(fields)
            .fold(key.wrapping_mul(GAMMA), |sum, (at, field)| {
                sum.wrapping_add(field.wrapping_mul(GAMMA.wrapping_mul(2 * at + 3)))
            });
        let mixed = (sum ^ (sum >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 32)
    }
}

/// Ranks by the law of Zipf with exponent 1: the probability of rank `k`, counted from 1, is proportional to `1 / k`.
///
/// The table cuts the distribution into [`SLOTS`] parts of equal probability; within one, ranks are alike. Both sides
/// read the same file, so that no logarithm of either library decides a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranks(Vec<u64>);

impl Ranks {
    /// The table for this many keys.
    pub(crate) fn zipf(keys: u64) -> Self {
        let total: f64 = (1..=keys).map(|rank| 1.0 / rank as f64).sum();
        let mut bounds = Vec::with_capacity(SLOTS + 1);
        let mut below = 0.0;
        for rank in 0..keys {
            below += 1.0 / (rank + 1) as f64;
            while (bounds.len() as f64) < below / total * SLOTS as f64 && bounds.len() < SLOTS {
                bounds.push(rank);
            }
        }
        bounds.resize(SLOTS + 1, keys);
        Self(bounds)
    }

    /// Writes it as 8-byte little-endian numbers.
    pub(crate) fn write(&self, file: &Path) -> std::io::Result<()> {
        let bytes = self.0.iter().flat_map(|bound| bound.to_le_bytes());
        std::fs::write(file, bytes.collect::<Vec<_>>())
    }

    /// Reads what [`Ranks::write`] wrote.
    pub(crate) fn read(file: &Path) -> std::io::Result<Self> {
        let bytes = std::fs::read(file)?;
        let (bounds, rest) = bytes.as_chunks::<8>();
        if bounds.len() != SLOTS + 1 || !rest.is_empty() {
            let text = format!("{} is no table of ranks", file.display());
            return Err(std::io::Error::other(text));
        }
        let bounds = bounds.iter().map(|bound| u64::from_le_bytes(*bound));
        Ok(Self(bounds.collect()))
    }

    #[inline]
    fn of(&self, bits: u64) -> u64 {
        let slot = (bits >> 48) as usize;
        let (first, next) = (self.0[slot], self.0[slot + 1]);
        let span = (next - first).max(1);
        first + (((bits & 0xffff_ffff) * span) >> 32)
    }
}

/// Makes payments.
#[derive(Clone, Debug)]
pub(crate) struct Payments {
    pub(crate) keys: u64,
    /// `None` = uniform.
    pub(crate) ranks: Option<Arc<Ranks>>,
}

impl Payments {
    #[inline]
    const fn scattered(&self, rank: u64) -> u64 {
        rank * SCATTER % self.keys
    }

    /// Key and amount of record `index`.
    #[inline]
    pub(crate) fn make(&self, index: u64, random: &mut Random) -> (u64, u64) {
        let bits = random.bits();
        let key = match &self.ranks {
            _ if index < self.keys => self.scattered(index),
            None => ((bits >> 32) * self.keys) >> 32,
            Some(ranks) => self.scattered(ranks.of(bits)),
        };
        (key, random.bits() >> 32)
    }

    /// Key and amount of record `index` where all keys come in one order, again and again.
    #[inline]
    pub(crate) fn sweep(&self, index: u64, random: &mut Random) -> (u64, u64) {
        (self.scattered(index % self.keys), random.bits() >> 32)
    }
}

/// The digest of the accounts of those keys for which `counts` holds, after `records` records of sweeps over `keys` keys; key by
/// key, so that it owes nothing to a job.
pub(crate) fn digest_of_sweeps(
    keys: u64,
    seed: u64,
    records: u64,
    counts: impl Fn(u64) -> bool,
) -> u64 {
    let payments = Payments { keys, ranks: None };
    let firsts = (0..keys.min(records)).map(|first| (first, payments.scattered(first)));
    let counted = firsts.filter(|(_, key)| counts(*key));
    counted.fold(0, |sum, (first, key)| {
        let mut account = Account::EMPTY;
        for index in (first..records).step_by(keys as usize) {
            let mut random = Random::for_record(seed, index);
            let (_, amount) = payments.sweep(index, &mut random);
            account.add(amount);
        }
        sum.wrapping_add(account.digest(key))
    })
}

/// Reads, changes and writes the account of a key.
#[derive(Clone, Default)]
struct Book {
    account: Option<StateHandle<ValueState<u64, (), Account>>>,
}

impl KeyedProcessFunction<u64, (u64, u64), Counted> for Book {
    fn open(&mut self, context: &mut OpenContext<'_, u64>) -> Result<(), UserError> {
        self.account = Some(context.value("account", None)?);
        Ok(())
    }

    fn on_record(
        &mut self,
        (key, amount): (u64, u64),
        context: &mut KeyedContext<'_, u64, Counted>,
    ) -> Result<(), UserError> {
        let handle = self
            .account
            .ok_or("the state is open before the first record")?;
        let mut state = context.state(handle);
        let mut account = state.get().cloned().unwrap_or(Account::EMPTY);
        let before = account.digest(key);
        account.add(amount);
        let grown = account.digest(key).wrapping_sub(before);
        state.set(account);
        context.emit((key, grown));
        Ok(())
    }
}

/// Builds the job: the accounts into a tally.
pub(crate) fn build(env: &mut StreamEnvironment) -> Result<(), UserError> {
    booked(env)?.sink("tally", TallySink(Fold::Delta));
    Ok(())
}

/// Keys, and by how much the digests of their accounts have grown. Parameters: `keys`, `seed`, `ranks` (a file), `rate` (records
/// a second; without it there is no limit), `count` (without it there is no end); with `goal` (a file) it sweeps over the keys
/// as far as the file says.
pub(crate) fn booked(env: &mut StreamEnvironment) -> Result<DataStream<Counted>, UserError> {
    let keys = env.parameter_or("keys", KEYS)?;
    if keys == 0 || keys > KEYS_MAX {
        return Err(format!("parameter keys is {keys}; it is 1 to {KEYS_MAX}").into());
    }
    let ranks = env
        .parameter("ranks")
        .map(|file| Ranks::read(file.as_ref()));
    let payments = Payments {
        keys,
        ranks: ranks.transpose()?.map(Arc::new),
    };
    let seed = env.parameter_or("seed", SEED)?;
    let stream = match env.parameter("goal") {
        Some(goal) => {
            let source = Gated::new(payments, seed, goal.into())?;
            env.source("payments", source)
        }
        None => generated(env, payments, seed)?,
    };
    Ok(stream
        .key_by(|payment: &(u64, u64)| payment.0)
        .process("book", Book::default()))
}

fn generated(
    env: &mut StreamEnvironment,
    payments: Payments,
    seed: u64,
) -> Result<SourceStream<(u64, u64)>, UserError> {
    let record =
        move |index: u64, random: &mut Random| (payments.make(index, random), EventTime::NONE);
    let mut source = GeneratorSource::builder("payments", seed, record);
    if env.parameter("count").is_some() {
        source = source.count(env.parameter_or("count", 0)?);
    }
    if env.parameter("rate").is_some() {
        let rate = RecordsPerSecond::try_new(env.parameter_or("rate", 0.0)?)?;
        source = source.paced(rate, Arc::new(SystemClock::start()?));
    }
    Ok(env.source("payments", source.build()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_once_before_any_comes_again() {
        let payments = Payments {
            keys: 1_000,
            ranks: None,
        };
        let mut met = vec![false; 1_000];
        for index in 0..1_000 {
            let (key, _) = payments.make(index, &mut Random::for_record(1, index));
            assert!(
                !std::mem::replace(&mut met[key as usize], true),
                "{key} again"
            );
        }
    }

    #[test]
    fn ranks_follow_the_law_of_zipf() {
        let keys = 100_000;
        let ranks = Ranks::zipf(keys);
        let total: f64 = (1..=keys).map(|rank| 1.0 / rank as f64).sum();
        let draws = 1_000_000u64;
        let (mut first, mut below_100) = (0u64, 0u64);
        for index in 0..draws {
            let rank = ranks.of(Random::for_record(7, index).bits());
            assert!(rank < keys);
            first += u64::from(rank == 0);
            below_100 += u64::from(rank < 100);
        }
        let share = |count: u64| count as f64 / draws as f64;
        let of_100: f64 = (1..=100).map(|rank| 1.0 / f64::from(rank)).sum();
        assert!(
            (share(first) - 1.0 / total).abs() < 0.002,
            "{}",
            share(first)
        );
        assert!(
            (share(below_100) - of_100 / total).abs() < 0.003,
            "{}",
            share(below_100)
        );
    }

    #[test]
    fn a_table_reads_back_and_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ranks");
        let ranks = Ranks::zipf(70_000);
        ranks.write(&file).unwrap();
        assert_eq!(Ranks::read(&file).unwrap(), ranks);
        std::fs::write(&file, b"12345678").unwrap();
        assert!(Ranks::read(&file).is_err());
    }

    #[test]
    fn differences_of_digests_add_up_to_the_digest_of_the_end() {
        let (mut account, mut sum) = (Account::EMPTY, 0u64);
        for amount in [7, 9, 1 << 31] {
            let before = account.digest(3);
            account.add(amount);
            sum = sum.wrapping_add(account.digest(3).wrapping_sub(before));
        }
        assert_eq!(sum, account.digest(3));
        assert_ne!(account.digest(3), account.digest(4));
    }

    #[test]
    fn the_digest_of_sweeps_is_that_of_the_accounts_that_count() {
        let (keys, seed, records) = (10, 3, 25);
        let payments = Payments { keys, ranks: None };
        let mut accounts = vec![Account::EMPTY; 10];
        for index in 0..records {
            let (key, amount) = payments.sweep(index, &mut Random::for_record(seed, index));
            accounts[key as usize].add(amount);
        }
        let of = |counts: fn(u64) -> bool| {
            let accounts = (0u64..).zip(&accounts).filter(|(key, _)| counts(*key));
            accounts.fold(0, |sum: u64, (key, account)| {
                sum.wrapping_add(account.digest(key))
            })
        };
        let all: fn(u64) -> bool = |_| true;
        let some: fn(u64) -> bool = |key| key.is_multiple_of(3);
        for counts in [all, some] {
            assert_eq!(digest_of_sweeps(keys, seed, records, counts), of(counts));
        }
        assert_ne!(of(all), of(some));
    }

    #[test]
    fn the_digest_that_the_java_job_must_repeat_is_pinned() {
        let mut account = Account::EMPTY;
        account.add(1_000_000);
        account.add(77);
        assert_eq!(account.digest(42), PINNED);
    }

    const PINNED: u64 = 1_409_753_058_149_111_615;
}

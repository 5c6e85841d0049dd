//! Rekey: computes the key hash of every record, chunk by chunk. Stands before the exchange of `key_by`; exchange, key
//! group and state table of all keyed operators behind use this hash and compute none.

use highwater_types::{Chunk, Key, Record};

use crate::error::OperatorError;
use crate::operator::Operator;
use crate::outputs::Outputs;

/// Keys a stream: puts the stable hash of each record's key into the header.
#[derive(Clone, Copy, Debug)]
pub struct Rekey<F> {
    key_of: F,
}

impl<F> Rekey<F> {
    /// Keys by what `key_of` returns.
    pub const fn new<T, K: Key>(key_of: F) -> Self
    where
        F: Fn(&T) -> K,
    {
        Self { key_of }
    }
}

impl<T, K, F> Operator<T, T> for Rekey<F>
where
    T: Record,
    K: Key,
    F: Fn(&T) -> K,
{
    fn on_chunk(
        &mut self,
        chunk: &mut Chunk<T>,
        out: &mut Outputs<T>,
    ) -> Result<(), OperatorError> {
        chunk.rekey(|record| (self.key_of)(record).key_hash());
        out.main.emit_chunk(chunk)
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::EventTime;

    use super::*;
    use crate::testing::Harness;

    #[test]
    fn t11_every_record_carries_the_hash_of_its_key() {
        let mut harness = Harness::stateless(Rekey::new(|&(user, _): &(i64, i64)| user));
        harness.push_all([((7, 1), EventTime(0)), ((8, 2), EventTime(0))]);
        assert_eq!(harness.take_hashes(), [7i64.key_hash(), 8i64.key_hash()]);
    }
}

//! How the rows of a state are ordered in a local store, and back to the order of a snapshot.
//!
//! A canonical snapshot has the encoded key before the encoded namespace. A store may have them otherwise, so that what leaves
//! together lies together. Every order can be read without knowing the types of the state: a row says itself where its
//! parts end.

use highwater_types::record::{decode_length, encode_length, take};
use highwater_types::{DecodeError, Record};

/// What comes first in the keys of the rows of a state, behind the key group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// The key, then the namespace: as in a snapshot.
    Key,
    /// The length of the namespace, the namespace, then the key: a window goes by ranges.
    Namespace,
    /// A time of 8 bytes in order, the hash of the key, then the key: the namespace is the time, and timers lie in the order
    /// in which they fire.
    Time,
}

/// Bytes of time and hash before a key.
const TIME_AND_HASH_BYTES: usize = 16;

impl RowOrder {
    /// Appends the key of a row as a snapshot has it.
    pub(crate) fn to_key_first(self, row: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let mut rest = row;
        match self {
            Self::Key => out.extend_from_slice(row),
            Self::Namespace => {
                let length = decode_length(&mut rest)? as usize;
                let namespace = take(&mut rest, length, "namespace of a row")?;
                out.extend_from_slice(rest);
                out.extend_from_slice(namespace);
            }
            Self::Time => {
                let (time, _) = split_time(&mut rest)?;
                out.extend_from_slice(rest);
                time.encode(out);
            }
        }
        Ok(())
    }
}

/// The beginning of the keys of all rows of a namespace. None of it is the beginning of another.
pub(crate) fn namespace_prefix(namespace: &impl Record) -> Vec<u8> {
    let mut encoded = Vec::new();
    namespace.encode(&mut encoded);
    let mut prefix = Vec::with_capacity(encoded.len() + 1);
    encode_length(encoded.len() as u64, &mut prefix);
    prefix.extend_from_slice(&encoded);
    prefix
}

/// The namespace at the front of the key of a row, and the bytes of it with its length.
pub(crate) fn read_namespace<N: Record>(row: &[u8]) -> Result<(N, &[u8]), DecodeError> {
    let mut rest = row;
    let length = decode_length(&mut rest)? as usize;
    let mut encoded = take(&mut rest, length, "namespace of a row")?;
    let namespace = N::decode(&mut encoded)?;
    Ok((namespace, &row[..row.len() - rest.len()]))
}

/// The first bytes behind all that begin with `prefix`; `None` when there are none.
pub(crate) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

/// Appends time and hash in order.
pub(crate) fn write_time(time: i64, hash: u64, out: &mut Vec<u8>) {
    let ordered = time as u64 ^ (1 << 63);
    out.extend_from_slice(&ordered.to_be_bytes());
    out.extend_from_slice(&hash.to_be_bytes());
}

/// Takes time and hash off the front of a row.
pub(crate) fn split_time(row: &mut &[u8]) -> Result<(i64, u64), DecodeError> {
    let (mut time, mut hash) = ([0; 8], [0; 8]);
    let front = take(row, TIME_AND_HASH_BYTES, "time of a row")?;
    time.copy_from_slice(&front[..8]);
    hash.copy_from_slice(&front[8..]);
    let time = (u64::from_be_bytes(time) ^ (1 << 63)) as i64;
    Ok((time, u64::from_be_bytes(hash)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(key: &impl Record, namespace: &impl Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        key.encode(&mut bytes);
        namespace.encode(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn rows_of_a_namespace_lie_together_and_are_read_back(
            (key, namespace, other) in (any::<String>(), any::<String>(), any::<String>()),
        ) {
            let (prefix, foreign) = (namespace_prefix(&namespace), namespace_prefix(&other));
            let mut row = prefix.clone();
            key.encode(&mut row);
            let mut read = Vec::new();
            RowOrder::Namespace.to_key_first(&row, &mut read).unwrap();
            prop_assert_eq!(read, canonical(&key, &namespace));
            let (decoded, front) = read_namespace::<String>(&row).unwrap();
            prop_assert_eq!((&decoded, front), (&namespace, prefix.as_slice()));
            let until = behind(&prefix).unwrap();
            prop_assert!(prefix <= row && row < until);
            let is_inside = prefix <= foreign && foreign < until;
            prop_assert_eq!(is_inside, namespace == other);
        }

        #[test]
        fn timers_lie_in_order_of_time_and_hash(
            (time, hash, key) in any::<(i64, u64, i64)>(),
            (other_time, other_hash) in any::<(i64, u64)>(),
        ) {
            let row = |time, hash| {
                let mut row = Vec::new();
                write_time(time, hash, &mut row);
                key.encode(&mut row);
                row
            };
            let (mut read, bytes) = (Vec::new(), row(time, hash));
            RowOrder::Time.to_key_first(&bytes, &mut read).unwrap();
            prop_assert_eq!(read, canonical(&key, &time));
            prop_assert_eq!(split_time(&mut bytes.as_slice()).unwrap(), (time, hash));
            let order = bytes.cmp(&row(other_time, other_hash));
            prop_assert_eq!(order, (time, hash).cmp(&(other_time, other_hash)));
        }
    }

    #[test]
    fn nothing_is_behind_the_last_bytes() {
        assert_eq!(behind(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(behind(&[255, 255]), None);
        assert_eq!(behind(&[]), None);
    }

    #[test]
    fn a_row_that_is_cut_short_is_refused() {
        let mut out = Vec::new();
        assert!(RowOrder::Namespace.to_key_first(&[5, 1], &mut out).is_err());
        assert!(RowOrder::Time.to_key_first(&[0; 15], &mut out).is_err());
    }
}

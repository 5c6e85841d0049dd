//! Row keys as RocksDB sorts them: the key group in 2 bytes, big-endian, and the bytes of the key behind it.
//!
//! Called by everything that reads or writes rows. The order of the bytes is the order of `RowKey`.

use highwater_state::RowKey;
use highwater_types::{KeyGroup, KeyGroupRange};

/// Bytes of the key group.
const GROUP_BYTES: usize = 2;

/// Appends the stored form of `key`.
pub(crate) fn encode(key: &RowKey, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.group.0.to_be_bytes());
    out.extend_from_slice(&key.bytes);
}

/// The stored form of `key`.
pub(crate) fn encoded(key: &RowKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(GROUP_BYTES + key.bytes.len());
    encode(key, &mut out);
    out
}

/// Reads a stored key into `key`. Returns false when it is too short to be one.
pub(crate) fn decode_into(stored: &[u8], key: &mut RowKey) -> bool {
    let Some((group, bytes)) = stored.split_first_chunk::<GROUP_BYTES>() else {
        return false;
    };
    key.group = KeyGroup(u16::from_be_bytes(*group));
    key.bytes.clear();
    key.bytes.extend_from_slice(bytes);
    true
}

/// The first stored key of the groups, and the first behind them.
pub(crate) fn bounds(groups: KeyGroupRange) -> (Vec<u8>, Vec<u8>) {
    (
        groups.start.to_be_bytes().to_vec(),
        groups.end.to_be_bytes().to_vec(),
    )
}

/// A stored key before `until` with as little as possible between the two: what a range that includes its end takes
/// for one that does not. `None` when nothing lies before it.
pub(crate) fn before(until: &[u8]) -> Option<Vec<u8>> {
    /// Keys between the two begin with this many bytes 255, which no encoded key does by chance.
    const TAIL: [u8; 16] = [u8::MAX; 16];
    let mut key = until.to_vec();
    while let Some(last) = key.pop() {
        if last > 0 {
            key.push(last - 1);
            key.extend_from_slice(&TAIL);
            return Some(key);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_keys_sort_as_row_keys_and_come_back() {
        let groups = [0, 1, 255, 256, u16::MAX];
        let bytes: [&[u8]; 5] = [b"", b"\0", b"a", b"a\0", b"\xff\xff"];
        let mut keys = Vec::new();
        for group in groups {
            keys.extend(bytes.iter().map(|bytes| RowKey {
                group: KeyGroup(group),
                bytes: bytes.to_vec(),
            }));
        }
        keys.sort();
        let stored = keys.iter().map(encoded).collect::<Vec<_>>();
        assert!(stored.is_sorted());
        let mut back = keys[0].clone();
        for (key, stored) in keys.iter().zip(&stored) {
            assert!(decode_into(stored, &mut back));
            assert_eq!(*key, back);
        }
        assert!(!decode_into(b"x", &mut back));
    }

    #[test]
    fn the_key_before_another_is_smaller_and_covers_what_lies_before() {
        for until in [&[0, 5][..], &[1, 0], &[0, 1, 0, 0], &[0, 0, 9]] {
            let last = before(until).unwrap();
            assert!(last.as_slice() < until, "{until:?}");
        }
        let end_of_group_4 = before(&[0, 5]).unwrap();
        assert!(end_of_group_4.as_slice() > [0, 4, 255, 255, 7].as_slice());
        assert_eq!(before(&[0, 0]), None);
    }
}

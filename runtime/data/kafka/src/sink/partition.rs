//! Which partition a record goes to: by the hash of its key, as the Java client does it, or chunk after chunk.

use highwater_types::SubtaskIndex;

/// The partitions of a topic when the writer started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partitions {
    count: u32,
    next: u32,
}

impl Partitions {
    /// Subtasks start at different partitions, so that few large chunks spread too.
    pub(super) const fn new(count: i32, subtask: SubtaskIndex) -> Self {
        let count = if count < 1 { 1 } else { count as u32 };
        Self {
            count,
            next: subtask.0 % count,
        }
    }

    /// The partition of a key.
    pub(super) fn of_key(self, key: &[u8]) -> i32 {
        ((murmur2(key) & 0x7fff_ffff) % self.count) as i32
    }

    /// The partition of the next chunk without keys.
    pub(super) const fn next_chunk(&mut self) -> i32 {
        let partition = self.next;
        self.next = (self.next + 1) % self.count;
        partition as i32
    }
}

/// MurmurHash2, 32 bits, with the seed of the Java client.
fn murmur2(data: &[u8]) -> u32 {
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ data.len() as u32;
    let words = data.chunks_exact(4);
    let tail = words.remainder();
    for word in words {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let word = word.wrapping_mul(MULTIPLIER);
        let word = (word ^ (word >> 24)).wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ word;
    }
    if !tail.is_empty() {
        for (at, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * at);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the Java client's own hash.
    #[test]
    fn keys_hash_as_in_the_java_client() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn chunks_go_round_and_keys_stay() {
        let mut partitions = Partitions::new(3, SubtaskIndex(4));
        let chunks: Vec<_> = (0..4).map(|_| partitions.next_chunk()).collect();
        assert_eq!(chunks, [1, 2, 0, 1]);
        let of_key = partitions.of_key(b"k");
        assert!((0..3).contains(&of_key) && of_key == partitions.of_key(b"k"));
    }
}

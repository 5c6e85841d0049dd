//! Stored values without the zero bytes of their numbers.
//!
//! Called by everything that reads or writes rows. Numbers are stored in full width, and most of their upper bytes are zero. A general
//! compressor finds little in them, block for block, at a price for every row that is read; here they are left out one row at a time.
//!
//! The form: the length of the tail in one byte; then words of 8 bytes, each as a byte that has a bit for every byte that is not zero, and those
//! bytes; then the tail as it is. Behind a byte without bits stands how many words of zeros follow; behind a full word how many words follow
//! as they are.
//!
//! Source: the packing of Cap'n Proto, with a tail.

/// Bytes of a word.
const WORD: usize = 8;

/// Appends the packed form of `value`.
pub(crate) fn pack(value: &[u8], out: &mut Vec<u8>) {
    let (words, tail) = value.as_chunks::<WORD>();
    out.push(tail.len() as u8);
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let tag = tag_of(*word);
        out.push(tag);
        match tag {
            0 => {
                let rest = words[at..].iter().take(usize::from(u8::MAX));
                let zeros = rest.take_while(|word| **word == [0; WORD]).count();
                out.push(zeros as u8);
                at += zeros;
            }
            u8::MAX => {
                out.extend_from_slice(word);
                let rest = words[at..].iter().take(usize::from(u8::MAX));
                let full = rest.take_while(|word| is_full(**word)).count();
                out.push(full as u8);
                out.extend_from_slice(words[at..at + full].as_flattened());
                at += full;
            }
            _ => out.extend(word.iter().filter(|byte| **byte != 0)),
        }
    }
    out.extend_from_slice(tail);
}

/// A bit for each byte that is not zero, the first byte lowest.
const fn tag_of(word: [u8; WORD]) -> u8 {
    const LOW: u64 = u64::from_le_bytes([1; WORD]);
    const HIGH: u64 = LOW << 7;
    let word = u64::from_le_bytes(word);
    // The high bit of each byte that is not zero.
    let found = (word | ((word & !HIGH) + !HIGH)) & HIGH;
    // Gathers one bit of each byte in the upper byte.
    ((found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Whether packing would save next to nothing of a word.
const fn is_full(word: [u8; WORD]) -> bool {
    tag_of(word).count_ones() >= 7
}

/// Appends what was packed; false = `packed` is no packed form.
#[must_use]
pub(crate) fn unpack(packed: &[u8], out: &mut Vec<u8>) -> bool {
    let Some((&tail, mut packed)) = packed.split_first() else {
        return false;
    };
    let tail = usize::from(tail);
    if tail >= WORD {
        return false;
    }
    while packed.len() > tail {
        let tag = packed[0];
        packed = &packed[1..];
        match tag {
            0 => {
                let Some((&zeros, rest)) = packed.split_first() else {
                    return false;
                };
                out.resize(out.len() + WORD * (1 + usize::from(zeros)), 0);
                packed = rest;
            }
            u8::MAX => {
                let Some((word, rest)) = packed.split_first_chunk::<WORD>() else {
                    return false;
                };
                out.extend_from_slice(word);
                let Some((&full, rest)) = rest.split_first() else {
                    return false;
                };
                let Some((words, rest)) = rest.split_at_checked(WORD * usize::from(full)) else {
                    return false;
                };
                out.extend_from_slice(words);
                packed = rest;
            }
            tag => {
                let Some((bytes, rest)) = packed.split_at_checked(tag.count_ones() as usize) else {
                    return false;
                };
                let mut word = [0; WORD];
                let mut left = tag;
                for byte in bytes {
                    word[left.trailing_zeros() as usize] = *byte;
                    left &= left - 1;
                }
                out.extend_from_slice(&word);
                packed = rest;
            }
        }
    }
    out.extend_from_slice(packed);
    packed.len() == tail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        pack(value, &mut out);
        out
    }

    #[test]
    fn a_tag_has_a_bit_for_each_byte() {
        assert_eq!(tag_of([0; 8]), 0);
        assert_eq!(tag_of([1, 0, 0, 128, 0, 0, 0, 255]), 0b1000_1001);
        assert_eq!(tag_of([0x80; 8]), 255);
    }

    #[test]
    fn numbers_lose_their_zeros_and_text_gains_next_to_nothing() {
        let numbers = [1u64, 70_000, 0, 0, u64::MAX].map(u64::to_le_bytes);
        assert_eq!(packed(numbers.as_flattened()).len(), 1 + 2 + 4 + 2 + 10);
        let text = "a text without any zero in it, which is as long as texts are";
        assert!(packed(text.as_bytes()).len() <= text.len() + 3);
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(value in proptest::collection::vec(prop_oneof![3 => Just(0u8), 2 => any::<u8>()], 0..5_000)) {
            let mut back = vec![7];
            prop_assert!(unpack(&packed(&value), &mut back));
            prop_assert_eq!(&back[1..], &value);
        }

        #[test]
        fn what_is_no_packed_form_is_refused_or_is_some_value(form in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (mut value, mut again) = (Vec::new(), Vec::new());
            if unpack(&form, &mut value) {
                prop_assert!(unpack(&packed(&value), &mut again));
                prop_assert_eq!(value, again);
            }
        }
    }
}

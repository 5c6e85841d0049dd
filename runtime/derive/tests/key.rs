//! `#[derive(Key)]`: canonical bytes that equal those of plain keys where they should, and never collide where not.

use std::collections::BTreeSet;

use compact_str::CompactString;
use highwater_derive::{Key, Record};
use highwater_types::Key as _;
use highwater_types::key::KeyBytes;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
struct CardId(CompactString);

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
struct Window {
    user_id: CompactString,
    start: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
struct OneField {
    id: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
struct Both<A, B>(A, B);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Record, Key)]
enum Region {
    North,
    South,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
enum Account {
    Guest,
    User(u32),
    Shop { name: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Record, Key)]
struct Nothing;

fn bytes(key: &impl highwater_types::Key) -> Vec<u8> {
    let mut out = KeyBytes::new();
    key.write_key(&mut out);
    out.to_vec()
}

#[test]
fn newtype_hashes_as_its_field() {
    let id = CompactString::from("u123");
    assert_eq!(CardId(id.clone()).key_hash(), id.key_hash());
    assert_eq!(bytes(&CardId(id.clone())), bytes(&id));
}

#[test]
fn struct_hashes_as_the_tuple_of_its_fields() {
    let window = Window {
        user_id: "u1".into(),
        start: 60_000,
    };
    let tuple = (CompactString::from("u1"), 60_000i64);
    assert_eq!(bytes(&window), bytes(&tuple));
    assert_eq!(window.key_hash(), tuple.key_hash());
    assert_eq!(bytes(&Both(1u8, true)), bytes(&(1u8, true)));
}

#[test]
fn struct_with_one_named_field_may_grow_a_second() {
    let mut expected = 8u32.to_le_bytes().to_vec();
    expected.extend_from_slice(&5u64.to_le_bytes());
    assert_eq!(bytes(&OneField { id: 5 }), expected);
}

#[test]
fn enum_without_data_is_its_index() {
    assert_eq!(bytes(&Region::North), bytes(&0u64));
    assert_eq!(bytes(&Region::South), bytes(&1u64));
    assert_eq!(bytes(&Nothing), b"");
}

#[test]
fn keys_that_differ_have_bytes_that_differ() {
    let both = |a: &str, b: &str| bytes(&Both(a.to_owned(), b.to_owned()));
    let all = [
        both("ab", "c"),
        both("a", "bc"),
        both("", "abc"),
        bytes(&Account::Guest),
        bytes(&Account::User(0)),
        bytes(&Account::User(1)),
        bytes(&Account::Shop {
            name: String::new(),
        }),
        bytes(&Account::Shop {
            name: "x".to_owned(),
        }),
    ];
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

#[test]
fn t11_hash_of_a_derived_key_is_pinned_for_ever() {
    let window = Window {
        user_id: "u1".into(),
        start: 60_000,
    };
    assert_eq!(
        [
            window.key_hash().0,
            Account::User(7).key_hash().0,
            Region::South.key_hash().0
        ],
        [
            1_454_304_016_924_974_574,
            10_840_203_267_335_561_706,
            3_439_722_301_264_460_078
        ]
    );
}

//! Reading and writing payments allocates nothing once the buffers exist. One test, alone in its binary: the counts are
//! those of the whole process.

mod payment;

use std::alloc::System;

use highwater_json::{FromJson as _, Scratch, ToJson as _};
use payment::{PAYMENT, Payment};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn payments_are_read_and_written_without_an_allocation() {
    let texts: Vec<String> = (0..1_000)
        .map(|n| {
            PAYMENT
                .replace("u123456", &format!("a user id of 24 bytes {:02}", n % 100))
                .replace("12.34", &format!("{}.{:02}", n * 7, n % 100))
                .replace("01-01T", &format!("01-{:02}T", 1 + n % 28))
        })
        .flat_map(|text| {
            let spaced = text.replace(',', ", ").replace("\":", "\": ");
            let reordered = text
                .replace("\"}", "\",\"extra\":[1,{}]}")
                .replace("user_id", "user_\\u0069d");
            [text, spaced, reordered]
        })
        .collect();
    let mut scratch = Scratch::new();
    let mut out = Vec::with_capacity(256);
    let mut pass = || {
        let mut cents = 0.0;
        for text in &texts {
            let payment = Payment::from_json(text.as_bytes(), &mut scratch).expect("valid");
            cents += payment.amount * 100.0;
            out.clear();
            payment.to_json(&mut out);
        }
        cents
    };
    let warm = pass();
    let region = Region::new(ALLOCATOR);
    let again = pass();
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
    assert!((warm - again).abs() < f64::EPSILON);

    let long = PAYMENT.replace("u123456", "a user id of 25 bytes, so!");
    let region = Region::new(ALLOCATOR);
    let payment = Payment::from_json(long.as_bytes(), &mut scratch).expect("valid");
    assert!(payment.user_id.is_heap_allocated());
    assert_eq!(
        region.change().allocations,
        1,
        "what does not fit inline is counted"
    );
}

//! Misuse of the derives is a compile error at the token that caused it, and says what to do.
//!
//! The expected messages are those of the pinned toolchain; `TRYBUILD=overwrite` writes them anew, to be read in the diff.

#[test]
fn misuse_is_refused_with_a_message() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}

//! Misuse that the types of the builder prevent is a compile error at the call that caused it.
//!
//! The expected messages are those of the pinned toolchain; `TRYBUILD=overwrite` writes them anew, to be read in the diff.

#[test]
fn misuse_is_refused_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}

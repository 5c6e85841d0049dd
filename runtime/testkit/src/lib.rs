//! Harness, fakes and contract suites for tests.

//! Jobs as their authors write them: their plans, their mistakes, and their records.

#![allow(
    clippy::unwrap_used,
    reason = "the functions around the tests are tests too"
)]
#![allow(
    clippy::unnecessary_wraps,
    reason = "user functions return what their trait asks for"
)]

mod driver;
mod mistakes;
mod parallelisms;
mod plan;
mod records;

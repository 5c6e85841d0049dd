//! Jobs as their authors write them: their plans, their mistakes, and their records.

mod driver;
mod mistakes;
mod plan;
mod records;

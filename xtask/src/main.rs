//! The one door to every project command.

fn main() {}

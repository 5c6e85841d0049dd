//! Free ports on loopback, below the range that the kernel hands to clients, so that a server that is restarted finds its
//! port still free.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::TestbedError;

const FIRST: u32 = 18_000;
const COUNT: u32 = 12_000;

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// How often a server is started on other ports before it is given up.
pub(crate) const TRIES: u32 = 3;

/// Whether the server that wrote this log found its port taken: somebody else was faster.
pub(crate) fn was_taken(log: &Path) -> bool {
    // In words of Java, and of Go.
    fs::read_to_string(log).is_ok_and(|text| {
        text.contains("Address already in use") || text.contains("address already in use")
    })
}

/// A port that nobody listens on now. Two processes start looking at different places.
///
/// # Errors
/// When every port of the range is taken.
pub fn free() -> Result<u16, TestbedError> {
    let start = std::process::id().wrapping_mul(101);
    for _ in 0..COUNT {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + start.wrapping_add(step) % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(TestbedError::State(format!(
        "no port of {FIRST} to {} is free on 127.0.0.1",
        FIRST + COUNT - 1
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_lie_below_those_of_clients() {
        let (first, second) = (free().unwrap(), free().unwrap());
        assert_ne!(first, second);
        let range = FIRST..FIRST + COUNT;
        assert!(range.contains(&u32::from(first)) && range.contains(&u32::from(second)));
    }
}

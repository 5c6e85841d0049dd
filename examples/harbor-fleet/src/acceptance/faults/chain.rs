//! The history of `head` as somebody sees it who reads it again and again (oracle O6).
//!
//! Every body follows from the one before it: the counter rises with each write, and neither the epoch nor the number of the last
//! checkpoint ever falls. What is between two looks is not seen, so this finds what stays, not what comes and goes.

use highwater_protocol::head::Head;

/// What is looked at in a body of `head`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    lineage: String,
    pub(super) epoch: u64,
    pub(super) number: u64,
    counter: u64,
    nonce: String,
}

impl Look {
    /// At a body.
    pub(super) fn at(head: &Head) -> Self {
        Self {
            lineage: head.lineage.to_string(),
            epoch: head.epoch.0,
            number: head.number,
            counter: head.counter,
            nonce: head.nonce.to_string(),
        }
    }
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    last: Option<Look>,
    /// What does not follow from what was before it.
    pub(super) broken: Vec<String>,
}

impl Chain {
    /// The epoch of the last look; 0 = there was none.
    pub(super) fn epoch(&self) -> u64 {
        self.last.as_ref().map_or(0, |look| look.epoch)
    }

    /// The number of the last completed checkpoint.
    pub(super) fn number(&self) -> u64 {
        self.last.as_ref().map_or(0, |look| look.number)
    }

    /// Adds a look.
    pub(super) fn see(&mut self, look: Look) {
        if let Some(last) = &self.last {
            let is_same = last == &look;
            let follows = look.lineage == last.lineage
                && look.counter > last.counter
                && look.epoch >= last.epoch
                && look.number >= last.number
                && look.nonce != last.nonce;
            if !is_same && !follows {
                let text = format!("O6: {look:?} does not follow {last:?}");
                self.broken.push(text);
            }
        }
        self.last = Some(look);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(epoch: u64, number: u64, counter: u64) -> Look {
        Look {
            lineage: "a".to_owned(),
            epoch,
            number,
            counter,
            nonce: counter.to_string(),
        }
    }

    fn broken(looks: &[Look]) -> usize {
        let mut chain = Chain::default();
        for look in looks {
            chain.see(look.clone());
        }
        chain.broken.len()
    }

    #[test]
    fn a_chain_rises() {
        let chain = [look(1, 0, 1), look(1, 0, 1), look(1, 2, 4), look(2, 2, 5)];
        assert_eq!(broken(&chain), 0);
        let mut seen = Chain::default();
        assert_eq!((seen.epoch(), seen.number()), (0, 0));
        seen.see(look(3, 7, 20));
        assert_eq!((seen.epoch(), seen.number()), (3, 7));
    }

    #[test]
    fn what_falls_is_found() {
        let first = look(2, 5, 9);
        for wrong in [look(1, 5, 10), look(2, 4, 10), look(2, 6, 8), look(2, 6, 9)] {
            assert_eq!(broken(&[first.clone(), wrong.clone()]), 1, "{wrong:?}");
        }
        let other = Look {
            lineage: "b".to_owned(),
            ..look(2, 6, 10)
        };
        assert_eq!(broken(&[first, other]), 1);
    }
}

//! A rescale as manifests keep it: at which parallelism the job goes on, and what it was configured to run at when somebody said so.
//!
//! Written by the checkpoint that rescales and said again by every later one; read by whoever begins an attempt from such a checkpoint. The
//! rule: a rescale is a word about one configuration. A job whose program or settings say something else now has a newer word, and runs at
//! that.

use highwater_types::{OperatorUid, Parallelism, Parallelisms};
use serde::{Deserialize, Serialize};

/// The parallelism that a job was told to go on at while it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rescaled {
    /// What program and settings said when the rescale was asked for.
    pub configured: Parallelisms,
    /// What holds instead. Operators that are not named are as configured.
    pub to: Parallelisms,
}

impl Rescaled {
    /// What a job that is configured like this goes on at. `None` = program or settings say something else than when the rescale was asked
    /// for, and that holds.
    pub fn for_configured(&self, configured: &Parallelisms) -> Option<&Parallelisms> {
        (self.configured == *configured).then_some(&self.to)
    }

    /// What one operator goes on at.
    pub(crate) fn parallelism_of(&self, uid: &OperatorUid) -> Option<Parallelism> {
        let configured = || self.configured.get(uid);
        self.to.get(uid).or_else(configured).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(parallelisms: &[(&str, u32)]) -> Parallelisms {
        let named = parallelisms.iter();
        let named = named.map(|&(uid, parallelism)| {
            let uid = OperatorUid::parse(uid).unwrap();
            (uid, Parallelism(parallelism))
        });
        named.collect()
    }

    fn rescaled() -> Rescaled {
        Rescaled {
            configured: at(&[("in", 1), ("out", 2)]),
            to: at(&[("in", 4)]),
        }
    }

    #[test]
    fn a_rescale_holds_until_the_job_is_configured_otherwise() {
        let (rescaled, same) = (rescaled(), at(&[("in", 1), ("out", 2)]));
        assert_eq!(rescaled.for_configured(&same), Some(&rescaled.to));
        let others: [&[(&str, u32)]; 4] = [
            &[("in", 4), ("out", 2)],
            &[("in", 1), ("out", 3)],
            &[("in", 1)],
            &[("in", 1), ("out", 2), ("late", 1)],
        ];
        for other in others {
            assert_eq!(rescaled.for_configured(&at(other)), None, "{other:?}");
        }
    }

    #[test]
    fn an_operator_that_is_not_named_is_as_configured() {
        let of = |uid| rescaled().parallelism_of(&OperatorUid::parse(uid).unwrap());
        assert_eq!(of("in"), Some(Parallelism(4)));
        assert_eq!(of("out"), Some(Parallelism(2)));
        assert_eq!(of("other"), None);
    }
}

//! What coordinator and workers must have in common.

use highwater_types::JobIdentity;

/// The version of the control protocol.
pub const PROTOCOL: u32 = 2;
/// The version of the engine.
pub const ENGINE: &str = env!("CARGO_PKG_VERSION");

/// What a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The job.
    pub job: JobIdentity,
    /// The fingerprint of its graph.
    pub graph: u64,
    /// Tells revisions of the job apart; empty if nobody said.
    pub revision: String,
}

/// What two processes do not have in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// They speak different versions of the protocol.
    #[error(
        "the worker speaks version {worker} of the control protocol, the coordinator {PROTOCOL}; run the same version of both"
    )]
    Protocol {
        /// The worker's.
        worker: u32,
    },
    /// They are different versions of the engine.
    #[error(
        "the worker is version {worker} of the engine, the coordinator {ENGINE}; run the same version of both"
    )]
    Engine {
        /// The worker's.
        worker: String,
    },
    /// They run different jobs.
    #[error(
        "the worker is of job {worker}, the coordinator of {coordinator}; give both the same job identity"
    )]
    Job {
        /// The worker's.
        worker: String,
        /// The coordinator's.
        coordinator: String,
    },
    /// Their programs build different graphs.
    #[error(
        "the program of the worker builds graph {worker:016x}, that of the coordinator {coordinator:016x}; start both from the same \
         program with the same parameters"
    )]
    Graph {
        /// The worker's.
        worker: u64,
        /// The coordinator's.
        coordinator: u64,
    },
    /// They are of different revisions.
    #[error("the worker is of revision `{worker}`, the coordinator of `{coordinator}`")]
    Revision {
        /// The worker's.
        worker: String,
        /// The coordinator's.
        coordinator: String,
    },
}

/// What a worker says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The version of the protocol.
    pub protocol: u32,
    /// The version of the engine.
    pub engine: String,
    /// The job.
    pub job: String,
    /// The fingerprint of its graph.
    pub graph: u64,
    /// The revision.
    pub revision: String,
}

impl Identity {
    /// Whether a worker with this claim runs the same.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn accepts(&self, claim: &Claim) -> Result<(), Mismatch> {
        if claim.protocol != PROTOCOL {
            return Err(Mismatch::Protocol {
                worker: claim.protocol,
            });
        }
        if claim.engine != ENGINE {
            return Err(Mismatch::Engine {
                worker: claim.engine.clone(),
            });
        }
        if claim.job != self.job.as_str() {
            return Err(Mismatch::Job {
                worker: claim.job.clone(),
                coordinator: self.job.to_string(),
            });
        }
        if claim.revision != self.revision {
            return Err(Mismatch::Revision {
                worker: claim.revision.clone(),
                coordinator: self.revision.clone(),
            });
        }
        if claim.graph != self.graph {
            return Err(Mismatch::Graph {
                worker: claim.graph,
                coordinator: self.graph,
            });
        }
        Ok(())
    }

    /// The claim of a worker that runs this.
    pub fn claim(&self) -> Claim {
        Claim {
            protocol: PROTOCOL,
            engine: ENGINE.to_owned(),
            job: self.job.to_string(),
            graph: self.graph,
            revision: self.revision.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_refused_by_its_name_with_both_values() {
        let mine = Identity {
            job: JobIdentity::parse("spend").unwrap(),
            graph: 1,
            revision: "r7".to_owned(),
        };
        assert_eq!(mine.accepts(&mine.claim()), Ok(()));
        let refused = |change: fn(&mut Claim)| {
            let mut claim = mine.claim();
            change(&mut claim);
            mine.accepts(&claim).unwrap_err().to_string()
        };
        for (text, words) in [
            (
                refused(|claim| claim.protocol = 9),
                ["version 9", "protocol"],
            ),
            (
                refused(|claim| claim.engine = "0.0.1".to_owned()),
                ["0.0.1", ENGINE],
            ),
            (
                refused(|claim| claim.job = "other".to_owned()),
                ["job other", "spend"],
            ),
            (
                refused(|claim| claim.graph = 2),
                ["0000000000000002", "0000000000000001"],
            ),
            (
                refused(|claim| claim.revision = "r8".to_owned()),
                ["`r8`", "`r7`"],
            ),
        ] {
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }
}

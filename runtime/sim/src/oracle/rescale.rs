//! O14: the job runs as wide as it was told to.
//!
//! Fed by [`super::Oracle`] with every checkpoint that comes into `head` and with what leaders do. What `head` says of the width was asked
//! for and has not failed; every later checkpoint says it again, and every later attempt begins at it, until program or settings say
//! something else or the job goes back. Whoever hears that the job runs so wide finds it so. An attempt ends for a redeployment only behind
//! output that `head` knows to be confirmed.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::head::Head;
use highwater_protocol::manifest::{Manifest, SnapshotKind};
use highwater_protocol::rescale::Rescaled;
use highwater_types::{CheckpointId, Epoch};

use crate::job::Scale;
use crate::node::Act;

/// The newest attempt of a leader.
struct Runs {
    configured: Scale,
    scale: Scale,
}

/// A rescale that a leader has asked its machine for.
struct Asked {
    rescaled: Rescaled,
    has_landed: bool,
}

/// What was asked for, said and answered.
#[derive(Default)]
pub(super) struct Rescales {
    /// What each checkpoint says that was in `head`.
    said: BTreeMap<CheckpointId, Option<Rescaled>>,
    asked: BTreeMap<(Epoch, u64), Asked>,
    runs: BTreeMap<Epoch, Runs>,
    redeployed: BTreeSet<(Epoch, CheckpointId)>,
}

impl Rescales {
    /// A checkpoint has come into `head` after `left`.
    pub(super) fn landed(
        &mut self,
        manifest: &Manifest,
        left: Option<CheckpointId>,
    ) -> Result<(), String> {
        let carried = self.carried(manifest, left);
        let (id, says) = (manifest.id, &manifest.rescaled);
        self.said.insert(id, says.clone());
        let own = self
            .asked
            .iter_mut()
            .filter(|((epoch, _), _)| *epoch == id.epoch);
        let mut waiting = own
            .map(|(_, asked)| asked)
            .filter(|asked| !asked.has_landed);
        if let Some(asked) = waiting.find(|asked| says.as_ref() == Some(&asked.rescaled)) {
            asked.has_landed = true;
            return Ok(());
        }
        if *says == carried {
            return Ok(());
        }
        Err(format!(
            "O14: checkpoint {id} says {says:?}, which nobody asked for; what it came after means \
             {carried:?}"
        ))
    }

    /// What a checkpoint says again that nobody asked for. What does not hold for the job as its leader found it is forgotten.
    fn carried(&self, manifest: &Manifest, left: Option<CheckpointId>) -> Option<Rescaled> {
        let is_back = manifest.kind == SnapshotKind::Rebased;
        let parent = manifest.parent.map(|parent| parent.name.id());
        let from = if is_back { parent } else { left };
        let said = self.said.get(&from?)?.clone()?;
        let runs = self.runs.get(&manifest.id.epoch).filter(|_| !is_back);
        let holds = runs.is_none_or(|runs| {
            let configured = runs.configured.operators();
            said.for_configured(&configured).is_some()
        });
        holds.then_some(said)
    }

    /// The leader of `epoch` has done something; `head` is what the store has.
    pub(super) fn hears(
        &mut self,
        epoch: Epoch,
        act: Act,
        head: Option<&Head>,
    ) -> Result<(), String> {
        match act {
            Act::Begins { configured, scale } => {
                self.runs.insert(epoch, Runs { configured, scale });
                let own = head.filter(|head| head.epoch == epoch);
                self.begins(configured, scale, own)
            }
            Act::Asks(request, rescaled) => {
                let asked = Asked {
                    rescaled,
                    has_landed: false,
                };
                self.asked.insert((epoch, request), asked);
                Ok(())
            }
            Act::Refuses(request) => {
                let asked = self.asked.remove(&(epoch, request));
                let has_landed = asked.is_some_and(|asked| asked.has_landed);
                let fault = || format!("O14: request {request} has failed, and head says it");
                if has_landed { Err(fault()) } else { Ok(()) }
            }
            Act::Redeploys(id) => {
                if !self.redeployed.insert((epoch, id)) {
                    return Err(format!("O14: an attempt ends twice behind checkpoint {id}"));
                }
                let is_confirmed = head.is_some_and(|head| head.confirmed >= id.number);
                let fault = || format!("O14: output of {id} is pending, and its attempt ends");
                if is_confirmed { Ok(()) } else { Err(fault()) }
            }
            Act::Answers(request, to) => self.answers(epoch, request, to),
        }
    }

    /// `head` is that of the leader; one that is deposed begins what nobody listens to.
    fn begins(&self, configured: Scale, at: Scale, head: Option<&Head>) -> Result<(), String> {
        let id = head.map(Head::checkpoint);
        let Some((id, said)) = id.and_then(|id| Some((id, self.said.get(&id)?))) else {
            return Ok(());
        };
        let wanted = configured.after(said.as_ref());
        if at == wanted {
            return Ok(());
        }
        Err(format!(
            "O14: an attempt begins at {at:?}, and checkpoint {id} means {wanted:?}"
        ))
    }

    fn answers(&mut self, epoch: Epoch, request: u64, to: Scale) -> Result<(), String> {
        let runs = self.runs.get(&epoch).map(|runs| runs.scale);
        if runs != Some(to) {
            return Err(format!(
                "O14: the user hears that the job runs at {to:?}, and it runs at {runs:?}"
            ));
        }
        match self.asked.remove(&(epoch, request)) {
            Some(asked) if !asked.has_landed => Err(format!(
                "O14: request {request} is answered, and no checkpoint says it"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "rescale/tests.rs"]
mod tests;

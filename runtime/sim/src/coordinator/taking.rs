//! A start from a savepoint: read, decided, copied into the job, taken by one head write.
//!
//! Called by the start of a leader while the user wants the job to go back to a savepoint. The wish stays for the rest of
//! the run, as the arguments of a process do, so every later leader has to find in `head` that it was taken.

use std::collections::VecDeque;

use highwater_protocol::hash::ContentHash;
use highwater_protocol::manifest::Manifest;
use highwater_protocol::paths::RelativePath;
use highwater_protocol::recovery::{
    GoingBack, SavepointFacts, SavepointStart, SavepointWord, StoreView, TakeAgain, Taker,
    decide_from_savepoint, take,
};

use super::{Coordinator, Phase};
use crate::job::{identity, object};
use crate::node::{Ctx, What};
use crate::store::{Condition, StoreAnswer, StoreOp};

/// A savepoint on its way into the job.
#[derive(Clone)]
pub(super) struct Taking {
    facts: SavepointFacts,
    savepoint: Manifest,
    state: Option<Manifest>,
    copies: VecDeque<(RelativePath, RelativePath)>,
    bytes: Option<std::rc::Rc<[u8]>>,
}

impl Coordinator {
    /// Reads the savepoint that is to be taken; `view` is decided with it.
    pub(super) fn read_savepoint(&mut self, folder: &str, view: StoreView, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        leader.view = Some(view);
        let path = format!("{folder}/manifest");
        self.request(What::Savepoint, StoreOp::Get { path }, ctx);
    }

    pub(super) fn savepoint_found(&mut self, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(folder) = ctx.shared.desired.savepoint.clone() else {
            return;
        };
        let Some(leader) = self.leader() else { return };
        let Some(view) = leader.view.take() else {
            return;
        };
        let StoreAnswer::Found(bytes, _) = answer else {
            return self.read_savepoint(&folder, view, ctx);
        };
        let savepoint = Manifest::decode(&bytes).expect("a savepoint is complete");
        let facts = SavepointFacts {
            folder,
            hash: ContentHash::of(&bytes),
            lineage: savepoint.lineage,
            id: savepoint.id,
        };
        let words = (SavepointWord::GoBack, TakeAgain::No);
        match decide_from_savepoint(&identity(), view, &facts, words) {
            Ok(SavepointStart::Resume(_)) => self.take_over(ctx),
            Ok(SavepointStart::GoBack(_)) => {
                leader.taking = Some(Taking {
                    facts,
                    savepoint,
                    state: None,
                    copies: VecDeque::new(),
                    bytes: None,
                });
                self.take_over(ctx);
            }
            Ok(other) => unreachable!("a job that has a savepoint has state: {other:?}"),
            Err(error) => {
                ctx.trace(|| format!("cannot start: {error}"));
                self.step_down(ctx);
            }
        }
    }

    /// The manifest of `head` is read: copies the files of the savepoint under names of the job.
    pub(super) fn take_savepoint(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(head) = leader.keeper.settled().map(|value| value.head.clone()) else {
            return;
        };
        let (Some(taking), Some(tries)) = (&mut leader.taking, &leader.tries) else {
            return;
        };
        let taker = Taker {
            identity: &head.identity,
            lineage: head.lineage,
            epoch: head.epoch,
            attempt: leader.next_attempt,
            number: tries.peek(head.number),
            nonce: leader.nonces.draw(),
        };
        leader.next_attempt = leader.next_attempt.next();
        let (state, copies) = take(&taking.savepoint, taker);
        taking.state = Some(state);
        taking.copies = copies.into();
        leader.phase = Phase::LoadingTarget;
        ctx.trace(|| format!("takes a savepoint at checkpoint {}", head.number));
        self.copy_next(ctx);
    }

    fn copy_next(&mut self, ctx: &mut Ctx<'_>) {
        let Some(taking) = self.leader().and_then(|leader| leader.taking.as_mut()) else {
            return;
        };
        let op = match (taking.copies.front(), &taking.bytes) {
            (Some((from, _)), None) => StoreOp::Get {
                path: format!("{}/{from}", taking.facts.folder),
            },
            (Some((_, to)), Some(bytes)) => StoreOp::Put {
                path: object(to),
                bytes: std::rc::Rc::clone(bytes),
                condition: Condition::IfAbsent,
            },
            (None, _) => return self.taken(ctx),
        };
        self.request(What::Take, op, ctx);
    }

    pub(super) fn take_answer(&mut self, answer: StoreAnswer, ctx: &mut Ctx<'_>) {
        let Some(taking) = self.leader().and_then(|leader| leader.taking.as_mut()) else {
            return;
        };
        match answer {
            StoreAnswer::Found(bytes, _) => taking.bytes = Some(bytes),
            StoreAnswer::Applied(_) | StoreAnswer::Precondition => {
                taking.copies.pop_front();
                taking.bytes = None;
            }
            _ => {}
        }
        self.copy_next(ctx);
    }

    fn taken(&mut self, ctx: &mut Ctx<'_>) {
        let Some(leader) = self.leader() else { return };
        let Some(head) = leader.keeper.settled().map(|value| value.head.clone()) else {
            return;
        };
        let Some(taking) = leader.taking.take() else {
            return;
        };
        let state = taking
            .state
            .expect("its files were named before they were copied");
        let tries = leader
            .tries
            .take()
            .expect("one machine at a time has the tries");
        let (machine, effects) = GoingBack::voluntary(head, state, &taking.facts, tries);
        leader.phase = Phase::GoingBack(Box::new(machine), Vec::new(), ctx.now);
        self.going_back_effects(effects, ctx);
    }
}

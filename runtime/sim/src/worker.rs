//! A worker process: hosts tasks, routes what wakes it, and tells every coordinator what its tasks are at.
//!
//! Called by the world. Losing the process loses everything in it; a paused one wakes up believing what it believed.

use std::collections::BTreeMap;

use highwater_protocol::job::TaskId;
use highwater_types::{AttemptId, Epoch};

use crate::node::{Ctx, Message, NodeId, ToTask, Wake, What};
use crate::task::Task;

const HEARTBEAT: u64 = 50_000;

#[derive(Clone, Default)]
pub(crate) struct Worker {
    tasks: BTreeMap<TaskId, Task>,
    /// The newest attempt that was cancelled or replaced, by task: a late copy of a deployment must not revive it.
    ended: BTreeMap<TaskId, AttemptId>,
    serial: u64,
    beat: u64,
}

impl Worker {
    /// Whether no task is here.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(crate) fn wake(&mut self, wake: Wake, ctx: &mut Ctx<'_>) {
        match wake {
            Wake::Start => {}
            Wake::Tick => self.tick(ctx),
            Wake::Message { from, message } => self.message(from, *message, ctx),
            Wake::Store { tag, answer } => match &tag.what {
                What::StateFile(task) | What::StateRead(task) => {
                    if let Some(task) = self.tasks.get_mut(task) {
                        task.store_answer(&tag, Some(answer), ctx);
                    }
                }
                What::SlotLog(task, slot) => {
                    if let Some(task) = self.tasks.get_mut(task) {
                        task.slot_log(slot, tag.token, Some(answer), ctx);
                    }
                }
                _ => {}
            },
            Wake::Kafka { tag, answer } => {
                if let What::Slot(task, slot) = &tag.what
                    && let Some(task) = self.tasks.get_mut(task)
                {
                    task.slot_kafka(slot, tag.token, answer, ctx);
                }
            }
            Wake::Timeout { tag } => match &tag.what {
                What::Slot(task, slot) => {
                    if let Some(task) = self.tasks.get_mut(task) {
                        task.slot_timeout(slot, tag.token, ctx);
                    }
                }
                What::SlotLog(task, slot) => {
                    if let Some(task) = self.tasks.get_mut(task) {
                        task.slot_log(slot, tag.token, None, ctx);
                    }
                }
                What::StateFile(task) | What::StateRead(task) => {
                    if let Some(task) = self.tasks.get_mut(task) {
                        task.store_answer(&tag, None, ctx);
                    }
                }
                _ => {}
            },
        }
    }

    fn tick(&mut self, ctx: &mut Ctx<'_>) {
        for task in self.tasks.values_mut() {
            task.tick(ctx);
        }
        if ctx.now >= self.beat + HEARTBEAT {
            self.beat = ctx.now;
            let tasks: Vec<_> = self.tasks.values().map(Task::report).collect();
            for to in ctx.shared.coordinators.clone() {
                ctx.send(
                    to,
                    Message::Heartbeat {
                        tasks: tasks.clone(),
                    },
                );
            }
        }
    }

    fn message(&mut self, from: NodeId, message: Message, ctx: &mut Ctx<'_>) {
        match message {
            Message::ToTask {
                epoch,
                attempt,
                task,
                body,
            } => {
                self.order(from, (epoch, attempt), (task, body), ctx);
            }
            Message::Data {
                from,
                to,
                attempt,
                sequence,
                element,
            } => {
                if let Some(task) = self.tasks.get_mut(&to)
                    && task.attempt() == attempt
                {
                    task.data(&from, sequence, element, ctx);
                }
            }
            Message::Broken { to, attempt } => {
                if let Some(task) = self.tasks.get_mut(&to)
                    && task.attempt() == attempt
                {
                    task.broken(ctx);
                }
            }
            Message::FromTask { .. } | Message::Heartbeat { .. } => {}
        }
    }

    fn order(
        &mut self,
        from: NodeId,
        sender: (Epoch, AttemptId),
        order: (TaskId, ToTask),
        ctx: &mut Ctx<'_>,
    ) {
        let ((epoch, attempt), (id, body)) = (sender, order);
        if let ToTask::Deploy(deployment) = body {
            let known = self
                .tasks
                .get(&id)
                .map(Task::attempt)
                .max(self.ended.get(&id).copied());
            if known < Some(attempt) {
                self.serial += 1;
                let task =
                    Task::deploy(id.clone(), (from, epoch, attempt), *deployment, self.serial);
                self.tasks.insert(id, task);
            }
            return;
        }
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if !task.admit(from, epoch, attempt) {
            return;
        }
        if let ToTask::Cancel = body {
            task.cancel(ctx);
            self.tasks.remove(&id);
            self.ended.insert(id, attempt);
            return;
        }
        task.order(body, ctx);
    }
}

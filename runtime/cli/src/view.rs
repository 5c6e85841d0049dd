//! The live view on a terminal: a few lines that are drawn anew twice a second. Quiet in a pipe.

use std::time::Duration;

use highwater_web::JobView;

mod frame;
mod screen;

pub(crate) use frame::{age, bytes, count};
pub(crate) use screen::Screen;

use frame::{Frame, Reading};

const REDRAW: Duration = Duration::from_millis(500);

/// Looks at a job and draws it.
pub(crate) struct View {
    job: JobView,
    screen: Screen,
}

impl View {
    /// A view of `job` on `screen`.
    pub(crate) const fn new(job: JobView, screen: Screen) -> Self {
        Self { job, screen }
    }

    /// Draws until it is dropped.
    pub(crate) async fn run(self) {
        let mut ticks = tokio::time::interval(REDRAW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = Reading::of(&self.job);
        loop {
            ticks.tick().await;
            let now = Reading::of(&self.job);
            let status = self.job.status.borrow().clone();
            let frame = Frame {
                job: &self.job.job,
                status: &status,
                before: &before,
                now: &now,
            };
            self.screen.draw(&frame.text());
            before = now;
        }
    }
}

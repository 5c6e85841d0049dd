//! The status server of a process, from a view of the job to its end.
//!
//! Started by `run` and `coordinator`, once for the time that they stand by and once for the time that they lead. The rule: a request that is
//! being answered when the view ends is answered, unless that takes long.

use std::time::Duration;

use highwater_web::JobView;
use highwater_web::listening::Listening;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long requests may hold up the end of a view.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A server of one view.
pub(crate) struct Server {
    over: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Serves `view`.
    pub(crate) fn start(listening: Listening, view: JobView) -> Self {
        let (over, is_over) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let until = async { drop(is_over.await) };
            let routes = highwater_web::routes(view, listening.access());
            listening.serve_until(routes, until).await;
        });
        Self { over, tasks }
    }

    /// Ends it. Whoever asks over a connection that stays must not see this view for ever.
    pub(crate) async fn end(self) {
        let Self { over, mut tasks } = self;
        drop(over);
        let answered = timeout(ANSWER_MAX, async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "status server");
                }
            }
        });
        if answered.await.is_err() {
            tracing::debug!("a request to the status server was left unanswered");
        }
        tasks.shutdown().await;
    }
}

//! The page of a worker: where it listens, and the task that answers there.
//!
//! Bound by the role `worker` before it looks for a coordinator, so that an address that cannot be used is refused at once; served until the
//! process ends. The rule: it is open to those only whom `rest.authentication` lets in, and off loopback never to everybody.

use std::net::SocketAddr;

use highwater_web::listening::Listening;
use highwater_web::{WorkerView, worker_page};
use highwater_worker::slot::error_chain;
use tokio::task::JoinSet;

use crate::exit::{Code, Failure};
use crate::settings::RestSettings;

/// The page, which may be nowhere.
pub(crate) struct OwnMetrics {
    listening: Option<Listening>,
    tasks: JoinSet<()>,
}

impl OwnMetrics {
    /// Listens at `address`, if there is one, for whom `rest` lets in.
    pub(crate) async fn bind(
        address: Option<SocketAddr>,
        rest: &RestSettings,
    ) -> Result<Self, Failure> {
        let listening = match address {
            Some(address) => {
                let bound = Listening::bind(address, rest.listen()?).await;
                let bound = bound.map_err(|error| {
                    let message = format!("metrics.address: {}", error_chain(&error));
                    Failure::new(Code::Usage, message)
                })?;
                tracing::info!(address = %bound.address(), "shows its metrics");
                Some(bound)
            }
            None => None,
        };
        Ok(Self {
            listening,
            tasks: JoinSet::new(),
        })
    }

    /// Answers from `view`.
    pub(crate) fn serve(&mut self, view: WorkerView) {
        if let Some(listening) = self.listening.take() {
            self.tasks.spawn(async move {
                let routes = worker_page::routes(view, listening.access());
                listening.serve(routes).await;
            });
        }
    }

    /// Answers nobody any more.
    pub(crate) async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

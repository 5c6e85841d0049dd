//! What a worker process answers: `/metrics`, with what only it knows of itself.
//!
//! Served by the role `worker` where it is told an address for it. Its tasks are told by the leader, which knows those of all workers; here
//! stand its process, the memory that state takes in it, and its links to other workers, under the names of the same table. The rule: it is
//! answered to those only who would be answered by the leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use highwater_metrics::table::link::{LinkScope, RECEIVED, SENT};
use highwater_metrics::{MetricsRegistry, PeerLabels};
use highwater_network::{LinkBoard, LinkBytes};
use highwater_state::Store;
use highwater_types::{JobIdentity, WorkerIndex};
use highwater_worker::{FigureBoard, WorkerSettings};
use tokio::sync::Semaphore;

use crate::access::{Access, Scope, authorize};
use crate::process;
use crate::routes::{METRICS_KIND, bounded, for_programs};

/// Requests that are answered at the same time.
const REQUESTS_MAX: usize = 8;

/// What a worker answers from.
#[derive(Clone)]
pub struct WorkerView {
    /// The job.
    pub job: JobIdentity,
    /// What it may hold.
    pub worker: WorkerSettings,
    /// The figures of its tasks.
    pub figures: FigureBoard,
    /// Where its keyed state rests.
    pub store: Store,
    /// What went over its links.
    pub links: LinkBoard,
}

/// The routes of a worker, for whom `access` lets in.
pub fn routes(view: WorkerView, access: &Access) -> Router {
    let guard = from_fn_with_state((access.clone(), Scope::Read), authorize);
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    Router::new()
        .route("/metrics", get(metrics))
        .layer(guard)
        .layer(from_fn(for_programs))
        .layer(from_fn_with_state(places, bounded))
        .with_state(Arc::new(view))
}

async fn metrics(State(view): State<Arc<WorkerView>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_KIND)], encode(&view)).into_response()
}

/// Writes the page.
fn encode(view: &WorkerView) -> String {
    let registry = MetricsRegistry::new(&view.job);
    let cells = process::publish(&registry);
    process::memory(&cells, &view.worker, &view.store, &view.figures.read());
    links(&registry, view.links.read());
    registry.open_metrics()
}

/// Puts in what went over links, by the worker at the other end.
pub(crate) fn links(registry: &MetricsRegistry, peers: BTreeMap<WorkerIndex, LinkBytes>) {
    for (peer, bytes) in peers {
        let cells = registry.cells::<LinkScope>(&PeerLabels { peer });
        cells.raise(SENT, bytes.sent);
        cells.raise(RECEIVED, bytes.received);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::extract::Request;
    use axum::http::StatusCode;
    use highwater_operators::OperatorReport;
    use highwater_types::OperatorUid;
    use highwater_worker::TaskFigures;
    use tower::ServiceExt as _;

    use super::*;
    use crate::tests::idle_subtask;

    /// A worker with one task that holds 300 bytes of state.
    fn view() -> WorkerView {
        let mut report = OperatorReport::new(OperatorUid::parse("count").unwrap());
        report.state_bytes = 300;
        let (id, idle) = idle_subtask("count", 0);
        let figures = TaskFigures {
            operators: vec![report],
            ..idle
        };
        let board = FigureBoard::default();
        board.write(vec![(id, figures)]);
        WorkerView {
            job: JobIdentity::parse("fleet").unwrap(),
            worker: WorkerSettings {
                slots: 2,
                state_bytes_max: 1_024,
                store_bytes_max: 0,
                spool_bytes_max: 1,
            },
            figures: board,
            store: Store::heap(),
            links: LinkBoard::default(),
        }
    }

    async fn answer(host: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, host)
            .body(Body::empty())
            .unwrap();
        let routes = routes(view(), &Access::Open);
        let response = routes.oneshot(request).await.unwrap();
        let code = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_worker_tells_its_process_and_leaves_its_tasks_to_the_leader() {
        let (code, text) = answer("127.0.0.1:9400", "/metrics").await;
        assert_eq!(code, StatusCode::OK, "{text}");
        for line in [
            "highwater_process_state_used_bytes{identity=\"fleet\"} 300.0",
            "highwater_process_state_budget_bytes{identity=\"fleet\"} 1024.0",
        ] {
            assert!(text.lines().any(|held| held == line), "{line} in {text}");
        }
        assert!(!text.contains("highwater_task_"), "{text}");
        assert!(!text.contains("highwater_job_"), "{text}");
    }

    #[tokio::test]
    async fn there_is_nothing_else_and_not_for_everybody() {
        let (code, _) = answer("127.0.0.1:9400", "/v1/status").await;
        assert_eq!(code, StatusCode::NOT_FOUND);
        let (code, _) = answer("elsewhere.example", "/metrics").await;
        assert_eq!(code, StatusCode::FORBIDDEN);
    }
}

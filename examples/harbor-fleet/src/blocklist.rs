//! The blocklist: a lookup by user over HTTP, and the small server with faults that demo and tests ask.
//!
//! An alert is never lost because of it: when no attempt succeeds, the alert goes out with `unknown` (HB-62).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use highwater_operators::{AsyncLookup, LookupOptions, LookupOrder, RetryBudget, UserError};
use highwater_types::key::hash_bytes;
use tokio::net::TcpListener;

use crate::payments::{Blocklist, FraudAlert};
use crate::trap::Trap;

/// Requests open per subtask.
const CAPACITY: usize = 100;
/// One attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(200);
/// All attempts.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Before the second and the third attempt.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(200)];

/// By how much a delay may be longer.
const JITTER_PERCENT: u32 = 20;
/// Retries that a worker may make, as a share of its requests in any ten seconds.
const RETRIES_PERCENT: u32 = 10;

/// Asks the blocklist for the user of an alert.
#[derive(Clone, Debug)]
pub struct BlocklistLookup {
    client: reqwest::Client,
    base: String,
    trap: Trap,
}

impl BlocklistLookup {
    /// Asks the server at this address.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            client: reqwest::Client::new(),
            base: format!("http://{server}/blocklist"),
            trap: Trap::default(),
        }
    }

    /// Panics where the trap is set at `lookup`.
    #[must_use]
    pub fn with_trap(self, trap: &Trap) -> Self {
        Self {
            trap: trap.clone(),
            ..self
        }
    }
}

/// How the lookup is made: 100 open per subtask, three attempts of 200 ms within a second, retries up to 10 % of
/// requests in any 10 s (HB-60, HB-61).
pub fn options() -> LookupOptions {
    LookupOptions::new(LookupOrder::Unordered, CAPACITY, ATTEMPT_TIMEOUT)
        .with_retries(RETRY_DELAYS, JITTER_PERCENT, TOTAL_TIMEOUT)
        .with_budget(RetryBudget::new(RETRIES_PERCENT))
}

impl AsyncLookup<FraudAlert, FraudAlert> for BlocklistLookup {
    async fn lookup(&self, alert: FraudAlert) -> Result<FraudAlert, UserError> {
        self.trap.spring("lookup");
        let answer = self
            .client
            .get(format!("{}/{}", self.base, alert.user_id))
            .send()
            .await?;
        let blocklist = match answer.error_for_status()?.text().await?.as_str() {
            "listed" => Blocklist::Listed,
            "clear" => Blocklist::Clear,
            other => return Err(format!("the blocklist answered `{other}`").into()),
        };
        Ok(FraudAlert { blocklist, ..alert })
    }

    fn on_failure(&self, alert: FraudAlert, _: UserError) -> Result<FraudAlert, UserError> {
        Ok(FraudAlert {
            blocklist: Blocklist::Unknown,
            ..alert
        })
    }
}

/// How the server misbehaves. Percentages of requests, by a hash of user and count.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Answers 503.
    pub unavailable_percent: u64,
    /// Answers after half a second.
    pub slow_percent: u64,
}

#[derive(Debug)]
struct Server {
    faults: Faults,
    asked: std::sync::atomic::AtomicU64,
}

/// Serves a blocklist on loopback: every tenth user is listed. Runs until its task is dropped.
///
/// # Errors
/// When no port is free.
pub async fn serve(
    faults: Faults,
    tasks: &mut tokio::task::JoinSet<std::io::Result<()>>,
) -> std::io::Result<SocketAddr> {
    serve_at(Ipv4Addr::LOCALHOST, faults, tasks).await
}

/// As [`serve`], at another address of this machine.
///
/// # Errors
/// When the machine does not have the address, or no port of it is free.
pub async fn serve_at(
    host: Ipv4Addr,
    faults: Faults,
    tasks: &mut tokio::task::JoinSet<std::io::Result<()>>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind((host, 0)).await?;
    let address = listener.local_addr()?;
    let server = Arc::new(Server {
        faults,
        asked: 0.into(),
    });
    let routes = Router::new()
        .route("/blocklist/{user}", get(answer))
        .with_state(server);
    tasks.spawn(async move { axum::serve(listener, routes).await });
    Ok(address)
}

async fn answer(State(server): State<Arc<Server>>, Path(user): Path<String>) -> Response {
    let asked = server
        .asked
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let chance = hash_bytes(format!("{user}/{asked}").as_bytes()).0 % 100;
    if chance < server.faults.unavailable_percent {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if chance < server.faults.unavailable_percent + server.faults.slow_percent {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let listed = hash_bytes(user.as_bytes()).0.is_multiple_of(10);
    (if listed { "listed" } else { "clear" }).into_response()
}

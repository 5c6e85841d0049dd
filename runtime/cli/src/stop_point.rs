//! In test builds: aborts or freezes the process right before a protocol step, so that tests can break something at every one of them.

use std::sync::Arc;

#[cfg(feature = "stop-points")]
use highwater_protocol::steps::Step;
use highwater_worker::StopHook;

use crate::exit::Failure;

/// The hook for what `HIGHWATER_STOP_AT` says: a step, or a step and its how-manieth time (`P8`, `P8:3`). Several
/// separated by commas are met one after another: `P8:3,P10:2` ends at the second P10 behind the third P8. With `freeze:` before
/// them, such as `freeze:P8:3`, the process stops there as a whole, and goes on where somebody sends it SIGCONT.
///
/// # Errors
/// When it names no step.
#[cfg(feature = "stop-points")]
pub(crate) fn hook(wanted: Option<&str>) -> Result<StopHook, Failure> {
    use std::sync::{Mutex, PoisonError};

    let Some(wanted) = wanted else {
        return Ok(Arc::new(|_| {}));
    };
    let route = Mutex::new(parse(wanted)?);
    Ok(Arc::new(move |reached| {
        // Held to the end: another thread must not pass the step while this one ends or stops the process.
        let mut route = route.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = route.reached(reached) {
            match route.act {
                Act::End => {
                    say_stop("ended", last);
                    std::process::abort();
                }
                Act::Freeze => {
                    say_stop("frozen", last);
                    freeze();
                }
            }
        }
    }))
}

/// Stops all threads of this process until it is continued.
#[cfg(feature = "stop-points")]
fn freeze() {
    use rustix::process::{Signal, getpid, kill_process};

    if let Err(error) = kill_process(getpid(), Signal::STOP) {
        tracing::error!(%error, "the process cannot be frozen");
    }
}

/// What happens at a stop point.
#[cfg(feature = "stop-points")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The process is aborted.
    End,
    /// The process is stopped, until somebody continues it.
    Freeze,
}

/// The stages on the way to a stop point, the next one first.
#[cfg(feature = "stop-points")]
#[derive(Debug, PartialEq, Eq)]
struct Route {
    act: Act,
    stages: std::collections::VecDeque<(Step, u64)>,
    passed: u64,
}

#[cfg(feature = "stop-points")]
impl Route {
    /// A step is reached. Returns the last stage when it is the one to stop at.
    fn reached(&mut self, step: Step) -> Option<(Step, u64)> {
        let &(next, times) = self.stages.front()?;
        if next != step {
            return None;
        }
        self.passed += 1;
        if self.passed < times {
            return None;
        }
        self.passed = 0;
        self.stages.pop_front();
        self.stages.is_empty().then_some((next, times))
    }
}

/// Who breaks something at a step must be able to tell this end, or stop, from any other.
#[cfg(feature = "stop-points")]
#[expect(
    clippy::print_stderr,
    reason = "the log has no time left to be flushed; these are the last words of the process, or of a while"
)]
fn say_stop(how: &str, (step, time): (Step, u64)) {
    use crate::settings::source::STOP_VARIABLE;

    eprintln!("{STOP_VARIABLE}: {how} right before {step}, time {time}");
}

#[cfg(feature = "stop-points")]
fn parse(wanted: &str) -> Result<Route, Failure> {
    let (act, route) = match wanted.strip_prefix("freeze:") {
        Some(route) => (Act::Freeze, route),
        None => (Act::End, wanted),
    };
    let stages = route.split(',').map(|stage| parse_stage(wanted, stage));
    Ok(Route {
        act,
        stages: stages.collect::<Result<_, _>>()?,
        passed: 0,
    })
}

#[cfg(feature = "stop-points")]
fn parse_stage(wanted: &str, stage: &str) -> Result<(Step, u64), Failure> {
    use crate::exit::Code;
    use crate::settings::source::STOP_VARIABLE;

    let (name, time) = stage.split_once(':').unwrap_or((stage, "1"));
    let refuse = |reason: String| {
        Failure::new(
            Code::Usage,
            format!("{STOP_VARIABLE}: `{wanted}`: {reason}"),
        )
    };
    let step = name
        .parse()
        .map_err(|error: highwater_protocol::steps::StepError| refuse(error.to_string()))?;
    match time.parse() {
        Ok(time) if time > 0 => Ok((step, time)),
        _ => Err(refuse("write a step and its time, such as P8:3".to_owned())),
    }
}

/// The hook of all other builds: goes on at every step.
#[cfg(not(feature = "stop-points"))]
#[expect(clippy::unnecessary_wraps, reason = "the form of test builds can fail")]
pub(crate) fn hook(_: Option<&str>) -> Result<StopHook, Failure> {
    Ok(Arc::new(|_| {}))
}

#[cfg(all(test, feature = "stop-points"))]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_its_time_are_read() {
        let stages = |text| Vec::from(parse(text).unwrap().stages);
        assert_eq!(stages("P8"), [(Step::P8, 1)]);
        assert_eq!(stages("R5:3"), [(Step::R5, 3)]);
        assert_eq!(stages("P8:3,P10"), [(Step::P8, 3), (Step::P10, 1)]);
        assert_eq!(stages("freeze:P8:3,P10"), stages("P8:3,P10"));
        assert_eq!(parse("P8").unwrap().act, Act::End);
        assert_eq!(parse("freeze:P8").unwrap().act, Act::Freeze);
        for bad in ["P13", "p8", "P8:0", "P8:x", "", "P8,", "P8,,P9", "freeze:"] {
            assert!(
                parse(bad)
                    .unwrap_err()
                    .message
                    .contains("HIGHWATER_STOP_AT"),
                "{bad}"
            );
        }
    }

    #[test]
    fn stages_are_met_one_after_another() {
        let mut route = parse("P8:2,P10:2").unwrap();
        let early = [
            Step::P10,
            Step::P8,
            Step::P10,
            Step::P10,
            Step::P8,
            Step::P9,
            Step::P10,
        ];
        for step in early {
            assert_eq!(route.reached(step), None);
        }
        assert_eq!(route.reached(Step::P10), Some((Step::P10, 2)));
    }
}

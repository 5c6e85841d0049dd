//! In test builds: aborts the process right before a protocol step, so that tests can kill at every one of them.

use std::sync::Arc;

use highwater_worker::StopHook;

use crate::exit::Failure;

/// The hook for what `HIGHWATER_STOP_AT` says: a step, or a step and its how-manieth time (`P8`, `P8:3`).
///
/// # Errors
/// When it names no step.
#[cfg(feature = "stop-points")]
pub(crate) fn hook(wanted: Option<&str>) -> Result<StopHook, Failure> {
    use std::sync::atomic::{AtomicU64, Ordering};

    let Some(wanted) = wanted else {
        return Ok(Arc::new(|_| {}));
    };
    let (step, time) = parse(wanted)?;
    let passed = AtomicU64::new(0);
    Ok(Arc::new(move |reached| {
        if reached == step && passed.fetch_add(1, Ordering::SeqCst) + 1 == time {
            say_stop(step, time);
            std::process::abort();
        }
    }))
}

/// Who kills at a step must be able to tell this end from any other crash.
#[cfg(feature = "stop-points")]
#[expect(
    clippy::print_stderr,
    reason = "the log has no time left to be flushed; these are the last words of the process"
)]
fn say_stop(step: highwater_protocol::steps::Step, time: u64) {
    use crate::settings::source::STOP_VARIABLE;

    eprintln!("{STOP_VARIABLE}: ended right before {step}, time {time}");
}

#[cfg(feature = "stop-points")]
fn parse(wanted: &str) -> Result<(highwater_protocol::steps::Step, u64), Failure> {
    use crate::exit::Code;
    use crate::settings::source::STOP_VARIABLE;

    let (name, time) = wanted.split_once(':').unwrap_or((wanted, "1"));
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
    use highwater_protocol::steps::Step;

    use super::*;

    #[test]
    fn a_step_and_its_time_are_read() {
        assert_eq!(parse("P8").unwrap(), (Step::P8, 1));
        assert_eq!(parse("R5:3").unwrap(), (Step::R5, 3));
        for bad in ["P13", "p8", "P8:0", "P8:x", ""] {
            assert!(
                parse(bad)
                    .unwrap_err()
                    .message
                    .contains("HIGHWATER_STOP_AT"),
                "{bad}"
            );
        }
    }
}

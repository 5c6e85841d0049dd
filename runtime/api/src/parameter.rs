//! A parameter of a job that cannot be read: who gave which value, and what was wanted.
//!
//! Made by [`StreamEnvironment::parameter_or`](crate::StreamEnvironment::parameter_or). The command line looks for it
//! behind the error of a job's function: it is the call that is wrong then, and not the job.

use std::fmt;
use std::str::FromStr;

use highwater_types::{Classified, ErrorKind};

/// A parameter has a value that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter {name}: \"{value}\" is no {wanted}: {reason}")]
pub struct ParameterError {
    /// The name, as in `--param name=value`.
    pub name: String,
    /// The value that was given.
    pub value: String,
    /// The type that was wanted, without its path.
    pub wanted: &'static str,
    /// Why the value is none.
    pub reason: String,
}

impl Classified for ParameterError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// Reads the value of a parameter.
pub(crate) fn parse<T>(name: &str, value: &str) -> Result<T, ParameterError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    value.parse().map_err(|error: T::Err| ParameterError {
        name: name.to_owned(),
        value: value.to_owned(),
        wanted: short(std::any::type_name::<T>()),
        reason: error.to_string(),
    })
}

/// The name of a type without the path to it.
fn short(name: &'static str) -> &'static str {
    let bare = name.split('<').next().unwrap_or(name);
    bare.rsplit("::").next().unwrap_or(bare)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_message_names_parameter_value_and_type() {
        let error = parse::<i64>("hot", "abc").unwrap_err();
        assert_eq!(
            error.to_string(),
            "parameter hot: \"abc\" is no i64: invalid digit found in string"
        );
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = parse::<SocketAddr>("at", "here").unwrap_err();
        assert!(
            error.to_string().contains("\"here\" is no SocketAddr: "),
            "{error}"
        );
    }
}

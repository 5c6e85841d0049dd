//! Where values come from: a flag, else the environment, else the settings file, else the table.
//!
//! Pure: what was given is handed in, so that precedence and refusals are tested without a process. A name that nobody
//! knows is refused wherever it stands, with the nearest name that is known.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use highwater_types::{Classified, ErrorKind};

use super::file::SettingsFile;
use super::kind::{Kind, Value};
use super::nearest::nearest;
use super::table::{CONFIG_VARIABLE, PREFIX, Preset, SETTINGS, Setting};

/// The variable that names the protocol step at which a test build stops.
pub const STOP_VARIABLE: &str = "HIGHWATER_STOP_AT";

/// A setting that was refused. Nothing is started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Nobody knows the name.
    #[error(
        "{place}: `{name}` is no setting; the nearest is `{nearest}` (docs/settings.md has all)"
    )]
    Unknown {
        /// Where it stands.
        place: String,
        /// The unknown name.
        name: String,
        /// The nearest known one.
        nearest: String,
    },
    /// The value cannot be read.
    #[error("{place}: `{value}` {reason}")]
    Value {
        /// Where it stands.
        place: String,
        /// The refused value.
        value: String,
        /// What is wrong and what to write.
        reason: String,
    },
    /// The settings file cannot be read.
    #[error(
        "{named_by}: the settings file {} cannot be read: {reason}; name another one or leave {named_by} out",
        path.display()
    )]
    Unreadable {
        /// The flag or the variable that names it.
        named_by: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The settings file says something that nobody understands.
    #[error("settings file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A step to stop at in a build that does not stop.
    #[error("{STOP_VARIABLE} is set, but this program was built without the feature `stop-points`")]
    NoStopPoints,
}

impl Classified for SettingError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// What was given, and by which way.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// By flags, by the name of the setting.
    pub flags: BTreeMap<&'static str, String>,
    /// Environment variables that begin with `HIGHWATER_`.
    pub environment: BTreeMap<String, String>,
    /// By the settings file.
    pub file: SettingsFile,
    /// While the job runs.
    pub changes: BTreeMap<String, String>,
}

/// A setting as whoever asks is shown it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The setting.
    pub setting: &'static Setting,
    /// Its text; that of a secret is `***`.
    pub value: Option<String>,
    /// Where it stands.
    pub place: String,
}

impl fmt::Debug for Given {
    /// Without values: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").finish_non_exhaustive()
    }
}

/// Every value that holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved(BTreeMap<&'static str, Value>);

impl fmt::Debug for Resolved {
    /// Without values: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Refuses variables that look like settings and are none.
///
/// # Errors
/// The first one, with the nearest.
pub fn check_environment(environment: &BTreeMap<String, String>) -> Result<(), SettingError> {
    let known: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
    for name in environment.keys().filter(|name| name.starts_with(PREFIX)) {
        if name == STOP_VARIABLE {
            if cfg!(feature = "stop-points") {
                continue;
            }
            return Err(SettingError::NoStopPoints);
        }
        if name != CONFIG_VARIABLE && !known.contains(name) {
            let known = known.iter().map(String::as_str);
            let nearest = nearest(name, known.chain([CONFIG_VARIABLE]));
            return Err(SettingError::Unknown {
                place: "environment".to_owned(),
                name: name.clone(),
                nearest: nearest.unwrap_or_default().to_owned(),
            });
        }
    }
    Ok(())
}

impl Given {
    /// Decides every setting.
    ///
    /// # Errors
    /// The first value that is refused, with the place where it stands.
    pub fn resolve(&self) -> Result<Resolved, SettingError> {
        check_environment(&self.environment)?;
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            if let Some((place, text)) = self.find(setting) {
                let value = setting.kind.read(&text).map_err(|reason| {
                    let is_secret = setting.kind == Kind::Secret;
                    SettingError::Value {
                        place,
                        value: if is_secret { "***".to_owned() } else { text },
                        reason,
                    }
                })?;
                values.insert(setting.name, value);
            }
        }
        Ok(Resolved(values))
    }

    /// Every setting, without secrets.
    pub fn shown(&self) -> Vec<Shown> {
        let one = |setting: &'static Setting| {
            let default = || match setting.default {
                Preset::Value(text) => Some(text.to_owned()),
                Preset::Unset(_) => None,
            };
            let (place, value) = match self.look(setting) {
                Some((place, _)) if setting.kind == Kind::Secret => (place, Some("***".to_owned())),
                Some((place, text)) => (place, Some(text)),
                None => (DEFAULT.to_owned(), default()),
            };
            Shown {
                setting,
                value,
                place,
            }
        };
        SETTINGS.iter().map(one).collect()
    }

    fn find(&self, setting: &Setting) -> Option<(String, String)> {
        self.look(setting).or_else(|| match setting.default {
            Preset::Value(text) => Some((setting.name.to_owned(), text.to_owned())),
            Preset::Unset(_) => None,
        })
    }

    /// What was given, and where.
    fn look(&self, setting: &Setting) -> Option<(String, String)> {
        let variable = setting.variable();
        if let Some(text) = self.changes.get(setting.name) {
            return Some((setting.name.to_owned(), text.clone()));
        }
        if let Some(text) = self.flags.get(setting.name) {
            return Some((format!("--{}", setting.flag()), text.clone()));
        }
        if let Some(text) = self.environment.get(&variable) {
            return Some((variable, text.clone()));
        }
        if let Some(text) = self.file.values.get(setting.name) {
            let place = format!("{}: {}", self.file.path.display(), setting.name);
            return Some((place, text.clone()));
        }
        None
    }
}

/// Where a value stands that nobody gave.
pub const DEFAULT: &str = "default";

macro_rules! reader {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $out:ty) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// If the table says that the setting is of another kind.
        pub fn $name(&self, name: &str) -> Option<$out> {
            match self.0.get(name) {
                None => {
                    assert!(super::table::setting(name).is_some(), "`{name}` is in the table");
                    None
                }
                Some(Value::$variant(value)) => Some(value.clone()),
                Some(other) => panic!("`{name}` is {other:?}"),
            }
        }
    };
}

impl Resolved {
    reader!(
        /// A setting that is text.
        text, Text, String
    );
    reader!(
        /// A setting that is an address.
        address, Address, SocketAddr
    );
    reader!(
        /// A setting that is a number.
        count, Count, u64
    );
    reader!(
        /// A setting that is a span of time.
        span, Span, Duration
    );
    reader!(
        /// A setting that is a number of bytes.
        size, Size, u64
    );
    reader!(
        /// A setting that is yes or no.
        switch, Switch, bool
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn given(flag: Option<&str>, variable: Option<&str>, file: Option<&str>) -> Given {
        let entry = |text: Option<&str>, name: &'static str| text.map(|t| (name, t.to_owned()));
        let yaml = file.map_or(String::new(), |text| format!("checkpoint.interval: {text}"));
        Given {
            flags: entry(flag, "checkpoint.interval").into_iter().collect(),
            environment: variable
                .map(|text| ("HIGHWATER_CHECKPOINT_INTERVAL".to_owned(), text.to_owned()))
                .into_iter()
                .collect(),
            file: SettingsFile::parse(Path::new("job.yaml"), &yaml).unwrap(),
            changes: BTreeMap::new(),
        }
    }

    fn interval(given: &Given) -> Duration {
        given
            .resolve()
            .unwrap()
            .span("checkpoint.interval")
            .unwrap()
    }

    #[test]
    fn a_flag_goes_before_the_environment_before_the_file_before_the_table() {
        let seconds = Duration::from_secs;
        assert_eq!(
            interval(&given(Some("1s"), Some("2s"), Some("3s"))),
            seconds(1)
        );
        assert_eq!(interval(&given(None, Some("2s"), Some("3s"))), seconds(2));
        assert_eq!(interval(&given(None, None, Some("3s"))), seconds(3));
        assert_eq!(interval(&given(None, None, None)), seconds(10));
    }

    #[test]
    fn a_refused_value_names_the_place_where_it_stands() {
        for (given, place) in [
            (given(Some("1"), None, None), "--checkpoint-interval: `1`"),
            (
                given(None, Some("1"), None),
                "HIGHWATER_CHECKPOINT_INTERVAL: `1`",
            ),
            (
                given(None, None, Some("1")),
                "job.yaml: checkpoint.interval: `1`",
            ),
        ] {
            let message = given.resolve().unwrap_err().to_string();
            assert!(message.starts_with(place), "{message}");
            assert!(message.contains("500ms"), "{message}");
        }
    }

    #[test]
    fn an_unknown_variable_names_the_nearest() {
        let mut given = given(None, None, None);
        given
            .environment
            .insert("HIGHWATER_CHEKPOINT_INTERVAL".to_owned(), "1s".to_owned());
        let message = given.resolve().unwrap_err().to_string();
        assert!(
            message.contains("`HIGHWATER_CHEKPOINT_INTERVAL`"),
            "{message}"
        );
        assert!(
            message.contains("`HIGHWATER_CHECKPOINT_INTERVAL`"),
            "{message}"
        );
    }

    #[test]
    fn variables_of_others_are_not_looked_at() {
        let mut given = given(None, None, None);
        given
            .environment
            .insert("HIGH_TIDE".to_owned(), "1".to_owned());
        given
            .environment
            .insert(CONFIG_VARIABLE.to_owned(), "job.yaml".to_owned());
        assert!(given.resolve().is_ok());
    }

    #[test]
    fn a_stop_point_needs_a_build_that_has_them() {
        let stop = BTreeMap::from([(STOP_VARIABLE.to_owned(), "P8".to_owned())]);
        let checked = check_environment(&stop);
        assert_eq!(checked.is_ok(), cfg!(feature = "stop-points"));
    }

    #[test]
    fn every_setting_is_shown_with_its_place_and_no_secret() {
        let mut given = given(None, Some("2s"), Some("3s"));
        let secret = "HIGHWATER_S3_SECRET_ACCESS_KEY".to_owned();
        given
            .environment
            .insert(secret.clone(), "canary".to_owned());
        let of = |given: &Given, name: &str| {
            let shown = given.shown();
            let one = shown.iter().find(|shown| shown.setting.name == name);
            let one = one.unwrap().clone();
            (one.value, one.place)
        };
        let text = |text: &str| Some(text.to_owned());
        let variable = "HIGHWATER_CHECKPOINT_INTERVAL".to_owned();
        assert_eq!(of(&given, "checkpoint.interval"), (text("2s"), variable));
        let default = DEFAULT.to_owned();
        assert_eq!(of(&given, "state.backend"), (text("heap"), default.clone()));
        assert_eq!(of(&given, "parallelism"), (None, default));
        assert_eq!(of(&given, "s3.secret-access-key"), (text("***"), secret));
        let change = ("checkpoint.interval".to_owned(), "7s".to_owned());
        given.changes.extend([change.clone()]);
        assert_eq!(of(&given, &change.0).0, text("7s"));
        assert_eq!(interval(&given), Duration::from_secs(7));
        assert_eq!(given.shown().len(), SETTINGS.len());
    }

    #[test]
    fn a_refused_secret_is_not_shown() {
        let mut given = given(None, None, None);
        given
            .environment
            .insert("HIGHWATER_S3_SECRET_ACCESS_KEY".to_owned(), String::new());
        let message = given.resolve().unwrap_err().to_string();
        assert!(message.contains("`***` is empty"), "{message}");
    }
}

//! Settings while the job runs: what the status server shows and changes.
//!
//! Used by the status server. The rule: a change is read and checked like what was given at the start, all of it or nothing; what a start
//! alone can change is refused by name.

use std::fmt::Write as _;

use highwater_coordinator::LiveSettings;
use highwater_web::{Changes, Config};
use highwater_web_api as api;

use super::nearest::nearest;
use super::source::Given;
use super::table::{SETTINGS, Setting, setting};
use super::{Resolved, Settings};
use crate::logs::LogLevels;

/// Where a value stands that was changed while the job runs.
const CHANGED: &str = "changed";

/// The settings of a running process.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    settings: Settings,
    levels: LogLevels,
}

impl LiveConfig {
    pub(crate) const fn new(settings: Settings, levels: LogLevels) -> Self {
        Self { settings, levels }
    }

    fn changed(&self, changes: &Changes) -> Given {
        Given {
            changes: changes.clone(),
            ..self.settings.given.clone()
        }
    }

    fn resolve(&self, changes: &Changes) -> Result<Resolved, String> {
        let resolved = self.changed(changes).resolve();
        resolved.map_err(|error| error.to_string())
    }
}

/// Whether a setting may change while the job runs.
fn check(name: &str) -> Result<(), String> {
    let Some(known) = setting(name) else {
        let names = SETTINGS.iter().map(|setting| setting.name);
        let nearest = nearest(name, names).unwrap_or_default();
        return Err(format!(
            "`{name}` is no setting; the nearest is `{nearest}`"
        ));
    };
    if known.live {
        return Ok(());
    }
    let mut message =
        format!("{name} is read at the start only: start again with it; while the job runs change");
    for (at, one) in SETTINGS.iter().filter(|setting| setting.live).enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(message, "{comma} {}", one.name).expect("a String takes everything");
    }
    Err(message)
}

impl Config for LiveConfig {
    fn read(&self, changes: &Changes) -> Vec<api::Setting> {
        let shown = self.changed(changes).shown().into_iter();
        let told = shown.map(|shown| {
            let Setting { name, live, .. } = *shown.setting;
            let is_changed = changes.contains_key(name);
            api::Setting {
                name: name.to_owned(),
                value: shown.value,
                from: if is_changed {
                    CHANGED.to_owned()
                } else {
                    shown.place
                },
                live,
            }
        });
        told.collect()
    }

    fn prepare(&self, changes: Changes) -> Result<LiveSettings, String> {
        changes.keys().try_for_each(|name| check(name))?;
        let settings = Settings {
            resolved: self.resolve(&changes)?,
            ..self.settings.clone()
        };
        let coordinator = settings.coordinator().map_err(|error| error.to_string())?;
        Ok(LiveSettings {
            checkpoint: coordinator.checkpoint,
            restart: coordinator.restart,
            changes,
        })
    }

    fn log(&self, changes: &Changes) -> Result<(), String> {
        let levels = self.resolve(changes)?.text("log.level");
        self.levels.set(&levels.expect("the table has a default"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Environment, JobArgs, RunArgs};
    use super::*;

    fn config() -> LiveConfig {
        let job = JobArgs::default();
        let environment = Environment::default();
        let settings = Settings::read(&job, Some(&RunArgs::default()), environment).unwrap();
        LiveConfig::new(settings, LogLevels::fixed())
    }

    fn changes(given: &[(&str, &str)]) -> Changes {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        given.iter().map(owned).collect::<BTreeMap<_, _>>()
    }

    #[test]
    fn what_is_changed_is_read_like_what_was_given() {
        let given = changes(&[
            ("checkpoint.interval", "30s"),
            ("restart.strategy", "never"),
        ]);
        let config = config();
        let live = config.prepare(given.clone()).unwrap();
        assert_eq!(live.checkpoint.interval_ms, 30_000);
        assert_eq!(live.restart, highwater_coordinator::RestartStrategy::Never);
        assert_eq!(live.changes, given);
        let shown = config.read(&given);
        let of = |name: &str| shown.iter().find(|one| one.name == name).unwrap();
        assert_eq!(of("checkpoint.interval").from, CHANGED);
        assert_eq!(of("checkpoint.interval").value.as_deref(), Some("30s"));
        assert_eq!(of("checkpoint.timeout").from, "default");
        assert!(of("log.level").live && !of("slots").live);
    }

    #[test]
    fn what_is_refused_is_named() {
        for (given, words) in [
            (("slots", "9"), "checkpoint.interval"),
            (("checkpoint.intervall", "9s"), "`checkpoint.interval`"),
            (("checkpoint.interval", "5x"), "`5x`"),
            (("restart.first-delay", "1h"), "restart.max-delay"),
            (("log.level", "loud"), "loud"),
        ] {
            let refused = config().prepare(changes(&[given])).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}

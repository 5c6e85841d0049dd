//! A settings file: YAML with the names of the table, nested or dotted, and the parameters of the job.
//!
//! ```yaml
//! job: fleet
//! checkpoint:
//!   interval: 30s
//! state.memory: 4GiB
//! parameters:
//!   input: /data/payments
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_yaml::Value as Yaml;

use super::nearest::nearest;
use super::source::SettingError;
use super::table::{SETTINGS, setting};
use crate::settings::kind::Kind;

/// The largest settings file.
const BYTES_MAX: u64 = 1 << 20;
/// The key of the parameters of the job.
const PARAMETERS: &str = "parameters";

/// What a settings file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsFile {
    /// The file, for messages.
    pub path: PathBuf,
    /// The values, by the name of the setting.
    pub values: BTreeMap<&'static str, String>,
    /// The parameters of the job.
    pub parameters: BTreeMap<String, String>,
}

impl SettingsFile {
    /// Reads a file that `named_by`, a flag or a variable, names.
    ///
    /// # Errors
    /// When it cannot be read, is no YAML, or says something that nobody understands.
    pub fn read(path: &Path, named_by: &'static str) -> Result<Self, SettingError> {
        let refuse = |reason: String| SettingError::Unreadable {
            named_by,
            path: path.to_owned(),
            reason,
        };
        let length = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
        if length.len() > BYTES_MAX {
            return Err(refuse("it is larger than 1 MiB".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// As [`SettingsFile::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, SettingError> {
        let mut file = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        match serde_yaml::from_str(text) {
            Ok(Yaml::Null) => Ok(file),
            Ok(Yaml::Mapping(entries)) => {
                for (key, value) in entries {
                    let key = file.key("", &key)?;
                    if key == PARAMETERS {
                        file.take_parameters(value)?;
                    } else {
                        file.take(key, value)?;
                    }
                }
                Ok(file)
            }
            Ok(_) => Err(file.refused("write one `name: value` a line".to_owned())),
            Err(error) => Err(file.refused(error.to_string())),
        }
    }

    fn refused(&self, reason: String) -> SettingError {
        SettingError::File {
            path: self.path.clone(),
            reason,
        }
    }

    fn key(&self, above: &str, key: &Yaml) -> Result<String, SettingError> {
        match key {
            Yaml::String(key) => Ok(format!("{above}{key}")),
            _ => Err(self.refused(format!("a key below `{above}` is no text"))),
        }
    }

    /// Takes a value, or all values below it.
    fn take(&mut self, key: String, value: Yaml) -> Result<(), SettingError> {
        if let Yaml::Mapping(entries) = value {
            for (below, value) in entries {
                let key = self.key(&format!("{key}."), &below)?;
                self.take(key, value)?;
            }
            return Ok(());
        }
        let Some(known) = setting(&key) else {
            let names = SETTINGS.iter().map(|setting| setting.name);
            let nearest = nearest(&key, names.chain([PARAMETERS]));
            return Err(SettingError::Unknown {
                place: self.path.display().to_string(),
                name: key,
                nearest: nearest.unwrap_or_default().to_owned(),
            });
        };
        if known.kind == Kind::Secret {
            let variable = known.variable();
            return Err(self.refused(format!("`{key}` is a secret; give it by {variable}")));
        }
        let text = self.scalar(&key, value)?;
        if self.values.insert(known.name, text).is_some() {
            return Err(self.refused(format!("`{key}` is set twice")));
        }
        Ok(())
    }

    fn take_parameters(&mut self, value: Yaml) -> Result<(), SettingError> {
        let Yaml::Mapping(entries) = value else {
            return Err(self.refused(format!("`{PARAMETERS}` needs `name: value` lines below it")));
        };
        for (name, value) in entries {
            let name = self.key("", &name)?;
            let text = self.scalar(&name, value)?;
            self.parameters.insert(name, text);
        }
        Ok(())
    }

    fn scalar(&self, key: &str, value: Yaml) -> Result<String, SettingError> {
        match value {
            Yaml::String(text) => Ok(text),
            Yaml::Number(number) => Ok(number.to_string()),
            Yaml::Bool(switch) => Ok(switch.to_string()),
            _ => Err(self.refused(format!("`{key}` has no single value"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<SettingsFile, String> {
        SettingsFile::parse(Path::new("job.yaml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn nested_and_dotted_names_are_the_same() {
        let nested = parse("checkpoint:\n  interval: 5s\n  retained: 4\n").unwrap();
        let dotted = parse("checkpoint.interval: 5s\ncheckpoint.retained: 4\n").unwrap();
        assert_eq!(nested, dotted);
        assert_eq!(nested.values["checkpoint.retained"], "4");
    }

    #[test]
    fn parameters_are_the_jobs_own() {
        let file = parse("parameters:\n  input: /data\n  rate: 0.5\n  fast: true\n").unwrap();
        let expected = [("fast", "true"), ("input", "/data"), ("rate", "0.5")];
        let found: Vec<_> = file
            .parameters
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let message = parse("chekpoint:\n  intervall: 5s\n").unwrap_err();
        assert!(message.contains("job.yaml"), "{message}");
        assert!(message.contains("`chekpoint.intervall`"), "{message}");
        assert!(message.contains("`checkpoint.interval`"), "{message}");
        assert!(parse("parameter:\n").unwrap_err().contains("`parameters`"));
    }

    #[test]
    fn what_cannot_be_a_value_is_refused() {
        for (text, part) in [
            ("slots:\n", "`slots` has no single value"),
            ("slots: [1, 2]\n", "`slots` has no single value"),
            ("- slots\n", "name: value"),
            ("slots: 1\nslots: 2\n", "slots"),
            (
                "checkpoint.interval: 1s\ncheckpoint:\n  interval: 2s\n",
                "set twice",
            ),
            (
                "s3.secret-access-key: x\n",
                "HIGHWATER_S3_SECRET_ACCESS_KEY",
            ),
            ("1: 2\n", "is no text"),
            ("parameters: 5\n", "lines below it"),
            ("a: [\n", "job.yaml"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
        assert_eq!(parse("").unwrap().values.len(), 0);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = SettingsFile::read(Path::new("no/such/job.yaml"), "--config").unwrap_err();
        assert!(error.to_string().contains("no/such/job.yaml"));
    }
}

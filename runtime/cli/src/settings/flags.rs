//! Flags of the command line, made from the table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::kind::Kind;
use super::table::{Preset, Reach, SETTINGS, Setting};

/// Flags that every command takes.
#[derive(Clone, Debug, Default)]
pub struct JobFlags(pub BTreeMap<&'static str, String>);

/// Flags of `run` and `plan`.
#[derive(Clone, Debug, Default)]
pub struct RunFlags(pub BTreeMap<&'static str, String>);

/// The flag of each setting, by name: clap wants text that lives as long as the process.
static NAMES: LazyLock<BTreeMap<&'static str, String>> = LazyLock::new(|| {
    let named = |setting: &Setting| (setting.name, setting.flag());
    SETTINGS.iter().map(named).collect()
});

fn of(reach: Reach) -> impl Iterator<Item = &'static Setting> {
    let shown = move |setting: &&Setting| setting.reach == reach && setting.kind != Kind::Secret;
    SETTINGS.iter().filter(shown)
}

fn flag(setting: &Setting) -> Arg {
    let about = setting.help.trim_end_matches('.');
    let range = setting.kind.range().replace('`', "");
    let default = match setting.default {
        Preset::Value(text) | Preset::Unset(text) => text,
    };
    let arg = Arg::new(setting.name)
        .long(NAMES[setting.name].as_str())
        .value_name(setting.kind.placeholder())
        .help(format!("{about} [{range}; default: {default}]"))
        .help_heading(match setting.reach {
            Reach::Every => "Settings of the job",
            Reach::Run => "Settings of a run",
        })
        .global(setting.reach == Reach::Every);
    if setting.kind == Kind::Switch {
        // The bare flag means yes; a value needs `=`, so that it is not taken for a command.
        return arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true");
    }
    arg
}

fn collect(reach: Reach, matches: &ArgMatches) -> BTreeMap<&'static str, String> {
    let given = |setting: &'static Setting| {
        let on_line = matches.value_source(setting.name) == Some(ValueSource::CommandLine);
        let text = matches.get_one::<String>(setting.name).filter(|_| on_line);
        text.map(|text| (setting.name, text.clone()))
    };
    of(reach).filter_map(given).collect()
}

macro_rules! flags {
    ($name:ident, $reach:expr) => {
        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                command.args(of($reach).map(flag))
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self(collect($reach, matches)))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0.extend(collect($reach, matches));
                Ok(())
            }
        }
    };
}

flags!(JobFlags, Reach::Every);
flags!(RunFlags, Reach::Run);

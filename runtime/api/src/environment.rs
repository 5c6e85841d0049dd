//! The environment: where a job's function begins its streams, and what it is compiled from.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use highwater_connectors::{BadInput, BadRecords, Source};
use highwater_graph::{NodeKind, PlanDefaults, PlanErrors, SourceNote};
use highwater_types::{MaxParallelism, Parallelism};

use crate::code::NodeCode;
use crate::draft::{NodeFacts, Origin, SharedDraft, settled};
use crate::parameter::{self, ParameterError};
use crate::program::JobProgram;
use crate::source::{SourceStream, TypedSource};

/// Collects the streams of a job. Nothing runs before it is compiled.
///
/// Source: Flink `StreamExecutionEnvironment`.
#[derive(Default)]
pub struct StreamEnvironment {
    draft: SharedDraft,
    parallelism: Option<Parallelism>,
    max_parallelism: Option<MaxParallelism>,
    parameters: BTreeMap<String, String>,
    asked: RefCell<BTreeSet<String>>,
}

impl StreamEnvironment {
    /// An environment without streams.
    pub fn new() -> Self {
        Self::default()
    }

    /// An environment whose job reads these parameters.
    pub fn with_parameters(parameters: BTreeMap<String, String>) -> Self {
        Self {
            parameters,
            ..Self::default()
        }
    }

    /// A parameter of the job: given with `--param name=value`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        if !self.asked.borrow().contains(name) {
            self.asked.borrow_mut().insert(name.to_owned());
        }
        self.parameters.get(name).map(String::as_str)
    }

    /// A parameter of the job as a value of the type of `default`, which stands for one that is not given.
    ///
    /// ```
    /// # use highwater_api::{ParameterError, StreamEnvironment};
    /// # fn job(env: &mut StreamEnvironment) -> Result<(), ParameterError> {
    /// let hot = env.parameter_or("hot", 90)?;
    /// # assert_eq!(hot, 90);
    /// # Ok(())
    /// # }
    /// # job(&mut StreamEnvironment::new()).unwrap();
    /// ```
    ///
    /// # Errors
    /// When a value is given that does not parse. A job that hands this error on ends as a usage error, before anything
    /// has started.
    pub fn parameter_or<T>(&self, name: &str, default: T) -> Result<T, ParameterError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        match self.parameter(name) {
            None => Ok(default),
            Some(value) => parameter::parse(name, value),
        }
    }

    /// The parameters that were given and that the job did not ask for: misspelt ones, as a rule.
    pub fn unread_parameters(&self) -> Vec<&str> {
        let asked = self.asked.borrow();
        let given = self.parameters.keys();
        given
            .filter(|name| !asked.contains(*name))
            .map(String::as_str)
            .collect()
    }

    /// The names that the job asked for, given or not, in alphabetical order.
    pub fn asked_parameters(&self) -> Vec<String> {
        self.asked.borrow().iter().cloned().collect()
    }

    /// The parallelism of operators that set none; overrides the setting of the job.
    pub fn set_parallelism(&mut self, parallelism: u32) {
        self.parallelism = Some(Parallelism(parallelism));
    }

    /// The number of key groups of operators that set none; fixed once state exists.
    pub fn set_max_parallelism(&mut self, groups: u32) {
        match MaxParallelism::try_new(groups) {
            Ok(groups) => self.max_parallelism = Some(groups),
            Err(error) => {
                let (node, reason) = ("the job".to_owned(), error.to_string());
                let fault = highwater_graph::PlanError::Setting { node, reason };
                self.draft.borrow_mut().faults.push(fault);
            }
        }
    }

    /// Begins a stream. The uid names the positions of the source in every checkpoint.
    pub fn source<S: Source>(&mut self, uid: &str, source: S) -> SourceStream<S::Record> {
        let about = source.facts();
        let note = SourceNote {
            reads: format!("{} {}", about.connector, about.object),
            boundedness: about.boundedness,
            watermarks: None,
            refused: describe(&source.bad_input()),
            bound_ms: None,
        };
        let code = Arc::new(TypedSource::new(source));
        let settings = code.settings();
        let mut facts = NodeFacts::stateless("source");
        facts.uid = Some(uid.to_owned());
        let id = {
            let mut draft = self.draft.borrow_mut();
            let id =
                draft.add_node::<S::Record>(facts, NodeKind::Source(note), NodeCode::Source(code));
            draft.add_side::<highwater_connectors::DeadLetter>(
                id,
                highwater_operators::DEAD_LETTERS,
            );
            id
        };
        let origin = Origin {
            node: id,
            output: highwater_graph::OutputName::Main,
        };
        SourceStream::new(SharedDraft::clone(&self.draft), origin, settings)
    }

    /// Checks the job and makes it runnable. What the environment itself set goes before `defaults`.
    ///
    /// # Errors
    /// Every mistake that was found, in the author's words.
    pub fn compile(self, defaults: PlanDefaults) -> Result<JobProgram, PlanErrors> {
        let defaults = PlanDefaults {
            parallelism: self.parallelism.unwrap_or(defaults.parallelism),
            max_parallelism: self.max_parallelism.unwrap_or(defaults.max_parallelism),
            ..defaults
        };
        let mut draft = std::mem::take(&mut *self.draft.borrow_mut());
        draft.fault_unread_dead_letters();
        let mut faults = std::mem::take(&mut draft.faults);
        let plan = match settled(draft.graph.clone(), defaults) {
            Ok(plan) if faults.is_empty() => plan,
            Ok(_) => return Err(PlanErrors(faults)),
            Err(PlanErrors(found)) => {
                faults.extend(found.into_iter().filter(|fault| !draft.repeats(fault)));
                return Err(PlanErrors(faults));
            }
        };
        Ok(JobProgram::new(plan, Arc::new(draft)))
    }
}

/// What a source does with records that it refuses, for the plan.
fn describe(rules: &BadInput) -> String {
    let policy = match rules.policy {
        BadRecords::Fail => "bad records fail",
        BadRecords::DeadLetter => "bad records to dead letters",
        BadRecords::Drop => "bad records dropped",
    };
    match rules.future_limit_ms {
        None => policy.to_owned(),
        Some(limit) => format!("{policy}, also those {limit} ms ahead of the clock"),
    }
}

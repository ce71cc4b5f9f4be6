// SPDX-License-Identifier: GPL-2.0-only
//! Parameters: declared in BPF with `PARAM_U64`, found by BTF, given as `--param name=value`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A parameter as the policy declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamSpec {
    /// Name of the variable.
    pub name: String,
    /// C type of the variable.
    pub ctype: String,
    /// Value if none is given.
    pub default: u64,
    /// Smallest legal value.
    pub min: u64,
    /// Largest legal value.
    pub max: u64,
    /// Unit of the value, may be empty.
    pub unit: String,
    /// One line.
    pub description: String,
}

/// A parameter's value in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamValue {
    /// Name of the parameter.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// What can be wrong with `--param`.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParamError {
    /// Not of the form `name=value`.
    #[error("--param {0:?} is not of the form name=value")]
    NotAnAssignment(String),
    /// The policy has no parameter of that name.
    #[error("policy {policy} has no parameter {name:?}; it has {known}")]
    Unknown {
        /// The policy asked.
        policy: String,
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The value is not a number.
    #[error("{name}={value}: {value:?} is not a whole number")]
    NotANumber {
        /// Name of the parameter.
        name: String,
        /// The value given.
        value: String,
    },
    /// The value is outside the declared range.
    #[error("{name}={value} is out of range: {min} to {max} {unit}")]
    OutOfRange {
        /// Name of the parameter.
        name: String,
        /// The value given.
        value: u64,
        /// Smallest legal value.
        min: u64,
        /// Largest legal value.
        max: u64,
        /// Unit of the parameter.
        unit: String,
    },
}

/// Reads the text of a `param:` declaration tag: `MIN:MAX:UNIT:DESCRIPTION`.
pub(crate) fn parse_tag(tag: &str) -> Option<(u64, u64, &str, &str)> {
    let mut parts = tag.splitn(4, ':');
    let min = parts.next()?.parse().ok()?;
    let max = parts.next()?.parse().ok()?;
    Some((min, max, parts.next()?, parts.next()?))
}

/// The value of every parameter of a policy: the defaults, overridden by `assignments` (`name=value`, the last
/// one of a name wins).
pub fn resolve(
    policy: &str,
    specs: &[ParamSpec],
    assignments: &[String],
) -> Result<Vec<ParamValue>, ParamError> {
    let mut values: Vec<_> =
        specs.iter().map(|spec| ParamValue { name: spec.name.clone(), value: spec.default }).collect();
    for assignment in assignments {
        let (name, text) =
            assignment.split_once('=').ok_or_else(|| ParamError::NotAnAssignment(assignment.clone()))?;
        let index =
            specs.iter().position(|spec| spec.name == name).ok_or_else(|| unknown(policy, specs, name))?;
        values[index].value = parse_value(&specs[index], text)?;
    }
    Ok(values)
}

fn unknown(policy: &str, specs: &[ParamSpec], name: &str) -> ParamError {
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let known = if names.is_empty() { "none".into() } else { names.join(", ") };
    ParamError::Unknown { policy: policy.into(), name: name.into(), known }
}

fn parse_value(spec: &ParamSpec, text: &str) -> Result<u64, ParamError> {
    let value = match text {
        "true" | "yes" | "on" if spec.max == 1 => 1,
        "false" | "no" | "off" if spec.max == 1 => 0,
        _ => text
            .replace('_', "")
            .parse()
            .map_err(|_| ParamError::NotANumber { name: spec.name.clone(), value: text.into() })?,
    };
    if value < spec.min || value > spec.max {
        return Err(ParamError::OutOfRange {
            name: spec.name.clone(),
            value,
            min: spec.min,
            max: spec.max,
            unit: spec.unit.clone(),
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<ParamSpec> {
        let spec = |name: &str, default, min, max| ParamSpec {
            name: name.into(),
            ctype: "u64".into(),
            default,
            min,
            max,
            unit: "us".into(),
            description: String::new(),
        };
        vec![spec("slice_us", 20_000, 100, 1_000_000), spec("steal", 1, 0, 1)]
    }

    fn with(assignments: &[&str]) -> Result<Vec<u64>, ParamError> {
        let assignments: Vec<_> = assignments.iter().map(|a| (*a).to_owned()).collect();
        Ok(resolve("p", &specs(), &assignments)?.into_iter().map(|v| v.value).collect())
    }

    #[test]
    fn defaults_and_overrides() {
        assert_eq!(with(&[]), Ok(vec![20_000, 1]));
        assert_eq!(with(&["slice_us=5_000", "steal=off"]), Ok(vec![5_000, 0]));
        assert_eq!(with(&["slice_us=100", "slice_us=200"]), Ok(vec![200, 1]), "the last one wins");
    }

    #[test]
    fn each_mistake_has_its_own_message() {
        let message = |a: &str| with(&[a]).unwrap_err().to_string();
        assert!(message("slice_us").contains("name=value"));
        assert!(message("slice=1").contains("it has slice_us, steal"));
        assert!(message("slice_us=fast").contains("not a whole number"));
        assert!(message("slice_us=-1").contains("not a whole number"));
        assert!(message("slice_us=99").contains("100 to 1000000 us"));
        assert!(message("steal=2").contains("0 to 1"));
    }

    #[test]
    fn tags() {
        assert_eq!(parse_tag("1:9:us:time: a description"), Some((1, 9, "us", "time: a description")));
        assert_eq!(parse_tag("1:x:us:d"), None);
        assert_eq!(parse_tag("1:2"), None);
    }
}

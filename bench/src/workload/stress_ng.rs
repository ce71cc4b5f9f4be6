// SPDX-License-Identifier: GPL-2.0-only
//! stress-ng with one of its stressors, an instance a CPU: bogo operations a second.

use std::fs;

use anyhow::{Context as _, Result};
use saphyr::{LoadableYamlNode as _, Yaml};

use super::results::Results;
use super::{Context, Workload, command, value};
use crate::model::{Better, Measured, WorkloadSpec};

/// A stressor by its name.
pub struct StressNg(pub &'static str);

impl StressNg {
    /// `seconds` are whole: stress-ng takes no others.
    fn args(&self, instances: &str, seconds: &str, seed: &str, results: &str) -> Vec<String> {
        let stressor = format!("--{}", self.0);
        command::args(&[
            &stressor,
            instances,
            "--timeout",
            seconds,
            "--metrics-brief",
            "--yaml",
            results,
            "--seed",
            seed,
            "--temp-path",
            ".",
        ])
    }
}

impl Workload for StressNg {
    fn spec(&self) -> WorkloadSpec {
        let args = self.args("CPUS", "SECONDS", "SEED", "FILE");
        WorkloadSpec {
            name: format!("stress-ng-{}", self.0),
            family: "stress-ng".into(),
            description: format!(
                "stress-ng's {} stressor, an instance a CPU (at least 1 s, whole seconds)",
                self.0
            ),
            command: Some(format!("stress-ng {}", args.join(" "))),
            metrics: vec![value("ops", "ops/s", Better::Higher)],
        }
    }

    fn missing(&self) -> Option<String> {
        command::missing("stress-ng", "stress-ng")
    }

    fn programs(&self) -> &'static [&'static str] {
        &["stress-ng"]
    }

    fn run(&self, context: &mut Context<'_>) -> Result<Measured> {
        let file = context.scratch.join("stress-ng.yaml");
        let seconds = context.whole_seconds();
        let args = self.args(
            &context.cpus.to_string(),
            &seconds.as_secs().to_string(),
            &context.seed.to_string(),
            &file.to_string_lossy(),
        );
        context.measure_while(|context| command::run(context, seconds, "stress-ng", &args))?;
        let text = fs::read_to_string(&file).context("stress-ng has written no results")?;
        let ops = ops_per_second(&text, self.0)
            .with_context(|| format!("stress-ng's results have no operations of {}", self.0))?;
        Ok(Results::default().value("ops", ops)?.measured())
    }
}

/// Operations a second of real time, if there were any.
fn ops_per_second(yaml: &str, stressor: &str) -> Option<f64> {
    let documents = Yaml::load_from_str(yaml).ok()?;
    let metrics = documents.first()?.as_mapping_get("metrics")?.as_sequence()?;
    let ours =
        metrics.iter().find(|m| m.as_mapping_get("stressor").and_then(Yaml::as_str) == Some(stressor))?;
    let ops = ours.as_mapping_get("bogo-ops-per-second-real-time")?;
    ops.as_floating_point().or_else(|| ops.as_integer().map(|n| n as f64)).filter(|ops| *ops > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // As written by stress-ng 0.15.06, shortened.
    const RESULTS: &str = "---
system-info:
      stress-ng-version: 0.15.06
      date-yyyy-mm-dd: 2026:11:21
      time-hh-mm-ss: 15:44:56
      version: '#1 SMP PREEMPT_DYNAMIC @0'
      cpus: 2

metrics:
    - stressor: switch
      bogo-ops: 92680
      bogo-ops-per-second-usr-sys-time: 130841.860360
      bogo-ops-per-second-real-time: 92616.173666
      wall-clock-time: 1.000689
      nanosecs-per-context-switch-pipe-method: 21404.627301

...
";

    #[test]
    fn reads_the_operations() {
        assert_eq!(ops_per_second(RESULTS, "switch"), Some(92_616.173_666));
        assert_eq!(ops_per_second(RESULTS, "fork"), None);
    }

    #[test]
    fn no_operations_are_no_result() {
        assert_eq!(ops_per_second(&RESULTS.replace("92616.173666", "0.000000"), "switch"), None);
        assert_eq!(ops_per_second("", "switch"), None);
        assert_eq!(ops_per_second("metrics: [", "switch"), None);
    }
}

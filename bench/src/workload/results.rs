// SPDX-License-Identifier: GPL-2.0-only
//! Collects what a run has measured. What has no samples is an error: a 0 would look like a measurement.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use framework::latency::Histogram;

use crate::model::{Distribution, Measured};

/// Metrics of a run, put together.
#[derive(Default)]
pub struct Results(Measured);

impl Results {
    /// Adds a metric with [`Source::Value`](crate::model::Source::Value).
    pub fn value(mut self, name: &str, value: f64) -> Result<Self> {
        ensure!(value.is_finite(), "{name} came out as {value}");
        self.0.values.insert(name.to_owned(), value);
        Ok(self)
    }

    /// Adds `amount` a second of `duration`.
    pub fn rate(self, name: &str, amount: f64, duration: Duration) -> Result<Self> {
        if amount <= 0.0 {
            bail!(
                "{name}: nothing was done while it was measured; the load starved, or measure longer (--seconds)"
            );
        }
        self.value(name, amount / duration.as_secs_f64())
    }

    /// Adds a histogram.
    pub fn histogram(mut self, name: &str, histogram: &Histogram) -> Result<Self> {
        if histogram.count() == 0 {
            bail!(
                "{name}: no sample ended while it was measured; the load starved, or measure longer (--seconds)"
            );
        }
        self.0.histograms.insert(name.to_owned(), Distribution::from(histogram));
        Ok(self)
    }

    /// All of it.
    pub fn measured(self) -> Measured {
        self.0
    }
}

/// All samples of several histograms.
pub fn merged<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Histogram {
    let mut all = Histogram::default();
    histograms.into_iter().for_each(|one| all.merge(one));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(Results::default().histogram("wakeup", &Histogram::default()).is_err());
        assert!(Results::default().rate("ops", 0.0, Duration::from_secs(1)).is_err());
        assert!(Results::default().value("time", f64::NAN).is_err());
    }

    #[test]
    fn rates_are_a_second() {
        let measured = Results::default().rate("ops", 30.0, Duration::from_secs(2)).unwrap().measured();
        assert_eq!(measured.values["ops"], 15.0);
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Hints as text, the same on the command line, in the environment and on the socket.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::{Class, Hint};

/// What a hint may say, and how.
pub const HOW: &str = "deadline=5ms, slice=1ms, class=latency|normal|batch";
/// Shorter ones than this no policy can keep, ns.
const SHORTEST: u64 = 100_000;
const DEADLINES: RangeInclusive<u64> = SHORTEST..=3_600_000_000_000;
const SLICES: RangeInclusive<u64> = SHORTEST..=1_000_000_000;

/// Why a text is no hint, or no duration: one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

macro_rules! bail {
    ($($what:tt)*) => { return Err(ParseError(format!($($what)*))) };
}

/// Words with white space between them, such as `class=latency deadline=5ms`.
impl FromStr for Hint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Hint::parse(text.split_whitespace())
    }
}

impl Hint {
    /// Reads `key=value` words, of which there has to be one at least.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseError> {
        let (mut deadline, mut slice, mut class) = (None, None, None);
        let mut said = false;
        for word in words {
            let Some((key, value)) = word.split_once('=') else { bail!("{word:?} is no hint: use {HOW}") };
            let twice = match key {
                "deadline" => deadline.replace(time(key, value, &DEADLINES)?).is_some(),
                "slice" => slice.replace(time(key, value, &SLICES)?).is_some(),
                "class" => class.replace(class_of(value)?).is_some(),
                _ => bail!("there is no hint {key:?}: use {HOW}"),
            };
            if twice {
                bail!("{key} is given twice");
            }
            said = true;
        }
        if !said {
            bail!("nothing is said: use {HOW}");
        }
        Ok(Hint { deadline_ns: deadline, slice_ns: slice, class: class.unwrap_or_default() })
    }
}

fn time(key: &str, value: &str, range: &RangeInclusive<u64>) -> Result<u64, ParseError> {
    let duration = duration(value).map_err(|ParseError(why)| ParseError(format!("{key}: {why}")))?;
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if !range.contains(&ns) {
        let [least, most] = [*range.start(), *range.end()].map(text);
        bail!("{key}={value} is out of range: {least} to {most}");
    }
    Ok(ns)
}

/// A bound as one would write it.
fn text(ns: u64) -> String {
    match ns / 1_000_000_000 {
        0 => format!("{}us", ns / 1000),
        3600 => "1h".into(),
        s => format!("{s}s"),
    }
}

fn class_of(value: &str) -> Result<Class, ParseError> {
    Ok(match value {
        "latency" => Class::Latency,
        "normal" => Class::Normal,
        "batch" => Class::Batch,
        _ => bail!("there is no class {value:?}: use latency, normal or batch"),
    })
}

/// Reads a duration: a number and a unit (ns, us, ms, s, m, h), seconds without one.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let Ok(number) = number.parse::<f64>() else {
        bail!("{text:?} is no duration, such as 30s or 500ms");
    };
    let seconds = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => bail!("unknown unit {unit:?}: use ns, us, ms, s, m or h"),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| ParseError(format!("{text:?} is too long")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("1.5").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("250us").unwrap(), Duration::from_micros(250));
        for bad in ["", "s", "3 days", "1w", "-1s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hints_are_read() {
        let hint: Hint = " class=latency\tdeadline=5ms slice=100us\n".parse().unwrap();
        let expected = Hint { deadline_ns: Some(5_000_000), slice_ns: Some(100_000), class: Class::Latency };
        assert_eq!(hint, expected);
        assert_eq!("deadline=1h".parse::<Hint>().unwrap().deadline_ns, Some(3_600_000_000_000));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for deadline_ns in [None, Some(100_000), Some(123_456_789), Some(3_600_000_000_000)] {
            let hint = Hint { deadline_ns, slice_ns: Some(999_999_999), class: Class::Batch };
            assert_eq!(hint.to_string().parse(), Ok(hint));
        }
        assert_eq!(Hint::default().to_string().parse(), Ok(Hint::default()));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("", "nothing is said: use deadline=5ms"),
            ("deadline", "is no hint: use deadline=5ms"),
            ("deadlin=5ms", "there is no hint \"deadlin\""),
            ("deadline=soon", "deadline: \"soon\" is no duration"),
            ("slice=5weeks", "slice: unknown unit \"weeks\""),
            ("slice=0", "slice=0 is out of range: 100us to 1s"),
            ("deadline=2h", "deadline=2h is out of range: 100us to 1h"),
            ("class=rt", "use latency, normal or batch"),
            ("slice=1ms slice=2ms", "slice is given twice"),
        ] {
            let error = text.parse::<Hint>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}

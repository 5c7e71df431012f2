//! What people type: sizes, times, pairs, addresses, words. Each errs in words that say what would be right.
//! In: text of the command line. Out: values; clap shows the error and ends with code 2.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::v1;
use serde::{Deserialize, Serialize};

use crate::trouble::Trouble;

/// Lease profile: how soon the loss of a node is acted upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Decides at most 2.0 s after power loss; needs a calm network
    Fast,
    /// Decides at most 3.7 s after power loss
    #[default]
    Default,
    /// Decides at most 16 s after power loss
    Relaxed,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Fast => "fast",
            Profile::Default => "default",
            Profile::Relaxed => "relaxed",
        }
    }

    pub fn message(self) -> v1::LeaseProfile {
        match self {
            Profile::Fast => v1::LeaseProfile::Fast,
            Profile::Default => v1::LeaseProfile::Default,
            Profile::Relaxed => v1::LeaseProfile::Relaxed,
        }
    }
}

/// Whether a node is used first or last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Takes containers
    Active,
    /// Takes containers only when no active node fits
    Standby,
}

impl Role {
    pub fn message(self) -> v1::NodeRole {
        match self {
            Role::Active => v1::NodeRole::Active,
            Role::Standby => v1::NodeRole::Standby,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Bytes of `512MiB`, `1.5GiB`, `2GB`, or of a plain number.
pub fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("B", 1),
    ];
    let found = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)));
    let (number, size) = found.unwrap_or((text, 1));
    if number.ends_with(|last: char| last.is_ascii_alphabetic()) {
        return Err("the unit is not known; say KiB, MiB, GiB or TiB, or kB, MB, GB, TB".to_owned());
    }
    scaled(number.trim_end(), size).ok_or_else(|| "is no size; say it as 512MiB or 1.5GiB".to_owned())
}

/// Thousandths of a core of `500m`, `2` or `1.5`.
pub fn cpu_millis(text: &str) -> Result<u64, String> {
    let (number, size) = text.strip_suffix('m').map_or((text, 1_000), |millis| (millis, 1));
    scaled(number, size).ok_or_else(|| "is no share of cores; say it as 500m, 2 or 1.5".to_owned())
}

/// A time of `500ms`, `30s`, `5m`, `1h`, or of a plain number of seconds.
pub fn span(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let found = UNITS.iter().find_map(|(unit, millis)| Some((text.strip_suffix(unit)?, *millis)));
    let (number, size) = found.unwrap_or((text, 1_000));
    let millis = scaled(number, size).filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| "is no time; say it as 500ms, 30s, 5m or 1h".to_owned())
}

/// Milliseconds of a time as [`span`] reads it.
pub fn millis(text: &str) -> Result<u64, String> {
    u64::try_from(span(text)?.as_millis()).map_err(|_| "is too long".to_owned())
}

/// `size` times a decimal number without sign, exactly; `None` if that is no whole number.
fn scaled(number: &str, size: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|it| it.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 9 || number.ends_with('.') {
        return None;
    }
    let unit = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let value = format!("{whole}{part}").parse::<u128>().ok()?.checked_mul(size.into())?;
    value.is_multiple_of(unit).then(|| u64::try_from(value / unit).ok()).flatten()
}

/// Key and value of `K=V`; the value may hold further `=`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("is no pair; say it as KEY=VALUE".to_owned()),
    }
}

/// Refuses a key that is given twice. `flag` is named in the error.
pub fn pairs(flag: &str, given: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Trouble> {
    let mut all = BTreeMap::new();
    for (key, value) in given {
        if all.insert(key.clone(), value).is_some() {
            return Err(Trouble::usage(format!("{flag} gives {key:?} twice; which one holds?")));
        }
    }
    Ok(all)
}

/// `host:port`.
pub fn address(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("is no address; say it as host:port")?;
    let plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | '_' | ':' | '[' | ']' | '%');
    if host.is_empty() || !host.chars().all(plain) {
        return Err("has no usable host; say it as host:port".to_owned());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(text.to_owned()),
        _ => Err("has no port from 1 to 65535".to_owned()),
    }
}

/// `always`, `on-failure` or `never`, then perhaps `:MAX` and `/PERIOD`: `on-failure:5/10m`.
pub fn restart(text: &str) -> Result<v1::RestartPolicy, String> {
    let (condition, limits) = text.split_once(':').map_or((text, None), |(condition, rest)| (condition, Some(rest)));
    let condition = match condition {
        "always" => v1::RestartCondition::Always,
        "on-failure" => v1::RestartCondition::OnFailure,
        "never" => v1::RestartCondition::Never,
        _ => return Err("say always, on-failure or never, then perhaps :MAX/PERIOD as in on-failure:5/10m".to_owned()),
    };
    let mut policy = v1::RestartPolicy { condition: condition as i32, ..v1::RestartPolicy::default() };
    if let Some(limits) = limits {
        let (max, period) = limits.split_once('/').map_or((limits, None), |(max, period)| (max, Some(period)));
        policy.max = Some(max.parse().map_err(|_| format!("{max:?} is no number of restarts"))?);
        policy.period_ms = period.map(millis).transpose().map_err(|error| format!("the period {error}"))?;
    }
    Ok(policy)
}

/// One tier of owners: `node-1,node-2`.
pub fn tier(text: &str) -> Result<v1::OwnerTier, String> {
    let nodes: Vec<String> = text.split(',').map(str::to_owned).collect();
    if nodes.iter().any(String::is_empty) {
        return Err("names no node; say the nodes of a tier as node-1,node-2".to_owned());
    }
    Ok(v1::OwnerTier { nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_exactly_or_refused() {
        for (text, expected) in [
            ("512MiB", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("2GB", 2_000_000_000),
            ("4096", 4_096),
            ("4096B", 4_096),
            ("0.5KiB", 512),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "+1", "1G", "MiB", "1.", ".5MiB", "0.3B", "1e9", "99999999999TiB", "1 2MiB", "１MiB"] {
            assert!(bytes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn shares_of_cores_and_times_are_read_exactly_or_refused() {
        assert_eq!((cpu_millis("500m"), cpu_millis("2"), cpu_millis("1.5")), (Ok(500), Ok(2_000), Ok(1_500)));
        for text in ["", "m", "-1", "0.0001", "1.5m", "two"] {
            assert!(cpu_millis(text).is_err(), "{text:?}");
        }
        let seconds = Duration::from_secs;
        assert_eq!((span("30"), span("30s"), span("1.5m")), (Ok(seconds(30)), Ok(seconds(30)), Ok(seconds(90))));
        assert_eq!((span("250ms"), span("2h")), (Ok(Duration::from_millis(250)), Ok(seconds(7_200))));
        for text in ["", "0", "0s", "-1s", "1d", "s"] {
            assert!(span(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn pairs_need_a_key_and_a_key_is_given_once() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("A="), Ok(("A".to_owned(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err() && pair("").is_err());
        let twice = ["A=1", "A=2"].iter().filter_map(|it| pair(it).ok()).collect();
        assert!(pairs("--env", twice).expect_err("twice").to_string().contains("--env gives \"A\" twice"));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for text in ["127.0.0.1:7440", "[::1]:7440", "member-1.example:1"] {
            assert!(address(text).is_ok(), "{text}");
        }
        for text in ["", "host", "host:", ":1", "host:0", "host:65536", "ho st:1", "http://host:1", "host:1/path"] {
            assert!(address(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn restart_policies_are_read_with_their_limits() {
        let policy = restart("on-failure:5/10m").expect("a policy");
        assert_eq!((policy.condition(), policy.max), (v1::RestartCondition::OnFailure, Some(5)));
        assert_eq!(policy.period_ms, Some(600_000));
        assert_eq!(restart("never").expect("a policy").max, None);
        for text in ["", "sometimes", "always:", "always:x", "always:3/", "always:3/0"] {
            assert!(restart(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_tier_names_nodes() {
        assert_eq!(tier("a,b").expect("a tier").nodes, ["a", "b"]);
        assert!(tier("a,").is_err() && tier("").is_err());
    }
}

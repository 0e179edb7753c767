//! Durations (`100ms`, `1m30s`), sizes (`1GiB`, `64m`) and addresses with a prefix (`192.168.0.7/29`).

use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// Reads a duration with units, as Compose and Heartbeat write them. A bare number is refused: nobody knows
/// whether 500 is milliseconds or seconds.
///
/// # Errors
/// What to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!("'{text}' is not a duration; write a number with a unit (ms, s, m, h), e.g. 500ms or 1m30s")
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let unit_length = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_length);
        let seconds = match unit.trim() {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        // Floating point leaves fractions of a nanosecond; nothing here is finer than a microsecond.
        let part = Duration::from_micros(u64::try_from((part.as_nanos() + 500) / 1000).map_err(|_| bad())?);
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = tail.trim_start();
    }
    Ok(total)
}

/// The duration in the form that [`parse_duration`] reads.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Reads a size in bytes. `KiB`, `MiB`, `GiB`, `TiB` and, as in Compose, `k`, `m`, `g`, `t` (also with `b`) are
/// powers of 1024; a bare number is bytes.
///
/// # Errors
/// What to write instead.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size; write a number with KiB, MiB, GiB or TiB, e.g. 1GiB");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(1 << shift).ok_or_else(bad);
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let bytes = number * f64::from(1_u32 << (shift / 2)) * f64::from(1_u32 << (shift / 2));
    // 2^53 is where a floating point number stops being exact.
    if bytes.is_finite() && bytes < 9e15 && bytes.fract() == 0.0 { Ok(bytes as u64) } else { Err(bad()) }
}

/// The size in the largest unit that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// An address that follows a group, with the prefix length of its network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// The interface it belongs on; none = the one whose network the node's own address is in.
    pub interface: Option<String>,
    /// The host may choose it as a source of its own connections; none = IPv4 yes, IPv6 no.
    pub preferred: Option<bool>,
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("'{text}' is not an address with a prefix length, e.g. 192.168.0.7/29 or 2001:db8::7/64")
        };
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.trim().parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.trim().parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > most {
            return Err(format!("the prefix length of '{text}' must be between 1 and {most}"));
        }
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(format!(
                "'{text}' cannot follow a group: it is not a unicast address that clients could reach"
            ));
        }
        if let IpAddr::V6(v6) = address
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(format!("'{text}' is an IPv4 address in IPv6 clothes; write the IPv4 address"));
        }
        Ok(Self { address, prefix, interface: None, preferred: None })
    }
}

impl Cidr {
    /// Whether the host may choose it as a source of its own connections.
    #[must_use]
    pub fn is_preferred(&self) -> bool {
        self.preferred.unwrap_or(self.address.is_ipv4())
    }

    /// True if `other` is in this address's network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.prefix);
                a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.prefix);
                a.to_bits().checked_shr(shift) == b.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

//! Sets of IP addresses: sorted ranges that neither overlap nor touch, so that equal sets are equal values.
//!
//! Owns union, difference and membership. A range is of one family; written `10.0.0.7` or `10.0.0.0-10.0.0.255`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses of one family from `first` to `last`, both among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// What is not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address and no range of addresses")]
pub struct NotARange(String);

impl AddressRange {
    /// `None` when the ends are of two families, or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.first <= address && address <= self.last
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        Self {
            first: address,
            last: address,
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for AddressRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ends = first.parse().ok().zip(last.parse().ok());
        ends.and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| NotARange(text.to_owned()))
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A set of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<AddressRange>", into = "Vec<AddressRange>")]
pub struct Addresses(Vec<AddressRange>);

impl Addresses {
    /// All there are, of both families.
    pub fn everything() -> Self {
        let v4 = (IpAddr::from([0; 4]), IpAddr::from([255; 4]));
        let v6 = (IpAddr::from([0; 16]), IpAddr::from([255; 16]));
        [v4, v6]
            .into_iter()
            .map(|(first, last)| AddressRange { first, last })
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ranges(&self) -> &[AddressRange] {
        &self.0
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|range| range.first <= address);
        after > 0 && self.0[after - 1].contains(address)
    }

    /// The addresses of this set that are not in the other.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for range in &self.0 {
            let mut rest = Some(*range);
            for taken in &other.0 {
                let Some(now) = rest.filter(|now| taken.first <= now.last) else {
                    break;
                };
                if taken.last < now.first {
                    continue;
                }
                let before = previous(taken.first).filter(|_| now.first < taken.first);
                left.extend(before.and_then(|last| AddressRange::new(now.first, last)));
                rest = next(taken.last).and_then(|first| AddressRange::new(first, now.last));
            }
            left.extend(rest);
        }
        Self(left)
    }
}

impl From<Vec<AddressRange>> for Addresses {
    fn from(mut ranges: Vec<AddressRange>) -> Self {
        ranges.sort_unstable();
        let mut set: Vec<AddressRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match set.last_mut() {
                Some(last) if range.first <= last.last || next(last.last) == Some(range.first) => {
                    last.last = last.last.max(range.last);
                }
                _ => set.push(range),
            }
        }
        set.shrink_to_fit();
        Self(set)
    }
}

impl From<Addresses> for Vec<AddressRange> {
    fn from(set: Addresses) -> Self {
        set.0
    }
}

impl FromIterator<AddressRange> for Addresses {
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> Self {
        ranges.into_iter().collect::<Vec<_>>().into()
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(AddressRange::from).collect()
    }
}

/// The address after this one, in its family.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(Ipv4Addr::from(u32::from(v4).checked_add(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from(u128::from(v6).checked_add(1)?).into()),
    }
}

/// The address before this one, in its family.
fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(Ipv4Addr::from(u32::from(v4).checked_sub(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from(u128::from(v6).checked_sub(1)?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> Addresses {
        text.split_whitespace()
            .map(|range| range.parse::<AddressRange>().unwrap())
            .collect()
    }

    #[test]
    fn ranges_merge() {
        for (given, expected) in [
            ("10.0.0.2 10.0.0.1 10.0.0.4", "10.0.0.1-10.0.0.2 10.0.0.4"),
            ("10.0.0.0-10.0.0.9 10.0.0.3-10.0.0.5", "10.0.0.0-10.0.0.9"),
            ("255.255.255.255 ::", "255.255.255.255 ::"),
            ("fd00::1 fd00::2", "fd00::1-fd00::2"),
            ("", ""),
        ] {
            let shown: Vec<String> = set(given).ranges().iter().map(AddressRange::to_string).collect();
            assert_eq!(shown.join(" "), expected);
        }
    }

    #[test]
    fn differences() {
        let all = "0.0.0.0-255.255.255.255 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for (whole, part, rest) in [
            (
                "10.0.0.0-10.0.0.9",
                "10.0.0.3-10.0.0.4 10.0.0.9",
                "10.0.0.0-10.0.0.2 10.0.0.5-10.0.0.8",
            ),
            ("10.0.0.0-10.0.0.9", "10.0.0.0-10.0.0.20", ""),
            ("10.0.0.1 10.0.0.5", "10.0.0.2-10.0.0.4", "10.0.0.1 10.0.0.5"),
            (all, all, ""),
            (
                all,
                "0.0.0.0-255.255.255.255",
                "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
        ] {
            assert_eq!(set(whole).minus(&set(part)), set(rest), "{whole} without {part}");
        }
        assert_eq!(Addresses::everything(), set(all));
    }

    #[test]
    fn what_is_no_range() {
        for bad in ["", "x", "10.0.0.2-10.0.0.1", "10.0.0.1-::1", "10.0.0.0/8"] {
            assert_eq!(bad.parse::<AddressRange>(), Err(NotARange(bad.into())));
        }
        let text = serde_json::to_string(&set("10.0.0.1-10.0.0.2 ::1")).unwrap();
        assert_eq!(text, r#"["10.0.0.1-10.0.0.2","::1"]"#);
        assert_eq!(
            serde_json::from_str::<Addresses>(&text).unwrap(),
            set("::1 10.0.0.1-10.0.0.2")
        );
    }

    fn some() -> impl Strategy<Value = Addresses> {
        let range = (0_u32..64, 0_u32..8).prop_map(|(first, more)| AddressRange {
            first: Ipv4Addr::from(first).into(),
            last: Ipv4Addr::from(first + more).into(),
        });
        proptest::collection::vec(range, 0..6).prop_map(|ranges| ranges.into_iter().collect())
    }

    proptest! {
        #[test]
        fn a_difference_has_what_only_the_first_has(one in some(), other in some()) {
            let rest = one.minus(&other);
            for n in 0_u32..80 {
                let address = Ipv4Addr::from(n).into();
                prop_assert_eq!(rest.contains(address), one.contains(address) && !other.contains(address));
            }
            prop_assert_eq!(rest.clone(), rest.ranges().iter().copied().collect::<Addresses>());
        }
    }
}

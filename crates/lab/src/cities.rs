//! Named cities and the round trips between them.
//!
//! Averages of the pings of both directions, rounded to 0.1 ms, derived from WonderNetwork's public measurements of 2018
//! (<https://wonderproxy.com/blog/a-day-in-the-life-of-the-internet/>). They are what networks did, not great circles.

use std::fmt;
use std::time::Duration;

/// Between two sites in one city.
pub const LOCAL_RTT: Duration = Duration::from_micros(500);
/// Between a town and the measured city that stands for its region: an assumption, not a measurement.
pub const REGIONAL_RTT: Duration = Duration::from_millis(4);

const MEASURED: [&str; 16] = [
    "Seoul",
    "Tokyo",
    "Osaka",
    "Singapore",
    "Sydney",
    "Bangalore",
    "Dubai",
    "Frankfurt",
    "Amsterdam",
    "Paris",
    "London",
    "Stockholm",
    "New York",
    "Chicago",
    "San Francisco",
    "Sao Paulo",
];

/// Towns without a measurement of their own, and the city that stands for them.
const TOWNS: [(&str, usize); 8] = [
    ("Busan", 0),
    ("Incheon", 0),
    ("Daejeon", 0),
    ("Yokohama", 1),
    ("Kyoto", 2),
    ("Mainz", 7),
    ("Utrecht", 8),
    ("Oakland", 14),
];

/// Tenths of a millisecond; row `i` holds the cities before `i`.
const RTT_TENTHS: [&[u32]; 16] = [
    &[],
    &[823],
    &[334, 82],
    &[1220, 741, 743],
    &[3029, 1153, 1223, 930],
    &[2451, 1152, 1070, 415, 1325],
    &[3962, 2465, 2681, 833, 1876, 505],
    &[2790, 2630, 2470, 1650, 3032, 1452, 1339],
    &[3023, 2450, 2674, 1753, 3041, 1651, 1274, 117],
    &[2938, 2296, 2468, 2509, 3171, 1553, 1513, 133, 200],
    &[2836, 2171, 2475, 1763, 2625, 2566, 2697, 148, 84, 115],
    &[2999, 2828, 2479, 1950, 2840, 2783, 1866, 201, 215, 375, 261],
    &[2229, 2152, 1852, 2441, 2328, 2103, 1977, 969, 849, 791, 711, 914],
    &[2002, 1590, 1588, 2272, 2402, 2398, 2270, 1118, 1077, 995, 863, 1098, 227],
    &[1309, 1088, 1142, 1732, 1896, 2181, 2657, 1463, 1532, 1455, 1515, 1646, 736, 519],
    &[3036, 2697, 2838, 3600, 4025, 3303, 3246, 2159, 2194, 2136, 2004, 2275, 1383, 1514, 1718],
];

/// Latitude and longitude in degrees, in the order of [`City::all`]; for the map only.
const PLACES: [(f64, f64); 24] = [
    (37.6, 127.0),
    (35.7, 139.7),
    (34.7, 135.5),
    (1.4, 103.8),
    (-33.9, 151.2),
    (13.0, 77.6),
    (25.2, 55.3),
    (50.1, 8.7),
    (52.4, 4.9),
    (48.9, 2.4),
    (51.5, -0.1),
    (59.3, 18.1),
    (40.7, -74.0),
    (41.9, -87.6),
    (37.8, -122.4),
    (-23.6, -46.6),
    (35.2, 129.1),
    (37.5, 126.7),
    (36.4, 127.4),
    (35.4, 139.6),
    (35.0, 135.8),
    (50.0, 8.3),
    (52.1, 5.1),
    (37.8, -122.3),
];

/// A place that the table knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct City {
    name: &'static str,
    measured: usize,
}

impl City {
    /// Case does not matter; a blank may be written as '-'.
    pub fn named(name: &str) -> Option<City> {
        let wanted = name.replace('-', " ");
        Self::all().find(|c| c.name.eq_ignore_ascii_case(&wanted))
    }

    pub fn all() -> impl Iterator<Item = City> {
        let measured = MEASURED.iter().enumerate().map(|(measured, name)| City { name, measured });
        measured.chain(TOWNS.iter().map(|&(name, measured)| City { name, measured }))
    }

    /// Degrees north and east.
    pub fn coordinates(self) -> (f64, f64) {
        Self::all().position(|c| c == self).and_then(|i| PLACES.get(i).copied()).unwrap_or_default()
    }

    pub fn name(self) -> &'static str {
        self.name
    }

    /// Round trip between two cities; the same in both directions.
    pub fn rtt(self, other: City) -> Duration {
        if self == other {
            return LOCAL_RTT;
        }
        if self.measured == other.measured {
            return REGIONAL_RTT;
        }
        let (high, low) = (self.measured.max(other.measured), self.measured.min(other.measured));
        let tenths = RTT_TENTHS.get(high).and_then(|row| row.get(low)).copied().unwrap_or(0);
        Duration::from_micros(u64::from(tenths) * 100)
    }
}

impl fmt::Display for City {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
impl fmt::Debug for City {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_symmetric() {
        for (i, row) in RTT_TENTHS.iter().enumerate() {
            assert_eq!(row.len(), i, "{}", MEASURED[i]);
            assert!(row.iter().all(|&t| t > 0));
        }
        for a in City::all() {
            for b in City::all() {
                assert_eq!(a.rtt(b), b.rtt(a));
                assert!(a.rtt(b) >= LOCAL_RTT, "{a} {b}");
            }
        }
    }

    #[test]
    fn names_are_found_as_people_write_them() {
        let (seoul, new_york) = (City::named("seoul").unwrap(), City::named("new-york").unwrap());
        assert_eq!(seoul.rtt(new_york), Duration::from_micros(222_900));
        let busan = City::named("Busan").unwrap();
        assert_eq!(busan.rtt(seoul), REGIONAL_RTT);
        assert_eq!(busan.rtt(new_york), seoul.rtt(new_york));
        assert!(City::named("Atlantis").is_none());
    }
}

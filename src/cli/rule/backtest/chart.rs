//! Hits by the hour as text: a line for each day, a column for each hour.
//!
//! Invariant: an hour with hits is never shown as one without.

use std::collections::BTreeMap;

use time::OffsetDateTime;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// An hour without a hit.
const NONE: char = '·';
const HOURS: i64 = 24;
/// Days that are shown: those before are counted in one line.
const DAYS_MAX: usize = 31;

/// The chart of `hits` by hours since 1970, from the hour `first` to the hour `last`.
pub(super) fn chart(hits: &BTreeMap<i64, u64>, first: i64, last: i64) -> Vec<String> {
    let highest = hits.values().copied().max().unwrap_or(0);
    let days: Vec<i64> = (first.div_euclid(HOURS)..=last.div_euclid(HOURS)).collect();
    let (early, shown) = days.split_at(days.len().saturating_sub(DAYS_MAX));
    let mut lines = vec![format!("{:<12}00    06    12    18", "UTC")];
    if let Some(day) = early.last() {
        let before: u64 = hits.range(..(day + 1) * HOURS).map(|(_, hits)| hits).sum();
        lines.push(format!("{:<12}{:<24}  {before}", "before", ""));
    }
    for day in shown {
        let hours = day * HOURS..(day + 1) * HOURS;
        let bars: String = hours
            .clone()
            .map(|hour| match hits.get(&hour) {
                _ if !(first..=last).contains(&hour) => ' ',
                None | Some(0) => NONE,
                Some(hits) => bar(*hits, highest),
            })
            .collect();
        let sum: u64 = hits.range(hours).map(|(_, hits)| hits).sum();
        lines.push(format!("{:<12}{bars}  {sum}", date(*day)));
    }
    lines.push(format!("{:<12}{} is {highest} an hour", "", BARS[7]));
    lines
}

fn bar(hits: u64, highest: u64) -> char {
    let step = (hits * BARS.len() as u64).div_ceil(highest.max(1)).clamp(1, BARS.len() as u64);
    BARS[usize::try_from(step - 1).unwrap_or(0)]
}

fn date(day: i64) -> String {
    OffsetDateTime::from_unix_timestamp(day * HOURS * 3_600).map_or_else(|_| String::new(), |at| at.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_day_is_a_line_and_each_hour_a_bar() {
        // From 1970-01-01 22:00 to 1970-01-03 01:00.
        let hits = BTreeMap::from([(22, 1), (23, 8), (24, 1_000), (36, 499), (49, 125)]);
        let expected = [
            "UTC         00    06    12    18",
            "1970-01-01                        ▁▁  9",
            "1970-01-02  █···········▄···········  1499",
            "1970-01-03  ·▁                        125",
            "            █ is 1000 an hour",
        ];
        assert_eq!(chart(&hits, 22, 49), expected);
    }

    #[test]
    fn many_days_are_cut_at_their_beginning() {
        let hits: BTreeMap<i64, u64> = (0..40).map(|day| (day * 24, 1)).collect();
        let lines = chart(&hits, 0, 39 * 24);
        assert_eq!(lines.len(), 34);
        assert_eq!(lines[1], format!("{:<12}{:<24}  9", "before", ""));
        assert!(lines[2].starts_with("1970-01-10  █···"), "{}", lines[2]);
    }
}

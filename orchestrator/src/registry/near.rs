//! PURE: names that may have been meant.

/// The most that are offered.
const MOST: usize = 3;

/// The longest names that are compared letter by letter, characters: longer ones have more in them
/// than a slip of the finger.
const LONGEST: usize = 64;

/// Of `known`, those that somebody may have meant who wrote `wanted`, the most likely ones first: up
/// to two letters were wrong, missing, too many or in the wrong order, or a part of the name is left
/// out. Three at most.
pub(super) fn near<'n>(wanted: &str, known: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let letters = |name: &str| name.to_lowercase().chars().collect::<Vec<_>>();
    let typed = letters(wanted);
    let slips = (typed.len() / 3).min(2);
    let mut found: Vec<_> = known
        .filter_map(|name| {
            let other = letters(name);
            let slip = distance(&typed, &other, slips);
            let part = || is_part(&typed, &other).then_some(slips + 1);
            Some((slip.or_else(part)?, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// Whether one of these is in the other one.
fn is_part(one: &[char], other: &[char]) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    short.len() >= 3 && long.windows(short.len()).any(|window| window == short)
}

/// How many letters differ, if these are at most `most`: optimal string alignment, see
/// <https://en.wikipedia.org/wiki/Damerau%E2%80%93Levenshtein_distance>.
fn distance(one: &[char], other: &[char], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most || one.len().max(other.len()) > LONGEST {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = row[j] + usize::from(a != b);
            let mut least = replaced.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        if next.iter().all(|it| *it > most) {
            return None;
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().filter(|it| *it <= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["acme.imu.v1", "acme.imu.v2", "acme.gps.v1", "Ping", "Pong", "n"];
        let of = |wanted| near(wanted, known.into_iter());
        assert_eq!(of("acme.imu.v3"), ["acme.imu.v1", "acme.imu.v2"]);
        assert_eq!(of("acme.imv.u1"), ["acme.imu.v1"]);
        assert_eq!(of("imu"), ["acme.imu.v1", "acme.imu.v2"]);
        assert_eq!(of("ping"), ["Ping", "Pong"]);
        assert_eq!(of("Pign"), ["Ping"]);
        assert_eq!(of("acme"), ["acme.gps.v1", "acme.imu.v1", "acme.imu.v2"]);
        assert_eq!(of("m"), [""; 0]);
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of(&"x".repeat(300)), [""; 0]);
    }

    proptest! {
        #[test]
        fn one_letter_more_or_less_is_near(name in "[a-z.]{4,40}", at in 0..40_usize) {
            let mut less: Vec<_> = name.chars().collect();
            less.remove(at % less.len());
            let less: String = less.into_iter().collect();
            prop_assert_eq!(near(&less, [name.as_str()].into_iter()), [name.as_str()]);
            prop_assert_eq!(near(&name, [less.as_str()].into_iter()), [less.as_str()]);
        }

        #[test]
        fn what_is_offered_is_known(wanted in ".{0,80}", known in prop::collection::vec(".{0,80}", 0..9)) {
            let offered = near(&wanted, known.iter().map(String::as_str));
            prop_assert!(offered.len() <= MOST);
            prop_assert!(offered.iter().all(|it| known.iter().any(|other| other == it)));
        }
    }
}

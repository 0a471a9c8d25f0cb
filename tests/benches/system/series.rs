//! Figures of several rounds.

use std::time::Duration;

/// The figures of one contender, one of each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The middle round.
    pub(crate) fn median(&self) -> f64 {
        percentile(&self.sorted(), 50.0)
    }

    /// The lowest and the highest round.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (percentile(&sorted, 0.0), percentile(&sorted, 100.0))
    }

    /// Each round so many times.
    pub(crate) fn times(&self, factor: f64) -> Self {
        self.0.iter().map(|figure| figure * factor).collect()
    }

    /// The ratio to `floor`, round by round: what was measured at nearly the same moment is
    /// compared.
    pub(crate) fn over(&self, floor: &Self) -> Self {
        Self(self.0.iter().zip(&floor.0).map(|(a, b)| a / b).collect())
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * percent / 100.0).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Times of single operations in one round.
#[derive(Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64());
    }

    /// Percentiles, seconds; not a number where none of so few times would be above it.
    pub(crate) fn percentiles<const COUNT: usize>(
        mut self,
        percents: [f64; COUNT],
    ) -> [f64; COUNT] {
        self.0.sort_by(f64::total_cmp);
        percents.map(|percent| {
            let above = self.0.len() as f64 * (100.0 - percent) / 100.0;
            if above < 0.999 { f64::NAN } else { percentile(&self.0, percent) }
        })
    }

    /// The 50th and the 99th percentile, seconds.
    pub(crate) fn p50_p99(mut self) -> [f64; 2] {
        self.0.sort_by(f64::total_cmp);
        [percentile(&self.0, 50.0), percentile(&self.0, 99.0)]
    }
}

/// One of those that are compared: measures one round, and answers with so many figures.
pub(crate) type Contender<'a, const FIGURES: usize> = Box<dyn FnMut() -> [f64; FIGURES] + 'a>;

/// Lets the contenders take turns for so many rounds, after a first one that does not count.
pub(crate) fn take_turns<const FIGURES: usize>(
    rounds: usize,
    contenders: &mut [Contender<'_, FIGURES>],
) -> Vec<[Series; FIGURES]> {
    let mut all = vec![[const { Series(Vec::new()) }; FIGURES]; contenders.len()];
    for round in 0..=rounds {
        for (contender, series) in contenders.iter_mut().zip(&mut all) {
            let figures = contender();
            if round > 0 {
                series.iter_mut().zip(figures).for_each(|(s, f)| s.push(f));
            }
        }
    }
    all
}

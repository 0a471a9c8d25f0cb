//! What is printed. A table is readable as it is and is Markdown at the same time.

use std::fmt;

use crate::machine::Regime;
use crate::series::Series;

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// Seconds.
    Time,
    /// Something per second.
    Rate,
    /// Bytes per second.
    Throughput,
    /// Bytes.
    Memory,
    /// Something that is counted.
    Count,
}

/// What a figure should be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Target {
    /// The ratio to the floor, at most.
    Ratio(f64),
    /// The ratio to the floor, at least: for rates.
    Share(f64),
    /// The figure, at most.
    AtMost(f64),
    /// The figure, at least.
    AtLeast(f64),
    /// By how much the figure is above the floor, at most.
    Above(f64),
}

/// One line of a table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) regime: Regime,
    pub(crate) unit: Unit,
    pub(crate) ours: Series,
    pub(crate) floor: Option<Series>,
    pub(crate) target: Option<Target>,
}

impl Row {
    /// What could not be measured, and why.
    pub(crate) fn absent(what: &str, why: &str, regime: Regime) -> Self {
        let what = format!("{what}: {why}");
        let (ours, floor, target) = (Series::default(), None, None);
        Self { what, regime, unit: Unit::Count, ours, floor, target }
    }

    /// None where nothing can be divided by the floor.
    fn ratio(&self) -> Option<Series> {
        let floor = self.floor.as_ref().filter(|floor| floor.spread().0 > 0.0)?;
        Some(self.ours.over(floor))
    }

    fn cells(&self) -> [String; 6] {
        let ratio = self.ratio();
        let target = self.target.map(|target| {
            let figure = self.ours.median();
            let ratio = ratio.as_ref().map_or(f64::NAN, Series::median);
            let (text, met) = match target {
                Target::Ratio(most) => (format!("ratio ≤ {most}"), ratio <= most),
                Target::Share(least) => (format!("ratio ≥ {least}"), ratio >= least),
                Target::AtMost(most) => (format!("≤ {}", self.unit.show(most)), figure <= most),
                Target::AtLeast(least) => (format!("≥ {}", self.unit.show(least)), figure >= least),
                Target::Above(most) => {
                    let floor = self.floor.as_ref().map_or(f64::NAN, Series::median);
                    (format!("≤ floor + {}", self.unit.show(most)), figure <= floor + most)
                }
            };
            format!("{text}: {}", if met { "met" } else { "missed" })
        });
        let shown = |series: &Series| self.unit.show_with_spread(series);
        [
            self.what.clone(),
            self.regime.to_string(),
            shown(&self.ours),
            self.floor.as_ref().map(shown).unwrap_or_default(),
            ratio.as_ref().map(show_ratio).unwrap_or_default(),
            target.unwrap_or_default(),
        ]
    }
}

pub(crate) fn show_ratio(ratio: &Series) -> String {
    let (low, high) = ratio.spread();
    format!("{:.2} ({low:.2}–{high:.2})", ratio.median())
}

impl Unit {
    /// The scale that suits `value`, and its name.
    fn scale(self, value: f64) -> (f64, &'static str) {
        match self {
            Self::Time if value < 1e-3 => (1e-6, "µs"),
            Self::Time => (1e-3, "ms"),
            Self::Rate if value < 10e3 => (1.0, "/s"),
            Self::Rate if value < 1e6 => (1e3, "k/s"),
            Self::Rate => (1e6, "M/s"),
            Self::Throughput => (1e6, "MB/s"),
            Self::Memory if value < 100e3 => (1024.0, "KiB"),
            Self::Memory => (1e6, "MB"),
            Self::Count => (1.0, ""),
        }
    }

    fn show(self, value: f64) -> String {
        if self == Self::Count {
            // Whole, unless it is a share of what was counted.
            let exact = format!("{value:.2}");
            return exact.trim_end_matches('0').trim_end_matches('.').to_owned();
        }
        let (scale, name) = self.scale(value);
        format!("{} {name}", digits(value / scale))
    }

    pub(crate) fn show_with_spread(self, series: &Series) -> String {
        let median = series.median();
        if median.is_nan() {
            return String::new();
        }
        if self == Self::Count {
            return self.show(median);
        }
        let (scale, name) = self.scale(median);
        let (low, high) = series.spread();
        let middle = digits(median / scale);
        if low == high {
            return format!("{middle} {name}");
        }
        format!("{middle} {name} ({}–{})", digits(low / scale), digits(high / scale))
    }
}

/// Three significant digits, but no fewer than stand before the point.
fn digits(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// Rows under one heading.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn extend(&mut self, rows: Vec<Row>) {
        self.0.extend(rows);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "regime", "orchestrator", "floor", "ratio", "target"].map(str::to_owned);
        let rows: Vec<[String; 6]> = self.0.iter().map(Row::cells).collect();
        write_columns(f, &head, &rows)
    }
}

/// Writes Markdown with columns as wide as what is in them.
pub(crate) fn write_columns<const COLUMNS: usize>(
    f: &mut fmt::Formatter<'_>,
    head: &[String; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> fmt::Result {
    let mut widths = [3; COLUMNS];
    for row in std::iter::once(head).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |f: &mut fmt::Formatter<'_>, cells: &[String; COLUMNS]| {
        for (width, cell) in widths.iter().zip(cells) {
            write!(f, "| {cell:<width$} ")?;
        }
        writeln!(f, "|")
    };
    line(f, head)?;
    line(f, &widths.map(|width| "-".repeat(width)))?;
    rows.iter().try_for_each(|row| line(f, row))
}

//! The table of who carries, with what size, in which regime.

use std::fmt;

use super::carrier::Carrier;
use super::cell::Cell;
use crate::Regime;
use crate::table::{Unit, show_ratio, write_columns};

/// What was measured, and in which regimes.
pub(super) struct Sheet<'a> {
    pub(super) cells: &'a [Cell],
    pub(super) regimes: &'a [Regime],
}

impl fmt::Display for Sheet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "who carries",
            "size",
            "regime",
            "round trip, p50",
            "p99",
            "p99.9",
            "of p50 to its floor",
            "bursts",
            "of bursts to its floor",
            "CPU s for 10⁶",
        ];
        let rows = self.cells.iter().map(|cell| self.row(cell));
        let rows: Vec<_> = rows.chain(self.regimes.iter().flat_map(|it| absent(*it))).collect();
        write_columns(f, &head.map(str::to_owned), &rows)
    }
}

impl Sheet<'_> {
    fn row(&self, cell: &Cell) -> [String; 10] {
        let [p50, p99, p999] = &cell.trip;
        let floor = cell.carrier.floor(cell.regime).and_then(|carrier| {
            let mut cells = self.cells.iter();
            cells.find(|it| (it.carrier, it.size, it.regime) == (carrier, cell.size, cell.regime))
        });
        let over = |of: fn(&Cell) -> &crate::series::Series| {
            let ratio = |floor: &Cell| {
                format!("{} × {}", show_ratio(&of(cell).over(of(floor))), floor.carrier.name())
            };
            floor.map(ratio).unwrap_or_default()
        };
        [
            cell.carrier.name().to_owned(),
            say(cell.size),
            cell.regime.to_string(),
            Unit::Time.show_with_spread(p50),
            show(p99.median()),
            show(p999.median()),
            over(|cell| &cell.trip[0]),
            Unit::Rate.show_with_spread(&cell.rate),
            over(|cell| &cell.rate),
            // Millionths of a second for one are seconds for a million.
            significant(cell.cpu.median() * 1e6),
        ]
    }
}

/// A row for each that would take part if it were there.
fn absent(regime: Regime) -> Vec<[String; 10]> {
    let carriers = Carrier::all().into_iter().filter(|carrier| carrier.takes_part(regime));
    let row = |carrier: Carrier| {
        let mut cells = [const { String::new() }; 10];
        cells[0] = carrier.name().to_owned();
        cells[2] = regime.to_string();
        carrier.absent()?.clone_into(&mut cells[3]);
        Some(cells)
    };
    carriers.filter_map(row).collect()
}

fn show(time: f64) -> String {
    Unit::Time.show_with_spread(&std::iter::once(time).collect())
}

/// Three digits, or at least those before the point.
fn significant(value: f64) -> String {
    let after = match value {
        value if value < 0.1 => 4,
        value if value < 1.0 => 3,
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.after$}")
}

/// A size as it is spoken of.
pub(super) fn say(size: usize) -> String {
    match size {
        size if size >= 1 << 20 => format!("{} MiB", size >> 20),
        size if size >= 1 << 10 => format!("{} KiB", size >> 10),
        size => format!("{size} B"),
    }
}

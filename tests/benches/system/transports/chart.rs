//! Two diagrams of the cells as an SVG file: round trips and bursts over the size of messages, both
//! axes logarithmic. Readable on a light and on a dark page.

use std::fmt::Write;

use orchestrator_proto::control::Transport;

use super::carrier::Carrier;
use super::cell::Cell;
use super::sheet::say;
use crate::Regime;

/// Of the whole, in the units of the file.
const WIDTH: f64 = 1000.0;
/// Of a diagram, without its labels.
const PLOT: (f64, f64) = (385.0, 330.0);
/// Where the diagrams begin.
const LEFT: [f64; 2] = [80.0, 590.0];
const TOP: f64 = 50.0;
/// Of a line of the legend.
const ENTRY: (f64, f64) = (240.0, 22.0);

/// In a page of dark text, and in one of light text.
const STYLE: &str = "text{font:13px sans-serif;fill:#1f2328}.h{font-weight:bold}.r{text-anchor:end}\
.m{text-anchor:middle}.g{stroke:#d1d9e0;fill:none}polyline{fill:none}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.g{stroke:#3d444d}}";

/// The points of one carrier in one regime: sizes, and figures.
struct Curve {
    carrier: Carrier,
    regime: Regime,
    points: Vec<(f64, [f64; 2])>,
}

/// What is drawn over the size.
struct Diagram {
    title: &'static str,
    /// Which figure of a point.
    figure: usize,
    show: fn(f64) -> String,
}

const DIAGRAMS: [Diagram; 2] = [
    Diagram { title: "Round trip, p50", figure: 0, show: time },
    Diagram { title: "Messages in a second, one way in bursts", figure: 1, show: rate },
];

/// The file. Shows the regimes that use several cores, or else what there is.
pub(super) fn draw(cells: &[Cell]) -> String {
    let curves = curves(cells);
    let rows = curves.len().div_ceil(4).max(1);
    let legend = TOP + PLOT.1 + 55.0;
    let height = legend + rows as f64 * ENTRY.1;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <title>Messages between two processes: round trip and rate over the size</title>\n\
         <style>{STYLE}</style>\n"
    );
    for (diagram, left) in DIAGRAMS.iter().zip(LEFT) {
        diagram.draw(&mut svg, left, &curves);
    }
    for (at, curve) in curves.iter().enumerate() {
        let (x, y) = (30.0 + (at % 4) as f64 * ENTRY.0, legend + (at / 4) as f64 * ENTRY.1);
        let name = curve.name();
        let stroke = curve.stroke();
        put(
            &mut svg,
            format_args!("<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" {stroke}/>", x + 28.0),
        );
        put(&mut svg, format_args!("<text x=\"{}\" y=\"{}\">{name}</text>", x + 35.0, y + 4.0));
    }
    svg.push_str("</svg>\n");
    svg
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a string takes everything");
}

fn curves(cells: &[Cell]) -> Vec<Curve> {
    let is_spread = |cell: &&Cell| cell.regime != Regime::Pinned;
    let all_pinned = !cells.iter().any(|cell| is_spread(&cell));
    let mut curves: Vec<Curve> = Vec::new();
    for cell in cells.iter().filter(|cell| all_pinned || is_spread(cell)) {
        let point = (cell.size as f64, [cell.trip[0].median(), cell.rate.median()]);
        let same =
            |curve: &&mut Curve| (curve.carrier, curve.regime) == (cell.carrier, cell.regime);
        match curves.iter_mut().find(same) {
            Some(curve) => curve.points.push(point),
            None => {
                let (carrier, regime) = (cell.carrier, cell.regime);
                curves.push(Curve { carrier, regime, points: vec![point] });
            }
        }
    }
    curves
}

impl Curve {
    fn name(&self) -> String {
        let spins = if self.regime == Regime::Spinning { ", spinning" } else { "" };
        format!("{}{spins}", self.carrier.name())
    }

    /// Ours are thick, floors grey, and who spins is dashed.
    fn stroke(&self) -> String {
        let width = if self.carrier.is_ours() { 3.5 } else { 1.8 };
        let dashes = if self.regime == Regime::Spinning { " stroke-dasharray=\"6 4\"" } else { "" };
        format!("stroke=\"{}\" stroke-width=\"{width}\"{dashes}", colour(self.carrier))
    }
}

/// Neither so light nor so dark that it is lost on a page of either kind.
const fn colour(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Sockets => "#848d97",
        Carrier::Relay => "#a68a64",
        Carrier::BareRing => "#5f7f8f",
        Carrier::Ring => "#d65a9a",
        Carrier::Link(Transport::Direct) => "#2da44e",
        Carrier::Link(_) => "#218bff",
        Carrier::Iceoryx => "#a475f9",
        Carrier::Zenoh => "#bf8700",
        Carrier::Nats => "#1b9aaa",
    }
}

impl Diagram {
    fn draw(&self, svg: &mut String, left: f64, curves: &[Curve]) {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let figures = points().map(|(_, figures)| figures[self.figure].log10());
        let figures = figures.filter(|figure| figure.is_finite());
        let (low, high) = bounds(figures);
        let (low, high) = (low.floor(), high.ceil().max(low.floor() + 1.0));
        let (first, last) = bounds(points().map(|(size, _)| size.log2()));
        let x = |size: f64| left + PLOT.0 * (size.log2() - first) / (last - first).max(1.0);
        let y = |figure: f64| TOP + PLOT.1 * (high - figure.log10()) / (high - low);

        put(
            svg,
            format_args!(
                "<text class=\"h\" x=\"{left}\" y=\"{}\">{}</text>",
                TOP - 18.0,
                self.title
            ),
        );
        let (right, bottom) = (left + PLOT.0, TOP + PLOT.1);
        for decade in low as i32..=high as i32 {
            let figure = 10_f64.powi(decade);
            let at = y(figure);
            put(svg, format_args!("<path class=\"g\" d=\"M{left} {at:.1}H{right}\"/>"));
            let text = (self.show)(figure);
            let (x, y) = (left - 8.0, at + 4.0);
            put(svg, format_args!("<text class=\"r\" x=\"{x}\" y=\"{y:.1}\">{text}</text>"));
        }
        let mut labelled = f64::NEG_INFINITY;
        for (size, _) in curves.first().iter().flat_map(|curve| &curve.points) {
            let at = x(*size);
            put(svg, format_args!("<path class=\"g\" d=\"M{at:.1} {TOP}V{bottom}\"/>"));
            // Two sizes that are close share a label.
            if at - labelled > 45.0 {
                let text = say(*size as usize);
                let y = bottom + 20.0;
                put(svg, format_args!("<text class=\"m\" x=\"{at:.1}\" y=\"{y}\">{text}</text>"));
                labelled = at;
            }
        }
        for curve in curves {
            let shown = curve.points.iter().filter(|(_, figures)| figures[self.figure] > 0.0);
            let line: Vec<String> = shown
                .map(|(size, figures)| format!("{:.1},{:.1}", x(*size), y(figures[self.figure])))
                .collect();
            let (line, stroke) = (line.join(" "), curve.stroke());
            put(svg, format_args!("<polyline points=\"{line}\" {stroke}/>"));
        }
    }
}

/// The least and the most; of nothing, a decade.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let both = values.fold(None, |bounds: Option<(f64, f64)>, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    both.unwrap_or((0.0, 1.0))
}

/// A decade of seconds.
fn time(seconds: f64) -> String {
    let nanoseconds = (seconds * 1e9).round();
    match nanoseconds {
        ns if ns < 1e3 => format!("{ns} ns"),
        ns if ns < 1e6 => format!("{} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{} ms", ns / 1e6),
        ns => format!("{} s", ns / 1e9),
    }
}

/// A decade of messages in a second.
fn rate(messages: f64) -> String {
    match messages.round() {
        rate if rate < 1e3 => format!("{rate}"),
        rate if rate < 1e6 => format!("{} k", rate / 1e3),
        rate => format!("{} M", rate / 1e6),
    }
}

// SPDX-License-Identifier: GPL-2.0-only
//! Charts, as SVG to be put into the page.
//!
//! Colours are fixed in the SVG, so that a chart can be taken out of the page; the page's style sheet replaces them
//! by their hex values, in light and dark. What tells lines apart besides colour, dashes, is there too.

pub mod bars;
pub mod cdf;
pub mod scaling;
pub mod timeline;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::numbers::tick;

/// Charts are drawn this many times as large as they are shown: coordinates in SVG are whole numbers.
const FINE: u32 = 2;

/// Colours of contenders, in their order: those of Okabe and Ito, which the colour-blind tell apart, and two more.
pub const SERIES: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x8a, 0x6d, 0x00),
    RGBColor(0x6b, 0x5b, 0x95),
];
/// Text and axes.
pub const INK: RGBColor = RGBColor(0x1b, 0x1f, 0x24);
/// Labels of axes.
pub const MUTED: RGBColor = RGBColor(0x5a, 0x64, 0x72);
/// Lines of a grid.
pub const GRID: RGBColor = RGBColor(0xdd, 0xe2, 0xe8);
/// Time without a sched_ext scheduler.
pub const SHADE: RGBColor = RGBColor(0xb4, 0x23, 0x18);

/// Where a chart is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// What drawing comes to. In memory it does not fail.
pub type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;
type Coordinates = Cartesian2d<Axis, Axis>;

/// The colour of the contender at a place in the order.
pub fn series(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()]
}

/// Pixels as shown in those that are drawn.
fn px(pixels: i32) -> i32 {
    pixels * FINE as i32
}

fn line(color: RGBColor, width: u32) -> ShapeStyle {
    color.stroke_width(width * FINE)
}

fn text(color: RGBColor, size: i32, h: HPos, v: VPos) -> TextStyle<'static> {
    // The backend divides sizes by 1.24.
    let font = ("sans-serif", f64::from(px(size)) * 1.24).into_font();
    font.color(&color).pos(Pos::new(h, v))
}

/// An axis. Where it is logarithmic, values are mapped before.
#[derive(Clone)]
struct Axis {
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
    title: String,
}

impl Axis {
    /// From `from` to `to` with round ticks.
    fn linear(from: f64, to: f64, unit: &str, title: &str) -> Self {
        let ticks = round_ticks(from, to, 5).into_iter().map(|at| (at, tick(at, unit))).collect();
        Axis { from, to, ticks, title: title.into() }
    }

    /// The decimal logarithm, for `from` to `to` above 0.
    fn log10(from: f64, to: f64, unit: &str, title: &str) -> Self {
        let (low, high) = (from.log10(), to.log10().max(from.log10() + 0.1));
        let steps: &[f64] = match high - low {
            decades if decades < 1.5 => &[1.0, 2.0, 5.0],
            decades if decades < 3.0 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let decades = low.floor() as i32..=high.ceil() as i32;
        let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
        let ticks = all.map(|at| (at.log10(), tick(at, unit))).filter(|(at, _)| (low..=high).contains(at));
        Axis { from: low, to: high, ticks: ticks.collect(), title: title.into() }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        first + (f64::from(last - first) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // No finer grid between the ticks.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(at: &f64) -> String {
        at.to_string()
    }

    fn format_ext(&self, at: &f64) -> String {
        let distance = |tick: &&(f64, String)| (tick.0 - at).abs();
        let nearest = self.ticks.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// About `n` round numbers between two.
fn round_ticks(from: f64, to: f64, n: usize) -> Vec<f64> {
    let raw = (to - from) / n as f64;
    if raw <= 0.0 || !raw.is_finite() {
        return vec![from];
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| *step >= raw);
    let step = step.unwrap_or(raw);
    let first = (from / step).ceil() as i64;
    (first..=(to / step + 1e-9).floor() as i64).map(|n| n as f64 * step).collect()
}

/// Draws a chart of so many pixels. `label` says to those who cannot see it what it shows.
fn svg((width, height): (u32, u32), label: &str, draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut out = String::new();
    {
        let size = (width * FINE, height * FINE);
        let root = SVGBackend::with_string(&mut out, size).into_drawing_area();
        if let Err(e) = draw(&root).and_then(|()| root.present()) {
            return maud::html! { p { "This chart cannot be drawn: " (e) } }.into_string();
        }
    }
    // The page sets the size; in a page there is no need to name the language.
    let body = out.split_once('>').map_or("", |(_, body)| body);
    let label = maud::html! { (label) }.into_string();
    let (w, h) = (width * FINE, height * FINE);
    format!(
        r#"<svg viewBox="0 0 {w} {h}" style="max-width:{width}px" role="img"><title>{label}</title>{body}"#
    )
}

/// The axes and grid of a chart.
fn frame<'a, 'b>(
    area: &'a Area<'b>,
    x: &Axis,
    y: &Axis,
) -> Drawn<ChartContext<'a, SVGBackend<'b>, Coordinates>> {
    let mut chart = ChartBuilder::on(area)
        .margin(px(6))
        .margin_right(px(18))
        .x_label_area_size(px(if x.title.is_empty() { 20 } else { 36 }))
        .y_label_area_size(px(if y.title.is_empty() { 48 } else { 66 }))
        .build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .bold_line_style(line(GRID, 1))
        .max_light_lines(0)
        .axis_style(line(MUTED, 1))
        .set_all_tick_mark_size(px(3))
        .label_style(text(MUTED, 11, HPos::Center, VPos::Center))
        .axis_desc_style(text(MUTED, 11, HPos::Center, VPos::Center))
        .x_desc(x.title.as_str())
        .y_desc(y.title.as_str())
        .draw()?;
    Ok(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(round_ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(round_ticks(0.0, 0.0, 5), [0.0]);
        assert_eq!(round_ticks(-500.0, 500.0, 4), [-500.0, -250.0, 0.0, 250.0, 500.0]);
    }

    #[test]
    fn the_page_knows_all_colours() {
        let style = include_str!("../html/style.css").to_ascii_uppercase();
        for RGBColor(r, g, b) in SERIES.into_iter().chain([INK, MUTED, GRID, SHADE]) {
            assert!(style.contains(&format!("#{r:02X}{g:02X}{b:02X}")), "{r:02x}{g:02x}{b:02x}");
        }
    }
}

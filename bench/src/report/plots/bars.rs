// SPDX-License-Identifier: GPL-2.0-only
//! Ratios to the baseline as bars, with their intervals.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Area, Drawn, GRID, INK, MUTED, line, px, round_ticks, series, svg, text};
use crate::report::numbers::{three, tick};
use crate::stats::Interval;

/// A ratio to the baseline.
pub struct Bar {
    /// The contender's place in the order.
    pub series: usize,
    /// The ratio; 1 for the baseline.
    pub ratio: f64,
    /// Its 95 % interval.
    pub interval: Option<Interval>,
}

/// The contenders for one metric.
pub struct Group {
    /// What it is.
    pub label: String,
    /// A bar each.
    pub bars: Vec<Bar>,
}

const WIDTH: i32 = 760;
/// Where bars begin and end; labels are to the left, numbers to the right.
const LEFT: i32 = 200;
const RIGHT: i32 = WIDTH - 70;
const BAR: i32 = 15;
const GAP: i32 = 14;
const AXIS: i32 = 26;

fn shortened(label: &str) -> String {
    const MOST: usize = 30;
    if label.chars().count() <= MOST {
        return label.into();
    }
    label.chars().take(MOST - 1).chain(['…']).collect()
}

/// A chart of bars.
pub fn chart(label: &str, groups: &[Group]) -> String {
    let bars = groups.iter().map(|group| group.bars.len() as i32).sum::<i32>();
    let height = bars * BAR + groups.len() as i32 * GAP + AXIS;
    svg((WIDTH as u32, height as u32), label, |area| {
        let ends = groups.iter().flat_map(|group| &group.bars);
        let ends = ends.map(|bar| bar.interval.map_or(bar.ratio, |interval| interval.high.max(bar.ratio)));
        let most = ends.fold(1.0, f64::max) * 1.02;
        let at = |ratio: f64| px(LEFT) + (f64::from(px(RIGHT - LEFT)) * ratio / most) as i32;
        axis(area, most, height - AXIS, &at)?;
        let mut y = GAP / 2;
        for group in groups {
            let middle = y + group.bars.len() as i32 * BAR / 2;
            let style = text(INK, 12, HPos::Right, VPos::Center);
            area.draw(&Text::new(shortened(&group.label), (px(LEFT - 10), px(middle)), style))?;
            for bar in &group.bars {
                draw_bar(area, bar, y, &at)?;
                y += BAR;
            }
            y += GAP;
        }
        // The baseline over the bars.
        area.draw(&PathElement::new([(at(1.0), 0), (at(1.0), px(height - AXIS))], line(INK, 1)))
    })
}

fn axis(area: &Area<'_>, most: f64, bottom: i32, at: &impl Fn(f64) -> i32) -> Drawn {
    for ratio in round_ticks(0.0, most, 6) {
        area.draw(&PathElement::new([(at(ratio), 0), (at(ratio), px(bottom))], line(GRID, 1)))?;
        let style = text(MUTED, 11, HPos::Center, VPos::Center);
        area.draw(&Text::new(format!("{}x", tick(ratio, "")), (at(ratio), px(bottom + 14)), style))?;
    }
    Ok(())
}

fn draw_bar(area: &Area<'_>, bar: &Bar, y: i32, at: &impl Fn(f64) -> i32) -> Drawn {
    let color = series(bar.series);
    area.draw(&Rectangle::new([(at(0.0), px(y + 1)), (at(bar.ratio), px(y + BAR - 1))], color.filled()))?;
    let mut end = at(bar.ratio);
    if let Some(Interval { low, high }) = bar.interval {
        let middle = px(y) + px(BAR) / 2;
        let across = |x: i32| PathElement::new([(x, px(y + 4)), (x, px(y + BAR - 4))], line(INK, 1));
        area.draw(&PathElement::new([(at(low), middle), (at(high), middle)], line(INK, 1)))?;
        area.draw(&across(at(low)))?;
        area.draw(&across(at(high)))?;
        end = end.max(at(high));
    }
    let style = text(INK, 11, HPos::Left, VPos::Center);
    let place = (end.max(at(1.0)) + px(6), px(y) + px(BAR) / 2);
    area.draw(&Text::new(format!("{}x", three(bar.ratio)), place, style))
}

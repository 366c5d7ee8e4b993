//! What was measured → an SVG chart: seconds, steps found and bytes made, a group of bars for each scenario.

use super::report::{Figures, Report, ToolReport, seconds};
use crate::cli::human;

const WIDTH: usize = 860;
/// Where bars begin.
const LEFT: usize = 260;
/// What the longest bar takes.
const SPAN: f64 = 460.0;
const BAR: usize = 14;
const GAP: usize = 12;
const HEAD: usize = 34;
/// Characters of a line of the title or of a note, in letters of middling width.
const LINE: usize = 105;
const LEADING: usize = 18;
const COLOURS: [&str; 4] = ["#2f6f9f", "#c46a3a", "#6a9a4a", "#8a6aa8"];

/// What a panel shows: its title, the length of a bar, and its label.
type Panel = (&'static str, fn(&Figures) -> Option<f64>, fn(&Figures) -> String);

const PANELS: [Panel; 3] = [
    ("seconds (median)", |figures| Some(figures.seconds), |figures| seconds(figures.seconds)),
    (
        "steps found in the cache",
        |figures| Some(figures.hits as f64),
        |figures| format!("{} of {}", figures.hits, figures.hits + figures.misses),
    ),
    (
        "bytes of the layers that were made",
        |figures| figures.bytes.map(|bytes| bytes as f64),
        |figures| human::short_bytes(figures.bytes.unwrap_or(0)),
    ),
];

/// The chart.
pub(super) fn render(report: &Report) -> String {
    let tools: Vec<&ToolReport> = report.compared().collect();
    let (mut parts, mut top, mut left) = (Vec::new(), 26, 20);
    for line in wrapped(&format!("shale bench: {}", report.caption())) {
        parts.push(text(20, top, "title", &line));
        top += LEADING;
    }
    for (tool, colour) in tools.iter().zip(COLOURS) {
        parts.push(format!("<rect x=\"{left}\" y=\"{top}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n"));
        parts.push(text(left + 18, top + 10, "label", tool.name));
        left += 90;
    }
    top += 20;
    for panel in PANELS {
        top = draw(report, &tools, panel, top, &mut parts);
    }
    for line in report.notes().flat_map(|note| wrapped(&note)) {
        parts.push(text(20, top + 12, "label", &line));
        top += LEADING;
    }
    let style = "text { font-family: sans-serif; fill: #222; } .title { font-size: 13px; font-weight: bold; } \
        .head { font-size: 13px; font-weight: bold; } .label { font-size: 12px; }";
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>{style}</style>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{}</svg>\n",
        parts.concat(),
        height = top + 10
    )
}

/// Draws a panel below `top` and returns where it ends. Builders that do not say the figure have no bars in it.
fn draw(report: &Report, tools: &[&ToolReport], (title, value, label): Panel, top: usize, parts: &mut Vec<String>) -> usize {
    let all = || tools.iter().flat_map(|tool| &tool.scenarios).filter_map(value);
    let longest = all().fold(f64::MIN_POSITIVE, f64::max);
    parts.push(text(20, top + 22, "head", title));
    let mut y = top + HEAD;
    for scenario in report.scenarios() {
        parts.push(text(20, y + BAR - 3, "label", scenario.title()));
        for (tool, colour) in tools.iter().zip(COLOURS) {
            let figures = tool.scenarios.iter().find(|figures| figures.scenario == scenario);
            let Some((figures, value)) = figures.and_then(|figures| Some((figures, value(figures)?))) else { continue };
            let width = (value / longest * SPAN).max(1.0);
            parts.push(format!("<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\n", BAR - 2));
            parts.push(text(LEFT + width as usize + 8, y + BAR - 3, "label", &label(figures)));
            y += BAR;
        }
        y += GAP;
    }
    y
}

/// Lines that fit the chart; a word that is too long for one is cut.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        if word.len() > LINE {
            word.truncate(LINE - 1);
            word.push('…');
        }
        let line = lines.last_mut().expect("there is a line");
        if line.is_empty() {
            line.extend(word);
        } else if line.chars().count() + 1 + word.len() <= LINE {
            line.push(' ');
            line.extend(word);
        } else {
            lines.push(word.into_iter().collect());
        }
    }
    lines
}

fn text(x: usize, y: usize, class: &str, words: &str) -> String {
    format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>\n", escaped(words))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::example;
    use super::*;

    #[test]
    fn bars_are_as_long_as_what_they_stand_for() {
        let chart = render(&example());
        assert!(chart.contains("a &lt;b&gt; &amp; c upon busybox"), "{chart}");
        // Four seconds of the other builder are the longest bar, one second a quarter of it.
        assert!(
            chart.contains("width=\"460.0\" height=\"12\" fill=\"#c46a3a\"")
                && chart.contains("width=\"115.0\" height=\"12\" fill=\"#2f6f9f\"")
        );
        // Two scenarios with two builders, for hits too; bytes are told by one of them.
        assert!(chart.contains("docker is not compared: its daemon is not reachable (&lt;no &amp; socket&gt;)"), "{chart}");
        assert_eq!(chart.matches("height=\"12\" fill").count(), 2 + 4 + 4 + 2, "{chart}");
        for label in ["4.00s", "6 of 6", "12MB", "0 of 6"] {
            assert!(chart.contains(&format!(">{label}</text>")), "{label}");
        }
    }

    #[test]
    fn a_long_title_is_wrapped_and_not_cut_off() {
        let mut report = example();
        report.base = Some(format!("registry.example/{}", "x".repeat(80)));
        let chart = render(&report);
        let titles: Vec<&str> = chart.lines().filter(|line| line.contains("class=\"title\"")).collect();
        assert!(titles.len() > 1 && titles[titles.len() - 1].contains("2026-01-31T00:00:00Z<"), "{titles:?}");
        assert!(wrapped(&report.caption()).iter().chain(&wrapped(&"y".repeat(300))).all(|line| line.chars().count() <= LINE));
    }
}

//! How far a piece of work is. In: counts, tokens and the time; out: the text beside a bar, and lines for where there is
//! no bar. Invariant: nothing here looks at a clock, and a text is given whole or not at all.

use std::time::{Duration, Instant};

/// Work that takes less is not spoken of in lines.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// Between two lines.
const BETWEEN: Duration = Duration::from_secs(30);

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Steps of the optimiser.
    Steps,
    /// Answers, or what else a stage gives one by one.
    Results,
}

/// A piece of work.
pub(crate) struct Meter {
    name: String,
    unit: Unit,
    done: usize,
    total: usize,
    /// What was done before: it took none of the time.
    before: usize,
    tokens: usize,
    since: Instant,
    /// What the last step gave, the most telling first.
    terms: Vec<String>,
    /// When the next line is due.
    due: Instant,
    told: bool,
}

impl Meter {
    /// Work of which `done` of `total` are there already.
    pub(crate) fn new(name: &str, unit: Unit, done: usize, total: usize, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            done,
            total,
            before: done,
            tokens: 0,
            since: now,
            terms: Vec::new(),
            due: now + LONG,
            told: false,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Done, and in all.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.done, self.total)
    }

    pub(crate) fn reach(&mut self, done: usize, total: usize) {
        (self.done, self.total) = (done, total);
    }

    pub(crate) fn add_tokens(&mut self, more: usize) {
        self.tokens += more;
    }

    pub(crate) fn describe(&mut self, terms: Vec<String>) {
        self.terms = terms;
    }

    /// Whether a line was given, so that the work needs a last one.
    pub(crate) fn has_told(&self) -> bool {
        self.told
    }

    /// A line, when one is due: the first after ten seconds, then every thirty.
    pub(crate) fn line(&mut self, now: Instant) -> Option<String> {
        if now < self.due || self.done >= self.total {
            return None;
        }
        self.due = now + BETWEEN;
        self.told = true;
        let step = if self.unit == Unit::Steps { "step " } else { "" };
        let (done, total) = (self.done, self.total);
        let mut parts = vec![format!("{}: {step}{done} of {total} ({} %)", self.name, done * 100 / total)];
        parts.extend(self.rate(now));
        parts.extend(self.terms.first().cloned());
        parts.extend(self.left(now));
        Some(parts.join(", "))
    }

    /// The line of work that has ended, done or not.
    pub(crate) fn last_line(&self, now: Instant) -> String {
        let Self { name, done, total, .. } = self;
        let took = span(now.duration_since(self.since));
        if done < total {
            return format!("{name}: stopped at {done} of {total} after {took}");
        }
        format!("{name}: {total} of {total} after {took}")
    }

    /// What stands beside the bar, in at most `room` columns: of the counts, the time left and the terms as many as
    /// there is room for.
    pub(crate) fn beside_bar(&self, room: usize, now: Instant) -> String {
        let (done, total) = (self.done, self.total);
        let mut parts = vec![match self.unit {
            Unit::Steps => format!("{done}/{total} steps"),
            Unit::Results => format!("{done}/{total}"),
        }];
        // The count of answers can stand still for minutes; that of their tokens does not.
        if self.tokens > 0 {
            parts.push(format!("{} tokens", self.tokens));
        }
        parts.extend(self.left(now));
        parts.extend(self.terms.iter().cloned());
        if self.unit == Unit::Results {
            parts.extend(self.rate(now));
        }
        fitting(&parts, room)
    }

    /// How fast it goes; None as long as there is nothing to go by.
    fn rate(&self, now: Instant) -> Option<String> {
        let seconds = now.duration_since(self.since).as_secs_f64();
        let done = self.done.saturating_sub(self.before);
        let per = |n: usize, unit: &str| {
            let rate = n as f64 / seconds;
            // Two figures say enough.
            if rate < 10.0 { format!("{rate:.1} {unit}") } else { format!("{rate:.0} {unit}") }
        };
        match self.unit {
            _ if seconds <= 0.0 => None,
            Unit::Results if self.tokens > 0 => Some(per(self.tokens, "tokens/s")),
            _ if done == 0 => None,
            Unit::Steps => Some(per(done * 60, "steps/min")),
            Unit::Results if done as f64 >= seconds => Some(per(done, "per second")),
            Unit::Results => Some(per(done * 60, "per minute")),
        }
    }

    /// The time that is left, if what is left goes as what was done.
    fn left(&self, now: Instant) -> Option<String> {
        let done = self.done.saturating_sub(self.before);
        let left = self.total.saturating_sub(self.done);
        let seconds = now.duration_since(self.since).as_secs_f64();
        (done > 0 && left > 0).then(|| {
            let left = Duration::from_secs_f64(seconds / done as f64 * left as f64);
            format!("{} left", span(left))
        })
    }
}

/// The first of `parts` that fit into `room` columns.
fn fitting(parts: &[String], room: usize) -> String {
    let mut text = String::new();
    let mut used = 0;
    for part in parts {
        let gap = if text.is_empty() { 0 } else { 2 };
        used += gap + part.chars().count();
        if used > room {
            break;
        }
        text.extend([&"  "[..gap], part]);
    }
    text
}

/// A span of time in words: `0.4 s`, `45 s`, `12 min`, `2 h 5 min`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    // From here on what it is rounded to is a minute.
    let minutes = (seconds + 30) / 60;
    match (seconds, minutes) {
        (..3, _) => format!("{:.1} s", time.as_secs_f64()),
        (..90, _) => format!("{seconds} s"),
        (_, ..60) => format!("{minutes} min"),
        (_, minutes) => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// Nothing was said for minutes where stderr is a file.
    #[test]
    fn lines_come_by_time_and_not_by_step() {
        let start = Instant::now();
        let mut meter = Meter::new("eraser", Unit::Steps, 0, 600, start);
        let mut told = Vec::new();
        for second in 0..=100 {
            meter.reach(second as usize, 600);
            meter.describe(vec!["loss 2.310".to_owned(), "harm 1.0000".to_owned()]);
            told.extend(meter.line(after(start, second)).map(|line| (second, line)));
        }
        assert_eq!(told.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [10, 40, 70, 100]);
        assert_eq!(told[1].1, "eraser: step 40 of 600 (6 %), 60 steps/min, loss 2.310, 9 min left");
        assert_eq!(meter.last_line(after(start, 130)), "eraser: stopped at 100 of 600 after 2 min");
    }

    #[test]
    fn work_that_was_short_has_no_line() {
        let start = Instant::now();
        let mut meter = Meter::new("prepare harm", Unit::Results, 0, 3, start);
        for second in 0..9 {
            assert_eq!(meter.line(after(start, second)), None);
        }
        meter.reach(3, 3);
        assert_eq!(meter.line(after(start, 20)), None);
        assert!(!meter.has_told());
    }

    #[test]
    fn tokens_move_where_answers_stand_still() {
        let start = Instant::now();
        let mut meter = Meter::new("prepare harm", Unit::Results, 40, 100, start);
        meter.add_tokens(170);
        let told = meter.line(after(start, 20)).unwrap();
        assert_eq!(told, "prepare harm: 40 of 100 (40 %), 8.5 tokens/s");
        meter.add_tokens(3000);
        meter.reach(50, 100);
        assert_eq!(meter.beside_bar(80, after(start, 100)), "50/100  3170 tokens  8 min left  32 tokens/s");
        assert_eq!(meter.line(after(start, 100)).unwrap(), "prepare harm: 50 of 100 (50 %), 32 tokens/s, 8 min left");
        meter.reach(100, 100);
        assert_eq!(meter.last_line(after(start, 7500)), "prepare harm: 100 of 100 after 2 h 5 min");
    }

    #[test]
    fn what_has_no_tokens_has_a_rate_of_its_own() {
        let start = Instant::now();
        let mut meter = Meter::new("base boolq", Unit::Results, 0, 100, start);
        meter.reach(30, 100);
        assert!(meter.line(after(start, 12)).unwrap().contains(", 2.5 per second, 28 s left"));
        assert!(meter.line(after(start, 60)).unwrap().contains(", 30 per minute, "));
    }

    /// The text ran over the line, and was cut within a number.
    #[test]
    fn beside_the_bar_no_term_is_cut() {
        let start = Instant::now();
        let mut meter = Meter::new("eraser", Unit::Steps, 0, 600, start);
        meter.reach(200, 600);
        let terms = ["loss 2.310", "nll_harm 3.142", "harm 0.1234", "help 0.5678", "align 0.9012"];
        meter.describe(terms.map(ToOwned::to_owned).to_vec());
        let whole: Vec<&str> = ["200/600 steps", "7 min left"].into_iter().chain(terms).collect();
        for room in 0..120 {
            let text = meter.beside_bar(room, after(start, 200));
            let shown: Vec<&str> = text.split("  ").filter(|part| !part.is_empty()).collect();
            assert!(text.chars().count() <= room && whole.starts_with(&shown), "{room}: {text}");
        }
        // 80 columns, a name of 24 and the bar.
        assert_eq!(meter.beside_bar(37, after(start, 200)), "200/600 steps  7 min left  loss 2.310");
    }

    #[test]
    fn spans_are_rounded_to_what_is_said() {
        let said = [1, 89, 90, 3569, 3570, 7500].map(|s| span(Duration::from_secs(s)));
        assert_eq!(said, ["1.0 s", "89 s", "2 min", "59 min", "1 h 0 min", "2 h 5 min"]);
    }
}

//! What a user watches: bars, notes and logs on stderr. In: steps and answers as they come; out: one bar at a time, or
//! where stderr is no terminal a line now and then.
//! Invariant: stdout is never touched but for the JSON lines of training, and bars never tear log lines apart.

use crate::errors::{Label, push_line};
use crate::interrupt::{self, Graceful};
use crate::meter::{LONG, Meter, Unit, span};
use crate::output;
use eraser_model::Error;
use eraser_run::{Outcome, Watch};
use eraser_train::StepMetrics;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
static NOTES: AtomicBool = AtomicBool::new(true);
/// Lines in place of the bars.
static LINES: AtomicBool = AtomicBool::new(false);

/// Between two changes of a bar's text.
const REDRAW: Duration = Duration::from_millis(100);
/// Columns of the bar itself.
const BAR: usize = 12;
/// Most columns of its name.
const NAME: usize = 24;
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// How much is said. Set once, before the first bar.
pub(crate) fn init(verbosity: i8, json: bool) {
    NOTES.store(verbosity >= 0, Ordering::Relaxed);
    if json || verbosity < 0 {
        BARS.set_draw_target(ProgressDrawTarget::hidden());
    } else {
        // A bar in a log file would be one long line.
        LINES.store(BARS.is_hidden(), Ordering::Relaxed);
    }
    let level = match verbosity {
        ..=-1 => tracing::Level::ERROR,
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Stderr)
        .event_format(Plain { targets: verbosity > 1 })
        .finish();
    // A second subscriber can only come from a test of the same process.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// One line about what is going on; silent with `--quiet`.
pub(crate) fn note(text: &str) {
    if NOTES.load(Ordering::Relaxed) {
        BARS.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{text}");
        });
    }
}

/// Log lines as `warning: text`; targets are shown from debug level on.
struct Plain {
    targets: bool,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut text = Fields::default();
        event.record(&mut text);
        let level = *event.metadata().level();
        let mut line = String::new();
        match level {
            tracing::Level::ERROR => push_line(&mut line, Label::Error, &text.0),
            tracing::Level::WARN => push_line(&mut line, Label::Warning, &text.0),
            _ if self.targets => writeln!(line, "{level} {}: {}", event.metadata().target(), text.0)?,
            _ => writeln!(line, "{}", text.0)?,
        }
        writer.write_str(&line)
    }
}

/// The message of an event, then its other fields.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Log output that makes way for the bars.
struct Stderr;

impl std::io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| std::io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A bar called `name`, with nothing on it yet.
fn bar(name: &str) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template(&format!("{{prefix}} {{bar:{BAR}}} {{msg}}")) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_prefix(short(name));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// At most [`NAME`] columns of a name.
fn short(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

/// Columns that are left behind the name and the bar. The last one stays free: some terminals break the line there.
fn room(name: &str) -> usize {
    let columns = terminal_size::terminal_size_of(std::io::stderr()).map_or(COLUMNS, |(width, _)| width.0.into());
    columns.saturating_sub(short(name).chars().count() + BAR + 3)
}

/// Follows the work: bars, notes, the JSON lines of training, Ctrl-C.
#[derive(Default)]
pub(crate) struct Terminal {
    /// Writes each training step as a line of JSON to stdout.
    json: bool,
    bar: Option<Bar>,
    loading: Option<Loading>,
    graceful: Option<Graceful>,
    /// The error that stopped the JSON lines.
    failure: Option<Error>,
}

/// The bar that is shown.
struct Bar {
    meter: Meter,
    shown: ProgressBar,
    drawn: Instant,
}

/// A model that is being loaded.
struct Loading {
    model: String,
    spinner: ProgressBar,
    since: Instant,
}

impl Bar {
    fn new(meter: Meter) -> Self {
        let shown = bar(meter.name());
        let mut bar = Self { meter, shown, drawn: Instant::now() };
        bar.draw(Instant::now());
        bar
    }

    /// Shows what has changed, if it is time to.
    fn tell(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.drawn) >= REDRAW {
            self.draw(now);
        }
        if LINES.load(Ordering::Relaxed)
            && let Some(line) = self.meter.line(now)
        {
            note(&line);
        }
    }

    fn draw(&mut self, now: Instant) {
        self.drawn = now;
        let (done, total) = self.meter.counts();
        self.shown.set_length(total as u64);
        self.shown.set_position(done as u64);
        self.shown.set_message(self.meter.beside_bar(room(self.meter.name()), now));
    }
}

impl Terminal {
    /// With `json`, training writes a line of JSON for each step.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, ..Self::default() }
    }

    /// The result of the work; an error of the JSON lines, which stopped it, comes first.
    pub(crate) fn finish<T>(self, result: Outcome<T>) -> Outcome<T> {
        match self.failure {
            Some(failure) => Err(failure.into()),
            None => result,
        }
    }

    fn end_bar(&mut self) {
        let Some(Bar { meter, shown, .. }) = self.bar.take() else { return };
        shown.finish_and_clear();
        let line = meter.last_line(Instant::now());
        if meter.has_told() {
            note(&line);
        } else {
            tracing::info!("{line}");
        }
    }
}

impl Watch for Terminal {
    fn note(&mut self, text: &str) {
        note(text);
    }

    fn loading(&mut self, model: Option<&str>) {
        if let Some(Loading { model, spinner, since }) = self.loading.take() {
            spinner.finish_and_clear();
            if LINES.load(Ordering::Relaxed) && since.elapsed() >= LONG {
                note(&format!("{model}: loaded in {}", span(since.elapsed())));
            }
        }
        if let Some(model) = model {
            let spinner = BARS.add(ProgressBar::new_spinner());
            spinner.set_message(format!("loading {model}"));
            spinner.enable_steady_tick(Duration::from_millis(120));
            self.loading = Some(Loading { model: model.to_owned(), spinner, since: Instant::now() });
        }
    }

    fn can_save(&mut self, can: bool) {
        self.graceful = can.then(Graceful::begin);
    }

    fn progress(&mut self, what: &str, done: usize, total: usize) -> bool {
        if self.bar.as_ref().is_none_or(|shown| shown.meter.name() != what) {
            self.end_bar();
            self.bar = Some(Bar::new(Meter::new(what, Unit::Results, done, total, Instant::now())));
        }
        if let Some(bar) = &mut self.bar {
            bar.meter.reach(done, total);
            bar.tell();
        }
        !interrupt::requested()
    }

    fn tokens(&mut self, more: usize) {
        if let Some(bar) = &mut self.bar {
            bar.meter.add_tokens(more);
        }
    }

    fn progress_end(&mut self) {
        self.end_bar();
    }

    fn training(&mut self, name: &str, done: usize, total: usize) {
        self.end_bar();
        self.bar = Some(Bar::new(Meter::new(name, Unit::Steps, done, total, Instant::now())));
        if done > 0 && done < total {
            note(&format!("{name}: going on from step {done} of {total}"));
        }
    }

    fn step(&mut self, metrics: &StepMetrics) -> bool {
        if let Some(bar) = &mut self.bar {
            let (_, total) = bar.meter.counts();
            bar.meter.reach(metrics.step, total);
            bar.meter.describe(terms(metrics));
            bar.tell();
        }
        if self.json
            && let Err(e) = output::json(metrics)
        {
            self.failure = Some(e);
            return false;
        }
        !interrupt::requested()
    }

    fn training_end(&mut self) {
        self.end_bar();
    }
}

/// The loss of a step and its terms, the most telling one first.
fn terms(m: &StepMetrics) -> Vec<String> {
    let mut terms = vec![format!("loss {:.3}", m.loss)];
    terms.extend(m.nll_harm.map(|nll| format!("nll_harm {nll:.3}")));
    terms.extend(m.terms.iter().map(|(name, value)| format!("{} {value:.4}", name.trim_start_matches("l_"))));
    terms
}

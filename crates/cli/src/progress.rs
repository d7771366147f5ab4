//! What a user watches: bars, notes and logs on stderr. In: steps and answers as they come; out: one bar at a time.
//! Invariant: stdout is never touched but for the JSON lines of training, and bars never tear log lines apart.

use crate::errors::{Label, push_line};
use crate::interrupt::{self, Graceful};
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

/// How much is said. Set once, before the first bar.
pub(crate) fn init(verbosity: i8, json: bool) {
    NOTES.store(verbosity >= 0, Ordering::Relaxed);
    if json || verbosity < 0 {
        BARS.set_draw_target(ProgressDrawTarget::hidden());
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

/// A bar of `total` units.
fn bar(name: &str, total: usize, unit: &str) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new(total as u64));
    let template = format!("{{prefix}} {{bar:24}} {{pos}}/{{len}} {unit}  {{eta}} left  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// Follows the work: bars, notes, the JSON lines of training, Ctrl-C.
#[derive(Default)]
pub(crate) struct Terminal {
    /// Writes each training step as a line of JSON to stdout.
    json: bool,
    bar: Option<Bar>,
    spinner: Option<ProgressBar>,
    graceful: Option<Graceful>,
    /// The error that stopped the JSON lines.
    failure: Option<Error>,
}

/// The bar that is shown.
struct Bar {
    name: String,
    shown: ProgressBar,
    since: Instant,
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
        if let Some(Bar { name, shown, since }) = self.bar.take() {
            let (done, total) = (shown.position(), shown.length().unwrap_or_default());
            shown.finish_and_clear();
            if done == total {
                tracing::info!("{name}: {total} in {:.1} s", since.elapsed().as_secs_f64());
            }
        }
    }
}

impl Watch for Terminal {
    fn note(&mut self, text: &str) {
        note(text);
    }

    fn loading(&mut self, model: Option<&str>) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
        if let Some(model) = model {
            let spinner = BARS.add(ProgressBar::new_spinner());
            spinner.set_message(format!("loading {model}"));
            spinner.enable_steady_tick(Duration::from_millis(120));
            self.spinner = Some(spinner);
        }
    }

    fn can_save(&mut self, can: bool) {
        self.graceful = can.then(Graceful::begin);
    }

    fn progress(&mut self, what: &str, done: usize, total: usize) -> bool {
        if self.bar.as_ref().is_none_or(|shown| shown.name != what) {
            self.end_bar();
            self.bar = Some(Bar { name: what.to_owned(), shown: bar(what, total, "answers"), since: Instant::now() });
        }
        if let Some(Bar { shown, .. }) = &self.bar {
            shown.set_length(total as u64);
            shown.set_position(done as u64);
        }
        !interrupt::requested()
    }

    fn progress_end(&mut self) {
        self.end_bar();
    }

    fn training(&mut self, name: &str, done: usize, total: usize) {
        self.end_bar();
        let bar = bar(name, total, "steps");
        bar.set_position(done as u64);
        bar.reset_eta();
        self.bar = Some(Bar { name: name.to_owned(), shown: bar, since: Instant::now() });
        if done > 0 && done < total {
            note(&format!("{name}: going on from step {done} of {total}"));
        }
    }

    fn step(&mut self, metrics: &StepMetrics) -> bool {
        if let Some(Bar { shown, .. }) = &self.bar {
            shown.set_position(metrics.step as u64);
            shown.set_message(terms(metrics));
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

/// The loss terms of a step, as the bar shows them.
fn terms(m: &StepMetrics) -> String {
    let mut text = format!("loss {:.3}", m.loss);
    if let Some(nll) = m.nll_harm {
        let _ = write!(text, "  nll_harm {nll:.3}");
    }
    for (name, value) in &m.terms {
        let _ = write!(text, "  {} {value:.4}", name.trim_start_matches("l_"));
    }
    text
}

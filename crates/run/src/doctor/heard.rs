//! Warnings of the crates below, as lines of a diagnosis. In: work; out: its result, and every warning that was logged
//! on this thread meanwhile. Invariant: a warning that was heard is not logged too.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Does `work`; gives what it gave, and the warnings.
pub(super) fn heard<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let listener = Listener::default();
    let said = Arc::clone(&listener.said);
    let result = tracing::subscriber::with_default(listener, work);
    let said = std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner));
    (result, said)
}

/// Keeps warnings.
#[derive(Default)]
struct Listener {
    said: Arc<Mutex<Vec<String>>>,
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Message::default();
        event.record(&mut text);
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_heard_and_nothing_else() {
        let (three, said) = heard(|| {
            tracing::info!("not this");
            tracing::warn!("key {}", "x");
            3
        });
        assert_eq!((three, said), (3, vec!["key x".to_owned()]));
        assert_eq!(heard(|| ()).1, Vec::<String>::new());
    }
}

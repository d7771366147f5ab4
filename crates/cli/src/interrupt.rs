//! Ctrl-C, SIGTERM and SIGHUP. In: signals; out: a flag that the running stage asks for. Invariant: the first signal
//! lets a stage that can save its state do so; the second, or any while nothing is to be saved, exits at once with 130.

use eraser_model::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

static SIGNALS: AtomicUsize = AtomicUsize::new(0);
static SAVING: AtomicBool = AtomicBool::new(false);

/// Installs the handler; once per process. `on_first` is called for a signal that lets the stage save its state.
pub(crate) fn install(on_first: fn()) -> Result<()> {
    ctrlc::set_handler(move || {
        let earlier = SIGNALS.fetch_add(1, Ordering::SeqCst);
        if earlier > 0 || !SAVING.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
        on_first();
    })
    .map_err(|e| Error::failed(format!("cannot install the Ctrl-C handler: {e}")))
}

/// True once a signal came.
pub(crate) fn requested() -> bool {
    SIGNALS.load(Ordering::SeqCst) > 0
}

/// Forgets the signal: it was meant for what has just stopped, not for the whole command.
pub(crate) fn forget() {
    SIGNALS.store(0, Ordering::SeqCst);
}

/// While this lives, the first signal only sets the flag.
pub(crate) struct Graceful;

impl Graceful {
    /// Begins a stage that looks at [`requested`] after every step.
    pub(crate) fn begin() -> Self {
        SAVING.store(true, Ordering::SeqCst);
        Self
    }
}

impl Drop for Graceful {
    fn drop(&mut self) {
        SAVING.store(false, Ordering::SeqCst);
    }
}

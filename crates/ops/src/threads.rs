//! Settings of speed for the whole process: one thread pool, and an allocator that keeps its pages. In: the number of
//! threads; out: pools and allocator set. Invariant: after `init`, rayon's global pool is the only one that runs work.

use libmimalloc_sys::{mi_option_set, mi_option_t};
use std::sync::Once;
use std::thread::available_parallelism;

/// `mi_option_purge_delay` of mimalloc.h, which the binding does not name.
const PURGE_DELAY: mi_option_t = 15;

/// Sets every thread pool of the process (rayon's global one, candle's own held to one thread) and the allocator's
/// page retention. Call once, before the first tensor; later calls return false and change nothing.
///
/// `threads` None or 0 takes what the operating system grants the process. candle keeps a spinning pool of its own for
/// element-wise operations and another for its products; beside rayon's they would fight for the same cores, so both
/// are held to the calling thread, by the variables `CANDLE_NUM_THREADS` and `RAYON_NUM_THREADS`.
///
/// Freed memory is kept for the next step instead of going back to the system: touching fresh pages costs as much as
/// the arithmetic of a small model. This has an effect only in a binary whose global allocator is mimalloc.
///
/// Must be called at the start of `main`, while the process has one thread, or after [`prepare`].
pub fn init(threads: Option<usize>) -> bool {
    let threads =
        threads.filter(|&n| n > 0).unwrap_or_else(|| available_parallelism().map_or(1, std::num::NonZero::get));
    if rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().is_err() {
        return false;
    }
    prepare();
    true
}

/// All of [`init`] but rayon's pool: for a process in which something else starts threads before their number is known.
/// The first call counts.
///
/// Must be called at the start of `main`, while the process has one thread: it changes environment variables, which
/// is a data race on some systems when another thread reads them at that moment.
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the documented contract of this function is that no other thread of the caller runs yet; rayon's
        // workers, which `init` has started, do not touch the environment. `mi_option_set` stores a number in a static
        // table.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("CANDLE_NUM_THREADS", "1");
            std::env::set_var("RAYON_NUM_THREADS", "1");
            mi_option_set(PURGE_DELAY, -1);
        }
    });
}

/// Undoes [`init`]'s retention of freed memory: it goes back to the system when it was not needed for a second. For
/// processes that live long and whose need comes and goes, such as servers.
pub fn give_memory_back() {
    // SAFETY: stores a number in a static table of the allocator, which its threads read atomically.
    #[allow(unsafe_code)]
    unsafe {
        mi_option_set(PURGE_DELAY, 1000);
    }
}

/// Threads in use.
pub fn count() -> usize {
    rayon::current_num_threads()
}

/// Largest resident set the process ever had, in MiB. None where the system does not tell through `/proc`.
pub fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// Memory that this process can still take, in MiB: what the system has left, or what is left of the limit that its
/// control group has. None where the system does not tell through `/proc`.
pub fn available_memory_mb() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let number = |name: &str| -> Option<f64> {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    let limit = number("memory.max").zip(number("memory.current")).map(|(most, now)| (most - now) / (1 << 20) as f64);
    Some(limit.map_or(kib / 1024.0, |limit| limit.min(kib / 1024.0)).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_left_is_told() {
        assert!(available_memory_mb().unwrap() > 1.0);
    }

    #[test]
    #[allow(unsafe_code)]
    fn purge_delay_is_the_option_of_that_number() {
        // SAFETY: reads a number from a static table.
        let delay = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        // mimalloc's default in milliseconds: 10 in version 2, 1000 in version 3.
        assert!(delay == 10 || delay == 1000, "{delay}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn peak_is_known_and_not_below_what_was_touched() {
        let before = peak_rss_mb().unwrap();
        let touched = std::hint::black_box(vec![1u8; 32 << 20]);
        assert!(touched[1 << 20] == 1 && before > 0.0 && peak_rss_mb().unwrap() >= 32.0);
    }
}

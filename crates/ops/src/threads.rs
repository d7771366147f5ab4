//! stub
/// Sets every thread pool of the process (rayon's global one, candle's own held to one thread) and the allocator's
/// page retention. Call once, before the first tensor; later calls return false and change nothing.
pub fn init(_threads: Option<usize>) -> bool {
    todo!()
}
/// Threads in use.
pub fn count() -> usize {
    rayon::current_num_threads()
}

//! How the system's allocator behaves in programs that move batches.

/// Freed memory up to this stays with the process.
const KEPT: i32 = 64 << 20;
/// Pieces up to this come from the heap; larger ones are mapped and unmapped one by one. The most that glibc allows.
const FROM_HEAP: i32 = 32 << 20;

/// Batches come and go by the hundred kilobytes. Unless told otherwise glibc gives each back to the kernel, which has to clear
/// the pages again for the next. To be called before the first thread is started; does nothing with other C libraries.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)] // the only way to say this to the allocator
    // SAFETY: sets two numbers of the allocator; there is no other thread yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_HEAP);
    }
}

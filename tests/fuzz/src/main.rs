//! One target under libFuzzer. `RAINSTORM_TARGET` names it, `RAINSTORM_CORPUS` is the folder that gets its seeds. Without a
//! target: their names, one a line.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::OnceLock;

use decoders::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

/// Inputs have at most 64 KiB. A decoder that allocates this much at once believed a length that it read.
const MOST_AT_ONCE: usize = 16 << 20;

struct Limited;

// SAFETY: it is the system's allocator; what is too large ends the process before it is asked for.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        unsafe { System.realloc(old, layout, size) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

fn check(size: usize) {
    if size > MOST_AT_ONCE {
        eprintln!("an allocation of {size} bytes at once");
        std::process::abort();
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(
    init: begin(),
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(data);
        }
    }
);

fn begin() {
    let Ok(name) = std::env::var("RAINSTORM_TARGET") else {
        TARGETS.iter().for_each(|t| println!("{}", t.name));
        std::process::exit(0);
    };
    let target = decoders::find(&name).unwrap_or_else(|| {
        eprintln!("there is no target {name}");
        std::process::exit(2);
    });
    TARGET.get_or_init(|| target);
    if let Ok(corpus) = std::env::var("RAINSTORM_CORPUS") {
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(Path::new(&corpus).join(format!("seed-{n:02}")), seed)
                .unwrap_or_else(|e| panic!("{corpus}: {e}"));
        }
    }
}

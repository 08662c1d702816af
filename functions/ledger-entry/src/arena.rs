//! The allocator: a fixed arena from which memory is only ever taken, never grown and hardly ever returned.
//!
//! An instance handles one event and is dropped with all its memory, so there is nothing to gain from freeing. The
//! stock allocator asks the engine for pages (`memory.grow`), which costs two system calls per event under a lock that
//! all threads of the process share; the arena is part of the initial memory, and pages that are never touched cost
//! nothing.
//!
//! Invariant: `used` is at most [`ARENA_BYTES`]. An allocation that does not fit fails, and the function traps.
//! With `reuse` above 1 an instance handles several events without a fresh arena: use the stock allocator then.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, UnsafeCell};
use std::ptr;

/// Room for the largest event (1 MiB), its parsed form and the answer. It counts towards the function's memory limit.
const ARENA_BYTES: usize = 8 << 20;

#[repr(align(16))]
struct Arena {
    bytes: UnsafeCell<[u8; ARENA_BYTES]>,
    used: Cell<usize>,
}

// SAFETY: a component has one thread, so no two calls overlap.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { bytes: UnsafeCell::new([0; ARENA_BYTES]), used: Cell::new(0) };

impl Arena {
    fn start(&self) -> *mut u8 {
        self.bytes.get().cast()
    }

    /// Whether nothing was allocated after this block, so that it can grow in place or be returned.
    fn is_last(&self, block: *mut u8, size: usize) -> bool {
        block as usize + size == self.start() as usize + self.used.get()
    }
}

// SAFETY: blocks are aligned, lie inside `bytes` and do not overlap: each begins at or after the end of the one before.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let free = self.start() as usize + self.used.get();
        let offset = self.used.get() + (free.next_multiple_of(layout.align()) - free);
        match offset.checked_add(layout.size()) {
            Some(end) if end <= ARENA_BYTES => {
                self.used.set(end);
                // SAFETY: `offset` is inside the arena.
                unsafe { self.start().add(offset) }
            }
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if self.is_last(block, layout.size()) {
            self.used.set(self.used.get() - layout.size());
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.is_last(block, layout.size()) {
            let end = self.used.get() - layout.size() + size;
            if end > ARENA_BYTES {
                return ptr::null_mut();
            }
            self.used.set(end);
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        // SAFETY: the caller gives a valid block and layout; the new block does not overlap the old one.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size());
            }
            moved
        }
    }
}

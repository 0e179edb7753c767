//! Buffers whose address suits O_DIRECT.
//!
//! Memory of a buffer that was dropped is kept for the next one of its class: taking fresh memory from the kernel, zeroed
//! page by page, costs more than everything else that is done with a large block.
//!
//! Invariant: the memory is initialised (zeroed) from the start, aligned to 4096, and owned by one buffer or by the store of
//! its class.

#![allow(unsafe_code)] // Vec cannot promise an alignment: std::alloc must be called directly.

use bytes::Bytes;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Alignment that satisfies O_DIRECT on every disk, and a page.
const ALIGN: usize = 4096;

/// A buffer whose address is a multiple of 4096.
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
}

/// Memory that is kept, of one size.
struct Class {
    bytes: usize,
    /// Blocks kept at most. 12 MiB in all, after a burst: that much of an idle replicator's 30 MiB.
    most: usize,
    kept: Mutex<Vec<Block>>,
}

struct Block(NonNull<u8>);

// SAFETY: a block that is kept belongs to nobody else.
unsafe impl Send for Block {}

const fn class(bytes: usize, most: usize) -> Class {
    Class { bytes, most, kept: Mutex::new(Vec::new()) }
}

/// Blocks of a database, pages of a filesystem, what a loop device sends at once, and what the front end reads into.
static CLASSES: [Class; 5] = [
    class(4 << 10, 128),
    class(16 << 10, 32),
    class(64 << 10, 16),
    class(512 << 10, 8),
    class((1 << 20) + (8 << 10), 6),
];

impl Class {
    /// The smallest one that is large enough.
    fn of(len: usize) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.bytes >= len)
    }

    fn take(&self) -> Option<NonNull<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop().map(|block| block.0)
    }

    /// False if there are enough.
    fn keep(&self, ptr: NonNull<u8>) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = kept.len() < self.most;
        if room {
            kept.push(Block(ptr));
        }
        room
    }
}

// SAFETY: the buffer owns its memory alone, like a Box<[u8]>.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        match Self::used_before(len) {
            Some(mut buf) => {
                buf.fill(0);
                buf
            }
            None => Self::fresh(len),
        }
    }

    /// A buffer of `len` bytes of which nothing is known: for whoever fills all of it, or drops it.
    #[must_use]
    pub fn for_overwrite(len: usize) -> Self {
        Self::used_before(len).unwrap_or_else(|| Self::fresh(len))
    }

    fn used_before(len: usize) -> Option<Self> {
        let ptr = Class::of(len)?.take()?;
        Some(Self { ptr, len })
    }

    fn fresh(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is never zero (see `layout`).
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout));
        Self { ptr, len }
    }

    /// As [`Self::for_overwrite`], with all its pages in memory: the kernel can copy into it without a page fault. A page fault of a
    /// process that is being killed fails, and with it the request whose data was being copied.
    #[must_use]
    pub fn resident(len: usize) -> Self {
        // Used before or not: a page that was never written to may still be missing.
        let buf = Self::for_overwrite(len);
        for page in (0..len).step_by(ALIGN) {
            // SAFETY: `page` is below `len`, and nobody else refers to the memory. Volatile: a write that nobody reads
            // would otherwise be left out.
            unsafe { buf.ptr.as_ptr().add(page).write_volatile(0) };
        }
        buf
    }

    /// A buffer with a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::for_overwrite(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// The same memory as shared, immutable bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Whether `bytes` could be used with O_DIRECT where they are.
    #[must_use]
    pub fn is_aligned(bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(ALIGN)
    }

    fn layout(len: usize) -> Layout {
        let bytes = Class::of(len).map_or(len, |class| class.bytes);
        Layout::from_size_align(bytes.max(1), ALIGN).expect("a buffer of at most some MiB")
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` initialised bytes while self lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if Class::of(self.len).is_some_and(|class| class.keep(self.ptr)) {
            return;
        }
        // SAFETY: allocated in `fresh` with the same layout (that of the class, or of the length where there is none), and
        // freed only here.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_zeroed_and_keeps_its_address_as_bytes() {
        for len in [0, 1, 4096, 5000, 1 << 20, 5000, 4096, 3 << 20, 1] {
            let mut buf = AlignedBuf::zeroed(len);
            assert!(AlignedBuf::is_aligned(&buf) && buf.len() == len && buf.iter().all(|b| *b == 0));
            buf.fill(7);
            let address = buf.as_ptr();
            let bytes = buf.into_bytes();
            assert_eq!(bytes.len(), len);
            assert!(len == 0 || (bytes.as_ptr() == address && bytes.iter().all(|b| *b == 7)));
        }
    }

    #[test]
    fn memory_is_used_again_up_to_a_limit_and_never_by_two() {
        let class = Class::of(300 << 10).unwrap();
        let many: Vec<AlignedBuf> =
            (0..class.most * 2).map(|_| AlignedBuf::for_overwrite(300 << 10)).collect();
        let mut addresses: Vec<usize> = many.iter().map(|b| b.as_ptr().addr()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), many.len());
        drop(many);
        let kept = class.kept.lock().unwrap().len();
        assert!(kept > 0 && kept <= class.most, "{kept}");
    }
}

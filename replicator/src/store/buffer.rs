//! Buffers whose address suits O_DIRECT.
//!
//! Invariant: the memory is initialised (zeroed) from the start, aligned to 4096, and freed exactly once.

#![allow(unsafe_code)] // Vec cannot promise an alignment: std::alloc must be called directly.

use bytes::Bytes;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment that satisfies O_DIRECT on every disk, and a page.
const ALIGN: usize = 4096;

/// A zeroed buffer whose address is a multiple of 4096.
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory alone, like a Box<[u8]>.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout's size is never zero (see `layout`).
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout));
        Self { ptr, len }
    }

    /// The same, with all its pages in memory: the kernel can copy into it without a page fault. A page fault of a
    /// process that is being killed fails, and with it the request whose data was being copied.
    #[must_use]
    pub fn resident(len: usize) -> Self {
        let buf = Self::zeroed(len);
        for page in (0..len).step_by(ALIGN) {
            // SAFETY: `page` is below `len`, and nobody else refers to the memory. Volatile: zero over zero would
            // otherwise be left out.
            unsafe { buf.ptr.as_ptr().add(page).write_volatile(0) };
        }
        buf
    }

    /// A buffer with a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
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
        Layout::from_size_align(len.max(1), ALIGN).expect("a buffer of at most some MiB")
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
        // SAFETY: allocated in `zeroed` with the same layout, freed only here.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_zeroed_and_keeps_its_address_as_bytes() {
        for len in [0, 1, 4096, 5000, 1 << 20] {
            let mut buf = AlignedBuf::zeroed(len);
            assert!(AlignedBuf::is_aligned(&buf) && buf.len() == len && buf.iter().all(|b| *b == 0));
            buf.fill(7);
            let address = buf.as_ptr();
            let bytes = buf.into_bytes();
            assert_eq!(bytes.len(), len);
            assert!(len == 0 || (bytes.as_ptr() == address && bytes.iter().all(|b| *b == 7)));
        }
    }
}

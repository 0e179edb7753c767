//! Buffers of one size that are kept when they are not needed, with their pages in memory.

use crate::store::AlignedBuf;
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};

/// Buffers of one length; clones share them.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    len: usize,
    /// Most that are kept; more are made when they are needed, and freed.
    keep: usize,
    free: Mutex<Vec<AlignedBuf>>,
}

impl Pool {
    /// `keep` buffers of `len` bytes, all made now.
    #[must_use]
    pub fn new(len: usize, keep: usize) -> Self {
        let free = (0..keep).map(|_| AlignedBuf::resident(len)).collect();
        Self(Arc::new(Inner { len, keep, free: Mutex::new(free) }))
    }

    /// A buffer with its pages in memory. What is in it is old.
    #[must_use]
    pub fn take(&self) -> AlignedBuf {
        let kept = self.free().pop();
        kept.unwrap_or_else(|| AlignedBuf::resident(self.0.len))
    }

    /// The buffer as shared bytes; it comes back when the last part of them is dropped.
    #[must_use]
    pub fn share(&self, buf: AlignedBuf) -> Bytes {
        Bytes::from_owner(Lent { buf: Some(buf), pool: self.clone() })
    }

    fn free(&self) -> MutexGuard<'_, Vec<AlignedBuf>> {
        self.0.free.lock().expect("no panic under this lock")
    }
}

struct Lent {
    buf: Option<AlignedBuf>,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buf.as_deref().unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(buf) = self.buf.take() else { return };
        let mut free = self.pool.free();
        if free.len() < self.pool.0.keep {
            free.push(buf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_part_of_it_is_dropped() {
        let pool = Pool::new(8192, 1);
        let mut buf = pool.take();
        let address = buf.as_ptr();
        buf.fill(7);
        let bytes = pool.share(buf);
        let part = bytes.slice(4096..);
        drop(bytes);
        let other = pool.take();
        assert_ne!(other.as_ptr(), address, "it is in use");
        assert!(part.iter().all(|b| *b == 7));
        drop(part);
        assert_eq!(pool.take().as_ptr(), address, "used again");
        let (one, two) = (pool.share(other), pool.share(pool.take()));
        drop((one, two));
        assert_eq!(pool.free().len(), 1, "no more than it keeps");
    }
}

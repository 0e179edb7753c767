//! Fuzzed bytes as a row of choices. Past the end all of them are zero, so every row means something.

/// Reads choices off the front.
#[derive(Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Choices from `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `len` bytes, or as many as there are.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(len.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// One of `n`.
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    /// Once in `n`.
    pub fn rarely(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from(self.byte()) | u16::from(self.byte()) << 8
    }

    /// A number near one that matters: small, near `near`, or at the end of what there is.
    pub fn number(&mut self, near: u64) -> u64 {
        let by = u64::from(self.byte());
        match self.below(8) {
            0 => by,
            1 => near.wrapping_sub(by),
            2 => u64::MAX - by,
            3 => by << 12,
            4 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            _ => near.wrapping_add(by),
        }
    }
}

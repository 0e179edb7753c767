//! Standard output. Tests see what `print!` captures, so that a passing test stays silent.

use std::io::{self, Write};

/// Standard output, locked.
#[cfg(not(test))]
pub(super) fn stdout() -> impl Write {
    io::stdout().lock()
}

#[cfg(test)]
pub(super) fn stdout() -> impl Write {
    struct Captured;
    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            print!("{}", String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    Captured
}

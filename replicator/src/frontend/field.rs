//! Fields of messages: so many bytes at a place that whoever sent the message may not have filled.

/// The bytes at `at`; none if the message ends before.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_that_is_not_all_there_is_none() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!(field(&bytes, 1), Some([2, 3, 4, 5]));
        assert_eq!(field::<4>(&bytes, 2), None);
        assert_eq!(field::<0>(&bytes, 5), Some([]));
        assert_eq!(field::<2>(&bytes, usize::MAX), None, "no overflow");
    }
}

//! Recognises what is on a device from its first bytes, so that nothing that holds data is ever formatted.
//!
//! A device that is not all zero and not recognised is Unknown, never Blank. What keeps its mark at the end only
//! (old md arrays) is not seen.

/// How many bytes from the start of the device [`probe`] wants to see.
pub const PROBE_LEN: usize = 128 * 1024;

/// What the first bytes of a device say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// All zero: may be formatted.
    Blank,
    /// A filesystem, volume manager or partition table by name (`ext4`, `xfs`, `lvm`, `gpt`, …).
    Known(&'static str),
    /// Something else: not to be touched.
    Unknown,
}

/// Marks with their place, the more specific before the less: a partition table's mark is also found in the boot
/// sector of a FAT or NTFS filesystem.
const MARKS: &[(usize, &[u8], &str)] = &[
    (0, b"XFSB", "xfs"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"hsqs", "squashfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (512, b"LABELONE", "lvm"),
    (0, b"LABELONE", "lvm"),
    (1024, b"LABELONE", "lvm"),
    (1536, b"LABELONE", "lvm"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], "md"),
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], "md"),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    (4120, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca], "bcache"),
    (32768, b"JFS1", "jfs"),
    (65588, b"ReIsEr", "reiserfs"),
    (32769, b"CD001", "iso9660"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (54, b"FAT", "fat"),
    (82, b"FAT32", "fat"),
    (512, b"EFI PART", "gpt"),
    (4096, b"EFI PART", "gpt"),
    (510, &[0x55, 0xaa], "partition table"),
];

/// Looks at the first [`PROBE_LEN`] bytes of a device (fewer if it is smaller).
#[must_use]
pub fn probe(bytes: &[u8]) -> Signature {
    if let Some(ext) = ext(bytes) {
        return Signature::Known(ext);
    }
    let found = MARKS.iter().find(|(at, mark, _)| bytes.get(*at..*at + mark.len()) == Some(*mark));
    match found {
        Some((_, _, name)) => Signature::Known(name),
        None if bytes.iter().all(|b| *b == 0) => Signature::Blank,
        None => Signature::Unknown,
    }
}

/// The ext family shares a mark; the features tell them apart.
fn ext(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(1080..1082)? != [0x53, 0xef] {
        return None;
    }
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(1024 + at..1024 + at + 4)?.try_into().ok()?));
    let (compat, incompat) = (word(0x5c)?, word(0x60)?);
    const HAS_JOURNAL: u32 = 0x4;
    const EXTENTS_OR_LATER: u32 = 0x40 | 0x80 | 0x200;
    Some(if incompat & EXTENTS_OR_LATER != 0 {
        "ext4"
    } else if compat & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;

    #[test]
    fn marks_are_found_at_their_place_only() {
        assert_eq!(probe(&[0; PROBE_LEN]), Signature::Blank);
        assert_eq!(probe(&[]), Signature::Blank);
        for (at, mark, name) in MARKS {
            let mut bytes = vec![0; PROBE_LEN];
            bytes[*at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(probe(&bytes), Signature::Known(name));
            bytes.rotate_right(7);
            assert_eq!(probe(&bytes), Signature::Unknown, "{name}");
            assert_eq!(probe(&bytes[..600.min(*at)]), Signature::Blank);
        }
        let mut bytes = vec![0; PROBE_LEN];
        bytes[PROBE_LEN - 1] = 1;
        assert_eq!(probe(&bytes), Signature::Unknown);
    }

    #[test]
    fn real_filesystems_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        for (program, arguments, name) in [
            ("mkfs.ext4", &["-q", "-F"][..], "ext4"),
            ("mkfs.ext3", &["-q", "-F"], "ext3"),
            ("mkfs.ext2", &["-q", "-F"], "ext2"),
            ("mkfs.xfs", &["-q"], "xfs"),
            ("mkswap", &[], "swap"),
        ] {
            let path = dir.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(400 << 20).unwrap();
            match Command::new(program).args(arguments).arg(&path).output() {
                Ok(output) => assert!(output.status.success(), "{program}: {output:?}"),
                Err(e) => {
                    eprintln!("SKIPPED: {program}: {e}");
                    continue;
                }
            }
            let mut bytes = vec![0; PROBE_LEN];
            std::fs::File::open(&path).unwrap().read_exact(&mut bytes).unwrap();
            assert_eq!(probe(&bytes), Signature::Known(name));
        }
    }
}

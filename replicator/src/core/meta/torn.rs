//! Every kind of metadata block, torn at every byte: what is read back is the state before, the state after, or more
//! dirt than either, never anything else.

use super::{
    ACTLOG_AT, ActivityLog, BITMAP_AT, BLOCK_BYTES, Bitmap, MAX_PEERS, PeerSlot, SUPERBLOCK_AT, Superblock,
    Write, actlog, file_bytes, image, pair, superblock,
};
use crate::core::range::Range;
use crate::types::{BootId, Epoch, Generation, NodeName, TermId, VolumeName};

const SIZE: u64 = 8 << 20;
const BLOCK: usize = BLOCK_BYTES as usize;

fn before() -> Superblock {
    let mut peers = [const { None }; MAX_PEERS];
    let node = NodeName::new("beta").expect("a name");
    peers[0] = Some(PeerSlot { node, base: Generation(0xaa), tracking: true });
    Superblock {
        volume: VolumeName::new("webstore").expect("a name"),
        node: NodeName::new("alpha").expect("a name"),
        size: SIZE,
        offered: SIZE,
        behind: false,
        epoch: Epoch { number: 7, term: TermId(0x1122) },
        generation: Generation(0xbb),
        pending: Generation(0),
        history: vec![Generation(0xaa)],
        inconsistent: false,
        partial: false,
        boot: BootId(0xb007),
        host_boot: "0f0e-kernel".into(),
        clean: false,
        was_primary: true,
        peers,
        parted: [(0, 0); MAX_PEERS],
        yields: Generation(0),
    }
}

/// Everything about it has changed, and it is longer.
fn after() -> Superblock {
    let mut sb = before();
    sb.epoch = Epoch { number: 8, term: TermId(0x3344) };
    sb.advance(Generation(0xdd));
    sb.pending = Generation(0xee);
    (sb.inconsistent, sb.clean, sb.was_primary) = (true, true, false);
    sb.boot = BootId(0xb008);
    sb.parted[0] = (1_795_000_000, 7);
    sb.yields = Generation(0xdd);
    sb
}

fn apply(file: &mut [u8], writes: &[Write]) {
    for (offset, bytes) in writes {
        file[*offset as usize..*offset as usize + bytes.len()].copy_from_slice(bytes);
    }
}

fn file() -> Vec<u8> {
    let mut file = vec![0; file_bytes(SIZE) as usize];
    apply(&mut file, &image::create(&before()));
    file
}

/// Calls `check` with the file after each way in which a crash may leave `writes`: any of them untouched, whole or torn
/// at one and the same byte, the head or the tail of it new.
fn torn(good: &[u8], writes: &[Write], check: impl Fn(&[u8], &str)) {
    let ways = 4u32.pow(u32::try_from(writes.len()).expect("few"));
    for at in 0..=BLOCK {
        for way in 0..ways {
            let mut file = good.to_vec();
            for (i, (offset, bytes)) in writes.iter().enumerate() {
                let from = *offset as usize;
                let new = match way / 4u32.pow(i as u32) % 4 {
                    0 => 0..0,
                    1 => 0..BLOCK,
                    2 => 0..at,
                    _ => at..BLOCK,
                };
                file[from + new.start..from + new.end].copy_from_slice(&bytes[new]);
            }
            // Whole ones do not depend on the byte.
            if at == 0 || (0..writes.len()).any(|i| way / 4u32.pow(i as u32) % 4 > 1) {
                check(&file, &format!("torn at {at}, way {way}"));
            }
        }
    }
}

#[test]
fn a_superblock_torn_at_any_byte_is_the_one_before_or_the_one_after() {
    let good = file();
    let writes = pair::update(superblock::MAGIC, SUPERBLOCK_AT, 2, &after().encode());
    torn(&good, &writes, |file, how| {
        let loaded = image::load(file).unwrap_or_else(|e| panic!("{how}: {e}"));
        assert!([before(), after()].contains(&loaded.superblock), "{how}: {:?}", loaded.superblock);
        let whole = writes.iter().any(|(at, bytes)| file[*at as usize..*at as usize + BLOCK] == bytes[..]);
        assert_eq!(loaded.superblock == after(), whole, "{how}");
    });
}

#[test]
fn an_activity_log_torn_at_any_byte_is_the_one_before_or_the_one_after() {
    let mut good = file();
    let named = |extents: std::ops::RangeInclusive<u32>| {
        let mut log = ActivityLog::default();
        log.activate(extents).expect("there is room");
        log.begin_write()
    };
    apply(&mut good, &pair::update(actlog::MAGIC, ACTLOG_AT, 2, &named(0..=0)));
    let writes = pair::update(actlog::MAGIC, ACTLOG_AT, 3, &named(0..=1));
    torn(&good, &writes, |file, how| {
        let loaded = image::load(file).unwrap_or_else(|e| panic!("{how}: {e}"));
        let extents: Vec<u32> = loaded.log.iter().map(|(extent, _)| extent).collect();
        let whole = writes.iter().any(|(at, bytes)| file[*at as usize..*at as usize + BLOCK] == bytes[..]);
        assert_eq!(extents, if whole { vec![0, 1] } else { vec![0] }, "{how}");
        assert!(extents.contains(&0), "{how}: an extent that was written to is forgotten");
    });
}

#[test]
fn a_bitmap_page_torn_at_any_byte_is_one_of_the_two_or_all_dirty() {
    let mut good = file();
    let mut map = Bitmap::new(SIZE);
    let marks = [1 << 20, 5 << 20].map(|start| Range { start, end: start + (512 << 10) });
    map.mark(marks[0]);
    let old = map.clone();
    apply(&mut good, &[map.save(0, 0)]);
    map.mark(marks[1]);
    let new = map.clone();
    let writes = [map.save(0, 0)];
    assert!(writes[0].0 >= BITMAP_AT);
    torn(&good, &writes, |file, how| {
        let loaded = image::load(file).unwrap_or_else(|e| panic!("{how}: {e}"));
        let (found, dirty) = (&loaded.bitmaps[0].1, loaded.bitmaps[0].1.dirty_bytes());
        if loaded.alarms.is_empty() {
            let runs = |map: &Bitmap| map.runs(u64::MAX).collect::<Vec<_>>();
            assert!([runs(&old), runs(&new)].contains(&runs(found)), "{how}: {:?}", runs(found));
        } else {
            assert_eq!(dirty, SIZE, "{how}: what cannot be read is all dirty");
        }
    });
}

/// A file for a larger volume is written whole, and the old one as little as before: either is read back as what was in
/// memory, and the next update of each record goes to the pair that is not the newest.
#[test]
fn a_whole_new_file_is_what_was_in_memory_and_can_be_updated_at_any_byte() {
    let large = 300 << 20;
    let mut log = ActivityLog::default();
    log.activate([0, 1].into_iter()).expect("there is room");
    let payload = log.begin_write();
    let mut map = Bitmap::new(SIZE);
    map.mark(Range { start: 1 << 20, end: 2 << 20 });
    map.grow(large);
    let sb = Superblock { size: large, offered: SIZE, ..after() };
    let (writes, superblock_at, log_at) = image::whole((&sb, 7), (&payload, 4), [(0, &map)].into_iter());
    let mut file = vec![0; file_bytes(large) as usize];
    apply(&mut file, &writes);
    let loaded = image::load(&file).expect("it can be read");
    assert_eq!((&loaded.superblock, loaded.superblock_sequence), (&sb, superblock_at));
    assert_eq!((loaded.log.len(), loaded.log.sequence, superblock_at, log_at), (2, log_at, 8, 5));
    assert_eq!((loaded.bitmaps[0].1.dirty_bytes(), loaded.alarms, loaded.repairs), (1 << 20, vec![], vec![]));
    assert_eq!(image::size(&file), Ok(large));

    let next = Superblock { offered: large, behind: true, ..sb.clone() };
    let update = pair::update(superblock::MAGIC, SUPERBLOCK_AT, superblock_at + 1, &next.encode());
    torn(&file, &update, |file, how| {
        let found = image::load(file).unwrap_or_else(|e| panic!("{how}: {e}")).superblock;
        assert!([&sb, &next].contains(&&found), "{how}: {found:?}");
    });
}

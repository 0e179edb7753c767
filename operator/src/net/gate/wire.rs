//! nf_tables' netlink messages as bytes: attributes, requests, transactions, and what comes back. Pure.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`, which are the kernel's interface and do not
//! change. Integers of a message's header are in host order, those of nf_tables' attributes in network order.

/// Subsystem of nfnetlink.
const NF_TABLES: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_NESTED: u16 = 0x8000;
const REQUEST: u16 = 1;
/// Header of netlink, then of nfnetlink.
const HEADER: usize = 20;

/// Answer even if it went well.
pub(super) const ACK: u16 = 4;
/// All of a kind.
pub(super) const DUMP: u16 = 0x300;
/// Make it if it is not there.
pub(super) const CREATE: u16 = 0x400;
/// A rule goes behind the others.
pub(super) const APPEND: u16 = 0x800;

/// Attributes in the making.
#[derive(Debug, Clone, Default)]
pub(super) struct Attrs(Vec<u8>);

impl Attrs {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // All of ours are names, numbers and bounded lists of addresses.
        let length = (4 + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn be64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_NESTED, &inner.0)
    }
}

/// One message of nf_tables.
pub(super) fn request(family: u8, message: u8, flags: u16, sequence: u32, attrs: &Attrs) -> Vec<u8> {
    let kind = NF_TABLES << 8 | u16::from(message);
    raw(kind, REQUEST | flags, sequence, family, 0, &attrs.0)
}

fn raw(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attrs: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + attrs.len());
    bytes.extend(((HEADER + attrs.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attrs);
    bytes
}

/// A transaction: all of its messages take effect at one moment, or none does.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    next: u32,
}

impl Batch {
    /// `first` is the sequence number of its beginning.
    pub(super) fn begin(first: u32) -> Self {
        Self { bytes: raw(BATCH_BEGIN, REQUEST, first, 0, NF_TABLES, &[]), next: first.wrapping_add(1) }
    }

    /// Adds a message, and says by which number an answer names it.
    pub(super) fn add(&mut self, family: u8, message: u8, flags: u16, attrs: &Attrs) -> u32 {
        let sequence = self.next;
        self.bytes.extend(request(family, message, ACK | flags, sequence, attrs));
        self.next = self.next.wrapping_add(1);
        sequence
    }

    /// Its bytes, and the first number that is free again.
    pub(super) fn end(mut self) -> (Vec<u8>, u32) {
        self.bytes.extend(raw(BATCH_END, REQUEST, self.next, 0, NF_TABLES, &[]));
        (self.bytes, self.next.wrapping_add(1))
    }
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// The request of that number: 0, or why it was refused.
    Outcome { sequence: u32, errno: i32 },
    /// A list has ended.
    Done { sequence: u32 },
    /// An object: the attributes behind nfnetlink's header.
    Object { sequence: u32, attrs: &'a [u8] },
}

/// The messages of one datagram. What is cut short ends it.
pub(super) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..length).filter(|m| m.len() >= 16)?;
        let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
        let sequence = u32_at(message, 8)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(match kind {
            NLMSG_ERROR => Reply::Outcome { sequence, errno: -u32_at(message, 16)?.cast_signed() },
            NLMSG_DONE => Reply::Done { sequence },
            _ => Reply::Object { sequence, attrs: message.get(HEADER..).unwrap_or_default() },
        })
    })
}

/// The attributes in `bytes`: kind and value.
pub(super) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of that kind.
pub(super) fn attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let inner = Attrs::default().be32(1, 0x0102_0304).be64(2, 7);
        let all = Attrs::default().text(1, "abcd").nest(2, &inner).bytes(3, &[9]);
        assert_eq!(all.0.len() % 4, 0);
        let read: Vec<(u16, Vec<u8>)> = attrs(&all.0).map(|(k, v)| (k, v.to_vec())).collect();
        assert_eq!(read[0], (1, b"abcd\0".to_vec()));
        assert_eq!(attr(&read[1].1, 1), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attr(&read[1].1, 2), Some(&7_u64.to_be_bytes()[..]));
        assert_eq!((read[1].0, &read[2]), (2, &(3, vec![9])));
        assert_eq!(attr(&all.0, 4), None);
        // The last attribute is whole without its three bytes of padding.
        for cut in 0..all.0.len() - 3 {
            let read = attrs(&all.0[..cut]).count();
            assert!(read <= 2, "{read} of {cut} bytes");
        }
    }

    #[test]
    fn a_transaction_is_framed_and_its_messages_are_numbered() {
        let mut batch = Batch::begin(40);
        assert_eq!(batch.add(1, 6, CREATE, &Attrs::default().text(1, "t")), 41);
        assert_eq!(batch.add(1, 6, 0, &Attrs::default()), 42);
        let (bytes, free) = batch.end();
        assert_eq!(free, 44);
        let mut kinds = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u32_at(rest, 0).unwrap() as usize;
            kinds.push((u16::from_ne_bytes([rest[4], rest[5]]), u32_at(rest, 8).unwrap()));
            rest = &rest[length..];
        }
        assert_eq!(kinds, [(16, 40), (10 << 8 | 6, 41), (10 << 8 | 6, 42), (17, 43)]);
    }

    #[test]
    fn answers_are_read_and_cut_ones_end_the_list() {
        let mut datagram = raw(NLMSG_ERROR, 0, 5, 0, 0, &[]);
        datagram[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        datagram.extend(raw(10 << 8 | 6, 0, 6, 1, 0, &Attrs::default().text(1, "x").0));
        datagram.extend(raw(NLMSG_DONE, 0, 6, 0, 0, &[]));
        let read: Vec<_> = replies(&datagram).collect();
        assert_eq!(read[0], Reply::Outcome { sequence: 5, errno: 2 });
        let Reply::Object { sequence: 6, attrs: inner } = read[1] else { panic!("{read:?}") };
        assert_eq!(attr(inner, 1), Some(&b"x\0"[..]));
        assert_eq!(read[2..], [Reply::Done { sequence: 6 }]);
        for cut in 0..datagram.len() {
            assert!(replies(&datagram[..cut]).count() < 3, "{cut}");
        }
        // A length that does not move on would never end.
        assert_eq!(replies(&[0; 64]).count(), 0);
    }
}

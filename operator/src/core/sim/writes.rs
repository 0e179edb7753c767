//! Which writes a replica holds, or clients were told of: a set of small numbers that only grow.

/// A set of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Writes(Vec<u64>);

impl Writes {
    pub(super) fn insert(&mut self, write: u64) {
        let word = usize::try_from(write / 64).expect("a small number");
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (write % 64);
    }

    pub(super) fn contains(&self, write: u64) -> bool {
        self.word(usize::try_from(write / 64).expect("a small number")) & (1 << (write % 64)) != 0
    }

    fn word(&self, i: usize) -> u64 {
        self.0.get(i).copied().unwrap_or(0)
    }

    pub(super) fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().enumerate().all(|(i, w)| w & !other.word(i) == 0)
    }

    /// Only what `other` has, too.
    pub(super) fn keep(&mut self, other: &Self) {
        for i in 0..self.0.len() {
            self.0[i] &= other.word(i);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// What `other` lacks.
    pub(super) fn lacking_in(&self, other: &Self) -> Vec<u64> {
        (0..self.0.len() as u64 * 64).filter(|w| self.contains(*w) && !other.contains(*w)).collect()
    }
}

#[test]
fn a_set_of_writes_is_a_set() {
    let (mut a, mut b) = (Writes::default(), Writes::default());
    for w in [1, 64, 200] {
        a.insert(w);
    }
    b.insert(64);
    assert!(b.is_subset(&a) && !a.is_subset(&b));
    assert_eq!((a.len(), a.lacking_in(&b)), (3, vec![1, 200]));
    a.keep(&b);
    assert!(a.is_subset(&b) && a.contains(64) && !a.contains(1));
}

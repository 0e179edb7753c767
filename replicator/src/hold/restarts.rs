//! When a worker that died is started again. Pure.

use std::time::Duration;

/// A worker that lived for this long after it had started has worked: earlier deaths are forgotten. Taking a device
/// over and answering what waited is done in less than half of it.
const SETTLED: Duration = Duration::from_secs(1);
/// Pauses before the next start, by how many died before they had worked. All together they stay below 2 s: a group
/// whose device hangs for longer is better off elsewhere.
const PAUSES_MS: [u64; 5] = [0, 100, 200, 400, 800];

/// Deaths of workers in a row.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    row: usize,
}

impl Restarts {
    /// A worker died so long after it had started (zero if it never did): how long to wait before the next one; none: give up.
    pub fn after_death(&mut self, worked: Duration) -> Option<Duration> {
        if worked >= SETTLED {
            self.row = 0;
        }
        self.row += 1;
        PAUSES_MS.get(self.row - 1).copied().map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_a_row_of_early_deaths_ends() {
        let mut restarts = Restarts::default();
        let (early, late) = (Duration::from_millis(900), Duration::from_secs(1));
        assert_eq!(restarts.after_death(early), Some(Duration::ZERO));
        assert_eq!(restarts.after_death(early), Some(Duration::from_millis(100)));
        // One that has worked for a while begins anew.
        assert_eq!(restarts.after_death(late), Some(Duration::ZERO));
        for _ in 0..4 {
            assert!(restarts.after_death(early).is_some_and(|pause| pause > Duration::ZERO));
        }
        assert_eq!(restarts.after_death(early), None);
    }

    #[test]
    fn all_pauses_together_are_short() {
        assert!(PAUSES_MS.iter().sum::<u64>() < 2000);
    }
}

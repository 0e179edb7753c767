//! Whether the replicator is there, and whether it died and was started again in between: by the count that its holder
//! keeps, so that a restart that was too quick to be missed is seen too. Pure.

use baton_replicator::types::Instant;
use std::time::Duration;

/// What is known of the replicator's process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Replicator {
    restarts: Option<u64>,
    away_since: Option<Instant>,
    new: bool,
}

/// It died, and its devices waited meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Died {
    pub times: u64,
    /// As long as this agent missed it; none if it did not notice.
    pub away: Option<Duration>,
}

impl Died {
    pub fn sentence(&self) -> String {
        let times = if self.times == 1 { String::new() } else { format!(" {} times", self.times) };
        let away = self.away.map(|a| format!(" after {} ms", a.as_millis())).unwrap_or_default();
        format!("the replicator died{times} and was started again; it answered{away}, I/O waited meanwhile")
    }
}

impl Replicator {
    /// Takes note of its status, of which only the count matters; none: it does not answer.
    pub fn look(&mut self, restarts: Option<u64>, now: Instant) -> Option<Died> {
        self.new = false;
        let Some(restarts) = restarts else {
            self.away_since.get_or_insert(now);
            return None;
        };
        let away = self.away_since.take().map(|since| now.since(since));
        let before = self.restarts.replace(restarts);
        self.new = before != Some(restarts);
        // Fewer than before: its container was started anew, which is no death that anything waited for.
        let times = restarts.checked_sub(before?).filter(|times| *times > 0)?;
        Some(Died { times, away })
    }

    /// The last look found another process than the one before.
    pub fn is_new(&self) -> bool {
        self.new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant(n * 1_000_000)
    }

    #[test]
    fn a_death_is_told_once_with_how_long_it_was_missed() {
        let mut r = Replicator::default();
        assert_eq!(r.look(Some(3), ms(0)), None, "what was before this agent is not news");
        assert!(r.is_new());
        assert_eq!((r.look(Some(3), ms(10)), r.is_new()), (None, false));
        assert_eq!(r.look(None, ms(100)), None);
        assert_eq!(r.look(None, ms(150)), None);
        let died = r.look(Some(4), ms(250)).unwrap();
        assert_eq!(died, Died { times: 1, away: Some(Duration::from_millis(150)) });
        assert!(r.is_new());
        let said = died.sentence();
        assert_eq!(
            said,
            "the replicator died and was started again; it answered after 150 ms, I/O waited meanwhile"
        );
        assert_eq!((r.look(Some(4), ms(300)), r.is_new()), (None, false));
    }

    #[test]
    fn a_quick_one_is_noticed_and_a_new_container_is_no_death() {
        let mut r = Replicator::default();
        r.look(Some(0), ms(0));
        assert_eq!(r.look(Some(2), ms(50)), Some(Died { times: 2, away: None }));
        r.look(None, ms(60));
        assert_eq!((r.look(Some(0), ms(70)), r.is_new()), (None, true));
    }
}

//! The one question that a command asks before it does what cannot be taken back.

use super::exit::{CliError, Exit};
use std::io::{self, BufRead, IsTerminal, Write};

/// Asks on the terminal; without one somebody must have said yes before. `question` is shown with the possible answers
/// behind it, `undone` begins the refusal, and `why` says why there is a question at all.
///
/// # Errors
/// Unless the answer was yes.
pub(super) fn ask(question: &str, undone: &str, why: &str) -> Result<(), CliError> {
    let not = |reason: &str| Err(CliError::new(Exit::Failed, format!("{undone}: {reason}"), ""));
    if !io::stdin().is_terminal() {
        return not(&format!("{why}, and there is no terminal to ask on; say --yes"));
    }
    // A prompt that cannot be shown is a question that was not asked.
    let prompt = |mut out: io::Stderr| write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    if prompt(io::stderr()).is_err() {
        return not("the question could not be asked; say --yes");
    }
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer).is_ok();
    if read && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") {
        Ok(())
    } else {
        not("you did not say yes")
    }
}

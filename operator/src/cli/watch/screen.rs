//! The terminal of the live view: alternate screen and raw mode while [`Screen`] lives, keys from a thread of
//! their own, and the signals that must not leave a broken terminal behind. A panic restores it too (ratatui's hook).

use super::model::Key;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How often the keyboard thread looks whether it is still wanted.
const KEY_POLL: Duration = Duration::from_millis(200);
/// Keys typed faster than the screen is drawn; more are waited for by the thread.
const KEYS: usize = 16;

/// What comes from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Key(Key),
    Resized,
}

/// The terminal, taken over.
pub(super) struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    pub fn enter() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}

/// The signals that end a program.
pub(super) struct Signals {
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

/// A thread, because reading keys blocks; it ends when the receiver is gone or the terminal is.
pub(super) fn read_inputs() -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(KEY_POLL)
                .and_then(|ready| if ready { event::read().map(Some) } else { Ok(None) })
            {
                Ok(Some(event)) => {
                    if let Some(input) = meaning(&event)
                        && sender.blocking_send(input).is_err()
                    {
                        return;
                    }
                }
                Ok(None) => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

fn meaning(event: &Event) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            Some(Input::Key(match key.code {
                KeyCode::Char('c') if control => Key::Interrupt,
                KeyCode::Char(c) => Key::Char(c),
                KeyCode::Up => Key::Up,
                KeyCode::Down => Key::Down,
                KeyCode::PageUp => Key::PageUp,
                KeyCode::PageDown => Key::PageDown,
                KeyCode::Home => Key::Home,
                KeyCode::End => Key::End,
                KeyCode::Enter => Key::Enter,
                KeyCode::Esc => Key::Escape,
                _ => return None,
            }))
        }
        Event::Resize(..) => Some(Input::Resized),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::KeyEvent;

    #[test]
    fn keys_mean_what_is_on_them() {
        let key = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Input::Key(Key::Interrupt)));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Some(Input::Key(Key::Char('c'))));
        assert_eq!(key(KeyCode::Enter, KeyModifiers::NONE), Some(Input::Key(Key::Enter)));
        assert_eq!(key(KeyCode::F(5), KeyModifiers::NONE), None);
        assert_eq!(meaning(&Event::Resize(80, 24)), Some(Input::Resized));
    }
}

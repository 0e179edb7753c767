//! `baton watch`: the status page again and again, on the terminal's alternate screen until q, or as plain
//! pages where the output is no terminal. The terminal is restored however it ends.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::paint::{Paint, Tone};
use super::status_page;
use crate::status::ClusterStatus;
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::ClearType;
use crossterm::{cursor, event, execute, queue, style, terminal};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the keyboard thread looks whether it is still wanted.
const KEY_POLL: Duration = Duration::from_millis(200);

enum Key {
    Quit,
    Redraw,
}

pub(super) async fn run(
    client: &ApiClient,
    interval: Duration,
    count: Option<u64>,
    paint: Paint,
) -> Result<Exit, CliError> {
    let failed = |e: io::Error| CliError::new(Exit::Failed, format!("cannot write to the terminal: {e}"), "");
    let (mut keys, screen) = if io::stdout().is_terminal() && io::stdin().is_terminal() {
        let screen = Screen::enter().map_err(failed)?;
        (read_keys(), Some(screen))
    } else {
        // A channel that never delivers.
        (mpsc::channel(1).1, None)
    };
    let mut keys_open = screen.is_some();
    let mut looks = 0;
    let mut last = Exit::Ok;
    while count.is_none_or(|count| looks < count) {
        looks += 1;
        let page = match client.get::<ClusterStatus>("/v1/status").await {
            Ok(status) => {
                last = Exit::Ok;
                status_page::render(&status, paint)
            }
            Err(error) => {
                last = error.exit;
                paint.tone(Tone::Bad, &error.to_string()) + "\n"
            }
        };
        draw(&page, screen.is_some(), interval).map_err(failed)?;
        if count.is_some_and(|count| looks >= count) {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            key = keys.recv(), if keys_open => match key {
                Some(Key::Quit) => return Ok(Exit::Ok),
                Some(Key::Redraw) => {}
                None => keys_open = false,
            },
        }
    }
    Ok(last)
}

fn draw(page: &str, full_screen: bool, interval: Duration) -> io::Result<()> {
    let mut out = super::output::stdout();
    if !full_screen {
        writeln!(out, "{page}")?;
        return out.flush();
    }
    // Some terminals do not know their size and say 0.
    let height = match terminal::size() {
        Ok((_, rows)) if rows > 1 => usize::from(rows),
        Ok(_) | Err(_) => 24,
    };
    let lines: Vec<&str> = page.lines().collect();
    queue!(out, cursor::MoveTo(0, 0))?;
    // Each line is overwritten in place, which does not flicker; raw mode does not return the carriage.
    for line in lines.iter().take(height - 1) {
        queue!(out, style::Print(line), terminal::Clear(ClearType::UntilNewLine), style::Print("\r\n"))?;
    }
    queue!(out, terminal::Clear(ClearType::FromCursorDown))?;
    let more = match lines.len().saturating_sub(height - 1) {
        0 => String::new(),
        hidden => format!(", {hidden} more lines"),
    };
    write!(out, "every {}{more}; q ends", humantime::format_duration(interval))?;
    out.flush()
}

/// Raw mode and the alternate screen while it lives.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, terminal::DisableLineWrap, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ =
            execute!(io::stdout(), cursor::Show, terminal::EnableLineWrap, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// A thread, because reading keys blocks; it ends when the receiver is gone or the input ends.
fn read_keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(8);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(KEY_POLL)
                .and_then(|ready| if ready { event::read().map(Some) } else { Ok(None) })
            {
                Ok(Some(event)) => {
                    if let Some(key) = meaning(&event)
                        && sender.blocking_send(key).is_err()
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

fn meaning(event: &Event) -> Option<Key> {
    match event {
        Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
            _ => Some(Key::Redraw),
        },
        Event::Resize(..) => Some(Key::Redraw),
        _ => None,
    }
}

//! Switching a node off, on, or off and on again by its levels of devices: levels in their order until one succeeds, of a
//! level every device, in their order. Success is what the devices confirm, not what they were told.

use super::agent::{Call, Ended};
use crate::spec::FenceDevice;

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is off afterwards.
    Off,
    /// It is off, then on again: with two power supplies both are off at one moment.
    Reboot,
    /// It is on afterwards.
    On,
    /// Nothing; its state is asked for.
    Status,
}

impl Action {
    /// The word for people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Reboot => "reboot",
            Self::On => "on",
            Self::Status => "status",
        }
    }
}

/// Runs `levels` by `call`, one device after the other. `allowed` is asked before each run that changes something: an error
/// ends everything.
///
/// # Errors
/// Why no level succeeded, one sentence per device that failed.
pub async fn carry_out<F, G>(
    levels: &[Vec<FenceDevice>],
    action: Action,
    call: impl Fn(FenceDevice, Call) -> F,
    allowed: impl Fn() -> G,
) -> Result<String, String>
where
    F: Future<Output = Ended>,
    G: Future<Output = Result<(), String>>,
{
    let mut failures = Vec::new();
    for (i, level) in levels.iter().enumerate() {
        match one_level(level, action, &call, &allowed).await {
            Ok(said) => return Ok(format!("level {}: {said}", i + 1)),
            Err(Stop::Forbidden(why)) => return Err(why),
            Err(Stop::Failed(why)) => failures.push(format!("level {}: {why}", i + 1)),
        }
    }
    if failures.is_empty() {
        return Err("it has no fence devices".into());
    }
    Err(failures.join("; "))
}

enum Stop {
    Failed(String),
    Forbidden(String),
}

async fn one_level<F, G>(
    level: &[FenceDevice],
    action: Action,
    call: &impl Fn(FenceDevice, Call) -> F,
    allowed: &impl Fn() -> G,
) -> Result<String, Stop>
where
    F: Future<Output = Ended>,
    G: Future<Output = Result<(), String>>,
{
    let calls: &[Call] = match action {
        Action::Off => &[Call::Off],
        Action::On => &[Call::On],
        Action::Reboot => &[Call::Off, Call::On],
        Action::Status => &[Call::Status],
    };
    let mut said = Vec::new();
    for what in calls {
        for device in level {
            said.push(attempts(device, *what, call, allowed).await?);
        }
    }
    Ok(said.join(", "))
}

async fn attempts<F, G>(
    device: &FenceDevice,
    what: Call,
    call: &impl Fn(FenceDevice, Call) -> F,
    allowed: &impl Fn() -> G,
) -> Result<String, Stop>
where
    F: Future<Output = Ended>,
    G: Future<Output = Result<(), String>>,
{
    let name = device.name();
    let mut last = String::new();
    for _ in 0..=device.retries {
        if what != Call::Status {
            allowed().await.map_err(Stop::Forbidden)?;
        }
        let ended = call(device.clone(), what).await;
        match (what, &ended) {
            (Call::Status, Ended::Code(0, _)) => return Ok(format!("{name} says on")),
            (Call::Status, Ended::Code(2, _)) => return Ok(format!("{name} says off")),
            (Call::Off, Ended::Code(0, _)) if device.verify => {
                // What switches off and does not know it has not switched off.
                match call(device.clone(), Call::Status).await {
                    Ended::Code(2, _) => return Ok(format!("{name} is off")),
                    Ended::Code(0, _) => {
                        last = format!("{name} said yes to 'off', and still says that the power is on")
                    }
                    other => {
                        last = format!(
                            "{name} said yes to 'off', but not that the power is off ({})",
                            other.words()
                        )
                    }
                }
            }
            (Call::Off, Ended::Code(0, _)) => return Ok(format!("{name} said yes to 'off'")),
            (Call::On | Call::Monitor, Ended::Code(0, _)) => return Ok(format!("{name}: {}", what.word())),
            (_, failed) => last = format!("{name}: {}", failed.words()),
        }
    }
    Err(Stop::Failed(last))
}

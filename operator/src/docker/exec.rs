//! Commands in a running container. Their processes are not killed at the bound: who runs one again and again looks first
//! whether the last one has ended.

use super::{DockerError, Engine, QUERY_TIMEOUT};
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::StreamExt;
use std::time::Duration;

/// Most output of a command in a container that is kept.
const EXEC_OUTPUT_MAX: usize = 4096;

/// What a command in a container did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Exit code.
    pub exit_code: i64,
    /// Standard output and error, shortened.
    pub output: String,
}

impl Engine {
    /// Runs a command in the running container, as the health check would (which the engine runs for the first
    /// time only after a whole interval: too late for a takeover). Its processes are not killed at the bound.
    ///
    /// # Errors
    /// If the container does not run, or the engine or the command does not answer `within`.
    pub async fn exec(
        &self,
        name: &str,
        command: &[String],
        within: Duration,
    ) -> Result<ExecOutcome, DockerError> {
        let exec = self.exec_create(name, command).await?;
        self.exec_run(&exec, name, command, within).await
    }

    /// Prepares a command; its id says later whether it still runs.
    ///
    /// # Errors
    /// If the container does not run, or the engine does not answer.
    pub async fn exec_create(&self, name: &str, command: &[String]) -> Result<String, DockerError> {
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..Default::default()
        };
        let created = self.docker.create_exec(name, config);
        Ok(self.call(&doing(name, command), QUERY_TIMEOUT, created).await?.id)
    }

    /// Runs a prepared command. `name` and `command` are for messages.
    ///
    /// # Errors
    /// If the engine or the command does not answer `within`.
    pub async fn exec_run(
        &self,
        exec: &str,
        name: &str,
        command: &[String],
        within: Duration,
    ) -> Result<ExecOutcome, DockerError> {
        let run = async {
            let mut output = String::new();
            let started = self.docker.start_exec(exec, None::<StartExecOptions>).await?;
            if let StartExecResults::Attached { output: mut stream, .. } = started {
                while let Some(piece) = stream.next().await {
                    if output.len() < EXEC_OUTPUT_MAX {
                        output.push_str(&piece?.to_string());
                    }
                }
            }
            let ended = self.docker.inspect_exec(exec).await?;
            Ok(ExecOutcome { exit_code: ended.exit_code.unwrap_or(-1), output })
        };
        self.call(&doing(name, command), within, run).await
    }

    /// Whether a command that was begun has not ended yet. One that the engine has forgotten has.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn exec_runs(&self, exec: &str) -> Result<bool, DockerError> {
        match self.call("asking for a command", QUERY_TIMEOUT, self.docker.inspect_exec(exec)).await {
            Ok(found) => Ok(found.running.unwrap_or(false)),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn doing(name: &str, command: &[String]) -> String {
    format!("running '{}' in container '{name}'", command.first().map_or("", String::as_str))
}

//! Baton's agent. See `baton-agent --help`.

use anyhow::Context;
use baton_operator::driver::{Config, run};
use baton_replicator::process::abort_on_panic;
use clap::Parser;
use std::io::IsTerminal;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    abort_on_panic();
    let config = Config::parse();
    baton_operator::security::use_ring();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&config.log).context("--log")?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run(config, shutdown).await?;
    Ok(())
}

//! `baton-replicator`: one per node. Started by itself it is the holder ([`baton_replicator::hold`]), which starts the
//! same program again as its worker. The worker's start-up is a script: log, configuration, secret, listener, control
//! sockets, then run until SIGTERM, then stop every volume in order.
//!
//! SIGHUP to the holder replaces the worker by what lies in the program's file now; I/O pauses meanwhile.

use anyhow::Context;
use baton_replicator::control::{ControlServer, ServeUntilSocket};
use baton_replicator::driver::{Options, Replicator};
use baton_replicator::frontend;
use baton_replicator::hold::{Holder, Worker, keeper};
use baton_replicator::memory;
use baton_replicator::process::abort_on_panic;
use baton_replicator::tls::{PKI_DIR, TlsFiles};
use baton_replicator::transport::Secret;
use baton_replicator::types::NodeName;
use clap::Parser;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Baton's block replicator.
#[derive(Parser, Debug)]
#[command(name = "baton-replicator", version)]
struct Arguments {
    /// This node's name.
    #[arg(long, env = "BATON_NODE")]
    node: NodeName,
    /// Address for the other replicators.
    #[arg(long, env = "BATON_LISTEN", default_value = "0.0.0.0:7788")]
    listen: SocketAddr,
    /// File with the cluster secret, readable by its owner only.
    #[arg(long, env = "BATON_SECRET_FILE")]
    secret_file: PathBuf,
    /// Certificates made by `baton cert`: ca.crt, NODE.crt and NODE.key. Read again when they are renewed.
    #[arg(long, env = "BATON_PKI_DIR", default_value = PKI_DIR)]
    pki_dir: PathBuf,
    /// Take peers of the release before, which has no TLS, for volumes with `transport: tls`, too: on the node that
    /// is upgraded first, until all are.
    #[arg(long, env = "BATON_ACCEPT_BEFORE", value_parser = clap::builder::FalseyValueParser::new())]
    accept_before: bool,
    /// Durable state of this node.
    #[arg(long, env = "BATON_STATE_DIR", default_value = "/var/lib/baton")]
    state_dir: PathBuf,
    /// Sockets and private mounts, shared with the agent.
    #[arg(long, env = "BATON_RUN_DIR", default_value = "/run/baton")]
    run_dir: PathBuf,
    /// Where the volumes' device symlinks are made.
    #[arg(long, env = "BATON_DEVICE_DIR", default_value = "/dev/baton")]
    device_dir: PathBuf,
    /// The same directory as the host's Docker engine sees it (default: --device-dir).
    #[arg(long, env = "BATON_HOST_DEVICE_DIR")]
    host_device_dir: Option<PathBuf>,
    /// The host's boot id.
    #[arg(long, env = "BATON_BOOT_ID_FILE", default_value = "/proc/sys/kernel/random/boot_id")]
    boot_id_file: PathBuf,
    /// Log filter, e.g. `info` or `baton_replicator=debug`.
    #[arg(long, env = "BATON_LOG", default_value = "info")]
    log: String,
}

fn main() -> anyhow::Result<ExitCode> {
    abort_on_panic();
    // Before anything else, while there is one thread.
    let worker = Worker::take().context("cannot take over the holder's socket")?;
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_new(&arguments.log).context("--log is not a log filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let Some(worker) = worker else {
        return Ok(ExitCode::from(keeper::run().context("cannot hold a replicator")?));
    };
    memory::prepare();
    let holder = Holder::connect(worker.socket, worker.restarts).context("the holder does not answer")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(run(arguments, holder))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(arguments: Arguments, holder: Holder) -> anyhow::Result<()> {
    let secret = Secret::load(&arguments.secret_file)
        .with_context(|| format!("cannot use the secret file {}", arguments.secret_file.display()))?;
    let boot = std::fs::read_to_string(&arguments.boot_id_file)
        .with_context(|| format!("cannot read the boot id file {}", arguments.boot_id_file.display()))?;
    let boot = boot.trim();
    anyhow::ensure!(!boot.is_empty(), "the boot id file {} is empty", arguments.boot_id_file.display());
    std::fs::create_dir_all(&arguments.run_dir)
        .with_context(|| format!("cannot make the run directory {}", arguments.run_dir.display()))?;
    let certificate = TlsFiles::of_node(&arguments.pki_dir, arguments.node.as_str());
    if !certificate.exist() {
        tracing::warn!(certificate = %certificate.cert.display(), "there is no certificate of this node: volumes with 'transport: tls' will not be connected until there is");
    }
    let options = Options {
        certificate,
        accept_before: arguments.accept_before,
        node: arguments.node,
        listen: arguments.listen,
        secret,
        state_dir: arguments.state_dir,
        run_dir: arguments.run_dir.clone(),
        host_device_dir: arguments.host_device_dir.unwrap_or_else(|| arguments.device_dir.clone()),
        device_dir: arguments.device_dir,
        host_boot: boot.to_owned(),
        front_end: Arc::new(frontend::start),
        holder,
    };
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let (node, holder) = (options.node.clone(), options.holder.clone());
    let replicator = Arc::new(Replicator::start(options)?);
    let control = ControlServer::bind(&arguments.run_dir.join("replicator.sock"))
        .context("cannot bind the control socket replicator.sock")?;
    let voucher = replicator.clone();
    let _serve_until = ServeUntilSocket::bind(&arguments.run_dir.join("serve-until.sock"), move |message| {
        voucher.serve_until(&message);
    })
    .context("cannot bind serve-until.sock")?;
    tracing::info!(%node, peers = %replicator.address(), control = %arguments.run_dir.join("replicator.sock").display(), "running");
    holder.up();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(control.serve(replicator.clone(), async move {
        // An error means that the other side is gone, which is the end as well.
        let _ = stopped.await;
    }));
    stop.await;
    tracing::info!("stopping");
    let _ = stopping.send(());
    replicator.stop().await;
    server.await.context("the control server died")?.context("the control server failed")?;
    tracing::info!("stopped");
    Ok(())
}

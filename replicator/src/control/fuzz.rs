//! Fuzz targets: what comes by the agent's socket, as bytes of HTTP, and its datagrams.
//!
//! Every request is answered; a command reaches the volumes only as its route says; every refusal of ours is a problem
//! document.

use super::{Controller, datagram, problem, router};
use crate::api::{
    Desired, DiscardRequest, Format, Problem, ResyncRequest, Status, VerifyRequest, VolumeConfig,
    VolumeStatus,
};
use crate::types::VolumeName;
use axum::serve::Listener;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// One connection, and no more.
struct Once(Option<DuplexStream>);

impl Listener for Once {
    type Io = DuplexStream;
    type Addr = ();
    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }
    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Remembers what it was asked for, and refuses.
#[derive(Default)]
struct Refuses(Mutex<Vec<VolumeName>>);

impl Refuses {
    fn note<T>(&self, volume: VolumeName) -> Result<T, Problem> {
        self.0.lock().expect("no panic").push(volume);
        Err(problem(409, "no", "No", "not now"))
    }
}

impl Controller for Refuses {
    async fn status(&self, _: Option<u64>, wait: Duration) -> Status {
        assert!(wait <= Duration::from_secs(30), "{wait:?}");
        Status::default()
    }
    async fn configure(&self, config: VolumeConfig) -> Result<VolumeStatus, Problem> {
        let text = serde_json::to_vec(&config).expect("serialises");
        assert_eq!(serde_json::from_slice::<VolumeConfig>(&text).expect("reads its own"), config);
        self.note(config.volume)
    }
    async fn desired(&self, volume: VolumeName, desired: Desired) -> Result<VolumeStatus, Problem> {
        let text = serde_json::to_vec(&desired).expect("serialises");
        assert_eq!(serde_json::from_slice::<Desired>(&text).expect("reads its own"), desired);
        self.note(volume)
    }
    async fn verify(&self, volume: VolumeName, _: Option<VerifyRequest>) -> Result<VolumeStatus, Problem> {
        self.note(volume)
    }
    async fn resync(&self, volume: VolumeName, _: ResyncRequest) -> Result<VolumeStatus, Problem> {
        self.note(volume)
    }
    async fn discard(&self, volume: VolumeName, _: DiscardRequest) -> Result<VolumeStatus, Problem> {
        self.note(volume)
    }
    async fn release(&self, volume: VolumeName, _: String) -> Result<VolumeStatus, Problem> {
        self.note(volume)
    }
    async fn export(&self, volume: VolumeName, _: bool) -> Result<VolumeStatus, Problem> {
        self.note(volume)
    }
    async fn format(&self, volume: VolumeName, _: Format) -> Result<VolumeStatus, Problem> {
        self.note(volume)
    }
    async fn detach(&self, volume: VolumeName) -> Result<(), Problem> {
        self.note(volume)
    }
}

/// Bytes on the control socket, then its end.
pub fn fuzz_http(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let controller = Arc::new(Refuses::default());
    let answer = runtime.block_on(async {
        let (mut ours, theirs) = duplex(1 << 20);
        let server = axum::serve(Once(Some(theirs)), router(controller.clone()));
        let server = tokio::spawn(async move { server.await });
        let mut answer = Vec::new();
        // Whoever answers may have hung up before it read all.
        let _ = ours.write_all(data).await;
        let _ = ours.shutdown().await;
        let read = tokio::time::timeout(Duration::from_secs(20), ours.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "no answer");
        server.abort();
        answer
    });
    let text = String::from_utf8_lossy(&answer);
    let asked = controller.0.lock().expect("no panic").len();
    assert!(text.matches("HTTP/1.").count() >= asked, "{asked} commands: {text}");
    // Each of its answers is a refusal, but for the status.
    for refusal in text.split("HTTP/1.1 ").filter(|t| t.starts_with("409") || t.starts_with("404")) {
        assert!(refusal.to_lowercase().contains("application/problem+json"), "{text}");
    }
}

/// A serve-until datagram.
pub fn fuzz_datagram(data: &[u8]) {
    if let Some(said) = datagram::read(data) {
        let again = serde_json::to_vec(&said).expect("serialises");
        assert_eq!(datagram::read(&again).as_ref(), Some(&said));
    }
}

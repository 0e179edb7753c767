//! The engine's events as wake-ups: they say that something is worth a look, never what to believe.

use super::spec::{LABEL_CLUSTER, LABEL_HOST};
use super::{DockerError, Engine};
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// Wake-ups not yet consumed. When it is full, further ones are dropped: whoever has 64 reasons to look at
/// everything needs no more.
const QUEUE: usize = 64;
/// Pause before the stream is opened again.
const RETRY: Duration = Duration::from_millis(500);

/// A reason to inspect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something happened to this container (`die`, `start`, `health_status: unhealthy`, `oom`, …).
    Container {
        /// Its name.
        name: String,
        /// Docker's word.
        action: String,
    },
    /// The stream ended, or is opened (again): events may be missed, look at everything.
    Everything,
}

impl Engine {
    /// Follows the events of our containers, reconnecting for ever; ends when the receiver is dropped.
    #[must_use]
    pub fn events(&self) -> mpsc::Receiver<Wake> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = engine.follow(&sender) => {}
                () = sender.closed() => {}
            }
        });
        receiver
    }

    async fn follow(&self, sender: &mpsc::Sender<Wake>) {
        let mut answered = true;
        loop {
            let labels = vec![
                format!("{LABEL_CLUSTER}={}", self.owner.cluster),
                format!("{LABEL_HOST}={}", self.owner.node),
            ];
            let filters = HashMap::from([("type", vec!["container".to_owned()]), ("label", labels)]);
            let mut stream = std::pin::pin!(
                self.docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()))
            );
            let _ = sender.try_send(Wake::Everything);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => {
                        answered = true;
                        if let Some(wake) = wake(event) {
                            let _ = sender.try_send(wake);
                        }
                    }
                    Err(error) => {
                        if answered {
                            let error =
                                DockerError::from_bollard(error, &self.url, "following events", RETRY);
                            tracing::warn!(%error, "the engine's event stream broke");
                        }
                        answered = false;
                        break;
                    }
                }
            }
            // It may be the engine's end.
            let _ = sender.try_send(Wake::Everything);
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Commands run by health checks are events too (`exec_create: …`) and say nothing: they are left out.
fn wake(event: EventMessage) -> Option<Wake> {
    let action = event.action?;
    if action.starts_with("exec_") {
        return None;
    }
    let name = event.actor?.attributes?.remove("name")?;
    Some(Wake::Container { name, action })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::{NetworkMode, Owner};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Sooner than a stream that is open and silent is given up by the client.
    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_end_of_the_stream_is_a_reason_to_look_at_everything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        let owner = Owner { cluster: "demo".into(), node: "alpha".into() };
        let mut wakes = Engine::connect(&url, owner, NetworkMode::Host).unwrap().events();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        assert_eq!(wakes.recv().await, Some(Wake::Everything), "opened");
        drop(stream);
        // The next one is opened, and nobody answers it: of three reasons one is the end of the first.
        for what in ["ended", "opened again"] {
            let wake = tokio::time::timeout(SOON, wakes.recv()).await;
            assert_eq!(wake, Ok(Some(Wake::Everything)), "{what}");
        }
    }
}

//! The Docker engine as `baton doctor` and `baton support-bundle` ask it: reads only, every answer bounded.

use bollard::{API_DEFAULT_VERSION, Docker};
use std::future::Future;
use std::time::Duration;

/// The engine answers in milliseconds; one that is busy starting containers in a second or two.
const ANSWER: Duration = Duration::from_secs(5);

/// A client, with an API version agreed.
pub(super) async fn connect(url: &str) -> Result<Docker, String> {
    let seconds = ANSWER.as_secs();
    let docker = if url.starts_with("tcp://") || url.starts_with("http://") {
        Docker::connect_with_http(url, seconds, API_DEFAULT_VERSION)
    } else {
        Docker::connect_with_unix(url, seconds, API_DEFAULT_VERSION)
    };
    let docker = docker.map_err(|e| e.to_string())?;
    bounded(docker.negotiate_version()).await
}

/// One request.
pub(super) async fn bounded<T>(
    request: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

//! Client of the agents' API for the command line: several addresses, the first that answers.
//!
//! An address that does not accept a connection in a second is passed over; an answer, a refusal included, ends
//! the search. Commands are idempotent on the agent's side, so asking the next address is safe.

use super::exit::{CliError, Exit};
use baton_replicator::api::Problem;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A host on the same site answers a connection in milliseconds; a dead one never does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Above the agent's own bound of a request (10 s), so that its explanation arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// A client for a list of API addresses.
#[derive(Clone, Debug)]
pub struct ApiClient {
    bases: Vec<String>,
    http: Client,
}

impl ApiClient {
    /// Addresses as `http://host:port` or `host:port`.
    ///
    /// # Errors
    /// If there is none, or one is not plain HTTP.
    pub fn new(addresses: &[String]) -> Result<Self, CliError> {
        let mut bases = Vec::new();
        for address in addresses.iter().map(|a| a.trim()).filter(|a| !a.is_empty()) {
            let base = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
            let valid = reqwest::Url::parse(&base).is_ok_and(|url| url.scheme() == "http" && url.has_host());
            if !valid {
                return Err(CliError::new(
                    Exit::Usage,
                    format!("'{address}' is not an API address"),
                    "Write it as http://HOST:7480.",
                ));
            }
            bases.push(base.trim_end_matches('/').to_owned());
        }
        if bases.is_empty() {
            return Err(CliError::new(Exit::Usage, "no API address is given", "Set --api or BATON_API."));
        }
        // A proxy has no business between an operator and the cluster.
        let http = Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build();
        let http = http.map_err(|e| CliError::new(Exit::Failed, format!("no HTTP client: {e}"), ""))?;
        Ok(Self { bases, http })
    }

    /// `GET path` as JSON.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] if nobody answers, [`Exit::Failed`] with the agent's words if it refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        decode(self.send(Method::GET, path, None::<&()>).await?).await
    }

    /// A command with a JSON body.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn command<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, CliError> {
        decode(self.send(method, path, Some(body)).await?).await
    }

    /// The live event stream: `n` old entries, or what followed entry `after`.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn stream(&self, n: usize, after: Option<u64>) -> Result<Response, CliError> {
        self.first(|http, base| {
            let request = http.get(format!("{base}/v1/events")).header("accept", "text/event-stream");
            match after {
                Some(seen) => request.header("last-event-id", seen.to_string()),
                None => request.query(&[("n", n)]),
            }
        })
        .await
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Response, CliError> {
        self.first(|http, base| {
            let request = http.request(method.clone(), format!("{base}{path}")).timeout(ANSWER_TIMEOUT);
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        })
        .await
    }

    async fn first(&self, request: impl Fn(&Client, &str) -> RequestBuilder) -> Result<Response, CliError> {
        let mut reasons = Vec::new();
        for base in &self.bases {
            // The answer's head is bounded for streams too; their body is not.
            match tokio::time::timeout(ANSWER_TIMEOUT, request(&self.http, base).send()).await {
                Ok(Ok(response)) => return checked(response).await,
                Ok(Err(error)) => reasons.push(format!("{base}: {}", innermost(&error))),
                Err(_) => reasons.push(format!("{base}: no answer within {} s", ANSWER_TIMEOUT.as_secs())),
            }
        }
        Err(CliError::new(
            Exit::Unreachable,
            format!("no agent answered ({})", reasons.join("; ")),
            "Is baton-agent running there? Set --api or BATON_API to the address of any node, http://HOST:7480.",
        ))
    }
}

async fn checked(response: Response) -> Result<Response, CliError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let url = response.url().clone();
    let body = response.text().await.unwrap_or_default();
    Err(match serde_json::from_str::<Problem>(&body) {
        Ok(problem) => {
            let next = match status {
                StatusCode::SERVICE_UNAVAILABLE => "See 'baton status', then try again.",
                StatusCode::NOT_FOUND => "See 'baton status' for the names.",
                _ => "",
            };
            CliError::new(Exit::Failed, problem.detail, next)
        }
        Err(_) => CliError::new(
            Exit::Failed,
            format!("{url} answered HTTP {status}"),
            "Is that the address of a Baton agent, and of the same version?",
        ),
    })
}

async fn decode<T: DeserializeOwned>(response: Response) -> Result<T, CliError> {
    let url = response.url().clone();
    response.json().await.map_err(|error| {
        CliError::new(
            Exit::Failed,
            format!("{url} answered something else than expected: {}", innermost(&error)),
            "Is that the address of a Baton agent, and of the same version as this command?",
        )
    })
}

/// reqwest's own text repeats the URL; the innermost cause says what happened.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

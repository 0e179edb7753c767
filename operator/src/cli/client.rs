//! Client of the agents' API for the command line: several addresses, the first that answers.
//!
//! An address that does not accept a connection in a second is passed over; an answer, a refusal included, ends
//! the search. Commands are idempotent on the agent's side, so asking the next address is safe.

use super::endpoint::{ClientOptions, Endpoint};
use super::exit::{CliError, Exit};
use crate::security::tls;
use baton_replicator::api::Problem;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A host on the same site answers a connection in milliseconds; a dead one never does.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Port of the agents' API (DESIGN: processes and ports of a host).
pub(super) const AGENT_PORT: u16 = 7480;
/// Above the agent's own bound of a request (10 s), so that its explanation arrives.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// A client for a list of agents.
#[derive(Clone, Debug)]
pub struct ApiClient {
    options: ClientOptions,
    shown: Vec<String>,
    agents: Vec<Agent>,
}

#[derive(Clone, Debug)]
struct Agent {
    shown: String,
    url: String,
    http: Client,
}

impl ApiClient {
    /// Addresses only; credentials are looked for where `baton cert` puts them.
    ///
    /// # Errors
    /// As [`ApiClient::with`].
    pub fn new(addresses: &[String]) -> Result<Self, CliError> {
        Self::with(ClientOptions::at(addresses))
    }

    /// Addresses and credentials.
    ///
    /// # Errors
    /// An address that is none, or credentials that cannot be read.
    pub fn with(options: ClientOptions) -> Result<Self, CliError> {
        let agents: Vec<Agent> =
            options.endpoints()?.iter().map(|e| agent(&options, e)).collect::<Result<_, _>>()?;
        let shown = agents.iter().map(|a| a.shown.clone()).collect();
        Ok(Self { options, shown, agents })
    }

    /// The addresses, in order, as they may be given again.
    #[must_use]
    pub fn bases(&self) -> &[String] {
        &self.shown
    }

    /// The same credentials for one of its addresses, or for another one. None if they are not good for it.
    #[must_use]
    pub fn only(&self, address: &str) -> Option<Self> {
        self.other(address).ok()
    }

    /// As [`ApiClient::at_host`]; none if the credentials are not good for it.
    #[must_use]
    pub fn beside(&self, host: &str) -> Option<Self> {
        self.at_host(host).ok()
    }

    fn other(&self, address: &str) -> Result<Self, CliError> {
        Self::with(ClientOptions { addresses: vec![address.to_owned()], ..self.options.clone() })
    }

    /// The agent of another host, an address without port: this client's scheme and port, TLS on the usual port if it
    /// goes by a socket.
    ///
    /// # Errors
    /// As [`ApiClient::with`].
    pub fn at_host(&self, host: &str) -> Result<Self, CliError> {
        let literal = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let url = self.shown.iter().find_map(|base| {
            let mut url = reqwest::Url::parse(base).ok().filter(reqwest::Url::has_host)?;
            url.set_host(Some(&literal)).ok()?;
            Some(url.to_string())
        });
        self.other(&url.unwrap_or_else(|| format!("https://{literal}:{AGENT_PORT}")))
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

    /// A command without a body and without an answer.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn done(&self, method: Method, path: &str) -> Result<(), CliError> {
        self.send(method, path, None::<&()>).await.map(drop)
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

    /// A role question: whether the answer is yes, and its words.
    ///
    /// # Errors
    /// Nobody answered, or the question is unclear.
    pub async fn question(&self, path: &str) -> Result<(bool, String), CliError> {
        let answer =
            self.answer(|http, base| http.get(format!("{base}{path}")).timeout(ANSWER_TIMEOUT)).await?;
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        match status {
            StatusCode::OK => Ok((true, text)),
            StatusCode::SERVICE_UNAVAILABLE => Ok((false, text)),
            _ => Err(CliError::new(Exit::Usage, text.trim().to_owned(), "See 'baton status' for the names.")),
        }
    }

    /// `GET path`, live if the agent offers it: the answer's content type tells.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn follow(&self, path: &str) -> Result<Response, CliError> {
        self.first(|http, base| {
            http.get(format!("{base}{path}")).header("accept", "text/event-stream, application/json;q=0.5")
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

    pub(super) async fn first(
        &self,
        request: impl Fn(&Client, &str) -> RequestBuilder,
    ) -> Result<Response, CliError> {
        checked(self.answer(request).await?).await
    }

    async fn answer(&self, request: impl Fn(&Client, &str) -> RequestBuilder) -> Result<Response, CliError> {
        let mut reasons = Vec::new();
        let mut refused = None;
        for agent in &self.agents {
            // The answer's head is bounded for streams too; their body is not.
            match tokio::time::timeout(ANSWER_TIMEOUT, request(&agent.http, &agent.url).send()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    let (reason, next) = explain(&error);
                    refused = refused.or(next);
                    reasons.push(format!("{}: {reason}", agent.shown));
                }
                Err(_) => {
                    reasons.push(format!("{}: no answer within {} s", agent.shown, ANSWER_TIMEOUT.as_secs()));
                }
            }
        }
        Err(CliError::new(
            Exit::Unreachable,
            format!("no agent answered ({})", reasons.join("; ")),
            refused.unwrap_or(
                "Is baton-agent running there? Set --api or BATON_API to the address of any node, https://HOST:7480.",
            ),
        ))
    }
}

fn agent(options: &ClientOptions, endpoint: &Endpoint) -> Result<Agent, CliError> {
    // A proxy has no business between an operator and the cluster.
    let mut builder = Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT);
    let url = match endpoint {
        Endpoint::Socket(path) => {
            builder = builder.unix_socket(path.as_path());
            "http://localhost".to_owned()
        }
        Endpoint::Url(url) => url.clone(),
    };
    let config = match url.starts_with("https:") {
        true => options.tls()?,
        // Never used; a client wants to know its TLS all the same.
        false => tls::no_authority(),
    };
    if let Some(token) = options.token()? {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            CliError::new(Exit::Failed, "the token file holds something else than a token", "")
        })?;
        value.set_sensitive(true);
        builder = builder.default_headers(HeaderMap::from_iter([(AUTHORIZATION, value)]));
    }
    let http = builder.tls_backend_preconfigured(config).build();
    let http =
        http.map_err(|e| CliError::new(Exit::Failed, format!("no HTTP client: {}", innermost(&e)), ""))?;
    Ok(Agent { shown: endpoint.shown(), url, http })
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
                StatusCode::NOT_FOUND => where_names_are(url.path()),
                StatusCode::UNAUTHORIZED => {
                    "Give --token-file FILE (BATON_TOKEN_FILE), or --cert and --key (BATON_CERT, BATON_KEY)."
                }
                _ => "",
            };
            let exit = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                    Exit::Denied
                }
                _ => Exit::Failed,
            };
            CliError::new(exit, problem.detail, next)
        }
        Err(_) => CliError::new(
            Exit::Failed,
            format!("{url} answered HTTP {status}"),
            "Is that the address of a Baton agent, and of the same version?",
        ),
    })
}

/// Which command lists what was asked for in vain.
fn where_names_are(path: &str) -> &'static str {
    let begins = |with: &str| path.starts_with(with);
    match () {
        () if begins("/v1/tokens") => "See 'baton token list' for the ids.",
        () if begins("/v1/spec/") => "See 'baton spec log' for the versions.",
        () if begins("/v1/notify") => "See 'baton notify list' for the targets.",
        () => "See 'baton status' for the names.",
    }
}

pub(super) async fn decode<T: DeserializeOwned>(response: Response) -> Result<T, CliError> {
    let url = response.url().clone();
    response.json().await.map_err(|error| {
        CliError::new(
            Exit::Failed,
            format!("{url} answered something else than expected: {}", innermost(&error)),
            "Is that the address of a Baton agent, and of the same version as this command?",
        )
    })
}

/// What went wrong with a connection, and what to do if TLS is the reason.
fn explain(error: &reqwest::Error) -> (String, Option<&'static str>) {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(told) = tls_error(error).and_then(explain_tls) {
            return told;
        }
        cause = error.source();
    }
    (innermost(error), None)
}

fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    // An io::Error does not name what it wraps as its source, and may wrap another one.
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => tls_error(io.get_ref()?),
        None => error.downcast_ref::<rustls::Error>(),
    }
}

fn explain_tls(error: &rustls::Error) -> Option<(String, Option<&'static str>)> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    let (reason, next) = match error {
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => (
            "its certificate is not signed by the authority given".to_owned(),
            "Is --ca (BATON_CA) the ca.crt of this cluster, and this the address of one of its agents?",
        ),
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => (
            "its certificate has expired".to_owned(),
            "Renew it with 'baton cert renew' and copy it to its host; and is the clock here right?",
        ),
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => (
            "its certificate is not for this address".to_owned(),
            "Use an address that the certificate names ('baton cert show'), or make one with this --address.",
        ),
        Error::AlertReceived(Alert::CertificateExpired) => (
            "it says that this client's certificate has expired".to_owned(),
            "Renew it with 'baton cert renew' where the authority is.",
        ),
        Error::AlertReceived(Alert::UnknownCA | Alert::DecryptError | Alert::BadCertificate) => (
            "it does not accept this client's certificate".to_owned(),
            "Use one that the authority of this cluster has signed: 'baton cert client'.",
        ),
        Error::InvalidMessage(_) => (
            "it does not speak TLS".to_owned(),
            "Is that the port of an agent's API? One that runs without TLS is reached by http://HOST:7480.",
        ),
        other => (other.to_string(), ""),
    };
    Some((reason, (!next.is_empty()).then_some(next)))
}

/// reqwest's own text repeats the URL; the innermost cause says what happened.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

//! POST of the message as JSON.
//!
//! `X-Baton-Signature: sha256=<hex>` is HMAC-SHA256 with the key in `secret_file` over `<X-Baton-Timestamp>.<body>`, so
//! that a receiver can tell a forged or replayed message. `Idempotency-Key` is the same at each attempt. Redirects are
//! not followed: the token is for the host that was named.

use super::{Failure, ca, secret};
use crate::causes::chain;
use crate::notify::message::Message;
use crate::spec::Webhook;
use hmac::{Hmac, Mac};
use reqwest::{Certificate, Client, StatusCode};
use sha2::Sha256;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Answers that will be the same for this message at any time.
const REFUSED: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::GONE,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

pub(super) async fn deliver(hook: &Webhook, message: &Message) -> Result<(), Failure> {
    let body = serde_json::to_vec(message).map_err(|e| Failure::fatal(e.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
    let mut request = client(hook)?
        .post(&hook.url)
        .header("content-type", "application/json")
        .header("idempotency-key", message.id())
        .header("x-baton-timestamp", now.as_str());
    if let Some(file) = &hook.token_file {
        request = request.bearer_auth(secret(file)?);
    }
    if let Some(file) = &hook.secret_file {
        request = request.header("x-baton-signature", signature(&secret(file)?, &now, &body));
    }
    // The URL may hold a token; the error's own text must not show it.
    let failed = |e: reqwest::Error| Failure::passing(chain(&e.without_url()));
    let mut answer = request.body(body).send().await.map_err(failed)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let said = answer.chunk().await.ok().flatten().unwrap_or_default();
    let text = format!("HTTP {status} {}", String::from_utf8_lossy(&said));
    Err(if REFUSED.contains(&status) { Failure::fatal(text) } else { Failure::passing(text) })
}

fn client(hook: &Webhook) -> Result<Client, Failure> {
    crate::security::use_ring();
    let mut builder = Client::builder()
        .timeout(hook.timeout)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("baton-agent/", env!("CARGO_PKG_VERSION")));
    if let Some(file) = &hook.ca_file {
        let bad = |_| Failure::passing(format!("{}: is no PEM certificate", file.display()));
        builder = builder.tls_certs_only(Certificate::from_pem_bundle(&ca(file)?).map_err(bad)?);
    }
    builder.build().map_err(|e| Failure::passing(chain(&e)))
}

fn signature(key: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().fold("sha256=".to_owned(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_signature_is_what_openssl_says() {
        // printf '1795242261.{}' | openssl dgst -sha256 -hmac key
        let expected = "sha256=cb509d555feddd3d041840b1fb575445554b77209d7657e4d4f17db7efd3f274";
        assert_eq!(super::signature("key", "1795242261", b"{}"), expected);
    }
}

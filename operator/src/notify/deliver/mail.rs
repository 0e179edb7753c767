//! SMTP. One connection per mail: mails are rare, and a connection that is kept is one more thing that can hang.
//!
//! With `opportunistic` and no `ca_file` the server's certificate is not checked: who accepts no encryption at all gains
//! nothing by refusing one that is not proved. Every other encryption is checked.

use super::{Failure, ca, secret};
use crate::causes::chain;
use crate::notify::message::Message;
use crate::notify::text;
use crate::spec::{Mail, MailTls};
use baton_replicator::types::NodeName;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransportBuilder, Error};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use std::time::Duration;

/// Bound of one answer of the server. RFC 5321 asks for minutes; a notification that takes minutes is tried again
/// instead.
const ANSWER: Duration = Duration::from_secs(20);
/// Answers 5xx that are about the password or the connection's encryption, not about the mail: someone may mend them.
const NOT_ABOUT_THE_MAIL: [u16; 6] = [500, 502, 530, 534, 535, 538];

pub(super) async fn deliver(mail: &Mail, message: &Message, me: &NodeName) -> Result<(), Failure> {
    let from = mail.from.clone().unwrap_or_else(|| format!("Baton <baton@{me}>"));
    let letter = text::mail(message, &from, &mail.to).map_err(Failure::fatal)?;
    let transport: AsyncSmtpTransport<Tokio1Executor> = transport(mail)?.build();
    transport.send(letter).await.map(drop).map_err(|e| judge(mail, &e))
}

fn transport(mail: &Mail) -> Result<AsyncSmtpTransportBuilder, Failure> {
    let tls = match mail.tls {
        MailTls::None => Tls::None,
        MailTls::Opportunistic => Tls::Opportunistic(parameters(mail, mail.ca_file.is_none())?),
        MailTls::Required => Tls::Required(parameters(mail, false)?),
        MailTls::Wrapped => Tls::Wrapper(parameters(mail, false)?),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(mail.host.as_str())
        .port(mail.port)
        .tls(tls)
        .timeout(Some(ANSWER));
    if let (Some(user), Some(file)) = (&mail.user, &mail.password_file) {
        builder = builder.credentials(Credentials::new(user.clone(), secret(file)?));
    }
    Ok(builder)
}

fn parameters(mail: &Mail, unchecked: bool) -> Result<TlsParameters, Failure> {
    let fail = |e: Error| Failure::passing(format!("TLS: {}", chain(&e)));
    let mut builder = TlsParameters::builder(mail.host.clone()).dangerous_accept_invalid_certs(unchecked);
    if let Some(file) = &mail.ca_file {
        let pem = Certificate::from_pem(&ca(file)?)
            .map_err(|_| Failure::passing(format!("{}: is no PEM certificate", file.display())))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(pem);
    }
    builder.build().map_err(fail)
}

fn judge(mail: &Mail, error: &Error) -> Failure {
    let text = format!("{}:{}: {}", mail.host, mail.port, chain(error));
    let code = error.status().map(u16::from);
    if error.is_permanent() && code.is_none_or(|c| !NOT_ABOUT_THE_MAIL.contains(&c)) {
        Failure::fatal(text)
    } else {
        Failure::passing(text)
    }
}

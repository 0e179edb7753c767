//! Whom to tell: the part `notify` of the document. What it means is written in docs/notifications.md.

use super::model::{Channel, Exec, Mail, MailTls, NotifyTarget, Severity, Spec, Webhook};
use super::read::{Fields, Reader, join};
use super::tree::Node;
use super::validate::{at_least, unknown};
use std::time::Duration;

/// A handover takes less, a host that reboots takes more.
const HOLD: Duration = Duration::from_secs(10);
/// Enough for a bad night of one cluster, not enough to fill a mailbox.
const MAX_PER_HOUR: u32 = 20;
/// A command may look something up and call somebody; it does not do a person's work.
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);
/// The slowest of the well-known receivers answer within 10 s.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts follow each other, and each is bounded anyway ([`crate::notify::deliver::ATTEMPT`]).
const LONGEST_TIMEOUT: Duration = Duration::from_secs(25);
/// A more frequent reminder is no reminder.
const SHORTEST_REPEAT: Duration = Duration::from_secs(60);
/// Every target is a queue and a task of its own in every agent.
const MAX_TARGETS: usize = 16;

impl Reader<'_> {
    pub fn notify_target(&mut self, node: &Node, path: &str) -> Option<NotifyTarget> {
        let mut f = self.fields(node, path, "mail, webhook or exec, severity, …");
        let mail = self.get(&mut f, "mail", Self::mail);
        let webhook = self.get(&mut f, "webhook", Self::webhook);
        let exec = self.get(&mut f, "exec", Self::exec);
        match f.entries.iter().filter(|e| matches!(e.key.as_str(), "mail" | "webhook" | "exec")).count() {
            0 => self.error(node.line, path, "says nothing; give mail, webhook or exec"),
            1 => {}
            _ => self.error(node.line, path, "a target is one of mail, webhook or exec; make two of it"),
        }
        let severity = self.get(&mut f, "severity", |r, n, p| {
            r.scalar(n, p, |text| match text {
                "info" => Ok(Severity::Info),
                "warning" => Ok(Severity::Warning),
                "critical" => Ok(Severity::Critical),
                other => Err(format!("'{other}' is not known; write info, warning or critical")),
            })
        });
        let groups = self.get(&mut f, "groups", |r, n, p| r.one_or_more(n, p, Self::parsed));
        let alert_every = self.get(&mut f, "alert_every", Self::duration);
        let recovery = self.get(&mut f, "recovery", Self::boolean);
        let hold = self.get(&mut f, "hold", Self::duration);
        let max_per_hour = self.get(&mut f, "max_per_hour", Self::number);
        self.finish(f);
        let channel = mail.map(Channel::Mail).or(webhook.map(Channel::Webhook)).or(exec.map(Channel::Exec))?;
        Some(NotifyTarget {
            channel,
            severity: severity.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            alert_every,
            recovery: recovery.unwrap_or(true),
            hold: hold.unwrap_or(HOLD),
            max_per_hour: max_per_hour.unwrap_or(MAX_PER_HOUR),
        })
    }

    fn mail(&mut self, node: &Node, path: &str) -> Option<Mail> {
        let mut f = self.fields(node, path, "to, via");
        let to = self.get(&mut f, "to", |r, n, p| r.one_or_more(n, p, Self::mailbox)).unwrap_or_default();
        let via = self.get(&mut f, "via", |r, n, p| r.scalar(n, p, server));
        let given = |f: &Fields<'_>, name: &str| f.entries.iter().any(|e| e.key == name);
        if (to.is_empty() && !given(&f, "to")) || (via.is_none() && !given(&f, "via")) {
            self.error(node.line, path, "needs to (recipients) and via, e.g. \"smtp://mail:25\"");
        }
        let from = self.get(&mut f, "from", Self::mailbox);
        let user = self.get(&mut f, "user", Self::text);
        let password_file = self.get(&mut f, "password_file", Self::absolute);
        let ca_file = self.get(&mut f, "ca_file", Self::absolute);
        let tls = self.get(&mut f, "tls", |r, n, p| {
            r.scalar(n, p, |text| match text {
                "none" => Ok(MailTls::None),
                "opportunistic" => Ok(MailTls::Opportunistic),
                "required" => Ok(MailTls::Required),
                other => Err(format!("'{other}' is not known; write none, opportunistic or required")),
            })
        });
        let (host, port, wrapped) = via.unwrap_or_default();
        let unasked = if user.is_some() { MailTls::Required } else { MailTls::Opportunistic };
        let tls = match (wrapped, tls) {
            (true, None | Some(MailTls::Required)) => MailTls::Wrapped,
            (true, Some(_)) => {
                self.error(
                    node.line,
                    &join(path, "tls"),
                    "smtps:// is TLS from the first byte; leave tls out",
                );
                MailTls::Wrapped
            }
            (false, tls) => tls.unwrap_or(unasked),
        };
        if user.is_some() != password_file.is_some() {
            self.error(node.line, path, "user and password_file go together");
        }
        if user.is_some() && matches!(tls, MailTls::None | MailTls::Opportunistic) {
            let text = "the password could cross the network in clear; leave tls out, or write required";
            self.error(node.line, &join(path, "tls"), text);
        }
        self.finish(f);
        Some(Mail { to, host, port, tls, from, user, password_file, ca_file })
    }

    fn mailbox(&mut self, node: &Node, path: &str) -> Option<String> {
        self.scalar(node, path, |text| match text.parse::<lettre::message::Mailbox>() {
            Ok(mailbox) => Ok(mailbox.to_string()),
            Err(_) => Err(format!("'{text}' is not a mail address")),
        })
    }

    fn webhook(&mut self, node: &Node, path: &str) -> Option<Webhook> {
        let mut f = self.fields(node, path, "url, token_file, …");
        let url = self.get(&mut f, "url", |r, n, p| {
            r.scalar(n, p, |text| match reqwest::Url::parse(text) {
                Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                    Err("a password does not belong into the URL; use token_file".to_owned())
                }
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text.to_owned()),
                _ => Err(format!("'{text}' is not a URL; write http://… or https://…")),
            })
        });
        if url.is_none() && f.entries.iter().all(|e| e.key != "url") {
            self.error(node.line, path, "needs url, e.g. \"https://chat.example.org/hook\"");
        }
        let token_file = self.get(&mut f, "token_file", Self::absolute);
        let secret_file = self.get(&mut f, "secret_file", Self::absolute);
        let ca_file = self.get(&mut f, "ca_file", Self::absolute);
        let timeout = self.get(&mut f, "timeout", Self::duration).unwrap_or(WEBHOOK_TIMEOUT);
        self.finish(f);
        url.map(|url| Webhook { url, token_file, secret_file, ca_file, timeout })
    }

    fn exec(&mut self, node: &Node, path: &str) -> Option<Exec> {
        let mut f = self.fields(node, path, "command, timeout");
        let command = self.get(&mut f, "command", |r, n, p| r.one_or_more(n, p, Self::text));
        if command.as_ref().is_none_or(Vec::is_empty) {
            self.error(node.line, path, "needs command, e.g. [/usr/local/bin/page-me]");
        }
        let timeout = self.get(&mut f, "timeout", Self::duration).unwrap_or(EXEC_TIMEOUT);
        self.finish(f);
        command.map(|command| Exec { command, timeout })
    }
}

/// `smtp://host[:port]` or `smtps://host[:port]`: host, port, TLS from the first byte.
fn server(text: &str) -> Result<(String, u16, bool), String> {
    let (wrapped, rest) = match (text.strip_prefix("smtp://"), text.strip_prefix("smtps://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(format!("'{text}' must begin with smtp:// or smtps://")),
    };
    // An ordinary URL's rules for host and port, which those of a scheme it does not know would not get.
    let url = reqwest::Url::parse(&format!("http://{rest}")).map_err(|e| format!("'{text}': {e}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a password does not belong into the specification; use user and password_file".into());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(format!("'{text}' must be smtp://HOST:PORT and nothing else"));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let default = if wrapped { 465 } else { 25 };
    // 80 is what the borrowed rules leave out as their default.
    let port = url.port().unwrap_or(if rest.ends_with(":80") { 80 } else { default });
    Ok((host, port, wrapped))
}

pub(super) fn validate(spec: &Spec, r: &mut Reader<'_>) {
    if spec.notify.len() > MAX_TARGETS {
        r.at("notify", format!("has {} targets; the most are {MAX_TARGETS}", spec.notify.len()));
    }
    for (name, target) in &spec.notify {
        let at = format!("notify.{name}");
        // The name becomes a directory and part of keys.
        if baton_replicator::types::GroupName::new(name.as_str()).is_err() {
            r.at(&at, format!("'{name}' is not a valid name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"));
        }
        for (i, group) in target.groups.iter().enumerate().filter(|(_, g)| !spec.groups.contains_key(*g)) {
            r.at(&format!("{at}.groups[{i}]"), unknown("group", group, spec.groups.keys()));
        }
        if let Some(every) = target.alert_every {
            at_least(r, &format!("{at}.alert_every"), every, SHORTEST_REPEAT);
        }
        if target.max_per_hour == 0 {
            r.at(&format!("{at}.max_per_hour"), "must be at least 1; remove the target to tell it nothing");
        }
        let (kind, timeout) = match &target.channel {
            Channel::Mail(_) => continue,
            Channel::Webhook(w) => ("webhook", w.timeout),
            Channel::Exec(e) => ("exec", e.timeout),
        };
        let path = format!("{at}.{kind}.timeout");
        at_least(r, &path, timeout, Duration::from_millis(100));
        if timeout > LONGEST_TIMEOUT {
            r.at(&path, format!("is too long; the most are {} s", LONGEST_TIMEOUT.as_secs()));
        }
    }
}

//! Deliveries to real receivers: an SMTP server from Debian (aiosmtpd) with every kind of bad day, an HTTP receiver, and
//! commands that misbehave.
//!
//! Without aiosmtpd these tests fail, unless BATON_TEST_NO_SMTP=1 says that this is meant.

use axum::http::{HeaderMap, StatusCode};
use baton_operator::notify::deliver::{Failure, deliver};
use baton_operator::notify::message::{Kind, Message};
use baton_operator::notify::spool::Spool;
use baton_operator::notify::text::test_message;
use baton_operator::notify::worker::Mailbox;
use baton_operator::spec::{Channel, Exec, Mail, MailTls, Webhook};
use baton_operator::status::NotificationStatus;
use baton_replicator::types::NodeName;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Everything here is over in a few seconds; this is when a test is stuck.
const PATIENCE: Duration = Duration::from_secs(40);
const USER: &str = "baton";
const PASSWORD: &str = "correct horse";

struct Server {
    child: Child,
    port: u16,
    mails: mpsc::Receiver<serde_json::Value>,
}

impl Server {
    /// None only where the absence of aiosmtpd was announced.
    fn start(mode: &str, arguments: &[&str]) -> Option<Self> {
        let python = "/usr/bin/python3";
        let there = Command::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
        if !there.is_ok_and(|s| s.success()) {
            assert!(
                std::env::var("BATON_TEST_NO_SMTP").is_ok_and(|v| v == "1"),
                "no aiosmtpd: install python3-aiosmtpd, or set BATON_TEST_NO_SMTP=1 to go without these tests"
            );
            eprintln!("SKIPPED: BATON_TEST_NO_SMTP=1, nothing about SMTP is tested");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/notify_delivery/smtp_server.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(mode)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines.next().expect("it says its port").expect("readable").parse().expect("a port");
        let (sender, mails) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).expect("JSON")).is_err() {
                    return;
                }
            }
        });
        Some(Self { child, port, mails })
    }

    fn mail(&self) -> serde_json::Value {
        self.mails.recv_timeout(PATIENCE).expect("a mail arrives")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A CA, a server certificate for 127.0.0.1 by it, and a password, in files.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["ours", "other"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
            ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            ca.distinguished_name.push(rcgen::DnType::CommonName, name);
            let cert = ca.self_signed(&key).unwrap();
            this.write(&format!("{name}-ca.pem"), &cert.pem());
            let issuer = rcgen::Issuer::new(ca, key);
            let key = rcgen::KeyPair::generate().unwrap();
            let server = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            this.write(&format!("{name}.pem"), &server.signed_by(&key, &issuer).unwrap().pem());
            this.write(&format!("{name}-key.pem"), &key.serialize_pem());
        }
        this.write("password", &format!("{PASSWORD}\n"));
        this.write("wrong-password", "battery staple\n");
        this
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

fn me() -> NodeName {
    NodeName::new("alpha").unwrap()
}

/// The same each time, and of today: one that is a day old is given up.
fn message() -> Message {
    static AT: LazyLock<String> =
        LazyLock::new(|| humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
    test_message("demo", &me(), "operators", &AT)
}

fn mail(port: u16) -> Mail {
    Mail {
        to: vec!["sip@tholdi.com".into()],
        host: "127.0.0.1".into(),
        port,
        tls: MailTls::Opportunistic,
        from: None,
        user: None,
        password_file: None,
        ca_file: None,
    }
}

async fn send(mail: Mail) -> Result<(), Failure> {
    deliver(&Channel::Mail(mail), &message(), &me()).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_mail_arrives_in_clear_where_nothing_else_is_offered() {
    let Some(server) = Server::start("take", &[]) else { return };
    runtime().block_on(send(mail(server.port))).unwrap();
    let got = server.mail();
    assert_eq!((&got["tls"], &got["from"]), (&false.into(), &"baton@alpha".into()));
    assert_eq!(got["to"], serde_json::json!(["sip@tholdi.com"]));
    let text = got["text"].as_str().unwrap();
    for line in ["Auto-Submitted: auto-generated\r\n", "Subject: [baton demo] test of the target operators"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    // What requires encryption is not sent in clear.
    let failure = runtime().block_on(send(Mail { tls: MailTls::Required, ..mail(server.port) })).unwrap_err();
    assert!(!failure.fatal, "{failure}");
    assert!(server.mails.try_recv().is_err());
}

#[test]
fn starttls_with_the_right_ca_and_password() {
    let files = Files::new();
    let arguments = [&files.text("ours.pem"), &files.text("ours-key.pem"), USER, PASSWORD];
    let Some(server) = Server::start("take", &arguments) else { return };
    let good = Mail {
        tls: MailTls::Required,
        user: Some(USER.into()),
        password_file: Some(files.path("password")),
        ca_file: Some(files.path("ours-ca.pem")),
        ..mail(server.port)
    };
    runtime().block_on(send(good.clone())).unwrap();
    let got = server.mail();
    assert_eq!((&got["tls"], &got["user"]), (&true.into(), &USER.into()));

    let refused = |bad: Mail, expected: &str| {
        let failure = runtime().block_on(send(bad)).unwrap_err();
        assert!(!failure.fatal, "someone may mend it: {failure}");
        assert!(failure.text.contains(expected), "{expected} in {failure}");
        assert!(!failure.text.contains(PASSWORD), "no secret in an error: {failure}");
    };
    refused(Mail { ca_file: Some(files.path("other-ca.pem")), ..good.clone() }, "certificate");
    refused(Mail { ca_file: None, ..good.clone() }, "certificate");
    refused(Mail { password_file: Some(files.path("wrong-password")), ..good.clone() }, "535");
    refused(Mail { password_file: Some(files.path("no-such-file")), ..good.clone() }, "no-such-file");
    std::fs::set_permissions(files.path("password"), std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(good.clone(), "chmod 600");
    assert!(server.mails.try_recv().is_err(), "nothing else has arrived");
    // A server that has a certificate of its own making, and no CA is named: encrypted all the same.
    let Some(server) = Server::start("take", &arguments[..2]) else { return };
    runtime().block_on(send(mail(server.port))).unwrap();
    assert_eq!(server.mail()["tls"], true);
}

#[test]
fn tls_from_the_first_byte() {
    let files = Files::new();
    let Some(server) = Server::start("wrapped", &[&files.text("ours.pem"), &files.text("ours-key.pem")])
    else {
        return;
    };
    let wrapped =
        Mail { tls: MailTls::Wrapped, ca_file: Some(files.path("ours-ca.pem")), ..mail(server.port) };
    runtime().block_on(send(wrapped)).unwrap();
    assert_eq!(server.mail()["tls"], true);
}

#[test]
fn a_refusal_for_good_is_told_from_one_for_now() {
    let Some(server) = Server::start("reject", &[]) else { return };
    let failure = runtime().block_on(send(mail(server.port))).unwrap_err();
    assert!(failure.fatal && failure.text.contains("550"), "{failure}");
    let Some(server) = Server::start("grey", &[]) else { return };
    let failure = runtime().block_on(send(mail(server.port))).unwrap_err();
    assert!(!failure.fatal && failure.text.contains("451"), "{failure}");
    let port = server.port;
    drop(server);
    let failure = runtime().block_on(send(mail(port))).unwrap_err();
    assert!(!failure.fatal && failure.text.contains("refused"), "{failure}");
}

#[test]
fn a_server_that_never_greets_ends_in_time() {
    let Some(server) = Server::start("hang", &[]) else { return };
    let begin = Instant::now();
    let failure = runtime().block_on(send(mail(server.port))).unwrap_err();
    assert!(!failure.fatal && begin.elapsed() < Duration::from_secs(35), "{failure}, {:?}", begin.elapsed());
}

/// A letter box and how it goes.
fn mailbox(channel: Channel, spool: &Spool) -> (Arc<Mailbox>, watch::Receiver<Vec<NotificationStatus>>) {
    let line = NotificationStatus { target: "operators".into(), ..NotificationStatus::default() };
    let (board, ear) = watch::channel(vec![line]);
    let mailbox = Mailbox::new("operators", channel, me(), Some(spool.clone()), Arc::new(board));
    (Arc::new(mailbox), ear)
}

async fn until(
    ear: &mut watch::Receiver<Vec<NotificationStatus>>,
    what: impl Fn(&NotificationStatus) -> bool,
) -> NotificationStatus {
    let found = tokio::time::timeout(PATIENCE, ear.wait_for(|all| what(&all[0]))).await;
    found.expect("in time").expect("the letter box lives")[0].clone()
}

#[test]
fn a_grey_list_is_waited_out_and_a_hanging_server_holds_nobody_up() {
    let Some(server) = Server::start("grey", &[]) else { return };
    let Some(hanging) = Server::start("hang", &[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let stuck = Spool::open(dir.path(), "stuck").unwrap();
        let (slow, slow_ear) = mailbox(Channel::Mail(mail(hanging.port)), &stuck);
        let slow_task = tokio::spawn(Arc::clone(&slow).run());
        let begin = Instant::now();
        for _ in 0..50 {
            slow.put(message()).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "putting in does not wait: {:?}", begin.elapsed());
        let (quick, mut ear) =
            mailbox(Channel::Mail(mail(server.port)), &Spool::open(dir.path(), "quick").unwrap());
        let quick_task = tokio::spawn(Arc::clone(&quick).run());
        quick.put(message()).await;
        let seen = until(&mut ear, |s| s.failed == 1).await;
        let error = seen.last_error.unwrap_or_default();
        assert!(
            error.contains("451") && seen.failing_since.is_some() && seen.queued == 1,
            "{error}, {} queued",
            seen.queued
        );
        let seen = until(&mut ear, |s| s.delivered == 1).await;
        assert_eq!((seen.queued, seen.failed, &seen.last_error), (0, 2, &None));
        assert_eq!(slow_ear.borrow()[0].delivered, 0);
        // The restart of an agent: everything that was not delivered is there.
        slow_task.abort();
        quick_task.abort();
        assert_eq!(stuck.load().len(), 50);
        let (again, mut ear) = mailbox(Channel::Mail(mail(server.port)), &stuck);
        let task = tokio::spawn(again.run());
        until(&mut ear, |s| s.delivered == 50 && s.queued == 0).await;
        task.abort();
        assert!(stuck.load().is_empty());
    });
}

#[test]
fn what_is_rejected_for_good_is_set_aside_and_the_next_one_goes() {
    let Some(server) = Server::start("reject", &[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let spool = Spool::open(dir.path(), "operators").unwrap();
        let (mailbox, mut ear) = mailbox(Channel::Mail(mail(server.port)), &spool);
        let task = tokio::spawn(Arc::clone(&mailbox).run());
        mailbox.put(message()).await;
        mailbox.put(message()).await;
        let seen = until(&mut ear, |s| s.given_up == 2).await;
        task.abort();
        assert_eq!((seen.queued, seen.delivered), (0, 0));
        let aside = std::fs::read_dir(dir.path().join("agent/notify/operators/given-up")).unwrap().count();
        assert_eq!(aside, 2);
    });
}

type Received = Arc<Mutex<Vec<(HeaderMap, serde_json::Value)>>>;

/// An HTTP receiver that answers 500 before 200, or as it is told.
async fn receiver(answers: Vec<StatusCode>) -> (String, Received) {
    let received = Received::default();
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    let keep = Arc::clone(&received);
    let app = axum::Router::new().route(
        "/hook",
        axum::routing::post(
            move |headers: HeaderMap, axum::Json(body): axum::Json<serde_json::Value>| async move {
                keep.lock().unwrap().push((headers, body));
                (answers.lock().unwrap().next().unwrap_or(StatusCode::OK), "said so")
            },
        ),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, received)
}

fn hook(url: &str) -> Webhook {
    Webhook {
        url: url.into(),
        token_file: None,
        secret_file: None,
        ca_file: None,
        timeout: Duration::from_secs(2),
    }
}

#[test]
fn a_webhook_is_tried_again_with_the_same_key_and_a_signature() {
    let files = Files::new();
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (url, received) = receiver(vec![StatusCode::INTERNAL_SERVER_ERROR]).await;
        let hook = Webhook {
            token_file: Some(files.path("password")),
            secret_file: Some(files.path("password")),
            ..hook(&url)
        };
        let (mailbox, mut ear) =
            mailbox(Channel::Webhook(hook), &Spool::open(dir.path(), "operators").unwrap());
        let task = tokio::spawn(Arc::clone(&mailbox).run());
        mailbox.put(message()).await;
        let failed = until(&mut ear, |s| s.failed == 1).await;
        assert_eq!(failed.last_error.as_deref(), Some("HTTP 500 Internal Server Error said so"));
        until(&mut ear, |s| s.delivered == 1).await;
        task.abort();
        let received = received.lock().unwrap();
        assert_eq!(received.len(), 2);
        for (headers, body) in received.iter() {
            assert_eq!(body["kind"], "test");
            assert_eq!(headers["authorization"], format!("Bearer {PASSWORD}"));
            assert_eq!(headers["idempotency-key"], message().id());
            let signature = headers["x-baton-signature"].to_str().unwrap();
            assert!(signature.starts_with("sha256=") && signature.len() == 7 + 64, "{signature}");
            assert!(headers.contains_key("x-baton-timestamp"));
        }
    });
}

#[test]
fn a_webhook_that_refuses_hangs_or_redirects() {
    runtime().block_on(async {
        let once = async |answer| {
            let (url, received) = receiver(vec![answer]).await;
            let failure = deliver(&Channel::Webhook(hook(&url)), &message(), &me()).await.unwrap_err();
            assert_eq!(received.lock().unwrap().len(), 1);
            failure.fatal
        };
        assert!(once(StatusCode::UNPROCESSABLE_ENTITY).await);
        assert!(!once(StatusCode::UNAUTHORIZED).await, "someone may mend the token");
        assert!(!once(StatusCode::FOUND).await, "a token is not carried elsewhere");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret-in-the-path", listener.local_addr().unwrap());
        let begin = Instant::now();
        let slow = Webhook { timeout: Duration::from_millis(300), ..hook(&url) };
        let failure = deliver(&Channel::Webhook(slow), &message(), &me()).await.unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert!(!failure.text.contains("secret-in-the-path"), "{failure}");
    });
}

async fn execute(script: &str, timeout: Duration) -> Result<(), Failure> {
    let exec = Exec { command: vec!["/bin/sh".into(), "-c".into(), script.into()], timeout };
    deliver(&Channel::Exec(exec), &Message { kind: Kind::Begin, ..message() }, &me()).await
}

#[test]
fn a_command_gets_the_message_and_one_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    runtime().block_on(async {
        let patience = Duration::from_secs(10);
        execute(
            &format!("cat > {0}; echo $BATON_KIND $BATON_SEVERITY \"$BATON_TITLE\" > {0}.env", at("in")),
            patience,
        )
        .await
        .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&std::fs::read(at("in")).unwrap()).unwrap();
        assert_eq!(body["title"], message().title);
        let environment = std::fs::read_to_string(at("in.env")).unwrap();
        assert_eq!(environment, format!("begin info {}\n", message().title));

        execute("true", patience).await.unwrap();
        let failure = execute("echo no paper >&2; exit 3", patience).await.unwrap_err();
        assert!(failure.text.contains("no paper") && !failure.fatal, "{failure}");
        let failure = execute("yes >&2", Duration::from_millis(300)).await.unwrap_err();
        assert!(failure.text.contains("killed"), "{failure}");

        let begin = Instant::now();
        let script = format!("sleep 1000 & echo $! > {}; sleep 1000", at("child"));
        let failure = execute(&script, Duration::from_millis(500)).await.unwrap_err();
        assert!(failure.text.contains("killed after 0.5 s"), "{failure}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        let child = std::fs::read_to_string(at("child")).unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
            // Nobody may be there to bury it in a container without init.
            stat.is_err() || stat.is_ok_and(|s| s.contains(") Z "))
        };
        while !gone() {
            assert!(begin.elapsed() < PATIENCE, "its child lives on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let missing = Exec { command: vec!["/no/such/program".into()], timeout: patience };
        let failure = deliver(&Channel::Exec(missing), &message(), &me()).await.unwrap_err();
        assert!(failure.text.contains("/no/such/program"), "{failure}");
    });
}

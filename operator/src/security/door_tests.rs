//! The real router behind the real listener, with real certificates and tokens, asked by the real command line's client.

use super::fake::Memory;
use super::identity::Kind;
use super::listener::{Incoming, bind_socket};
use super::pki::{Pki, Request};
use super::tls::{ServerTls, TlsFiles};
use super::token::generate;
use super::tokens::Tokens;
use super::watch::{Health, Watch};
use super::{Role, Security, files};
use crate::api::fake::Fake;
use crate::api::tokens::TokenMade;
use crate::api::{Accepted, ApiState, serve};
use crate::cli::{ApiClient, CliError, ClientOptions, Exit, fixture};
use crate::status::ClusterStatus;
use reqwest::Method;
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Reached only by a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent of the cluster `demo` at 0.0.0.0, with certificates for 127.0.0.1.
struct Agent {
    dir: TempDir,
    pki: Pki,
    port: u16,
    fake: Arc<Fake>,
    vault: Arc<Memory>,
    tokens: Arc<Tokens>,
    history: Arc<Mutex<Vec<String>>>,
    health: watch::Receiver<Health>,
    _status: watch::Sender<ClusterStatus>,
}

struct Setup {
    cluster: &'static str,
    server_days: u32,
    tls: bool,
    authentication: bool,
}

const DEMO: Setup = Setup { cluster: "demo", server_days: 90, tls: true, authentication: true };

impl Agent {
    async fn start() -> Self {
        Self::with(DEMO).await
    }

    async fn with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        pki.init("demo", 3650).unwrap();
        let issue = |kind, name: &str, days| {
            let addresses = if kind == Kind::Node { vec!["127.0.0.1".to_owned()] } else { vec![] };
            pki.issue(&Request { kind, name: name.into(), addresses, days }).unwrap();
        };
        issue(Kind::Node, "alpha", setup.server_days);
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            issue(Kind::Client(role), role.word(), 90);
        }
        let files = TlsFiles::of_node(dir.path(), "alpha");
        let tls = setup.tls.then(|| Arc::new(ServerTls::load(files).unwrap()));
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = bind_socket(&dir.path().join("agent.sock")).unwrap();
        let incoming = Incoming::default().with_tcp(listener, tls.clone()).with_socket(socket);

        let (fake, vault) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
        let history = Arc::new(Mutex::new(Vec::new()));
        let record = || {
            let history = history.clone();
            Box::new(move |_, line: &str| history.lock().unwrap().push(line.to_owned()))
        };
        let tokens = Arc::new(Tokens::in_memory());
        let mut security = Security::new(setup.cluster, tokens.clone(), vault.clone(), record());
        security.authentication = setup.authentication;
        let (status, ear) = watch::channel(fixture::healthy());
        let state = ApiState::new(ear, fake.clone()).with_security(Arc::new(security));
        tokio::spawn(serve(incoming, state, std::future::pending()));
        let watch = Watch {
            node: "alpha".into(),
            api: tls,
            etcd: None,
            look: Duration::from_millis(20),
            advice: vec!["as set up".into()],
            record: record(),
        };
        Self { health: watch.start(), dir, pki, port, fake, vault, tokens, history, _status: status }
    }

    fn options(&self) -> ClientOptions {
        ClientOptions {
            addresses: vec![format!("https://127.0.0.1:{}", self.port)],
            ca: Some(self.pki.certificate("ca")),
            ..ClientOptions::default()
        }
    }

    /// By certificate.
    fn as_(&self, name: &str) -> ApiClient {
        let (cert, key) = (Some(self.pki.certificate(name)), Some(self.pki.key(name)));
        ApiClient::with(ClientOptions { cert, key, ..self.options() }).unwrap()
    }

    fn nobody(&self) -> ApiClient {
        ApiClient::with(self.options()).unwrap()
    }

    fn root(&self) -> ApiClient {
        let socket = format!("unix:{}", self.dir.path().join("agent.sock").display());
        ApiClient::with(ClientOptions::at(&[socket])).unwrap()
    }

    fn with_token(&self, token: &str) -> ApiClient {
        let file: PathBuf = self.dir.path().join("token");
        files::write_private(&file, token.as_bytes()).unwrap();
        ApiClient::with(ClientOptions { token_file: Some(file), ..self.options() }).unwrap()
    }

    fn history(&self) -> Vec<String> {
        self.history.lock().unwrap().clone()
    }
}

async fn status(client: &ApiClient) -> Result<ClusterStatus, CliError> {
    tokio::time::timeout(PATIENCE, client.get("/v1/status")).await.expect("bounded")
}

async fn move_web(client: &ApiClient) -> Result<Accepted, CliError> {
    client.command(Method::POST, "/v1/groups/web/move", &json!({})).await
}

async fn make_token(client: &ApiClient, role: &str) -> Result<TokenMade, CliError> {
    client.command(Method::POST, "/v1/tokens", &json!({ "name": "paul", "role": role })).await
}

async fn revoke(client: &ApiClient, id: &str) -> Result<Accepted, CliError> {
    client.command(Method::DELETE, &format!("/v1/tokens/{id}"), &json!({})).await
}

#[tokio::test]
async fn each_role_may_do_its_own_and_nothing_above() {
    let agent = Agent::start().await;
    for name in ["viewer", "operator", "admin", "alpha"] {
        assert!(status(&agent.as_(name)).await.is_ok(), "{name}");
    }
    let denied = move_web(&agent.as_("viewer")).await.unwrap_err();
    assert_eq!(denied.exit, Exit::Denied);
    assert!(denied.message.contains("needs the role operator; 'viewer' is viewer"), "{denied}");
    assert!(agent.fake.calls.lock().unwrap().is_empty(), "nothing of that reached the driver");
    move_web(&agent.as_("operator")).await.unwrap();
    assert_eq!(make_token(&agent.as_("operator"), "viewer").await.unwrap_err().exit, Exit::Denied);
    make_token(&agent.as_("admin"), "viewer").await.unwrap();
    make_token(&agent.as_("alpha"), "viewer").await.unwrap();
    let history = agent.history();
    let from = "127.0.0.1): POST /v1/groups/web/move";
    let refused = format!("audit: viewer (viewer, certificate, from {from} refused with 403: ");
    assert!(
        history[0].starts_with(&refused) && history[0].contains("needs the role operator"),
        "{history:?}"
    );
    let moved = format!("audit: operator (operator, certificate, from {from} answered 202: ");
    assert!(history[1].starts_with(&moved), "{history:?}");
}

#[tokio::test]
async fn nobody_is_told_nothing_but_what_is_open() {
    let agent = Agent::start().await;
    let nobody = agent.nobody();
    for path in ["/livez", "/readyz", "/leader?group=web"] {
        assert!(nobody.question(path).await.unwrap().0, "{path}");
    }
    for path in ["/v1/status", "/v1/spec", "/v1/events", "/metrics", "/v1/nothing", "/v1/tokens"] {
        let error = nobody.get::<serde_json::Value>(path).await.unwrap_err();
        assert_eq!(error.exit, Exit::Denied, "{path}: {error}");
        assert!(error.next.contains("--token-file"), "{error}");
    }
    assert_eq!(move_web(&nobody).await.unwrap_err().exit, Exit::Denied);
    assert!(agent.fake.calls.lock().unwrap().is_empty());
    for disguised in ["//v1/status", "/%761/status", "/V1/status", "/./v1/status", "/v1%2Fstatus"] {
        let answer = nobody.get::<serde_json::Value>(disguised).await;
        assert!(answer.is_err(), "{disguised}");
    }
}

#[tokio::test]
async fn strangers_certificates_are_told_apart_in_words() {
    let agent = Agent::start().await;
    let said = async |options: ClientOptions| {
        let error = status(&ApiClient::with(options).unwrap()).await.unwrap_err();
        assert_eq!(error.exit, Exit::Unreachable, "{error}");
        error.to_string()
    };
    // An authority that has signed nothing here.
    let other = tempfile::tempdir().unwrap();
    let stranger = Pki::new(other.path());
    stranger.init("demo", 10).unwrap();
    stranger
        .issue(&Request { kind: Kind::Client(Role::Admin), name: "admin".into(), addresses: vec![], days: 1 })
        .unwrap();
    let wrong_ca = said(ClientOptions { ca: Some(stranger.certificate("ca")), ..agent.options() }).await;
    assert!(
        wrong_ca.contains("not signed by the authority given") && wrong_ca.contains("BATON_CA"),
        "{wrong_ca}"
    );
    // A certificate that another authority has signed, though its subject says admin of demo.
    let (cert, key) = (Some(stranger.certificate("admin")), Some(stranger.key("admin")));
    let forged = said(ClientOptions { cert, key, ..agent.options() }).await;
    assert!(forged.contains("does not accept this client's certificate"), "{forged}");
    // One for etcd.
    let (cert, key) = (Some(agent.pki.certificate("alpha-etcd")), Some(agent.pki.key("alpha-etcd")));
    let etcd = said(ClientOptions { cert, key, ..agent.options() }).await;
    assert!(etcd.contains("does not accept this client's certificate"), "{etcd}");
    // One that has expired.
    let old = Request { kind: Kind::Client(Role::Admin), name: "old".into(), addresses: vec![], days: 0 };
    agent.pki.issue(&old).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await; // validity is in whole seconds
    let (cert, key) = (Some(agent.pki.certificate("old")), Some(agent.pki.key("old")));
    let expired = said(ClientOptions { cert, key, ..agent.options() }).await;
    assert!(
        expired.contains("this client's certificate has expired") && expired.contains("baton cert renew"),
        "{expired}"
    );
    // An address that the server's certificate does not name.
    let elsewhere = format!("https://127.0.0.2:{}", agent.port);
    let name = said(ClientOptions { addresses: vec![elsewhere], ..agent.options() }).await;
    assert!(name.contains("not for this address") && name.contains("--address"), "{name}");
    assert!(agent.history().is_empty(), "what fails in the handshake is no request: {:?}", agent.history());
}

#[tokio::test]
async fn an_expired_server_is_not_trusted_and_a_plain_one_recognised() {
    let agent = Agent::with(Setup { server_days: 0, ..DEMO }).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let error = status(&agent.as_("admin")).await.unwrap_err().to_string();
    assert!(error.contains("its certificate has expired"), "{error}");

    let plain = Agent::with(Setup { tls: false, ..DEMO }).await;
    let error = status(&plain.nobody()).await.unwrap_err().to_string();
    assert!(error.contains("does not speak TLS") && error.contains("http://HOST:7480"), "{error}");
    let http = ClientOptions::at(&[format!("http://127.0.0.1:{}", plain.port)]);
    let error = status(&ApiClient::with(http).unwrap()).await.unwrap_err();
    assert_eq!(error.exit, Exit::Denied, "without TLS, but not without authentication: {error}");
}

#[tokio::test]
async fn a_certificate_of_another_cluster_of_the_same_authority_is_nobody() {
    let agent = Agent::with(Setup { cluster: "other", ..DEMO }).await;
    assert_eq!(status(&agent.as_("admin")).await.unwrap_err().exit, Exit::Denied);
    assert!(agent.history()[0].contains("certificate of another cluster"), "{:?}", agent.history());
}

#[tokio::test]
async fn a_token_is_made_on_the_socket_used_and_revoked() {
    let agent = Agent::start().await;
    let root = agent.root();
    assert!(status(&root).await.is_ok());
    let made = make_token(&root, "operator").await.unwrap();
    assert_eq!((made.info.name.as_str(), made.info.created_by.as_str()), ("paul", "root"));
    let paul = agent.with_token(made.token.reveal());
    move_web(&paul).await.unwrap();
    assert_eq!(make_token(&paul, "admin").await.unwrap_err().exit, Exit::Denied);
    let listed: serde_json::Value = root.get("/v1/tokens").await.unwrap();
    assert_eq!(listed[0]["id"], made.info.id.as_str());
    assert!(listed[0].get("hash").is_none(), "{listed}");

    // etcd away: known tokens stay good, none is made or revoked, and the answer says why.
    agent.vault.away.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(status(&paul).await.is_ok());
    for error in
        [make_token(&root, "viewer").await.unwrap_err(), revoke(&root, &made.info.id).await.unwrap_err()]
    {
        assert!(error.exit == Exit::Failed && error.message.contains("etcd"), "{error}");
    }
    agent.vault.away.store(false, std::sync::atomic::Ordering::SeqCst);

    revoke(&root, &made.info.id).await.unwrap();
    assert_eq!(status(&paul).await.unwrap_err().exit, Exit::Denied);
    assert!(revoke(&root, &made.info.id).await.unwrap_err().message.contains("no token"));
    let secret = made.token.reveal().rsplit('_').next().unwrap();
    let history = agent.history().join("\n");
    assert!(!history.contains(secret), "{history}");
    for line in [
        "root (admin, Unix socket, from local): POST /v1/tokens answered 201",
        "paul (operator, token, from 127.0.0.1): POST /v1/groups/web/move answered 202",
        "DELETE /v1/tokens",
        "unknown or revoked token",
    ] {
        assert!(history.contains(line), "{line} in {history}");
    }
}

/// Making one or revoking another takes nobody's token away that etcd has lost, and one can be revoked here meanwhile.
#[tokio::test]
async fn tokens_that_an_emptied_etcd_lacks_stay_good_until_they_are_revoked() {
    let agent = Agent::start().await;
    let root = agent.root();
    let [kept, lost] =
        [make_token(&root, "viewer").await.unwrap(), make_token(&root, "viewer").await.unwrap()];
    agent.vault.records.lock().unwrap().clear();
    let later = make_token(&root, "viewer").await.unwrap();
    for token in [&kept, &lost, &later] {
        assert!(status(&agent.with_token(token.token.reveal())).await.is_ok());
    }
    revoke(&root, &later.info.id).await.unwrap();
    assert!(status(&agent.with_token(kept.token.reveal())).await.is_ok());
    let said = revoke(&root, &lost.info.id).await.unwrap().message;
    assert!(said.contains("at this agent"), "{said}");
    for token in [&lost, &later] {
        assert_eq!(status(&agent.with_token(token.token.reveal())).await.unwrap_err().exit, Exit::Denied);
    }
    assert!(status(&agent.with_token(kept.token.reveal())).await.is_ok());
    assert!(revoke(&root, &lost.info.id).await.unwrap_err().message.contains("no token"));
}

#[tokio::test]
async fn a_token_ends_in_time_and_nonsense_makes_none() {
    let agent = Agent::start().await;
    let (record, token) = generate("late", Role::Admin, "root", 0, Some(1));
    agent.tokens.replace(vec![record]);
    assert_eq!(status(&agent.with_token(token.reveal())).await.unwrap_err().exit, Exit::Denied);
    assert!(agent.history().iter().any(|l| l.contains("expired token")), "{:?}", agent.history());
    for body in [
        json!({ "name": "Paul Smith", "role": "viewer" }),
        json!({ "name": "paul", "role": "king" }),
        json!({ "name": "paul" }),
        json!({ "name": "paul", "role": "viewer", "expires_in_s": 0 }),
        json!({ "name": "paul", "role": "viewer", "expires": "never" }),
    ] {
        let error =
            agent.root().command::<_, TokenMade>(Method::POST, "/v1/tokens", &body).await.unwrap_err();
        assert_eq!(error.exit, Exit::Failed, "{body}: {error}");
    }
}

#[tokio::test]
async fn who_fails_too_often_waits_and_who_is_known_does_not() {
    let agent = Agent::start().await;
    let made = make_token(&agent.root(), "viewer").await.unwrap();
    let paul = agent.with_token(made.token.reveal());
    let nobody = agent.nobody();
    let mut words = Vec::new();
    for _ in 0..12 {
        words.push(status(&nobody).await.unwrap_err().message);
    }
    assert!(words[0].contains("Say who you are") && words[11].contains("Too many"), "{words:?}");
    assert!(status(&paul).await.is_ok(), "the same address, but known");
    let refusals = agent.history().iter().filter(|l| l.contains("refused with 401")).count();
    assert_eq!(refusals, 5, "recorded");
}

#[tokio::test]
async fn without_authentication_anybody_is_admin_and_is_written_down() {
    let agent = Agent::with(Setup { authentication: false, tls: false, ..DEMO }).await;
    let http = ClientOptions::at(&[format!("http://127.0.0.1:{}", agent.port)]);
    move_web(&ApiClient::with(http).unwrap()).await.unwrap();
    assert!(agent.history()[0].starts_with("audit: anyone (admin, not authenticated, from 127.0.0.1)"));
}

/// Waits for what the watch says.
async fn until(agent: &mut Agent, what: impl Fn(&Health) -> bool) -> Health {
    let seen = tokio::time::timeout(PATIENCE, agent.health.wait_for(|h| what(h))).await;
    seen.expect("bounded").expect("the watch lives").clone()
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart() {
    let mut agent = Agent::with(Setup { server_days: 10, ..DEMO }).await;
    let before = agent.health.borrow().clone();
    assert_eq!(before.certificates.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["api", "ca"]);
    assert!(before.advice[0] == "as set up" && before.advice[1].contains("expires in"), "{before:?}");
    assert!(before.advice[1].contains("baton cert renew"));
    let open = agent.as_("viewer");
    assert!(status(&open).await.is_ok());

    agent.pki.renew(&agent.pki.certificate("alpha"), 200).unwrap();
    let after = until(&mut agent, |h| h.certificates[0].days_left > 100).await;
    assert_eq!(after.advice, ["as set up"]);
    let served = served_certificate(&agent).await;
    assert_eq!(served.not_after, after.certificates[0].expires_unix_s, "the new one is served");
    assert!(status(&open).await.is_ok(), "connections that stood go on");
    assert!(agent.history().iter().any(|l| l.contains("renewed certificate")), "{:?}", agent.history());
}

#[tokio::test]
async fn files_that_do_not_fit_change_nothing_and_are_named() {
    let mut agent = Agent::start().await;
    let good = served_certificate(&agent).await;
    // A new key was copied, its certificate not yet.
    let key = std::fs::read(agent.pki.key("viewer")).unwrap();
    let own = std::fs::read(agent.pki.key("alpha")).unwrap();
    files::write_private(&agent.pki.key("alpha"), &key).unwrap();
    let health = until(&mut agent, |h| h.advice.len() > 1).await;
    assert!(health.advice[1].contains("goes on with its old certificate"), "{health:?}");
    assert_eq!(served_certificate(&agent).await, good);
    files::write_private(&agent.pki.key("alpha"), &own).unwrap();
    until(&mut agent, |h| h.advice.len() == 1).await;
    // A key that others may read is refused at a renewal as at the start.
    std::fs::write(agent.pki.key("alpha"), &own).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(agent.pki.key("alpha"), std::fs::Permissions::from_mode(0o640)).unwrap();
    agent.pki.renew(&agent.pki.certificate("alpha"), 300).unwrap();
    let health = until(&mut agent, |h| h.advice.iter().any(|a| a.contains("chmod 600"))).await;
    assert!(health.advice[1].contains("0640"), "{health:?}");
    assert!(
        ServerTls::load(TlsFiles::of_node(agent.dir.path(), "alpha"))
            .unwrap_err()
            .to_string()
            .contains("chmod 600")
    );
}

#[tokio::test]
async fn two_authorities_are_trusted_while_one_replaces_the_other() {
    let mut agent = Agent::start().await;
    let other = tempfile::tempdir().unwrap();
    let new = Pki::new(other.path());
    new.init("demo", 10).unwrap();
    new.issue(&Request { kind: Kind::Client(Role::Viewer), name: "eve".into(), addresses: vec![], days: 9 })
        .unwrap();
    let both =
        [agent.pki.certificate("ca"), new.certificate("ca")].map(|p| std::fs::read(p).unwrap()).concat();
    files::write_public(&agent.pki.certificate("ca"), &both).unwrap();
    tokio::time::timeout(PATIENCE, async {
        while !agent.history().iter().any(|l| l.contains("renewed certificate")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("bounded");
    let (cert, key) = (Some(new.certificate("eve")), Some(new.key("eve")));
    let eve = ApiClient::with(ClientOptions { cert, key, ..agent.options() }).unwrap();
    assert!(status(&eve).await.is_ok());
    assert!(status(&agent.as_("viewer")).await.is_ok(), "the old ones still count");
    agent.health.borrow_and_update();
}

/// What a new connection is shown.
async fn served_certificate(agent: &Agent) -> super::identity::Identity {
    let config = super::tls::client_config(&agent.pki.certificate("ca"), None).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", agent.port)).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = connector.connect(name, tcp).await.unwrap();
    super::identity::Identity::of_der(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap()
}

#[tokio::test]
async fn the_socket_is_private_and_replaced_when_its_process_is_gone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let first = bind_socket(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(bind_socket(&path).unwrap_err().to_string().contains("another process"));
    drop(first);
    bind_socket(&path).unwrap();
}

//! The contract test: schemathesis against the fake agent, over the whole document, as each role.
//!
//! `compose/scripts/test.sh` runs it; by hand: `cargo test -p baton-operator --lib api::contract -- --ignored --nocapture`
//! after `compose/scripts/setup.sh test`. The scenario `contract` (e2e) does the same against a real cluster.

use super::fake::Fake;
use super::*;
use crate::cli::fixture;
use crate::security::{Principal, Via};
use std::num::NonZeroU32;

/// Test cases per operation and phase.
const EXAMPLES: &str = "10";
/// All roles together take about twenty seconds on two cores.
const PATIENCE: Duration = Duration::from_secs(480);

/// A token of each role; schemathesis guesses words like "admin".
fn token_of(role: Role) -> String {
    format!("{role}-8c1f5e0b7a2d")
}

/// Knows the tokens of the test; who has none of them meets the agent's own door.
async fn door(mut request: Request, next: Next) -> Response {
    let token = request.headers().get("authorization").and_then(|v| v.to_str().ok());
    let token = token.and_then(|text| text.strip_prefix("Bearer "));
    let known = |role: &Role| token == Some(token_of(*role).as_str());
    if let Some(role) = [Role::Viewer, Role::Operator, Role::Admin].into_iter().find(known) {
        let (name, from) = (role.word().to_owned(), "127.0.0.1".to_owned());
        request.extensions_mut().insert(Principal { name, role, via: Via::Token, from });
    }
    next.run(request).await
}

/// Commands are answered in every way there is, one after the other.
async fn moods(fake: Arc<Fake>) {
    let moods = [
        None,
        Some(CommandError::Refused("beta cannot take web now: its replica is Inconsistent".into())),
        None,
        Some(CommandError::Unavailable("etcd did not confirm it: no answer in time; try again".into())),
    ];
    for mood in moods.iter().cycle() {
        (*fake.answer.lock().unwrap()).clone_from(mood);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis: compose/scripts/setup.sh test"]
async fn holds_as_each_role() {
    let fake = Arc::new(Fake::default());
    let (_status, receiver) = watch::channel(fixture::resyncing());
    let many = NonZeroU32::MAX;
    let limits = Limits { reads_per_s: many, commands_per_s: many, ..Limits::default() };
    let security = crate::security::fake::security();
    let state = ApiState::new(receiver, fake.clone()).within(limits).with_security(security);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = router(state).layer(middleware::from_fn(door));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let moods = tokio::spawn(moods(fake));
    let check = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/contract/check");
    // All at once: most of their time is spent in making up requests, and no role is disturbed by another.
    let roles = [None, Some(Role::Viewer), Some(Role::Operator), Some(Role::Admin)].map(|role| {
        let mut command = tokio::process::Command::new(check);
        let word = role.map_or("none", Role::word);
        command.args([&url, word, "--max-examples", EXAMPLES]).kill_on_drop(true);
        command.envs(role.map(|role| ("BATON_CONTRACT_TOKEN", token_of(role))));
        async move { (word, command.output().await) }
    });
    let ended = tokio::time::timeout(PATIENCE, futures::future::join_all(roles)).await.expect("bounded");
    for (word, output) in ended {
        let output = output.unwrap();
        println!("--- as {word}\n{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "as {word}: see above\n{}", String::from_utf8_lossy(&output.stderr));
    }
    moods.abort();
}

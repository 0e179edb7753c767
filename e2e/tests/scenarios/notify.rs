//! What the operators find in their mailbox: a real mail server takes everything that the agents send.

use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Role};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{faults, report, shell};
use std::time::{Duration, Instant};

use crate::let_pass;

/// A takeover (4 s), two seconds in which messages are put together, the server: and as much again.
const TAKEOVER_MAIL: Duration = Duration::from_secs(15);
/// `hold` is 10 s, for the begin of a state and for its end; the rest as above.
const STATE_MAIL: Duration = Duration::from_secs(30);
/// The next agent's turn comes 15 s after the first one's; what it had to say would be there by then.
const SECOND_TELLER: Duration = Duration::from_secs(25);
/// Pauses after failed attempts are 5, 15 and 60 s.
const RETRIED: Duration = Duration::from_secs(90);

fn mails(t: &Scenario, arguments: &[&str]) -> String {
    let server = format!("{}-mail", t.config.project);
    let mut command = vec!["docker", "exec", "--user", "Debian-exim", &server, "mails"];
    command.extend(arguments);
    shell::run(&command).unwrap_or_else(|e| panic!("{e:#}"))
}

/// How many mails have this in their subject.
fn count(t: &Scenario, subject: &str) -> usize {
    mails(t, &["count", subject]).trim().parse().expect("a number")
}

/// Waits for a mail; returns how long that took since `from`.
fn arrived(t: &Scenario, subject: &str, from: Instant, limit: Duration) -> Duration {
    while count(t, subject) == 0 {
        assert!(from.elapsed() < limit, "no mail '{subject}' within {limit:?}; there are\n{}", mails(t, &[]));
        let_pass(Duration::from_millis(200));
    }
    t.tell(&format!("mail '{subject}' after"), report::ms(from.elapsed()));
    from.elapsed()
}

/// The agent's container of a host.
fn agent(t: &Scenario, host: &str) -> String {
    docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}")).name
}

#[test]
fn a_power_cut_is_mailed_once_and_so_is_the_return() {
    scenario("mail about a power cut", |t, leader| {
        // What the healing before this scenario had to say has gone out.
        let_pass(SECOND_TELLER);
        mails(t, &["clear"]);
        let other = t.config.other(leader);
        let cut = faults::power_cut(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let takeover = format!("{other} took over from {leader}");
        t.at_most("mail about the takeover", arrived(t, &takeover, cut, TAKEOVER_MAIL), TAKEOVER_MAIL);
        let last = mails(t, &["last"]);
        t.expect("over TLS and authenticated", last.contains("esmtpsa"), "Received: … esmtpsa");
        t.expect("with the reason", last.contains("Why: "), "Why: …");
        let lost = format!("node {leader} is lost");
        arrived(t, &lost, cut, STATE_MAIL);
        arrived(t, "nobody could take over", cut, STATE_MAIL);

        faults::power_on(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let _ = t.wait_healthy(WHOLE);
        let whole = Instant::now();
        arrived(t, &format!("OK: node {leader} is back"), whole, STATE_MAIL);
        arrived(t, "OK: web: redundant again", whole, STATE_MAIL);
        let_pass(SECOND_TELLER);
        let back = format!("node {leader} is back");
        for subject in [&takeover, &lost, &back, "nobody could take over", "redundant again"] {
            let n = count(t, subject);
            t.expect(&format!("mails '{subject}': one"), n == 1, n);
        }
        t.tell("all mails", mails(t, &["count"]).trim());
    });
}

#[test]
fn with_etcd_down_a_mail_still_goes_out_and_says_so() {
    scenario("mail while etcd is down", |t, _| {
        let_pass(SECOND_TELLER);
        mails(t, &["clear"]);
        let down = faults::etcd_down(t).unwrap_or_else(|e| panic!("{e:#}"));
        arrived(t, "etcd is lost", down.at, STATE_MAIL);
        let last = mails(t, &["last"]);
        let note = "another node may have told";
        t.expect("the mail says that it may come twice", last.replace('\n', " ").contains(note), note);
        drop(down);
        let back = Instant::now();
        let _ = t.wait_healthy(WHOLE);
        arrived(t, "OK: etcd is back", back, STATE_MAIL + SECOND_TELLER);
        let_pass(SECOND_TELLER);
        let n = count(t, "etcd is lost");
        t.expect("mails about etcd: one, two at most", (1..=2).contains(&n), n);
    });
}

#[test]
fn a_mail_server_that_is_down_holds_nothing_up_and_gets_its_mail_later() {
    scenario("mail server down", |t, leader| {
        let server = format!("{}-mail", t.config.project);
        let other = t.config.other(leader);
        let_pass(SECOND_TELLER);
        mails(t, &["clear"]);
        let test = |host: &str| {
            let command = ["docker", "exec", &agent(t, host), "baton", "notify", "test"];
            shell::try_run(Duration::from_secs(20), &command).unwrap_or_else(|e| panic!("{e:#}"))
        };
        for host in [leader, &other] {
            let out = test(host);
            t.expect(&format!("baton notify test on {host}"), out.code == Some(0), out.text().trim());
        }
        // The server says that it took a mail before it is in the mailbox.
        let n = || count(t, "test of the target operators");
        t.wait_for(
            "a mail from each",
            TAKEOVER_MAIL,
            |_| if n() >= 2 { Ok(()) } else { Err("too few".into()) },
        );
        t.expect("one mail from each", n() == 2, n());

        shell::run(&["docker", "stop", &server]).unwrap_or_else(|e| panic!("{e:#}"));
        let out = test(leader);
        t.expect(
            "the test says why it fails",
            out.code == Some(1) && out.text().contains("NOT delivered"),
            out.text().trim(),
        );
        let moved = Instant::now();
        t.move_to(&other);
        t.wait_for("the move", Duration::from_secs(20), |view| match view.serving() {
            Some(host) if host == other => Ok(()),
            host => Err(format!("{host:?} serves")),
        });
        let waits = || {
            let status = t.status(&other).ok()?;
            let target = status.0["notifications"].as_array()?.first()?.clone();
            Some(target["queued"].as_u64()? > 0 && target["last_error"].is_string())
        };
        while waits() != Some(true) {
            assert!(moved.elapsed() < STATE_MAIL, "status of {other} does not say that mail waits");
            let_pass(Duration::from_millis(200));
        }
        shell::run(&["docker", "start", &server]).unwrap_or_else(|e| panic!("{e:#}"));
        let back = Instant::now();
        arrived(t, &format!("handed over from {leader} to {other}"), back, RETRIED);
    });
}

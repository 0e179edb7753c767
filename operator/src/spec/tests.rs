//! The specification of DESIGN is read as meant, and a file full of errors yields the golden list of them.

use super::*;
use baton_replicator::types::{GroupName, NodeName, Protocol, VolumeName};
use std::path::Path;
use std::time::Duration;

const GOOD: &str = include_str!("testdata/good.yaml");

fn none(_: &str) -> Option<String> {
    None
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

/// The good document with one thing changed; must have exactly the error.
#[track_caller]
fn broken(from: &str, to: &str, expected: &str) {
    assert!(GOOD.contains(from), "the good document has no '{from}'");
    let error = Spec::parse(&GOOD.replacen(from, to, 1), none).expect_err("must be refused").to_string();
    assert!(error.contains(expected), "expected '{expected}' in:\n{error}");
}

#[test]
fn blocks_travel_in_tls_unless_cluster_or_volume_say_otherwise_and_by_the_links_in_their_order() {
    let read = |text: &str| Spec::parse(text, none).unwrap_or_else(|e| panic!("{e}"));
    let transports = |spec: &Spec| -> Vec<&str> {
        let volumes = &spec.groups[&group("web")].volumes;
        ["logs", "webstore"].map(|v| volumes[&VolumeName::new(v).unwrap()].transport.word()).to_vec()
    };
    assert_eq!(transports(&read(GOOD)), ["tls", "tls"]);
    // Wherever it stands in the document.
    let plain = format!("{GOOD}transport: plain\n");
    assert_eq!(transports(&read(&plain)), ["plain", "plain"]);
    let one = plain.replacen("size: 1GiB", "size: 1GiB, transport: tls", 1);
    assert_eq!(transports(&read(&one)), ["plain", "tls"]);
    broken("size: 1GiB", "size: 1GiB, transport: ipsec", "'ipsec' is not known; write tls, or plain");

    let two = GOOD.replacen("replication: 9.0.0.1", "replication: [9.0.0.1, 192.168.0.5]", 1);
    let (one, two) = (read(GOOD), read(&two));
    let links = |spec: &Spec| spec.nodes[&NodeName::new("tho-web1").unwrap()].replication.clone();
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    assert_eq!(links(&one), [ip("9.0.0.1")]);
    assert_eq!(links(&two), [ip("9.0.0.1"), ip("192.168.0.5")]);
    broken("replication: 9.0.0.1", "replication: [9.0.0.1, 9.0.0.1]", "has an address twice");
}

#[test]
fn the_good_document_is_read_as_meant() {
    let spec = Spec::parse(GOOD, none).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spec.cluster, "tholdi");
    assert_eq!(spec.heartbeat.warntime, Duration::from_millis(500));
    assert_eq!(spec.heartbeat.fencetime, Duration::from_millis(1120), "derived from deadtime");
    let web1 = &spec.nodes[&NodeName::new("tho-web1").unwrap()];
    let unicast = |a: &str| HeartbeatLink::Unicast(a.parse().unwrap());
    assert_eq!(web1.heartbeat, ["192.168.0.5", "9.0.0.1"].map(unicast));
    let web = &spec.groups[&group("web")];
    assert_eq!(web.prefer, [NodeName::new("tho-web1").unwrap()]);
    assert_eq!(web.addresses[0].to_string(), "192.168.0.7/29");
    assert_eq!(web.addresses[1].interface.as_deref(), Some("eth1"));
    let store = &web.volumes[&VolumeName::new("webstore").unwrap()];
    assert_eq!((store.size_bytes, store.protocol, store.filesystem.as_str()), (1 << 30, Protocol::C, "ext4"));
    assert_eq!(store.mount_options, "noatime,commit=1");
    let logs = &web.volumes[&VolumeName::new("logs").unwrap()];
    assert_eq!(logs.backing.on(&NodeName::new("tho-web1").unwrap()), Some(Path::new("/dev/vg0/logs")));
    assert_eq!(logs.backing.on(&NodeName::new("tho-web2").unwrap()), Some(Path::new("/dev/md1")));
    let mysql = &web.services["mysql"];
    assert_eq!(mysql.command.as_deref().unwrap(), ["mariadbd", "--sql-mode=A B", "--bind=0.0.0.0"]);
    assert_eq!(mysql.environment["VERSION"], "1.10", "numbers keep their text");
    assert_eq!(mysql.environment["PASSWORD"], "pa$word", "$$ is a dollar sign");
    assert_eq!(mysql.environment["FROM_ANCHOR"], "yes");
    let volume = VolumeName::new("webstore").unwrap();
    assert_eq!(
        mysql.volumes,
        [
            Mount {
                source: MountSource::Volume { volume: volume.clone() },
                target: "/var/lib/mysql".into(),
                read_only: false
            },
            Mount {
                source: MountSource::Host("/etc/my.cnf".into()),
                target: "/etc/my.cnf".into(),
                read_only: true
            },
        ]
    );
    assert_eq!(
        mysql.healthcheck.as_ref().unwrap().test,
        Some(HealthTest::Command(vec!["healthcheck.sh".into(), "--connect".into()]))
    );
    assert_eq!(mysql.ulimits["nofile"], Ulimit { soft: 1024, hard: 4096 });
    assert_eq!(mysql.shm_size, Some(64 << 20));
    let apache = &web.services["apache"];
    assert_eq!(apache.depends_on["mysql"], Condition::ServiceHealthy);
    assert_eq!(
        apache.volumes[0],
        Mount { source: MountSource::Volume { volume }, target: "/srv".into(), read_only: true }
    );
    assert_eq!(apache.environment["GREETING"], "hello world");
    assert_eq!(apache.stop_grace_period, Duration::from_secs(5));
    assert_eq!(web.checks.len(), 3);
    assert_eq!(web.checks[2].service.as_deref(), Some("mysql"));
    assert_eq!(web.after_power_loss, AfterPowerLoss::Start);
    assert!(matches!(&spec.notify["operators"].channel, Channel::Mail(m) if m.to == ["sip@tholdi.com"]));
    serde_json::to_string(&spec).expect("can be shown as JSON");
}

#[test]
fn the_text_kept_reads_the_same_with_no_environment() {
    let text = GOOD.replace("192.168.0.5,", "\"${NET:-192.168.0}.5\",").replace("pa$$word", "${PASSWORD}");
    let env = |name: &str| (name == "PASSWORD").then(|| "pa$word".to_owned());
    let spec = Spec::parse(&text, env).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spec.groups[&group("web")].services["mysql"].environment["PASSWORD"], "pa$word");
    assert_eq!(Spec::parse(&spec.text, none).unwrap(), spec);
}

#[test]
fn all_errors_come_at_once_with_line_and_path() {
    let errors = Spec::parse(include_str!("testdata/bad.yaml"), none).expect_err("is full of errors");
    let text = format!("{}\n", errors.in_file("bad.yaml"));
    if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
        std::fs::write("src/spec/testdata/bad.errors", &text).expect("written");
    }
    assert_eq!(text, include_str!("testdata/bad.errors"), "got:\n{text}");
}

#[test]
fn syntax_errors_name_the_line() {
    let at = |text: &str| Spec::parse(text, none).expect_err("must be refused").errors[0].clone();
    assert_eq!(at("cluster: a\nnodes: {b: [}\n").line, 2);
    assert!(at("cluster: a\ncluster: b\n").message.contains("given twice, first in line 1"));
    assert!(at("cluster: a\n---\ncluster: b\n").message.contains("second document"));
    assert!(at("").message.contains("missing"));
    assert!(at("- a\n- b\n").message.contains("must be a mapping"));
    let unset = Spec::parse("cluster: ok\nnodes: ${NODES}\n", none).unwrap_err().to_string();
    assert!(unset.contains("cluster.yaml:2: ${NODES} is not set"), "{unset}");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..10 {
        let before = i - 1;
        text += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{before}"); 10].join(", "));
    }
    assert!(Spec::parse(&text, none).unwrap_err().to_string().contains("unfolds to more than"));
}

#[test]
fn timers_that_do_not_fit_are_refused_with_the_numbers() {
    broken(
        "warntime: 500ms",
        "warntime: 50ms",
        "heartbeat.keepalive: keepalive (100 ms) must be shorter than warntime (50 ms)",
    );
    broken("deadtime: 1500ms", "deadtime: 1500ms, fencetime: 1200ms", "= 1600 ms");
    broken("keepalive: 100ms", "keepalive: 100", "'100' is not a duration; write a number with a unit");
}

#[test]
fn a_profile_gives_the_timers_that_are_not_given() {
    let with = |heartbeat: &str| {
        let text = GOOD.replacen("{ keepalive: 100ms, warntime: 500ms, deadtime: 1500ms }", heartbeat, 1);
        assert_ne!(text, GOOD);
        Spec::parse(&text, none).unwrap_or_else(|e| panic!("{heartbeat}: {e}")).heartbeat
    };
    let ms = Duration::from_millis;
    let four = |t: &Timers| (t.keepalive, t.warntime, t.fencetime, t.deadtime);
    let fast = with("{ profile: fast }");
    assert_eq!((fast.profile, four(&fast)), (Profile::Fast, (ms(50), ms(200), ms(320), ms(500))));
    let slower = Timers { profile: Profile::Fast, ..Timers::default() };
    let Timers { keepalive, warntime, fencetime, deadtime, .. } = slower;
    assert_eq!(
        Timers { keepalive, warntime, fencetime, deadtime, ..fast },
        slower,
        "the others are the same"
    );
    // What is given overrides the profile, wherever it stands; fencetime follows deadtime.
    let own = with("{ deadtime: 1s, profile: fast }");
    assert_eq!(four(&own), (ms(50), ms(200), ms(720), ms(1000)));
    let own = with("{ profile: fast, keepalive: 20ms, fencetime: 300ms }");
    assert_eq!(four(&own), (ms(20), ms(200), ms(300), ms(500)));
    assert_eq!(with("{ profile: default }"), Timers::default());
    assert_eq!(with("{}"), Timers::default());
}

#[test]
fn a_profile_that_does_not_fit_what_is_given_is_refused_with_the_numbers() {
    let given = |heartbeat: &str, expected: &str| {
        broken("{ keepalive: 100ms, warntime: 500ms, deadtime: 1500ms }", heartbeat, expected);
    };
    given("{ profile: fast, warntime: 400ms }", "warntime (400 ms) must be shorter than fencetime (320 ms)");
    given("{ profile: fast, deadtime: 300ms }", "warntime (200 ms) must be shorter than fencetime (160 ms)");
    given("{ profile: fast, keepalive: 250ms }", "keepalive (250 ms) must be shorter than warntime (200 ms)");
    given("{ profile: fast, fencetime: 400ms }", "1.25 x fencetime + 100 ms = 600 ms");
    given("{ profile: fast, ttl: 500ms }", "ttl (500 ms) must be at least 1000 ms");
    given("{ profile: fast, restart_window: 400ms }", "must be shorter than restart_window (400 ms)");
    given("{ profile: quick }", "heartbeat.profile: 'quick' is not known; write default or fast");
}

#[test]
fn references_must_exist() {
    broken(
        "prefer: [tho-web1]",
        "prefer: [tho-web3]",
        "groups.web.prefer[0]: there is no node called tho-web3; there is tho-web1, tho-web2",
    );
    broken(
        "- webstore:",
        "- store:",
        "groups.web.services.mysql.volumes[0]: there is no volume of this group called store",
    );
    broken("mysql: { condition: service_healthy }", "sql: {}", "no service of this group called sql");
    broken("notify: [operators]", "notify: [nobody]", "no target under notify called nobody");
    broken("service: mysql", "service: db", "no service of this group called db");
}

#[test]
fn dependencies_must_not_go_in_a_circle() {
    broken(
        "user: mysql",
        "depends_on: [apache]",
        "groups.web.services.apache.depends_on: goes in a circle: apache → mysql → apache",
    );
}

#[test]
fn nothing_is_claimed_twice() {
    broken("192.168.0.7/29", "192.168.0.5/29", "192.168.0.5 already belongs to nodes.tho-web1");
    broken("address: 192.168.0.6", "address: 192.168.0.5", "192.168.0.5 is also the address of tho-web1");
    broken("/etc/my.cnf:/etc/my.cnf:ro", "/etc/my.cnf:/var/lib/mysql", "is mounted twice in this service");
}

#[test]
fn what_compose_knows_and_baton_must_not_do_is_explained() {
    broken("user: mysql", "ports: [\"80:80\"]", "ports: services share their host's network");
    broken("user: mysql", "privileged: true", "name what it needs under cap_add and devices");
    broken("user: mysql", "environment2: {}", "environment2: unknown field; known here are");
    broken("VERSION: 1.10", "VERSION:", "'VERSION' has no value");
    broken("/etc/my.cnf:/etc", "./my.cnf:/etc", "is relative");
    broken("- webstore:/var", "- webstore/mysql:/var", "mount the whole volume");
    broken("read_only: true", "volume: { subpath: www }", "mount the whole volume");
}

#[test]
fn units() {
    for (text, ms) in [("100ms", 100), ("1.5s", 1500), ("1m30s", 90_000), ("2h", 7_200_000), ("0", 0)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "5", "s", "-1s", "1 week", "1e3s", "99999999999999999999s"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
    for (text, bytes) in
        [("4096", 4096), ("1GiB", 1 << 30), ("64m", 64 << 20), ("0.5 GiB", 1 << 29), ("1b", 1)]
    {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "GiB", "-1", "1XB", "99999999TiB", "1.0001KiB"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
    assert_eq!((format_size(1 << 30), format_size(4097)), ("1GiB".into(), "4097B".into()));
    assert_eq!(format_duration(Duration::from_millis(1500)), "1s500ms");
    for (text, good) in [
        ("10.0.0.1/24", true),
        ("fd00::1/64", true),
        ("10.0.0.1", false),
        ("10.0.0.1/33", false),
        ("127.0.0.1/8", false),
    ] {
        assert_eq!(text.parse::<Cidr>().is_ok(), good, "{text}");
    }
    let cidr: Cidr = "10.0.1.130/25".parse().unwrap();
    assert!(cidr.contains("10.0.1.255".parse().unwrap()) && !cidr.contains("10.0.1.127".parse().unwrap()));
    let cidr: Cidr = "fd00::7/64".parse().unwrap();
    assert!(cidr.contains("fd00::ffff".parse().unwrap()) && !cidr.contains("fd01::7".parse().unwrap()));
}

#[test]
fn variables_are_replaced_as_in_compose() {
    let env = |name: &str| match name {
        "SET" => Some("value".to_owned()),
        "EMPTY" => Some(String::new()),
        "LINES" => Some("a\nb".to_owned()),
        _ => None,
    };
    let run = |text: &str| {
        let mut errors = Vec::new();
        let out = interpolate::interpolate(text, &env, &mut errors);
        if errors.is_empty() { out } else { format!("error: {}", errors[0].message) }
    };
    for (text, expected) in [
        ("a ${SET} b", "a value b"),
        ("$SET.x", "value.x"),
        ("${UNSET:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${UNSET:-${SET}}", "value"),
        ("$$SET 5$ ä$", "$$SET 5$ ä$"),
        ("# ${UNSET} in a comment", "# ${UNSET} in a comment"),
        ("${UNSET}", "error: ${UNSET} is not set; set it, or write ${UNSET:-default}"),
        ("${UNSET:?say so}", "error: ${UNSET} is not set: say so"),
        ("${SET", "error: '${SET' has no closing brace"),
        ("${}", "error: '${}' does not name a variable; write $$ for a dollar sign"),
        (
            "${LINES}",
            "error: the value of a variable here has more than one line; only single lines can be put in",
        ),
    ] {
        assert_eq!(run(text), expected, "{text}");
    }
}

#[test]
fn command_lines_are_split_like_a_shell_does() {
    let words = |text| service::split_words(text).unwrap();
    assert_eq!(words(r#"a 'b c' "d \"e\"" f\ g """#), ["a", "b c", "d \"e\"", "f g", ""]);
    assert!(service::split_words("a 'b").is_err());
    assert!(service::split_words("a\\").is_err());
}

#[test]
fn the_demos_specification_is_good() {
    let text = include_str!("../../../compose/demo/cluster.yaml");
    let spec =
        Spec::parse(text, none).unwrap_or_else(|e| panic!("{}", e.in_file("compose/demo/cluster.yaml")));
    let web = &spec.groups[&group("web")];
    assert_eq!(web.addresses[0].address.to_string(), "10.77.0.100");
    assert!(web.volumes.contains_key(&VolumeName::new("webstore").unwrap()));
}

/// The good document with another way to tell the operators.
fn notified(target: &str) -> Result<NotifyTarget, String> {
    let (before, _) = GOOD.split_once("  operators: ").expect("the good document tells the operators");
    let text = format!("{before}  operators: {target}\n");
    let spec = Spec::parse(&text, none).map_err(|e| e.to_string())?;
    Ok(spec.notify["operators"].clone())
}

#[test]
fn who_is_told_and_how() {
    let target = notified(
        "{ mail: { to: [sip@tholdi.com, 'Night <n@tholdi.com>'], via: 'smtp://10.0.0.9:587', user: baton, \
         password_file: /etc/baton/mail/password, ca_file: /etc/baton/mail/ca.pem }, severity: info, groups: web, \
         alert_every: 1h, recovery: false, hold: 30s, max_per_hour: 5 }",
    )
    .unwrap();
    let Channel::Mail(mail) = &target.channel else { panic!("{target:?}") };
    assert_eq!((mail.host.as_str(), mail.port, mail.tls), ("10.0.0.9", 587, MailTls::Required));
    assert_eq!((target.severity, target.recovery, target.max_per_hour), (Severity::Info, false, 5));
    assert_eq!(target.alert_every, Some(Duration::from_secs(3600)));
    for (via, expected) in [
        ("smtp://mail", ("mail", 25, MailTls::Opportunistic)),
        ("smtp://mail:80", ("mail", 80, MailTls::Opportunistic)),
        ("smtps://[fd00::9]", ("fd00::9", 465, MailTls::Wrapped)),
    ] {
        let target = notified(&format!("{{ mail: {{ to: a@b.c, via: '{via}' }} }}")).unwrap();
        let Channel::Mail(mail) = target.channel else { panic!("no mail") };
        assert_eq!((mail.host.as_str(), mail.port, mail.tls), expected, "{via}");
    }
    let hook = notified("{ webhook: { url: 'https://hook.example.org/x', timeout: 3s } }").unwrap();
    assert!(matches!(hook.channel, Channel::Webhook(w) if w.timeout == Duration::from_secs(3)));
    let exec = notified("{ exec: { command: [/bin/page, now] } }").unwrap();
    assert!(matches!(exec.channel, Channel::Exec(e) if e.command == ["/bin/page", "now"]));
}

#[test]
fn ways_to_tell_that_would_not_work_or_not_be_safe_are_refused() {
    for (target, expected) in [
        ("{}", "give mail, webhook or exec"),
        ("{ exec: { command: [x] }, webhook: { url: 'http://x/' } }", "one of mail, webhook or exec"),
        ("{ mail: { to: nobody, via: 'smtp://m' } }", "'nobody' is not a mail address"),
        ("{ mail: { to: a@b, via: 'smtp://u:p@m' } }", "a password does not belong"),
        ("{ mail: { to: a@b, via: 'smtp://m/x' } }", "nothing else"),
        ("{ mail: { to: a@b, via: 'smtp://m', user: u } }", "user and password_file go together"),
        (
            "{ mail: { to: a@b, via: 'smtp://m', user: u, password_file: /p, tls: opportunistic } }",
            "in clear",
        ),
        ("{ mail: { to: a@b, via: 'smtps://m', tls: none } }", "TLS from the first byte"),
        ("{ mail: { to: a@b, via: 'smtp://m' }, groups: [db] }", "there is no group called db"),
        ("{ mail: { to: a@b, via: 'smtp://m' }, alert_every: 1s }", "too short"),
        ("{ mail: { to: a@b, via: 'smtp://m' }, max_per_hour: 0 }", "at least 1"),
        ("{ webhook: { url: 'ftp://x/' } }", "is not a URL"),
        ("{ webhook: { url: 'http://u:p@x/' } }", "token_file"),
        ("{ exec: { command: [] } }", "needs command"),
        ("{ exec: { command: [x], timeout: 5m } }", "too long"),
        ("{ exec: { command: [x] }, severity: loud }", "write info, warning or critical"),
    ] {
        let errors = notified(target).expect_err(target);
        assert!(errors.contains(expected), "{target}: {errors}");
    }
}

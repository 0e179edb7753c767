//! Bad input: a clear error that names the thing, and nothing lost. The real binaries, some of them off to the side.

use baton_e2e::cluster::WHOLE;
use baton_e2e::config::VOLUME;
use baton_e2e::docker::{self, Role};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::side::Side;
use baton_e2e::{replicas, report, shell};
use serde_json::json;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SPEC: &str = "\
cluster: side
heartbeat: { keepalive: 100ms, warntime: 500ms, deadtime: 1500ms }
nodes:
  one: { address: 127.0.0.1 }
  two: { address: 127.0.0.2 }
groups:
  web:
    prefer: [one]
    addresses: [192.0.2.7/29]
    volumes:
      webstore: { size: 1GiB, filesystem: ext4, protocol: C }
";

#[test]
fn specification() {
    scenario("bad input: specification", |t, _| {
        let side = Side::new(t, "spec").unwrap_or_else(|e| panic!("{e:#}"));
        let check = |spec: &str| {
            side.file("spec.yaml", spec, 0o644).unwrap_or_else(|e| panic!("{e:#}"));
            side.run(t, &["baton", "check", "/side/spec.yaml"]).unwrap_or_else(|e| panic!("{e:#}"))
        };
        let good = check(SPEC);
        t.expect("a good specification is accepted", good.code == Some(0), good.text().trim());
        // What is changed, into what, the line it stands on, and a word that the message must have.
        for (from, to, line, word) in [
            ("deadtime: 1500ms", "deadtime: 600ms", 2, "heartbeat"),
            ("keepalive: 100ms", "keepalive: soon", 2, "keepalive"),
            ("address: 127.0.0.2", "address: 127.0.0.256", 5, "127.0.0.256"),
            ("prefer: [one]", "prefer: [three]", 8, "three"),
            ("addresses: [192.0.2.7/29]", "adresses: [192.0.2.7/29]", 9, "adresses"),
            ("size: 1GiB", "size: 1GB0", 11, "size"),
            ("filesystem: ext4", "filesystem: ntfs", 11, "filesystem"),
        ] {
            let bad = check(&SPEC.replace(from, to));
            let said = bad.text();
            let named = said.contains(word) && mentions_line(&said, line);
            t.expect(
                &format!("'{to}' is refused by name and line"),
                bad.code != Some(0) && named,
                said.trim().replace('\n', " "),
            );
        }
    });
}

/// `:9:` or `line 9`.
fn mentions_line(text: &str, line: u32) -> bool {
    [format!(":{line}:"), format!("line {line}"), format!(":{line} ")].iter().any(|form| text.contains(form))
}

fn agent_options<'a>(secret: &'a str, etcd: &'a str) -> Vec<&'a str> {
    vec![
        "baton-agent",
        "--node",
        "one",
        "--spec",
        "/side/spec.yaml",
        "--etcd",
        etcd,
        "--secret-file",
        secret,
        "--state-dir",
        "/side/state",
        "--run-dir",
        "/side/run",
        "--boot-id-file",
        "/proc/sys/kernel/random/boot_id",
    ]
}

#[test]
fn secret_that_others_can_read() {
    scenario("bad input: secret that others can read", |t, _| {
        let side = Side::new(t, "secret").unwrap_or_else(|e| panic!("{e:#}"));
        side.file("spec.yaml", SPEC, 0o644).unwrap_or_else(|e| panic!("{e:#}"));
        side.file("open", &"5".repeat(64), 0o644).unwrap_or_else(|e| panic!("{e:#}"));
        let replicator = [
            "baton-replicator",
            "--node",
            "one",
            "--listen",
            "127.0.0.1:7788",
            "--secret-file",
            "/side/open",
            "--state-dir",
            "/side/state",
            "--run-dir",
            "/side/run",
        ];
        for command in [agent_options("/side/open", "http://127.0.0.1:2"), replicator.to_vec()] {
            let refused = side.run(t, &command).unwrap_or_else(|e| panic!("{e:#}"));
            let said = refused.text();
            let named = said.contains("/side/open") && said.contains("0644");
            let what = format!("{} refuses it by name and mode", command[0]);
            t.expect(&what, refused.code != Some(0) && named, said.trim().replace('\n', " "));
        }
    });
}

#[test]
fn etcd_out_of_reach_at_start() {
    scenario("bad input: etcd out of reach at start", |t, _| {
        let side = Side::new(t, "etcd").unwrap_or_else(|e| panic!("{e:#}"));
        side.file("spec.yaml", SPEC, 0o644).unwrap_or_else(|e| panic!("{e:#}"));
        side.file("secret", &"5".repeat(64), 0o600).unwrap_or_else(|e| panic!("{e:#}"));
        side.start(t, &[], &agent_options("/side/secret", "http://127.0.0.1:2"))
            .unwrap_or_else(|e| panic!("{e:#}"));
        let log = side.wait_log(&["http://127.0.0.1:2", "127.0.0.1:2"]);
        let line = log.lines().find(|l| l.contains("127.0.0.1:2")).unwrap_or_default();
        t.expect("the agent names the endpoint", line.contains("etcd"), line);
    });
}

/// The host's file that its agent and replicator read their secret from.
pub(crate) fn secret_file(t: &Scenario, host: &str) -> PathBuf {
    let agent = docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
    let asked = shell::run(&[
        "docker",
        "exec",
        &agent.name,
        "sh",
        "-c",
        "echo ${BATON_SECRET_FILE:-/etc/baton/secret}",
    ]);
    let inside = PathBuf::from(asked.unwrap_or_else(|e| panic!("{e:#}")).trim());
    let mounts = agent
        .mounts
        .iter()
        .filter_map(|m| Some(Path::new(&m.outside).join(inside.strip_prefix(&m.inside).ok()?)));
    let found = mounts.max_by_key(|p| p.components().count());
    // An empty rest of the path leaves a slash behind a file that is mounted itself.
    let found = found.unwrap_or_else(|| panic!("{} is on no mount of {}", inside.display(), agent.name));
    PathBuf::from(found.to_string_lossy().trim_end_matches('/'))
}

/// Stops agent and replicator of a host in an orderly way, changes something, and starts them again.
fn restarted(t: &Scenario, host: &str, change: impl FnOnce()) {
    let [agent, replicator] = [Role::Agent, Role::Replicator]
        .map(|r| docker::part(&t.config, host, r).unwrap_or_else(|e| panic!("{e:#}")));
    for container in [&agent, &replicator] {
        docker::all(&["stop", "-t", "20"], std::slice::from_ref(container))
            .unwrap_or_else(|e| panic!("{e:#}"));
    }
    change();
    docker::all(&["start"], &[replicator, agent]).unwrap_or_else(|e| panic!("{e:#}"));
}

/// Everything that `host` and its peer say: statuses and the logs since `begin`.
fn said(t: &Scenario, host: &str, begin: Instant) -> String {
    let since = format!("{}s", begin.elapsed().as_secs() + 1);
    let mut text = t.view().print();
    for role in [Role::Agent, Role::Replicator] {
        if let Ok(container) = docker::part(&t.config, host, role) {
            let logs = shell::try_run(shell::LONG, &["docker", "logs", "--since", &since, &container.id]);
            text += &logs.map(|o| o.text()).unwrap_or_default();
        }
    }
    text
}

/// Waits until a line that has all the words is said, and returns it.
fn wait_said(t: &Scenario, host: &str, begin: Instant, words: &[&str]) -> Option<String> {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let text = said(t, host, begin);
        if let Some(line) = text.lines().find(|l| words.iter().all(|w| l.contains(w))) {
            return Some(line.trim().to_owned());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    None
}

#[test]
fn wrong_secret() {
    scenario("bad input: wrong secret", |t, leader| {
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let file = secret_file(t, &standby);
        let right = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let put = |content: &[u8]| {
            std::fs::write(&file, content).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
        };
        let prober = t.prober();
        let mut writer = t.writer("wrong-secret", None);
        let begin = Instant::now();
        restarted(t, &standby, || put("7".repeat(64).as_bytes()));
        // The leader may share the file; it has read it at its start, and must find the right one at the next.
        let refused = wait_said(t, leader, begin, &["different cluster secrets"])
            .or_else(|| wait_said(t, &standby, begin, &["different cluster secrets"]));
        t.expect("someone names the secret", refused.is_some(), refused.unwrap_or_default());
        t.wait_for(
            "the leader counts what it refuses and serves on alone",
            Duration::from_secs(20),
            |view| {
                let status = view.of(leader)?;
                let counted = status.node(&standby)["refused_datagrams"].as_u64();
                let out =
                    status.in_sync() == [leader] && status.state() == "serving" && status.epoch() == epoch;
                let said = || format!("{counted:?} datagrams, {}", status.in_sync().join(","));
                if out && counted > Some(0) { Ok(()) } else { Err(said()) }
            },
        );
        restarted(t, &standby, || put(&right));
        let _ = t.wait_healthy(WHOLE);
        t.stayed("no takeover", leader, epoch);
        t.tell("HTTP gap", report::ms(prober.history().gap(begin, Instant::now())));
        writer.stop();
        t.audit(&writer.journal());
    });
}

/// Where the copies of the superblock are; a bit in the first payload bytes of each is flipped.
const SUPERBLOCK_COPIES: [u64; 4] = [0, 4096, 8192, 12288];

fn flip(file: &Path, offsets: &[u64]) {
    let open = std::fs::OpenOptions::new().read(true).write(true).open(file);
    let file = open.unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    for offset in offsets {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset + 100).unwrap_or_else(|e| panic!("{e}"));
        file.write_all_at(&[byte[0] ^ 0x10], offset + 100).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn flipped_bit_in_the_metadata() {
    scenario("bad input: flipped bit in the metadata", |t, leader| {
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let state = replicas::state_dir(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
        let meta = state.join("volumes").join(format!("{VOLUME}.meta"));
        let name = format!("{VOLUME}.meta");
        let mut writer = t.writer("flipped-bit", None);

        let begin = Instant::now();
        restarted(t, &standby, || flip(&meta, &SUPERBLOCK_COPIES[..1]));
        let mended = wait_said(t, &standby, begin, &["superblock"]);
        t.expect("one damaged copy is noticed", mended.is_some(), mended.unwrap_or_default());
        let after = t.wait_healthy(WHOLE);
        t.expect("and mended from the others", after == leader, &after);

        let begin = Instant::now();
        let before = std::fs::metadata(replicas::backing(t, &standby).unwrap_or_else(|e| panic!("{e:#}")))
            .map(|m| m.len());
        restarted(t, &standby, || flip(&meta, &SUPERBLOCK_COPIES));
        let refused = wait_said(t, &standby, begin, &[&name]);
        t.expect("no valid copy: refused by name", refused.is_some(), refused.unwrap_or_default());
        let status = t.status(leader).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect(
            "the leader serves on",
            status.state() == "serving" && status.epoch() == epoch,
            status.state(),
        );
        t.expect(
            "the standby is not ready",
            status.group_node(&standby)["ready"] == false,
            &status.group_node(&standby)["reason"],
        );
        let after = std::fs::metadata(replicas::backing(t, &standby).unwrap_or_else(|e| panic!("{e:#}")))
            .map(|m| m.len());
        t.expect("its blocks were left alone", before.ok() == after.ok(), "size of the backing file");

        restarted(t, &standby, || flip(&meta, &SUPERBLOCK_COPIES));
        let _ = t.wait_healthy(WHOLE);
        t.stayed("no takeover", leader, epoch);
        writer.stop();
        t.audit(&writer.journal());
        replicas::rest(t, leader);
        replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
    });
}

fn volume_config(size: u64) -> serde_json::Value {
    json!({
        "volume": VOLUME, "group": "web", "size_bytes": size, "peers": [], "peer_timeout_ms": 1000,
        "backing": { "file": format!("/side/state/volumes/{VOLUME}.img") },
        "metadata": format!("/side/state/volumes/{VOLUME}.meta"),
    })
}

#[test]
fn full_disk_when_a_volume_is_made() {
    scenario("bad input: full disk when a volume is made", |t, _| {
        let side = Side::new(t, "full").unwrap_or_else(|e| panic!("{e:#}"));
        side.replicator(t, "1m").unwrap_or_else(|e| panic!("{e:#}"));
        let hog = ["docker", "exec", &side.name, "sh", "-c", "cat /dev/zero > /side/state/hog"];
        let hogged = shell::try_run(shell::LONG, &hog).unwrap_or_else(|e| panic!("{e:#}"));
        assert!(hogged.text().contains("No space left"), "the disk is not full: {hogged:?}");
        let (code, said) = side
            .control("PUT", &format!("/v1/volumes/{VOLUME}"), Some(&volume_config(64 << 20)))
            .unwrap_or_else(|e| panic!("{e:#}"));
        let text = said.to_string();
        let named = text.contains(&format!("/side/state/volumes/{VOLUME}")) && text.contains("No space left");
        t.expect("refused with file and reason", code >= 400 && named, text);
        shell::run(&["docker", "exec", &side.name, "rm", "/side/state/hog"])
            .unwrap_or_else(|e| panic!("{e:#}"));
        let (code, said) = side
            .control("PUT", &format!("/v1/volumes/{VOLUME}"), Some(&volume_config(64 << 20)))
            .unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("accepted once there is room", code < 300, said);
    });
}

#[test]
fn full_disk_while_writing() {
    scenario("bad input: full disk while writing", |t, _| {
        let side = Side::new(t, "fills").unwrap_or_else(|e| panic!("{e:#}"));
        side.replicator(t, "24m").unwrap_or_else(|e| panic!("{e:#}"));
        let ok = |answer: anyhow::Result<(u16, serde_json::Value)>| {
            let (code, said) = answer.unwrap_or_else(|e| panic!("{e:#}"));
            assert!(code < 300, "{code}: {said}");
            said
        };
        let volume = format!("/v1/volumes/{VOLUME}");
        ok(side.control("PUT", &volume, Some(&volume_config(64 << 20))));
        let epoch = json!({ "number": 1, "term": "00000000000000aa" });
        let _entitled = side.entitle("web", &epoch).unwrap_or_else(|e| panic!("{e:#}"));
        let desired = json!({ "epoch": epoch, "role": "Primary", "required": [], "accept_data_loss": true });
        let status = ok(side.control("PUT", &format!("{volume}/desired"), Some(&desired)));
        let device = status["device"].as_str().unwrap_or_else(|| panic!("no device: {status}")).to_owned();
        let dd = |args: &str| {
            let whole = format!("docker exec {} dd {args}", side.name);
            shell::try_run(shell::LONG, &whole.split(' ').collect::<Vec<_>>())
                .unwrap_or_else(|e| panic!("{e:#}"))
        };
        shell::run(&["docker", "exec", &side.name, "sh", "-c", "head -c 64M /dev/urandom > /tmp/random"])
            .unwrap_or_else(|e| panic!("{e:#}"));
        let within = |what: &str| {
            shell::run(&["docker", "exec", &side.name, "sh", "-c", what]).unwrap_or_else(|e| panic!("{e:#}"))
        };
        let first =
            dd(&format!("if=/tmp/random of={device} bs=64k count=64 oflag=direct conv=fsync,notrunc"));
        assert_eq!(first.code, Some(0), "the first 4 MiB fit: {}", first.text());
        // 16 MiB beside 12 MiB of something else do not fit into 24.
        within("head -c 12M /dev/urandom > /side/state/ballast");
        let all = format!("dd if=/tmp/random of={device} bs=64k count=256 oflag=direct conv=fsync,notrunc");
        shell::run(&[
            "docker",
            "exec",
            "-d",
            &side.name,
            "sh",
            "-c",
            &format!("{all}; echo $? > /tmp/ended"),
        ])
        .unwrap_or_else(|e| panic!("{e:#}"));
        let status = |wanted: &dyn Fn(&serde_json::Value) -> bool| {
            let end = Instant::now() + Duration::from_secs(10);
            let mut status = json!(null);
            while Instant::now() < end && !wanted(&status) {
                status = ok(side.control("GET", "/v1/status", None))["volumes"][0].clone();
                std::thread::sleep(Duration::from_millis(100));
            }
            status
        };
        let full = status(&|s| s["full"] == true && !s["frozen"].is_null());
        let text = format!("disk {}, frozen {}", full["disk"], full["frozen"]);
        let named = text.contains(&format!("{VOLUME}.img")) && text.contains("No space left");
        t.expect("status says that the backing store is full, and names file and reason", named, &text);
        let ended = within("cat /tmp/ended 2>/dev/null || echo waits");
        t.expect("the write waits, without an error", ended.trim() == "waits", ended.trim());
        within("rm /side/state/ballast");
        let space = status(&|s| s["full"] == false && s["frozen"].is_null());
        t.expect(
            "it notices that there is space",
            space["full"] == false,
            format!("frozen {}", space["frozen"]),
        );
        let ended =
            within("for i in $(seq 100); do test -s /tmp/ended && break; sleep 0.1; done; cat /tmp/ended");
        t.expect("the write ends well", ended.trim() == "0", ended.trim());
        let kept = format!("cmp -n {} /tmp/random /side/state/volumes/{VOLUME}.img", 16 << 20);
        let kept = shell::try_run(shell::LONG, &["docker", "exec", &side.name, "sh", "-c", &kept])
            .unwrap_or_else(|e| panic!("{e:#}"));
        t.expect(
            "what was acknowledged is there, none of it cut short",
            kept.code == Some(0),
            kept.text().trim(),
        );
    });
}

//! Against a real server where one is installed, and against stand-ins that say what a real one seldom does.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const BOUND: Duration = Duration::from_secs(5);

fn check(port: u16) -> Sql {
    Sql {
        address: format!("127.0.0.1:{port}"),
        user: "baton".into(),
        password_file: None,
        database: "app".into(),
        statement: None,
        key: "web/sql on alpha".into(),
    }
}

/// MariaDB on a port of its own, without authentication; ends with the test.
struct Server {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |option: &str, name: &str| format!("--{option}={}", dir.path().join(name).display());
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let child = Command::new("mariadbd")
            .args(["--no-defaults", "--user=root", "--skip-grant-tables", "--skip-log-bin"])
            .args(["--skip-networking=0", "--bind-address=127.0.0.1", &format!("--port={port}")])
            .args([path("datadir", "data"), path("socket", "socket"), path("pid-file", "pid")])
            .args(["--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--performance-schema=OFF"])
            .args(["--key-buffer-size=1M", "--aria-log-file-size=8M"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .expect("mariadbd; compose/scripts/setup.sh test installs it");
        let server = Self { child, dir, port };
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match server.connect() {
                Ok(mut conn) => {
                    conn.query_drop("CREATE DATABASE app").unwrap();
                    return server;
                }
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => {
                    let log = std::fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
                    panic!("mariadbd does not start: {error}\n{log}");
                }
            }
        }
    }

    fn connect(&self) -> mysql::Result<Conn> {
        let options = OptsBuilder::new().ip_or_hostname(Some("127.0.0.1")).tcp_port(self.port);
        Conn::new(options.prefer_socket(false).user(Some("root")))
    }
}

#[test]
fn a_real_server_commits_and_what_it_cannot_do_is_told_apart() {
    let server = Server::start();
    let own = check(server.port);
    assert_eq!(sql(&own, 7, BOUND), Outcome::Good, "the table is made");
    assert_eq!(sql(&own, 8, BOUND), Outcome::Good, "and used again");
    let mut conn = server.connect().unwrap();
    let rows: Vec<(String, u32)> = conn.query("SELECT name, token FROM app.baton_check").unwrap();
    assert_eq!(rows, [("web/sql on alpha".to_owned(), 8)]);

    // A key from a specification cannot become SQL.
    let sly = Sql { key: "x', 1); DROP TABLE baton_check; -- ".into(), ..own.clone() };
    assert_eq!(sql(&sly, 9, BOUND), Outcome::Good);
    assert_eq!(conn.query_first::<u32, _>("SELECT COUNT(*) FROM app.baton_check").unwrap(), Some(2));

    conn.query_drop("CREATE TABLE app.beat (n INT) ENGINE=InnoDB").unwrap();
    conn.query_drop("INSERT INTO app.beat VALUES (1)").unwrap();
    let given = |statement: &str| Sql { statement: Some(statement.into()), ..own.clone() };
    assert_eq!(sql(&given("UPDATE beat SET n = n + 1"), 1, BOUND), Outcome::Good);
    assert_eq!(conn.query_first::<u32, _>("SELECT n FROM app.beat").unwrap(), Some(2), "it was committed");

    let mistake = sql(&given("UPDATE nowhere SET n = 1"), 1, BOUND);
    assert!(matches!(&mistake, Outcome::Incurable(why) if why.contains("1146")), "{mistake:?}");
    let mistake = sql(&Sql { database: "gone".into(), ..own.clone() }, 1, BOUND);
    assert!(matches!(&mistake, Outcome::Incurable(why) if why.contains("gone")), "{mistake:?}");

    // A table that somebody locks: the server is alive, the transaction hangs.
    conn.query_drop("LOCK TABLES app.baton_check WRITE").unwrap();
    let begun = Instant::now();
    let hangs = sql(&own, 10, Duration::from_millis(300));
    assert_eq!(hangs, Outcome::Bad("the server does not answer in time".into()));
    assert!(begun.elapsed() < BOUND);
    conn.query_drop("UNLOCK TABLES").unwrap();

    conn.query_drop("SET GLOBAL read_only = 1").unwrap();
    drop(conn);
    drop(server);
    let gone = sql(&own, 11, BOUND);
    assert!(matches!(&gone, Outcome::Bad(why) if why.contains("refused")), "{gone:?}");
}

/// A server's packet: length, sequence number, payload.
fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&length[..3], &[sequence], payload].concat()
}

fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((head[3], payload))
}

/// Speaks the protocol as far as needed: greets, lets everyone in, and answers a statement that contains `at` with that
/// error, all others with OK.
fn stand_in(at: &'static str, code: u16, message: &'static str) -> u16 {
    const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Protocol 41, secure connection, plugin authentication, with database.
            let capabilities: u32 = 0x0000_0008 | 0x0000_0200 | 0x0000_8000 | 0x0008_0000;
            let flags = capabilities.to_le_bytes();
            let greeting = [
                &[10][..],
                b"5.7.0-stand-in\0",
                &[1, 0, 0, 0],
                b"12345678\0",
                &flags[..2],
                &[33, 2, 0],
                &flags[2..],
                &[21],
                &[0; 10],
                b"123456789012\0",
                b"mysql_native_password\0",
            ]
            .concat();
            let _ = stream.write_all(&packet(0, &greeting));
            let Some((sequence, _)) = read_packet(&mut stream) else { continue };
            let _ = stream.write_all(&packet(sequence + 1, OK));
            while let Some((sequence, request)) = read_packet(&mut stream) {
                let text = String::from_utf8_lossy(&request[1..]).into_owned();
                let answer = if text.contains("max_allowed_packet") || text.contains("wait_timeout") {
                    // One column, one row.
                    let column = b"\x03def\0\0\0\x01v\0\x0c\x3f\0\x14\0\0\0\x08\0\0\0\0\0";
                    let end = b"\xfe\0\0\x02\0";
                    [
                        packet(sequence + 1, &[1]),
                        packet(sequence + 2, column),
                        packet(sequence + 3, end),
                        packet(sequence + 4, b"\x0816777216"),
                        packet(sequence + 5, end),
                    ]
                    .concat()
                } else if text.contains(at) {
                    let code = code.to_le_bytes();
                    packet(sequence + 1, &[&[0xff][..], &code, b"#HY000", message.as_bytes()].concat())
                } else {
                    packet(sequence + 1, OK)
                };
                if stream.write_all(&answer).is_err() {
                    break;
                }
            }
        }
    });
    port
}

#[test]
fn a_full_disk_and_a_refusal_are_no_failures_of_the_service() {
    for (at, code, message, word) in [
        ("INSERT", 1114, "The table 'baton_check' is full", "the disk is full"),
        ("COMMIT", 1021, "Disk full (/tmp); waiting for someone to free some space...", "the disk is full"),
        ("INSERT", 3, "Error writing file 'x' (Errcode: 28 \"No space left on device\")", "the disk is full"),
        ("INSERT", 1142, "INSERT command denied to user 'baton'", "refuses the check"),
    ] {
        let outcome = sql(&check(stand_in(at, code, message)), 1, BOUND);
        assert!(matches!(&outcome, Outcome::Incurable(why) if why.contains(word)), "{code}: {outcome:?}");
    }
    for (at, code, message) in [
        ("COMMIT", 1205, "Lock wait timeout exceeded"),
        ("INSERT", 1290, "The MariaDB server is running with the --read-only option"),
    ] {
        let outcome = sql(&check(stand_in(at, code, message)), 1, BOUND);
        assert!(matches!(&outcome, Outcome::Bad(why) if why.contains(message)), "{code}: {outcome:?}");
    }
}

#[test]
fn a_server_that_accepts_and_is_silent_fails_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    let outcome = sql(&check(silent.local_addr().unwrap().port()), 1, Duration::from_millis(100));
    assert!(matches!(outcome, Outcome::Bad(_)), "{outcome:?}");
    assert!(begun.elapsed() < BOUND);
}

#[test]
fn the_password_comes_from_its_file_without_the_end_of_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "s3cret word \n").unwrap();
    assert_eq!(read_password(&file), Ok("s3cret word ".into()));
    let missing = sql(&Sql { password_file: Some(dir.path().join("none")), ..check(1) }, 1, BOUND);
    assert!(matches!(&missing, Outcome::Incurable(why) if why.contains("none")), "{missing:?}");
}

#[test]
fn addresses_of_both_families_are_split() {
    assert_eq!(split("10.0.0.1:3306"), Some(("10.0.0.1", 3306)));
    assert_eq!(split("[fd00::1]:3306"), Some(("fd00::1", 3306)));
    assert_eq!(split("db:x"), None);
}

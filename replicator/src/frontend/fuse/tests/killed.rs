//! What a killed process leaves, and how the next one deals with it.

use super::*;
use std::io::{BufRead, BufReader, Read};

/// Not a test by itself: the process that [`a_killed_process_fails_io_and_the_next_one_cleans_up`] kills.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os("BATON_TEST_VICTIM_DIR") else { return };
    let rig = Rig::start_as(FrontEndKind::Fuse, Path::new(&dir), "test-victim", false);
    let device = rig.ready();
    if std::env::var_os("BATON_TEST_VICTIM_STUCK").is_some() {
        rig.memory.frozen.store(true, Ordering::SeqCst);
        let path = rig.config.run_dir.join(format!("frontend/test-victim-webstore/{}", rig.name()));
        thread::spawn(move || {
            let sync = move || File::open(path).and_then(|f| f.sync_all()).map_err(|e| e.to_string());
            sys::apart("syncing our own file", Duration::from_secs(600), sync)
        });
        wait_for("the sync to be stuck", || rig.front_end.pending() == 1);
    }
    println!("READY {}", device.local_path.display());
    thread::sleep(Duration::from_secs(600));
}

fn spawn_victim(dir: &Path, stuck: bool) -> (std::process::Child, PathBuf) {
    // In a mount namespace of its own, as in a container.
    let mut command = Program::new("unshare");
    command
        .args(["-m", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "frontend::fuse::tests::killed::victim", "--nocapture"])
        .env("BATON_TEST_VICTIM_DIR", dir)
        .stdout(Stdio::piped());
    if stuck {
        command.env("BATON_TEST_VICTIM_STUCK", "1");
    }
    let mut victim = command.spawn().unwrap();
    let device = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|l| l.split_once("READY ").map(|(_, d)| PathBuf::from(d)))
        .expect("the victim's device");
    (victim, device)
}

#[test]
fn a_process_killed_while_it_waits_for_itself_ends() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tag_file = stale::file_prefix("test-victim");
    let _one_at_a_time = VICTIM.lock().unwrap();
    let (mut victim, _) = spawn_victim(dir.path(), true);
    victim.kill().unwrap();
    wait_for("the killed process to end", || victim.try_wait().unwrap().is_some());
    let _ = stale::clean("test-victim", &dir.path().join("run"), &dir.path().join("dev"), &[]);
    wait_for("its device to go", || !attached().iter().any(|(_, n)| n.starts_with(&tag_file)));
}

/// The victims have one tag.
static VICTIM: Mutex<()> = Mutex::new(());

#[test]
fn a_killed_process_fails_io_and_the_next_one_cleans_up() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _one_at_a_time = VICTIM.lock().unwrap();
    let (mut victim, device) = spawn_victim(dir.path(), false);
    mkfs::make_filesystem(&device, "ext4", WAIT).unwrap();
    let mounted = Mounted::new(&device, &dir.path().join("mnt"));
    let file = File::create(mounted.0.join("file")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.sync_all().unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let began = Instant::now();
    assert!(file.write_all_at(&[2; 4096], 0).and_then(|()| file.sync_all()).is_err());
    assert!(began.elapsed() < Duration::from_secs(2));
    drop(file);

    let symlink = dir.path().join("dev/webstore");
    assert!(symlink.is_symlink());
    let clean = || stale::clean("test-victim", &dir.path().join("run"), &dir.path().join("dev"), &[]);
    let report = clean();
    assert!(report.iter().any(|r| r.contains("stays for now")), "{report:?}");
    assert!(!symlink.is_symlink(), "{report:?}");
    let attached = || attached().iter().any(|(_, n)| n.starts_with(&stale::file_prefix("test-victim")));
    assert!(attached());
    // A new process can start on the same volume meanwhile.
    let rig = Rig::start_as(FrontEndKind::Fuse, dir.path(), "test-victim", false);
    assert_ne!(rig.ready().local_path, device);
    drop(mounted);
    let mut bytes = [0; 16];
    wait_for("the old device to be freed by its unmount", || {
        File::open(&device).is_ok_and(|mut f| f.read(&mut bytes).is_ok_and(|n| n == 0))
    });
    assert!(rig.stop(false).is_empty());
    wait_for("all to be gone", || !attached());
    assert_eq!(clean(), Vec::<String>::new());
}

//! Volumes that grow: real files, and for root a real device with a filesystem on it that is written to all the while.

use super::*;
use baton_replicator::api::Format;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MIB: u64 = 1 << 20;
/// A filesystem of some hundred MiB is made and filled meanwhile, by an unoptimised build.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a growth waits for; none: there is none.
async fn waits(host: &Host) -> Option<String> {
    host.status().await.growth.map(|g| g.waits)
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !done().await {
        assert!(std::time::Instant::now() < end, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_files_grow_and_outlive_a_restart() {
    const LARGE: u64 = 40 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (mut alpha, mut beta) = pair(dir.path(), false).await;
    alpha.admit(&beta, 1).await;
    assert!(alpha.write(1, 0, 1) && alpha.flush(2));
    (alpha.size, beta.size) = (LARGE, LARGE);
    let (at_alpha, at_beta) = (alpha.it().address(), beta.it().address());
    alpha.configure(&beta, at_beta).await;
    eventually("waiting", async || waits(&alpha).await.is_some_and(|why| why.contains("beta's replica")))
        .await;
    assert!(alpha.write(3, 8192, 2), "it goes on as it is meanwhile");
    beta.configure(&alpha, at_alpha).await;
    eventually("growth", async || waits(&alpha).await.is_none() && alpha.status().await.size_bytes == LARGE)
        .await;
    assert!(alpha.write(4, LARGE - 8192, 4) && alpha.flush(5));
    assert_equal(&alpha, &beta);
    assert_eq!(std::fs::metadata(alpha.image()).unwrap().len(), LARGE);
    for host in [&alpha, &beta] {
        assert!(!host.dir.join("volumes/webstore.meta.new").exists(), "it has taken the old one's place");
    }

    // The other one, from its files alone.
    alpha.it().stop().await;
    beta.it().stop().await;
    drop((alpha.replicator.take(), beta.replicator.take()));
    let at_beta = beta.start(false, at_beta);
    alpha.start(false, at_alpha);
    alpha.configure(&beta, at_beta).await;
    beta.configure(&alpha, at_alpha).await;
    assert_eq!(beta.desire(Role::Primary, 2, Vec::new()).await.size_bytes, LARGE);
    // A new primary looks first whether the filesystem on the device has to follow.
    eventually("end of the growth", async || waits(&beta).await.is_none()).await;
    beta.serve(2);
    beta.direct.ask(6, Op::Read { offset: LARGE - 8192, len: 4096 });
    assert_eq!(beta.direct.answer(6, LIMIT), Some(Ok(Bytes::from(vec![4; 4096]))));
    for host in [&alpha, &beta] {
        host.it().stop().await;
    }
}

/// A file that was made longer by an attempt that broke off is gone on with; one that is longer still is not ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_growth_that_broke_off_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let (mut alpha, beta) = pair(dir.path(), false).await;
    let (at_alpha, at_beta) = (alpha.it().address(), beta.it().address());
    alpha.it().stop().await;
    drop(alpha.replicator.take());
    let file = std::fs::OpenOptions::new().write(true).open(alpha.image()).unwrap();
    file.set_len(SIZE + 8 * MIB).unwrap();
    // Whatever is there: nobody was promised it.
    file.write_all_at(&[7; 4096], SIZE + 4096).unwrap();
    std::fs::write(alpha.dir.join("volumes/webstore.meta.new"), b"half of it").unwrap();
    alpha.start(false, at_alpha);
    alpha.size = SIZE + 8 * MIB;
    alpha.configure(&beta, at_beta).await;
    eventually("room", async || waits(&alpha).await.is_some_and(|why| why.contains("alpha has room"))).await;
    let mut found = [1; 4096];
    std::fs::File::open(alpha.image()).unwrap().read_exact_at(&mut found, SIZE + 4096).unwrap();
    assert_eq!(found, [0; 4096]);
    assert_eq!(alpha.status().await.size_bytes, SIZE);
    for host in [&alpha, &beta] {
        host.it().stop().await;
    }
}

/// Writes files and makes them durable until it is told to stop; counts.
fn load(dir: &Path, stop: &AtomicBool, written: &AtomicU64) {
    while !stop.load(Ordering::SeqCst) {
        let n = written.load(Ordering::SeqCst);
        let mut file = std::fs::File::create(dir.join(format!("f{}", n % 16))).expect("no write fails");
        file.write_all(&[n as u8; 20_000]).expect("no write fails");
        file.sync_all().expect("no write fails");
        written.store(n + 1, Ordering::SeqCst);
    }
}

fn bytes_of(dir: &Path) -> u64 {
    let found = rustix::fs::statvfs(dir).unwrap();
    found.f_blocks * found.f_frsize
}

/// Mounted as the engine would, elsewhere than the replicator looks, and unmounted whatever comes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

async fn grows_online(filesystem: &'static str, small: u64, large: u64) {
    let root = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !root || !std::fs::read_to_string("/proc/filesystems").unwrap().contains(filesystem) {
        eprintln!("skipped: needs root, /dev/fuse and {filesystem}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut alpha, mut beta) = pair_of(dir.path(), true, small).await;
    alpha.it().format(volume(), Format { filesystem: filesystem.into() }).await.unwrap();
    eventually("resync", async || alpha.status().await.peers[0].resynced).await;
    alpha.admit(&beta, 1).await;
    let device = std::fs::canonicalize(alpha.status().await.device.expect("a device")).unwrap();
    let at = dir.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let mounted = Mounted(at.clone());
    let mount = [device.clone(), at.clone()];
    let mount = move || Command::new("mount").args(["-t", filesystem]).args(mount).status().unwrap();
    assert!(tokio::task::spawn_blocking(mount).await.unwrap().success());
    let before = bytes_of(&at);
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (dir_, stop_, written_) = (at.clone(), stop.clone(), written.clone());
    let writer = std::thread::spawn(move || load(&dir_, &stop_, &written_));
    eventually("some load", async || written.load(Ordering::SeqCst) > 20).await;

    (alpha.size, beta.size) = (large, large);
    beta.configure(&alpha, alpha.it().address()).await;
    alpha.configure(&beta, beta.it().address()).await;
    let sys = format!("/sys/block/{}/size", device.file_name().unwrap().to_str().unwrap());
    eventually("a larger device", async || {
        std::fs::read_to_string(&sys).unwrap().trim() == (large / 512).to_string()
    })
    .await;
    let mut refused = false;
    eventually("a larger filesystem", async || {
        let why = waits(&alpha).await;
        refused =
            why.as_ref().is_some_and(|why| why.contains("give the replicator's container SYS_RESOURCE"));
        refused || why.is_none()
    })
    .await;
    let more = written.load(Ordering::SeqCst);
    eventually("more load", async || written.load(Ordering::SeqCst) > more + 20).await;
    stop.store(true, Ordering::SeqCst);
    writer.join().expect("no write failed");
    let after = bytes_of(&at);
    // Only ext4 asks for more than the right to mount, and a machine may not have that to give.
    assert!(!refused || filesystem == "ext4");
    assert!(refused || after > before + (large - small) / 4 * 3, "{before} bytes became {after}");
    assert!(!alpha.dir.join("run/grow-webstore").exists());
    eprintln!("{filesystem}: {before} bytes became {after}, refused: {refused}; {more} files meanwhile");
    let unmount = move || drop(mounted);
    tokio::task::spawn_blocking(unmount).await.unwrap();

    // The other side serves it as large, and every file is there.
    alpha.desire(Role::Secondary, 1, Vec::new()).await;
    let status = beta.desire(Role::Primary, 2, vec![alpha.member().await]).await;
    beta.serve(2);
    assert_eq!(status.size_bytes, large);
    let device = std::fs::canonicalize(status.device.expect("a device")).unwrap();
    let mounted = Mounted(at.clone());
    let mount = [device, at.clone()];
    let mount = move || Command::new("mount").args(["-t", filesystem]).args(mount).status().unwrap();
    assert!(tokio::task::spawn_blocking(mount).await.unwrap().success());
    let total = written.load(Ordering::SeqCst);
    for n in total - 16..total {
        let content = std::fs::read(at.join(format!("f{}", n % 16))).unwrap();
        assert!(content == vec![n as u8; 20_000], "file {n}");
    }
    assert_eq!(bytes_of(&at), after);
    tokio::task::spawn_blocking(move || drop(mounted)).await.unwrap();
    for host in [&alpha, &beta] {
        host.it().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_xfs_filesystem_grows_under_load() {
    grows_online("xfs", 320 * MIB, 512 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ext4_filesystem_grows_under_load() {
    grows_online("ext4", 64 * MIB, 128 * MIB).await;
}

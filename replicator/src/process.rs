//! How a process of Baton ends when it is wrong about itself.

use std::panic;

/// From now on a panic in any thread or task ends the whole process, after its message.
///
/// A broken invariant must not leave the rest of a process going on without the part that broke: who waits for it would
/// wait for ever. What the profile's `panic = "abort"` does, but the same in every build, so that tests, which need to
/// unwind, share everything that is compiled with the programs they start.
pub fn abort_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        tell(what);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const CHILD: &str = "BATON_TEST_PANICS";

    /// Starts itself again: the child's second thread panics, and nobody waits for it.
    #[test]
    fn a_panic_in_any_thread_ends_the_process_with_its_message() {
        if std::env::var_os(CHILD).is_some() {
            abort_on_panic();
            let _ = std::thread::spawn(|| panic!("a broken invariant")).join();
            std::process::exit(0);
        }
        let this = std::env::current_exe().unwrap();
        let name = "process::tests::a_panic_in_any_thread_ends_the_process_with_its_message";
        let child =
            Command::new(this).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{:?}", child.status);
        assert!(String::from_utf8_lossy(&child.stderr).contains("a broken invariant"));
    }
}

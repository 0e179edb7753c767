//! Any text as a cluster specification.

use crate::spec::diff::{Facts, plan};
use crate::spec::{Spec, masked};

/// Refused with errors that name lines of the text, or read into what its own text is read into again, without a change.
///
/// # Panics
/// One of these does not hold.
pub fn specification(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let env = |name: &str| name.starts_with('B').then(|| name.to_owned());
    // Whatever it is, what is shown of it can be made.
    let _ = masked(&text);
    match Spec::parse(&text, env) {
        Err(wrong) => {
            assert!(!wrong.errors.is_empty(), "refused without a reason");
            let lines = text.lines().count() + 1;
            for error in &wrong.errors {
                assert!(error.line <= lines, "line {} of {lines}: {error:?}", error.line);
                assert!(!error.message.is_empty(), "{error:?}");
            }
            let _ = wrong.to_string();
        }
        Ok(spec) => {
            // Every node reads what etcd keeps, where nothing is left to replace.
            let again = Spec::parse(&spec.text, |_| None).expect("what was accepted is accepted again");
            assert_eq!(again, spec);
            assert!(plan(&spec, &again, &Facts::default()).changes.is_empty(), "a change of nothing");
            let _ = masked(&spec.text);
        }
    }
}

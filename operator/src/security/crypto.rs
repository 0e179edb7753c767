//! The one provider of cryptography of all of Baton: ring, as the libraries' default would need a C++ toolchain.

use std::sync::Once;

/// Makes ring the process's provider. Called before anything that may speak TLS is made; more than once does no harm.
pub fn use_ring() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Somebody else was first, with the same one: no other is compiled in.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

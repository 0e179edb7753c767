//! Drives the real demo cluster and breaks it.

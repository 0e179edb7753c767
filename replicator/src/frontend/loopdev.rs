//! Loop devices.

//! Certificates in a temporary directory: what is made, what is refused, what a renewal keeps.

use super::files;
use super::guard::unix_now;
use super::identity::{Identity, Kind};
use super::pki::{Pki, PkiError, Request, read_certificate};
use super::principal::Role;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// To the nearest day: a test must not depend on the second it runs in.
fn days(identity: &Identity) -> i64 {
    (identity.not_after - unix_now() + 12 * 3600).div_euclid(24 * 3600)
}

fn request(kind: Kind, name: &str, addresses: &[&str], days: u32) -> Request {
    Request { kind, name: name.into(), addresses: addresses.iter().map(|a| (*a).to_owned()).collect(), days }
}

fn serial(der: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::FromDer;
    x509_parser::certificate::X509Certificate::from_der(der).unwrap().1.raw_serial().to_vec()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_node_gets_two_certificates_and_private_keys() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path().join("pki"));
    assert_eq!(pki.init("demo", 3650).unwrap().len(), 4);
    let made =
        pki.issue(&request(Kind::Node, "alpha", &["10.77.0.11", "alpha.example", "fd00::1"], 90)).unwrap();
    assert_eq!(made.len(), 4);
    let (alpha, _) = read_certificate(&pki.certificate("alpha")).unwrap();
    assert_eq!((alpha.cluster.as_str(), alpha.kind, alpha.name.as_str()), ("demo", Kind::Node, "alpha"));
    let all = ["alpha", "localhost", "127.0.0.1", "::1", "10.77.0.11", "alpha.example", "fd00::1"];
    assert_eq!(alpha.addresses, all);
    assert_eq!(days(&alpha), 90);
    assert!(alpha.days_left(unix_now()) <= 90 && alpha.days_left(alpha.not_after + 1) == -1);
    assert!(alpha.not_before < unix_now());
    let (etcd, _) = read_certificate(&pki.certificate("alpha-etcd")).unwrap();
    assert_eq!(etcd.kind, Kind::Etcd);
    for name in ["ca", "etcd-ca", "alpha", "alpha-etcd"] {
        assert_eq!((mode(&pki.key(name)), mode(&pki.certificate(name))), (0o600, 0o644), "{name}");
    }
    let listed: Vec<_> = pki.list().unwrap().into_iter().map(|(p, i)| (p, i.unwrap().kind)).collect();
    assert_eq!(listed.len(), 4);
}

#[test]
fn roles_are_in_the_subject_and_only_nodes_and_clients_have_one() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    pki.init("demo", 3650).unwrap();
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        pki.issue(&request(Kind::Client(role), role.word(), &[], 30)).unwrap();
        let (identity, _) = read_certificate(&pki.certificate(role.word())).unwrap();
        assert_eq!(identity.kind.role(), Some(role));
        assert_eq!(identity.subject(), format!("O=demo, OU={role}, CN={role}"));
        assert!(identity.addresses.is_empty(), "a client serves nowhere");
    }
    assert_eq!(Kind::Node.role(), Some(Role::Admin));
    for kind in [Kind::Authority, Kind::EtcdAuthority, Kind::Etcd] {
        assert_eq!(kind.role(), None);
    }
}

#[test]
fn nothing_is_overwritten_and_names_of_the_authorities_are_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    let early = pki.issue(&request(Kind::Node, "alpha", &["10.0.0.1"], 1)).unwrap_err();
    assert!(early.to_string().contains("baton cert init"), "{early}");
    pki.init("demo", 3650).unwrap();
    assert!(matches!(pki.init("demo", 1), Err(PkiError::Exists(_))));
    pki.issue(&request(Kind::Node, "alpha", &["10.0.0.1"], 1)).unwrap();
    let twice = pki.issue(&request(Kind::Node, "alpha", &["10.0.0.1"], 1)).unwrap_err();
    assert!(twice.to_string().contains("baton cert renew"), "{twice}");
    for name in ["ca", "etcd-ca", "alpha-etcd"] {
        let error = pki.issue(&request(Kind::Client(Role::Viewer), name, &[], 1)).unwrap_err();
        assert!(matches!(error, PkiError::Reserved(_)), "{name}: {error}");
    }
    for name in ["", "Alpha", "../ca", "a b"] {
        assert!(
            matches!(pki.issue(&request(Kind::Node, name, &["10.0.0.1"], 1)), Err(PkiError::Name(_))),
            "{name}"
        );
    }
    let nowhere = pki.issue(&request(Kind::Node, "beta", &["10.0.0.1/24"], 1)).unwrap_err();
    assert!(matches!(nowhere, PkiError::Address(_)), "{nowhere}");
}

#[test]
fn a_renewal_keeps_holder_and_key_and_needs_no_private_key_but_the_authoritys() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    pki.init("demo", 3650).unwrap();
    pki.issue(&request(Kind::Node, "alpha", &["10.77.0.11"], 10)).unwrap();
    let (before, old) = read_certificate(&pki.certificate("alpha")).unwrap();
    let key = files::read_private(&pki.key("alpha")).unwrap();
    std::fs::remove_file(pki.key("alpha")).unwrap();
    let after = pki.renew(&pki.certificate("alpha"), 200).unwrap();
    assert_eq!(
        after,
        Identity { not_before: after.not_before, not_after: after.not_after, ..before.clone() }
    );
    assert_eq!((days(&before), days(&after)), (10, 200));
    let (_, new) = read_certificate(&pki.certificate("alpha")).unwrap();
    assert_ne!(old, new);
    assert_ne!(serial(&old), serial(&new), "two certificates, two numbers");
    // The old key signs for the new certificate.
    let key = rustls::pki_types::PrivateKeyDer::try_from(
        rcgen::KeyPair::from_pem(std::str::from_utf8(&key).unwrap()).unwrap().serialize_der(),
    )
    .unwrap();
    rustls::sign::CertifiedKey::from_der(vec![new], key, &rustls::crypto::ring::default_provider())
        .unwrap()
        .keys_match()
        .unwrap();
    let authority = pki.renew(&pki.certificate("ca"), 1).unwrap_err();
    assert!(matches!(authority, PkiError::WrongAuthority { .. }), "{authority}");
}

#[test]
fn no_certificate_outlives_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    pki.init("demo", 5).unwrap();
    pki.issue(&request(Kind::Client(Role::Admin), "root", &[], 100)).unwrap();
    assert_eq!(days(&read_certificate(&pki.certificate("root")).unwrap().0), 5);
}

#[test]
fn an_authoritys_key_that_others_may_read_signs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    pki.init("demo", 5).unwrap();
    std::fs::set_permissions(pki.key("ca"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = pki.issue(&request(Kind::Client(Role::Admin), "root", &[], 1)).unwrap_err().to_string();
    assert!(error.contains("0644") && error.contains("chmod 600"), "{error}");
    assert!(!pki.certificate("root").exists() && !pki.key("root").exists());
}

#[test]
fn strange_certificates_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.crt");
    std::fs::write(&file, "no certificate").unwrap();
    let error = read_certificate(&file).unwrap_err().to_string();
    assert!(error.contains("x.crt") && error.contains("PEM"), "{error}");
    let strange = rcgen::generate_simple_self_signed(vec!["host".to_owned()]).unwrap();
    std::fs::write(&file, strange.cert.pem()).unwrap();
    let error = read_certificate(&file).unwrap_err().to_string();
    assert!(error.contains("baton cert") && error.contains("O=cluster"), "{error}");
}

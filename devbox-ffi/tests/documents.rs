//! Hosts files and addresses, through the shapes that other languages see.

use devbox_ffi::{Allocator, DevboxError, HostsDocument, HostsEdit, HostsEntry, HostsFile};

fn orders() -> Vec<HostsEdit> {
    vec![HostsEdit::SetBlock {
        tag: "devbox-demo".to_owned(),
        entries: vec![HostsEntry {
            address: "127.77.0.1".to_owned(),
            names: vec!["orders".to_owned(), "orders.backend".to_owned()],
            comment: None,
        }],
    }]
}

fn removed() -> Vec<HostsEdit> {
    vec![HostsEdit::RemoveBlock {
        tag: "devbox-demo".to_owned(),
    }]
}

#[test]
fn a_block_comes_and_goes_byte_for_byte() {
    for bytes in [
        &b""[..],
        b"127.0.0.1 localhost",
        b"\xff\x00\r\n\n10.0.0.9\tprinter # mine",
    ] {
        let before = HostsDocument::parse(bytes.to_vec());
        assert_eq!(before.render(), bytes);
        let with = before.edited(orders()).unwrap();
        assert_eq!(with.lookup("ORDERS.backend."), ["127.77.0.1"]);
        assert_eq!(with.entries().last().unwrap().names, ["orders", "orders.backend"]);
        assert_eq!(with.edited(removed()).unwrap().render(), bytes);
        assert!(before.diff(orders()).unwrap().contains("+127.77.0.1 orders"));
    }
}

#[test]
fn a_file_is_edited_in_place_and_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "127.0.0.1 localhost").unwrap();
    let hosts = HostsFile::open(file.path().to_str().unwrap()).unwrap();
    assert!(hosts.edit(orders()).unwrap());
    assert!(!hosts.edit(orders()).unwrap(), "nothing changed");
    assert_eq!(hosts.read().unwrap().lookup("orders"), ["127.77.0.1"]);
    assert!(hosts.edit(removed()).unwrap());
    assert_eq!(std::fs::read(file.path()).unwrap(), b"127.0.0.1 localhost");
}

#[test]
fn a_damaged_block_is_an_error_with_its_lines() {
    let document = HostsDocument::parse(b"# BEGIN devbox-demo\n127.0.0.1 localhost\n".to_vec());
    let error = document.edited(orders()).unwrap_err();
    assert!(
        matches!(&error, DevboxError::DamagedBlock { tag, lines, .. } if tag == "devbox-demo" && *lines == [1]),
        "{error:?}"
    );
}

#[test]
fn addresses_follow_from_keys_alone() {
    let pool = || Allocator::new(vec!["127.77.0.0/16".to_owned()]).unwrap();
    let (one, other) = (pool(), pool());
    let keys = ["dev/backend/orders", "dev/shop/web"].map(str::to_owned).to_vec();
    let reversed = keys.iter().rev().cloned().collect();
    assert_eq!(
        one.lease_all(keys, 0).unwrap(),
        other.lease_all(reversed, 0).unwrap()
    );
    let address = one.lease("dev/shop/web", 1).unwrap();
    assert_eq!(one.address("dev/shop/web").unwrap().as_ref(), Some(&address));
    assert_eq!(one.holder(&address).unwrap().as_deref(), Some("dev/shop/web"));
    assert_eq!(one.release("dev/shop/web", 2).unwrap(), Some(address));
}

#[test]
fn an_exhausted_pool_says_how_many_are_leased() {
    let pool = Allocator::new(vec!["127.77.0.4/31".to_owned()]).unwrap();
    for number in 0..8 {
        if let Err(error) = pool.lease(&format!("key-{number}"), 0) {
            assert!(
                matches!(error, DevboxError::PoolExhausted { leased, .. } if leased == number),
                "{error:?}"
            );
            return;
        }
    }
    panic!("a pool of two addresses has leased eight");
}

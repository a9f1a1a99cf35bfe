//! Mapping files of other programs.
#![cfg(feature = "import")]
#![expect(clippy::unwrap_used, reason = "also outside the functions marked as tests")]

use ipalloc::import::{kubefwd, ngrokd, parse};
use ipalloc::{Allocator, Error, Pool, Timestamp};

fn pairs(text: &str) -> Vec<(String, String)> {
    let found = parse(text).unwrap();
    found
        .iter()
        .map(|mapping| (mapping.key.to_string(), mapping.address.to_string()))
        .collect()
}

#[test]
fn both_formats_are_told_apart() {
    let ngrokd = "{\n  \"api.company\": \"10.107.0.2\",\n  \"my-service.namespace\": \"10.107.0.3\"\n}";
    let expected = [
        ("api.company", "10.107.0.2"),
        ("my-service.namespace", "10.107.0.3"),
    ];
    assert_eq!(
        pairs(ngrokd),
        expected.map(|(key, address)| (key.to_owned(), address.to_owned()))
    );

    let kubefwd = "baseUnreservedIP: 127.1.27.1\n\
                   serviceConfigurations:\n  \
                   - # a comment in the item\n    name: mysvc\n    # and one between\n    ip: 127.1.28.1\n  \
                   - name: svc.ns.svc.cluster.local\n    ip: 127.1.28.2\n";
    let expected = [
        ("mysvc", "127.1.28.1"),
        ("svc.ns.svc.cluster.local", "127.1.28.2"),
    ]
    .map(|(key, at)| (key.to_owned(), at.to_owned()));
    assert_eq!(pairs(kubefwd), expected);
    assert_eq!(
        pairs("mysvc:127.1.28.1\n# two\nsvc.ns.svc.cluster.local:127.1.28.2\n"),
        expected
    );
}

#[test]
fn what_is_wrong_is_named() {
    let why = |result: Result<_, Error>| match result {
        Err(error @ Error::BadImport { .. }) => error.to_string(),
        other => format!(
            "{:?}",
            other.map(|found: Vec<ipalloc::import::Mapping>| found.len())
        ),
    };
    assert!(why(ngrokd("{\n\"a\": 7}")).starts_with("a mapping file of ngrokd, line 2: "));
    assert!(why(ngrokd("{\"a\": \"10.0.0\"}")).ends_with("a has \"10.0.0\", which is no address"));
    assert!(why(ngrokd("{\"a b\": \"10.0.0.1\"}")).contains("is not a key"));
    let missing = why(kubefwd("serviceConfigurations:\n  - name: a\n"));
    assert!(
        missing.starts_with("a forwarding configuration of kubefwd, line ") && missing.contains("ip"),
        "{missing}"
    );
    assert!(why(kubefwd("")).starts_with("a forwarding configuration of kubefwd"));
}

#[test]
fn mappings_become_pins_and_a_second_name_at_an_address_is_refused() {
    // ngrokd puts endpoints with different ports at one address; a pin is one key's.
    let text = r#"{"a.company": "127.77.0.2", "b.company": "127.77.0.2", "c.company": "10.107.0.2"}"#;
    let mut allocator = Allocator::new(Pool::default());
    let now = Timestamp::from_secs(1_700_000_000);
    let results: Vec<_> = parse(text)
        .unwrap()
        .iter()
        .map(|mapping| mapping.pin(&mut allocator, now))
        .collect();
    assert!(matches!(
        results.as_slice(),
        [
            Ok(()),
            Err(Error::AddressTaken { .. }),
            Err(Error::OutOfPool { .. })
        ]
    ));
    let pinned = parse(text).unwrap().swap_remove(0);
    assert_eq!(allocator.lease(&pinned.key, now).unwrap(), pinned.address);
}

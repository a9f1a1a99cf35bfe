//! The wire form: what was written is read, however the bytes are cut; foreign bytes do no harm.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use service_catalog::wire::{Decoder, Encoder, MAX_MESSAGE_BYTES, VERSION};
use service_catalog::{Catalog, Error, Health, Port, Service, Update};

use super::generate;

fn drain(decoder: &mut Decoder, into: &mut Vec<Update>) -> Result<(), Error> {
    while let Some(update) = decoder.poll_update()? {
        into.push(update);
    }
    Ok(())
}

fn message(body: &str) -> Vec<u8> {
    let [.., a, b, c] = body.len().to_be_bytes();
    [&[VERSION, a, b, c], body.as_bytes()].concat()
}

fn decode(body: &str) -> Result<Option<Update>, Error> {
    let mut decoder = Decoder::new();
    decoder.handle_bytes(&message(body));
    decoder.poll_update()
}

proptest! {
    #[test]
    fn updates_arrive_whole_under_any_chunking(
        updates in vec(generate::update(), 0..5),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut encoder = Encoder::new();
        let mut bytes = Vec::new();
        for update in &updates {
            bytes.extend(encoder.encode(update).unwrap());
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();

        let mut decoder = Decoder::new();
        let mut read = Vec::new();
        for piece in cuts.windows(2) {
            decoder.handle_bytes(&bytes[piece[0]..piece[1]]);
            drain(&mut decoder, &mut read).unwrap();
        }
        prop_assert_eq!(read, updates);
        prop_assert_eq!(decoder.handle_end(), Ok(()));
    }

    #[test]
    fn a_cut_end_is_noticed(update in generate::update(), cut in any::<Index>()) {
        let bytes = Encoder::new().encode(&update).unwrap();
        let end = 1 + cut.index(bytes.len() - 1);
        let mut decoder = Decoder::new();
        decoder.handle_bytes(&bytes[..end]);
        prop_assert_eq!(decoder.poll_update(), Ok(None));
        let noticed = matches!(decoder.handle_end(), Err(Error::Truncated { missing }) if missing > 0);
        prop_assert!(noticed);
    }

    #[test]
    fn arbitrary_bytes_never_panic(pieces in vec(vec(any::<u8>(), 0..40), 0..20)) {
        let mut decoder = Decoder::new();
        for piece in &pieces {
            decoder.handle_bytes(piece);
            while let Ok(Some(_)) = decoder.poll_update() {}
        }
        decoder.handle_end().ok();
    }

    /// Arbitrary bytes seldom get as far as the JSON: here they do.
    #[test]
    fn a_damaged_message_never_panics(
        update in generate::update(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Encoder::new().encode(&update).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut decoder = Decoder::new();
        decoder.handle_bytes(&bytes);
        while let Ok(Some(read)) = decoder.poll_update() {
            // What comes out keeps the rules, whatever went in.
            if let Update::Snapshot(catalog) = read {
                for (id, service) in &catalog.services {
                    prop_assert_eq!(id, &service.id);
                    prop_assert_eq!(service.check(), Ok(()));
                }
            }
        }
    }
}

#[test]
fn a_failed_decoder_stays_failed() {
    let mut decoder = Decoder::new();
    decoder.handle_bytes(&message("{}"));
    let error = decoder.poll_update().unwrap_err();
    decoder.handle_bytes(&Encoder::new().encode(&Update::Health(Health::Live)).unwrap());
    assert_eq!(decoder.poll_update(), Err(error.clone()));
    assert_eq!(decoder.handle_end(), Err(error));
}

#[test]
fn a_newer_version_is_told_from_its_first_byte() {
    let mut decoder = Decoder::new();
    decoder.handle_bytes(&[VERSION + 1]);
    assert_eq!(
        decoder.poll_update(),
        Err(Error::WireVersion {
            found: VERSION + 1,
            known: VERSION
        })
    );
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_header() {
    let mut decoder = Decoder::with_limit(1000);
    let [.., a, b, c] = 1001_u32.to_be_bytes();
    decoder.handle_bytes(&[VERSION, a, b, c]);
    assert_eq!(
        decoder.poll_update(),
        Err(Error::TooLong {
            length: 1001,
            limit: 1000
        })
    );
}

#[test]
fn a_catalog_over_the_limit_is_not_written() {
    let mut port = Port::tcp(1.try_into().unwrap());
    port.target = Some("x".repeat(255));
    let services = (0..65_000).map(|n| {
        let id = format!("{}{n}.{}", "s".repeat(40), "n".repeat(63))
            .parse()
            .unwrap();
        Service::new(id, vec![port.clone()]).unwrap()
    });
    let catalog = Catalog::new("dev".parse().unwrap(), services).unwrap();
    let error = Encoder::new().encode(&Update::Snapshot(catalog)).unwrap_err();
    assert!(
        matches!(error, Error::TooLong { length, limit: MAX_MESSAGE_BYTES } if length > MAX_MESSAGE_BYTES)
    );
}

#[test]
fn fields_of_the_future_are_passed_over() {
    let update = decode(
        r#"{"snapshot":{"environment":"dev","colour":"red","services":
            [{"id":"a.b","weight":1,"ports":[{"port":80,"protocol":"tcp","alpn":["h2"]}]}]}}"#,
    );
    let service = Service::new("a.b".parse().unwrap(), vec![Port::tcp(80.try_into().unwrap())]).unwrap();
    let catalog = Catalog::new("dev".parse().unwrap(), [service]).unwrap();
    assert_eq!(update, Ok(Some(Update::Snapshot(catalog))));
}

#[test]
fn every_rule_is_checked_when_read() {
    let cases = [
        (
            r#"{"snapshot":{"environment":"dev","services":[{"id":"a.b","alias_of":"c.d",
                "ports":[{"port":1,"protocol":"tcp"}]}]}}"#,
            "no ports of its own",
        ),
        (
            r#"{"snapshot":{"environment":"dev","services":[{"id":"a.b","ports":[],"aliases":["a"]}]}}"#,
            "names other than its own",
        ),
        (
            r#"{"snapshot":{"environment":"Dev","services":[]}}"#,
            "`D` is not",
        ),
        (
            r#"{"changed":{"upserted":[],"removed":["a\n127 bank.b"]}}"#,
            "is not a lower case letter",
        ),
        (
            r#"{"changed":{"upserted":[],"removed":["a.b.c.d"]}}"#,
            "is not a service id",
        ),
        (
            r#"{"changed":{"upserted":[],"removed":["a.b","a.b"]}}"#,
            "`a.b` is there twice",
        ),
        (
            r#"{"changed":{"upserted":[{"id":"a.b","ports":[{"port":0,"protocol":"tcp"}]}],"removed":[]}}"#,
            "nonzero",
        ),
        (
            r#"{"changed":{"upserted":[{"id":"a.b","ports":[{"port":1,"protocol":"sctp"}]}],"removed":[]}}"#,
            "sctp",
        ),
        (
            r#"{"changed":{"upserted":[{"id":"a.b","ports":[{"port":1,"protocol":"tcp"},
                {"port":1,"protocol":"tcp"}]}],"removed":[]}}"#,
            "port 1/tcp twice",
        ),
        (
            r#"{"changed":{"upserted":[{"id":"a.b","ports":[{"port":1,"protocol":"tcp","target":"\u001b[2J"}]}],
                "removed":[]}}"#,
            "printable ASCII",
        ),
        (r#"{"deleted":["a.b"]}"#, "deleted"),
    ];
    for (body, says) in cases {
        match decode(body) {
            Err(Error::Malformed { message }) => assert!(message.contains(says), "{body}: {message}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn a_reason_cannot_steer_the_terminal() {
    let read = decode(r#"{"health":{"stale":{"reason":"line 3:\n\u001b[2Jbad"}}}"#);
    let reason = "line 3:  [2Jbad".to_owned();
    assert_eq!(read, Ok(Some(Update::Health(Health::Stale { reason }))));
}

#[test]
fn the_written_form_is_the_one_in_the_documentation() {
    let mut port = Port::tcp(5432.try_into().unwrap());
    port.name = Some("pg".parse().unwrap());
    let service = Service::new("orders.backend".parse().unwrap(), vec![port]).unwrap();
    let update = Update::Changed {
        upserted: vec![service],
        removed: vec!["web.shop".parse().unwrap()],
    };
    let bytes = Encoder::new().encode(&update).unwrap();
    let body = concat!(
        r#"{"changed":{"upserted":[{"id":"orders.backend","#,
        r#""ports":[{"name":"pg","port":5432,"protocol":"tcp"}]}],"removed":["web.shop"]}}"#
    );
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        String::from_utf8(message(body)).unwrap()
    );
}

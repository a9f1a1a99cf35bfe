//! Windows' security descriptors as text, [MS-DTYP] 2.5.1: who may open the pipe, and who could have written a file.

/// Reading and writing a pipe without making further instances of it (`FILE_APPEND_DATA`).
const CONNECT: &str = "0x12019b";
/// `FILE_WRITE_DATA`, `FILE_APPEND_DATA`, `FILE_WRITE_EA`, `FILE_DELETE_CHILD`, `FILE_WRITE_ATTRIBUTES`, `DELETE`, `WRITE_DAC`,
/// `WRITE_OWNER`, `GENERIC_ALL`, `GENERIC_WRITE`.
const WRITES: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x100 | 0x1_0000 | 0x4_0000 | 0x8_0000 | 0x1000_0000 | 0x4000_0000;
/// Accounts that can do everything anyway: the system, administrators, who installs Windows' own updates.
const TRUSTED: [&str; 5] = [
    "SY",
    "BA",
    "S-1-5-18",
    "S-1-5-32-544",
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",
];
const RIGHTS: [(&str, u32); 20] = [
    ("FA", 0x1f_01ff),
    ("FR", 0x12_0089),
    ("FW", 0x12_0116),
    ("FX", 0x12_00a0),
    ("GA", 0x1000_0000),
    ("GX", 0x2000_0000),
    ("GW", 0x4000_0000),
    ("GR", 0x8000_0000),
    ("SD", 0x1_0000),
    ("RC", 0x2_0000),
    ("WD", 0x4_0000),
    ("WO", 0x8_0000),
    ("CC", 0x1),
    ("DC", 0x2),
    ("LC", 0x4),
    ("SW", 0x8),
    ("RP", 0x10),
    ("WP", 0x20),
    ("DT", 0x40),
    ("LO", 0x80),
];

/// Who may open the pipe: the system, administrators, the helper's own account, and those who are named. Nobody over the network.
pub(super) fn of_pipe<'a>(own: &str, admitted: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = format!("D:P(D;;GA;;;NU)(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;{own})");
    for account in admitted {
        text += &format!("(A;;{CONNECT};;;{account})");
    }
    text
}

/// Whose write access makes a file, of which this is the descriptor, no word of an administrator's; `None` where nobody else has any.
/// What is not understood counts as such.
pub(super) fn stranger(descriptor: &str, own: &str) -> Option<String> {
    let is_trusted = |account: &str| TRUSTED.contains(&account) || account == own;
    let Some(rest) = descriptor.strip_prefix("O:") else {
        return Some("nobody knows whom".to_owned());
    };
    let end = ["G:", "D:"].iter().filter_map(|next| rest.find(next)).min();
    let owner = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    if !is_trusted(owner) {
        return Some(owner.to_owned());
    }
    let Some((_, list)) = rest.split_once("D:") else {
        return Some("everybody".to_owned());
    };
    // A list that is not there lets everybody do everything; one without entries, nobody.
    if list.contains("NO_ACCESS_CONTROL") {
        return Some("everybody".to_owned());
    }
    let entries = list
        .split('(')
        .skip(1)
        .filter_map(|entry| entry.split(')').next());
    for entry in entries {
        let parts: Vec<&str> = entry.split(';').collect();
        let [kind, flags, rights, _, _, account, ..] = parts[..] else {
            return Some(format!("what ({entry}) says"));
        };
        // Denials only take away. What is only to be inherited is not for this file.
        let is_for_others = kind.starts_with('D') || kind.starts_with("OD") || has_flag(flags, "IO");
        // The owner's rights are the owner's.
        let is_owners = matches!(account, "OW" | "S-1-3-4");
        if !is_for_others && !is_owners && !is_trusted(account) && rights_of(rights) & WRITES != 0 {
            return Some(account.to_owned());
        }
    }
    None
}

fn has_flag(flags: &str, flag: &str) -> bool {
    pairs(flags).any(|pair| pair == flag)
}

/// The rights of an entry; all of them where one is not known.
fn rights_of(text: &str) -> u32 {
    if let Some(number) = text.strip_prefix("0x") {
        return u32::from_str_radix(number, 16).unwrap_or(u32::MAX);
    }
    pairs(text)
        .map(|pair| {
            let known = RIGHTS.iter().find(|(name, _)| *name == pair);
            known.map_or(u32::MAX, |(_, rights)| *rights)
        })
        .fold(0, |all, rights| all | rights)
}

fn pairs(text: &str) -> impl Iterator<Item = &str> {
    (0..text.len())
        .step_by(2)
        .map(|at| text.get(at..at + 2).unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "S-1-5-21-1-2-3-1000";

    #[test]
    fn pipe_is_for_those_who_are_named_and_for_nobody_over_the_network() {
        assert_eq!(
            of_pipe("S-1-5-18", ["S-1-5-21-1-2-3-1001"]),
            "D:P(D;;GA;;;NU)(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;S-1-5-18)(A;;0x12019b;;;S-1-5-21-1-2-3-1001)"
        );
    }

    #[test]
    fn file_that_only_administrators_write_is_trusted() {
        for descriptor in [
            "O:BAG:SYD:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)",
            "O:SYG:SYD:P(A;;FA;;;SY)(A;;FR;;;WD)",
            "O:S-1-5-21-1-2-3-1000G:DUD:(A;;FA;;;S-1-5-21-1-2-3-1000)(A;;FRFX;;;WD)",
            "O:BAD:(D;;FW;;;WD)(A;OICIIO;GA;;;CO)(A;;FA;;;OW)",
            "O:BAG:BAD:",
        ] {
            assert_eq!(stranger(descriptor, OWN), None, "{descriptor}");
        }
    }

    #[test]
    fn file_that_somebody_else_could_have_written_is_not() {
        for (descriptor, who) in [
            ("O:S-1-5-21-1-2-3-1001G:DUD:(A;;FA;;;SY)", "S-1-5-21-1-2-3-1001"),
            ("O:BAG:BAD:(A;;FA;;;WD)", "WD"),
            ("O:BAG:BAD:(A;;0x1301bf;;;AU)", "AU"),
            ("O:BAG:BAD:AI(A;ID;FA;;;SY)(A;ID;CCDCLCSW;;;BU)", "BU"),
            ("O:BAG:BAD:(A;;ZZ;;;BU)", "BU"),
            ("O:BAG:BAD:(XA;;GW;;;BU;(x))", "BU"),
            ("O:BAG:BAD:NO_ACCESS_CONTROL", "everybody"),
            ("O:BAG:BA", "everybody"),
            ("D:(A;;FA;;;SY)", "nobody knows whom"),
            ("O:BAG:BAD:(A;;FA)", "what (A;;FA) says"),
        ] {
            assert_eq!(stranger(descriptor, OWN).as_deref(), Some(who), "{descriptor}");
        }
    }
}

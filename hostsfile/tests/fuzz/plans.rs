//! Plans of arbitrary edits of arbitrary bytes.

use hostsfile::{
    Block, Cidr, Comment, Document, Edit, Entry, HostName, LineEnding, LineKind, LineRef, Marker, Options,
    Tag, UserNames, Which, plan,
};

/// Makes edits from the bytes before the first 255 and a document from the rest; panics if their plan is inconsistent.
pub(crate) fn check(input: &[u8]) {
    let (script, bytes) = match input.iter().position(|b| *b == 0xFF) {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &[][..]),
    };
    let mut script = Script(script);
    let mut edits = Vec::new();
    while !script.0.is_empty() && edits.len() < 16 {
        edits.push(script.edit());
    }
    let mut options = Options::new();
    if edits.len() % 2 == 1 {
        options = options
            .line_ending(LineEnding::CrLf)
            .user_names(UserNames::LeaveOut);
    }
    let Ok(planned) = plan(bytes, &edits, &options) else {
        return;
    };
    let new = planned.new_bytes();
    assert_eq!(planned.changed(), new != bytes);
    assert_eq!(planned.new_len(), new.len());
    assert_eq!(planned.diff().is_empty(), !planned.changed());
    let _found = (planned.diagnostics(), planned.conflicts());

    // Edits of blocks and managed lines leave every other line where it is.
    let of_user = |edit: &Edit| {
        matches!(
            edit,
            Edit::AppendLine(_)
                | Edit::AddNames { .. }
                | Edit::RemoveNames { .. }
                | Edit::ReplaceLine { .. }
                | Edit::RemoveLine(_)
        )
    };
    if !edits.iter().any(of_user) {
        // A repair makes a block of what it finds between markers, so those lines then belong to the block.
        let repairs: Vec<Edit> = edits
            .iter()
            .filter(|e| matches!(e, Edit::RepairBlock(_)))
            .cloned()
            .collect();
        let before = Document::parse(bytes)
            .edited(&repairs, &options)
            .expect("a part of the batch can be done too");
        let after = Document::parse(new);
        let left: Vec<Vec<u8>> = after.lines().map(|l| plain(l.text())).collect();
        let mut left = left.iter();
        // An empty line before a block with `eol=0` is nothing but the line end that belongs to the block.
        for line in outside(&before).into_iter().filter(|l| !l.is_empty()) {
            assert!(
                left.any(|l| *l == line),
                "{:?} is gone",
                String::from_utf8_lossy(&line)
            );
        }
    }
}

/// A CR at the very end of a file becomes part of the line end when a line is added below it. The bytes of a byte order mark are
/// one only at the start of the file, where a line may end up when the block before it is removed.
fn plain(text: &[u8]) -> Vec<u8> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let end = text.iter().rposition(|b| *b != b'\r').map_or(0, |at| at + 1);
    text[..end].to_vec()
}

/// The lines that belong to none of the tags and markers that edits can refer to.
fn outside(document: &Document) -> Vec<Vec<u8>> {
    let blocks: Vec<_> = document
        .blocks()
        .iter()
        .filter(|b| TAGS.contains(&b.tag))
        .map(|b| b.lines.clone())
        .collect();
    document
        .lines()
        .filter(|line| !blocks.iter().any(|lines| lines.contains(&line.number)))
        .filter(|line| match &line.kind {
            LineKind::Begin(tag) | LineKind::End(tag) => !TAGS.contains(tag),
            LineKind::Entry(entry) => !MARKERS.iter().any(|m| entry.comment == m.as_bytes()),
            _ => true,
        })
        .map(|line| plain(line.text()))
        .collect()
}

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[usize::from(self.byte()) % texts.len()]
    }

    fn which(&mut self) -> Which {
        let entry = self.entry();
        match self.byte() % 4 {
            0 => Which::Name(entry.names[0].clone()),
            1 => Which::Address(entry.address),
            2 => Which::Within(Cidr::new(entry.address, 16).expect("a valid prefix")),
            _ => Which::Comment(
                entry
                    .comment
                    .unwrap_or_else(|| Comment::new("x").expect("a valid comment")),
            ),
        }
    }

    fn edit(&mut self) -> Edit {
        match self.byte() % 17 {
            0 | 1 => Edit::SetBlock(self.block()),
            2 => Edit::AddToBlock(self.block()),
            14 => Edit::PointInBlock(self.block()),
            15 => Edit::RemoveEntries {
                tag: self.tag(),
                which: self.which(),
            },
            16 => Edit::Comment {
                tag: self.tag(),
                which: self.which(),
                comment: self
                    .byte()
                    .is_multiple_of(2)
                    .then(|| Comment::new("changed").expect("a valid comment")),
            },
            3 => Edit::RemoveBlock(self.tag()),
            4 => Edit::RemoveFromBlock {
                tag: self.tag(),
                names: self.names(),
            },
            5 => Edit::EnableBlock(self.tag()),
            6 => Edit::DisableBlock(self.tag()),
            7 => Edit::RepairBlock(self.tag()),
            8 => Edit::SetManaged {
                marker: self.marker(),
                entries: self.entries(),
            },
            9 => Edit::RemoveManaged(self.marker()),
            10 => Edit::AppendLine(self.entry()),
            11 => Edit::AddNames {
                line: self.line(),
                names: self.names(),
            },
            12 => Edit::RemoveNames {
                line: self.line(),
                names: self.names().iter().map(ToString::to_string).collect(),
            },
            _ => Edit::ReplaceLine {
                line: self.line(),
                entry: self.entry(),
            },
        }
    }

    fn tag(&mut self) -> Tag {
        Tag::new(self.one_of(TAGS)).expect("these are valid")
    }

    fn marker(&mut self) -> Marker {
        Marker::new(self.one_of(MARKERS)).expect("these are valid")
    }

    fn names(&mut self) -> Vec<HostName> {
        let count = usize::from(self.byte() % 12) + 1;
        (0..count)
            .map(|_| {
                HostName::new(self.one_of(&["web", "web-api", "db.example", "x.y.z.test", "localhost"]))
                    .expect("these are valid")
            })
            .collect()
    }

    fn entry(&mut self) -> Entry {
        let address = self.one_of(&["127.77.0.1", "10.0.0.1", "::1", "fd00::7", "fe80::1%lo0"]);
        let entry = Entry::parse(address, self.names()).expect("these are valid");
        match self.byte() % 3 {
            0 => entry.with_comment(Comment::new("managed").expect("a valid comment")),
            1 => entry.with_comment(Comment::new("a # b").expect("a valid comment")),
            _ => entry,
        }
    }

    fn entries(&mut self) -> Vec<Entry> {
        (0..self.byte() % 4).map(|_| self.entry()).collect()
    }

    fn block(&mut self) -> Block {
        Block::new(self.tag()).with_entries(self.entries())
    }

    fn line(&mut self) -> LineRef {
        let number = usize::from(self.byte() % 8) + 1;
        LineRef::new(
            number,
            self.one_of(&[
                "127.0.0.1 localhost",
                "10.0.0.1 web web-api # mine",
                "10.0.0.1 web",
                "",
            ]),
        )
    }
}

const TAGS: &[&str] = &["a", "b", "c"];
const MARKERS: &[&str] = &["managed", "ours"];

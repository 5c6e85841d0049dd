//! Rust source seen two ways: code without comments and strings, and comments without code.
//!
//! Rules search the view they mean, so a rule that quotes what it forbids does not find itself. Both views keep every
//! line break, so a line number is good in either. This is a scanner, not a parser: it knows comments, strings,
//! characters and lifetimes, and nothing of grammar.

/// The two views of one file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The code; comments and the inside of strings are blank.
    pub(super) code: String,
    /// The comments, doc comments included; all else is blank.
    pub(super) comments: String,
}

/// A word or one sign of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// The word, number or sign.
    pub(super) text: &'a str,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// A function of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// The line of its `fn`, from 1.
    pub(super) line: usize,
    /// Lines between its braces that hold code.
    pub(super) length: usize,
}

impl Source {
    /// Splits `text` into its two views.
    pub(super) fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut views = Views {
            code: blank(bytes),
            comments: blank(bytes),
        };
        let mut at = 0;
        while at < bytes.len() {
            at = views.step(bytes, at);
        }
        Self {
            code: into_text(views.code),
            comments: into_text(views.comments),
        }
    }

    /// The words and signs of the code, in order.
    pub(super) fn tokens(&self) -> Vec<Token<'_>> {
        let (code, mut tokens) = (self.code.as_str(), Vec::new());
        let (mut line, mut at) = (1, 0);
        while let Some(first) = code[at..].chars().next() {
            let length = match first {
                c if is_word(c) => code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at),
                c => c.len_utf8(),
            };
            if first == '\n' {
                line += 1;
            } else if !first.is_whitespace() {
                tokens.push(Token {
                    text: &code[at..at + length],
                    line,
                });
            }
            at += length;
        }
        tokens
    }

    /// Every function that has a body.
    pub(super) fn functions(&self) -> Vec<Function> {
        let tokens = self.tokens();
        let full = self
            .code
            .lines()
            .map(|line| !line.trim().is_empty())
            .collect::<Vec<_>>();
        let starts = (0..tokens.len()).filter(|&at| tokens[at].text == "fn");
        starts
            .filter_map(|at| function(&tokens, at, &full))
            .collect()
    }

    /// Lines before the trailing `#[cfg(test)]` module: what ships.
    pub(super) fn production_lines(&self) -> usize {
        let lines = self.code.lines().collect::<Vec<_>>();
        let tests = lines.iter().enumerate().find(|(at, line)| {
            let next = lines[at + 1..]
                .iter()
                .find(|next| !next.trim().starts_with('#'));
            line.trim() == "#[cfg(test)]"
                && next.is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
        });
        tests.map_or(lines.len(), |(at, _)| at)
    }
}

/// Whether a character may stand in a word or number.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Views {
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl Views {
    /// Copies the piece that starts at `at` into its view and returns where the next piece starts.
    fn step(&mut self, bytes: &[u8], at: usize) -> usize {
        let rest = &bytes[at..];
        let (length, in_comment) = match rest {
            [b'/', b'/', ..] => (line_comment(rest), true),
            [b'/', b'*', ..] => (block_comment(rest), true),
            [b'"', ..] => return self.quoted(bytes, at, string(rest)),
            [b'r', ..] if starts_word(bytes, at) => match raw_string(rest) {
                Some(length) => return self.quoted(bytes, at, length),
                None => (1, false),
            },
            [b'\'', ..] => match character(rest) {
                Some(length) => return self.quoted(bytes, at, length),
                None => (1, false),
            },
            _ => (1, false),
        };
        let view = if in_comment {
            &mut self.comments
        } else {
            &mut self.code
        };
        view[at..at + length].copy_from_slice(&bytes[at..at + length]);
        at + length
    }

    /// Copies the quotes of a literal and leaves its inside blank.
    fn quoted(&mut self, bytes: &[u8], at: usize, length: usize) -> usize {
        for end in [at, at + length - 1] {
            if bytes[end].is_ascii_graphic() {
                self.code[end] = bytes[end];
            }
        }
        at + length
    }
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .map(|&byte| if byte == b'\n' { b'\n' } else { b' ' })
        .collect()
}

fn into_text(view: Vec<u8>) -> String {
    String::from_utf8(view).expect("views copy whole characters or blank them")
}

/// Whether `at` begins a word; a `b` or `c` before it belongs to the literal.
fn starts_word(bytes: &[u8], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map_or(' ', |at| char::from(bytes[at]));
    !is_word(before(1)) || (matches!(before(1), 'b' | 'c') && !is_word(before(2)))
}

fn line_comment(rest: &[u8]) -> usize {
    rest.iter()
        .position(|&byte| byte == b'\n')
        .unwrap_or(rest.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let body = 2 + hashes;
    let found = rest[body..]
        .windows(end.len())
        .position(|window| window == end);
    Some(found.map_or(rest.len(), |at| body + at + end.len()))
}

/// The length of a character literal; `None` for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.get(3..)?.iter().position(|&byte| byte == b'\'')?;
        return Some(close + 4);
    }
    let width = match rest.get(1)? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// Reads the function whose `fn` is token `at`; `None` for a declaration without body and for `fn` types.
fn function(tokens: &[Token<'_>], at: usize, full: &[bool]) -> Option<Function> {
    let name = tokens.get(at + 1)?;
    if !name.text.starts_with(is_word) {
        return None;
    }
    let mut depth = 0_i32;
    let open = tokens[at..].iter().position(|token| {
        match token.text {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(token.text, "{" | ";")
    })?;
    let body = &tokens[at + open..];
    if body[0].text == ";" {
        return None;
    }
    let mut braces = 0_i32;
    let close = body.iter().find(|token| {
        match token.text {
            "{" => braces += 1,
            "}" => braces -= 1,
            _ => {}
        }
        braces == 0
    })?;
    let inside = body[0].line..close.line.saturating_sub(1).max(body[0].line);
    let length = full[inside].iter().filter(|&&code| code).count();
    Some(Function {
        name: name.text.to_owned(),
        line: tokens[at].line,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_characters_and_comments_leave_the_code() {
        let source = Source::new(
            "let a = \"todo! // no\"; // yes todo!\nlet b = '\"'; let c = r#\"x\"y\"#; /* z /* w */ */ fn f<'a>() {}",
        );
        assert!(!source.code.contains("todo!") && source.comments.contains("yes todo!"));
        assert!(!source.comments.contains("no\""));
        assert!(source.code.contains("fn f<'a>() {}"));
        assert!(source.comments.contains('w') && !source.code.contains('w'));
        assert!(!source.code.contains('y'));
    }

    #[test]
    fn escapes_and_wide_characters_do_not_derail_the_scanner() {
        let source = Source::new(
            "('\\'', '\\u{1f600}', 'é', b'x', \"\\\"\", b\"q\", r\"\\\", 'life) // é\nnext",
        );
        assert_eq!(source.code.lines().nth(1), Some("next"));
        assert!(source.code.contains("'life"));
        assert!(source.comments.contains("// é"));
    }

    #[test]
    fn a_function_counts_its_lines_of_code_between_the_braces() {
        let text = "fn long(\n    a: [u8; 4],\n) -> u8 {\n    // why\n\n    a[0];\n    a[1]\n}\nfn none();\nfn one() {}\n";
        let functions = Source::new(text).functions();
        let lengths = functions
            .iter()
            .map(|f| (f.name.as_str(), f.line, f.length));
        assert_eq!(
            lengths.collect::<Vec<_>>(),
            [("long", 1, 2), ("one", 10, 0)]
        );
    }

    #[test]
    fn the_trailing_test_module_is_no_production_line() {
        let source = Source::new("fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");
        assert_eq!(source.production_lines(), 2);
        let helper = Source::new("#[cfg(test)]\nfn a() {}\nfn b() {}\n");
        assert_eq!(helper.production_lines(), 3);
    }
}

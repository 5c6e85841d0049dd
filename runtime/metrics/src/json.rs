//! JSON text with its keys in the order in which they are given: for the dashboard, which is a file that people compare.

use std::fmt;

/// A value.
pub(crate) enum Json {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<Self>),
    Object(Vec<(&'static str, Self)>),
}

impl Json {
    /// A text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::List(items) if items.is_empty() => f.write_str("[]"),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    next_line(f, at, depth + 1)?;
                    item.write(f, depth + 1)?;
                }
                write!(f, "\n{}]", "  ".repeat(depth))
            }
            Self::Object(fields) if fields.is_empty() => f.write_str("{}"),
            Self::Object(fields) => {
                f.write_str("{")?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    next_line(f, at, depth + 1)?;
                    write!(f, "{}: ", quoted(name))?;
                    value.write(f, depth + 1)?;
                }
                write!(f, "\n{}}}", "  ".repeat(depth))
            }
        }
    }
}

/// Begins the line of the item at `at`, behind the one before it.
fn next_line(f: &mut fmt::Formatter<'_>, at: usize, depth: usize) -> fmt::Result {
    let comma = if at > 0 { "," } else { "" };
    write!(f, "{comma}\n{}", "  ".repeat(depth))
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

/// A text in double quotes, as JSON and YAML read it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for sign in text.chars() {
        match sign {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            sign => quoted.push(sign),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let written = Json::Object(vec![
            ("text", Json::text("a \"b\" \\ c\nd")),
            ("none", Json::List(Vec::new())),
            ("empty", Json::Object(Vec::new())),
            ("list", Json::List(vec![Json::Number(7), Json::Flag(true)])),
        ]);
        let read: serde_json::Value = serde_json::from_str(&written.to_string()).unwrap();
        let expected = serde_json::json!({
            "text": "a \"b\" \\ c\nd", "none": [], "empty": {}, "list": [7, true],
        });
        assert_eq!(read, expected);
    }
}

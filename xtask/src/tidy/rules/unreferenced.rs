//! Unreferenced files: a Rust file that no target reaches through `mod` is compiled by nobody and tested by nobody.

use std::collections::BTreeSet;

use super::super::source::{Source, Token};
use super::super::tree::Tree;
use super::super::{Finding, Plant, Rule};

pub(super) const RULE: Rule = Rule {
    name: "unreferenced",
    why: "a file that nothing includes looks alive and is not",
    check,
    plants: &[Plant {
        what: "a file that no `mod` names",
        files: orphan,
    }],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let targets = tree
        .project
        .packages
        .iter()
        .flat_map(|package| &package.targets);
    let mut open = targets
        .map(|target| target.source.to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    let roots = open.iter().cloned().collect::<BTreeSet<_>>();
    let mut reached = BTreeSet::new();
    while let Some(path) = open.pop() {
        let source = tree.file(&path).and_then(|file| file.rust.as_ref());
        if let Some(source) = source.filter(|_| reached.insert(path.clone())) {
            let folder = module_folder(&path, roots.contains(&path));
            let text = &tree
                .file(&path)
                .expect("the source came from this file")
                .text;
            open.extend(children(source, text, &path, &folder).into_iter().flatten());
        }
    }
    let orphans = tree
        .rust()
        .filter(|(file, _)| !reached.contains(&file.path));
    let message = "no `mod` leads here: name it in its parent or delete it";
    orphans
        .map(|(file, _)| Finding::in_file(file.path.as_str(), message))
        .collect()
}

/// The folder in which the child modules of the file at `path` lie.
fn module_folder(path: &str, root: bool) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.strip_suffix(".rs").unwrap_or(name);
    if root || stem == "mod" {
        folder.to_owned()
    } else {
        format!("{folder}/{stem}")
    }
}

/// For each `mod name;` of a file, the paths at which the module may lie.
fn children(source: &Source, text: &str, path: &str, folder: &str) -> Vec<Vec<String>> {
    let (tokens, mut found) = (source.tokens(), Vec::new());
    let mut inline: Vec<(String, i32)> = Vec::new();
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.retain(|(_, opened)| *opened <= depth);
            }
            "mod" => match module_after(&tokens, at) {
                Some((name, "{")) => inline.push((name.to_owned(), depth + 1)),
                Some((name, _)) => {
                    let nested = inline
                        .iter()
                        .map(|(name, _)| [name.as_str(), "/"].concat())
                        .collect::<String>();
                    let own_folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let explicit = explicit_path(text, token.line);
                    found.push(match explicit {
                        Some(file) => vec![normal(&format!("{own_folder}/{file}"))],
                        None => ["", "/mod"]
                            .map(|end| format!("{folder}/{nested}{name}{end}.rs"))
                            .to_vec(),
                    });
                }
                None => {}
            },
            _ => {}
        }
    }
    found
}

fn module_after<'a>(tokens: &[Token<'a>], at: usize) -> Option<(&'a str, &'a str)> {
    let (name, sign) = (tokens.get(at + 1)?.text, tokens.get(at + 2)?.text);
    matches!(sign, ";" | "{").then_some((name, sign))
}

/// The value of a `#[path = "..."]` on the line before `line`. Read from the text: strings are blank in the code.
fn explicit_path(text: &str, line: usize) -> Option<&str> {
    let before = text.lines().nth(line.checked_sub(2)?)?;
    before
        .trim()
        .strip_prefix("#[path = \"")?
        .strip_suffix("\"]")
}

fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn orphan() -> Vec<(&'static str, String)> {
    vec![(
        "runtime/words/src/forgotten.rs",
        "//! A file that nothing names.\n".to_owned(),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, path: &str, folder: &str) -> Vec<String> {
        let children = children(&Source::new(text), text, path, folder);
        children.into_iter().flatten().collect()
    }

    #[test]
    fn modules_are_sought_beside_roots_and_below_other_files() {
        assert_eq!(module_folder("a/src/lib.rs", true), "a/src");
        assert_eq!(module_folder("a/src/noun/mod.rs", false), "a/src/noun");
        assert_eq!(module_folder("a/src/noun.rs", false), "a/src/noun");
        assert_eq!(module_folder("a/tests/main.rs", true), "a/tests");
    }

    #[test]
    fn inline_modules_add_a_folder_and_end_with_their_brace() {
        let text = "mod a { mod b; fn f() {} }\nmod c;\n// mod d;\n";
        let expected = ["s/a/b.rs", "s/a/b/mod.rs", "s/c.rs", "s/c/mod.rs"];
        assert_eq!(found(text, "s/lib.rs", "s"), expected);
    }

    #[test]
    fn an_explicit_path_counts_from_the_file() {
        let text = "#[path = \"../shared/case.rs\"]\nmod case;\n";
        assert_eq!(
            found(text, "s/tests/one.rs", "s/tests"),
            ["s/shared/case.rs"]
        );
    }
}

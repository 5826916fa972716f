//! From template text to tokens. White space inside an action is a token, because `.a.b` and `.a .b` differ; `{{-` and `-}}` have
//! already done their trimming here.
//!
//! Fails with the line and Go's own words for what is wrong; it never panics on foreign text.

/// One token: what, its text, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// The text as it stands in the source, without the leading dot of a field.
    pub(crate) text: String,
    /// Byte offset in the source.
    pub(crate) at: usize,
    /// Line, from 1.
    pub(crate) line: usize,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Left,
    Right,
    Space,
    Field,
    Variable,
    Word,
    Number,
    Char,
    Quoted,
    Raw,
    Pipe,
    Open,
    Close,
    Assign,
    Declare,
    Comma,
    Dot,
    /// A character that no action has.
    Other,
    End,
}

/// Most tokens of one template: far above the largest public chart file, small enough to keep memory in hand.
const TOKENS_MAX: usize = 1_000_000;

/// What a lexer could not read: line and Go's words for it.
pub(crate) type Bad = (usize, String);

pub(crate) fn lex(text: &str) -> Result<Vec<Token>, Bad> {
    let mut lexer = Lexer { text, at: 0, line: 1, tokens: Vec::new(), parens: 0 };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
    parens: usize,
}

const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self, bytes: usize) {
        let end = (self.at + bytes).min(self.text.len());
        self.line += self.text[self.at..end].matches('\n').count();
        self.at = end;
    }

    /// Emits the next bytes as a token whose text starts `drop` bytes in.
    fn emit(&mut self, kind: Kind, bytes: usize, drop: usize) -> Result<(), Bad> {
        if self.tokens.len() >= TOKENS_MAX {
            return Err((self.line, format!("template has more than {TOKENS_MAX} tokens")));
        }
        let text = self.text[self.at + drop..self.at + bytes].to_owned();
        self.tokens.push(Token { kind, text, at: self.at, line: self.line });
        self.skip(bytes);
        Ok(())
    }

    fn run(&mut self) -> Result<(), Bad> {
        loop {
            let Some(start) = self.rest().find("{{") else {
                if !self.rest().is_empty() {
                    self.emit(Kind::Text, self.rest().len(), 0)?;
                }
                return self.emit(Kind::End, 0, 0);
            };
            let trims = left_trims(&self.rest()[start + 2..]);
            let text = &self.rest()[..start];
            let kept = if trims { text.trim_end_matches(BLANK).len() } else { text.len() };
            if kept > 0 {
                self.emit(Kind::Text, kept, 0)?;
            }
            self.skip(start - kept);
            let marker = if trims { 2 } else { 0 };
            if self.rest()[2 + marker..].starts_with("/*") {
                self.skip(2 + marker);
                self.comment()?;
            } else {
                self.emit(Kind::Left, 2, 0)?;
                self.skip(marker);
                self.parens = 0;
                self.action()?;
            }
        }
    }

    fn comment(&mut self) -> Result<(), Bad> {
        let Some(end) = self.rest().find("*/") else { return Err((self.line, "unclosed comment".into())) };
        self.skip(end + 2);
        if self.rest().starts_with("}}") {
            self.skip(2);
            return Ok(());
        }
        if right_trims(self.rest()) {
            self.skip(4);
            self.trim_left();
            return Ok(());
        }
        Err((self.line, "comment ends before closing delimiter".into()))
    }

    fn trim_left(&mut self) {
        let blank = self.rest().len() - self.rest().trim_start_matches(BLANK).len();
        self.skip(blank);
    }

    /// Tokens up to and with the closing delimiter.
    fn action(&mut self) -> Result<(), Bad> {
        loop {
            let rest = self.rest();
            if right_trims(rest) {
                self.close_action(2)?;
                self.trim_left();
                return Ok(());
            }
            if rest.starts_with("}}") {
                return self.close_action(0);
            }
            let Some(first) = rest.chars().next() else { return Err((self.line, "unclosed action".into())) };
            let second = rest[first.len_utf8()..].chars().next();
            match first {
                it if BLANK.contains(&it) => self.space()?,
                ':' if second == Some('=') => self.emit(Kind::Declare, 2, 0)?,
                ':' => return Err((self.line, "expected :=".into())),
                '=' => self.emit(Kind::Assign, 1, 0)?,
                '|' => self.emit(Kind::Pipe, 1, 0)?,
                ',' => self.emit(Kind::Comma, 1, 0)?,
                '"' => self.quoted()?,
                '`' => self.raw()?,
                '\'' => self.char_constant()?,
                '$' => self.word(Kind::Variable, 1, 0)?,
                '.' if !second.is_some_and(|it| it.is_ascii_digit()) => self.dot(second)?,
                '(' => {
                    self.parens += 1;
                    self.emit(Kind::Open, 1, 0)?;
                }
                ')' if self.parens == 0 => return Err((self.line, "unexpected right paren".into())),
                ')' => {
                    self.parens -= 1;
                    self.emit(Kind::Close, 1, 0)?;
                }
                it if it.is_ascii_digit() || matches!(it, '.' | '+' | '-') => self.number()?,
                it if it == '_' || it.is_alphanumeric() => self.word(Kind::Word, 0, 0)?,
                it if it.is_ascii_graphic() => self.emit(Kind::Other, 1, 0)?,
                it => return Err((self.line, format!("unrecognized character in action: {}", code_point(it)))),
            }
        }
    }

    fn close_action(&mut self, marker: usize) -> Result<(), Bad> {
        if self.parens > 0 {
            return Err((self.line, "unclosed left paren".into()));
        }
        self.skip(marker);
        self.emit(Kind::Right, 2, 0)
    }

    fn space(&mut self) -> Result<(), Bad> {
        let mut bytes = 0;
        while self.rest()[bytes..].starts_with(BLANK) && !right_trims(&self.rest()[bytes..]) {
            bytes += 1;
        }
        self.emit(Kind::Space, bytes, 0)
    }

    fn dot(&mut self, second: Option<char>) -> Result<(), Bad> {
        if second.is_some_and(|it| it == '_' || it.is_alphanumeric()) {
            return self.word(Kind::Field, 1, 1);
        }
        self.ends_here(1)?;
        self.emit(Kind::Dot, 1, 0)
    }

    /// A run of letters and digits after `lead` bytes, `drop` of which do not belong to its text.
    fn word(&mut self, kind: Kind, lead: usize, drop: usize) -> Result<(), Bad> {
        let name = &self.rest()[lead..];
        let bytes = lead + name.find(|it: char| it != '_' && !it.is_alphanumeric()).unwrap_or(name.len());
        self.ends_here(bytes)?;
        self.emit(kind, bytes, drop)
    }

    /// What may follow a word, a field or a variable.
    fn ends_here(&self, bytes: usize) -> Result<(), Bad> {
        match self.rest()[bytes..].chars().next() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | ')' | '(') => Ok(()),
            Some('=') if self.rest().starts_with('$') => Ok(()),
            Some(_) if self.rest()[bytes..].starts_with("}}") => Ok(()),
            Some(it) => Err((self.line, format!("bad character {}", code_point(it)))),
        }
    }

    fn quoted(&mut self) -> Result<(), Bad> {
        let bytes = self.rest().as_bytes();
        let mut end = 1;
        loop {
            match bytes.get(end) {
                None | Some(b'\n') => return Err((self.line, "unterminated quoted string".into())),
                Some(b'\\') if bytes.get(end + 1).is_some_and(|it| *it != b'\n') => end += 2,
                Some(b'"') => return self.emit(Kind::Quoted, end + 1, 0),
                Some(_) => end += 1,
            }
        }
    }

    fn raw(&mut self) -> Result<(), Bad> {
        match self.rest()[1..].find('`') {
            Some(end) => self.emit(Kind::Raw, end + 2, 0),
            None => Err((self.line, "unterminated raw quoted string".into())),
        }
    }

    fn char_constant(&mut self) -> Result<(), Bad> {
        let bytes = self.rest().as_bytes();
        let mut end = 1;
        loop {
            match bytes.get(end) {
                None | Some(b'\n') => return Err((self.line, "unterminated character constant".into())),
                Some(b'\\') if bytes.get(end + 1).is_some_and(|it| *it != b'\n') => end += 2,
                Some(b'\'') => return self.emit(Kind::Char, end + 1, 0),
                Some(_) => end += 1,
            }
        }
    }

    fn number(&mut self) -> Result<(), Bad> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let digits = &rest[sign..];
        let hex = digits.starts_with("0x") || digits.starts_with("0X");
        let mut end = sign;
        let mut before = ' ';
        for it in digits.chars() {
            let exponent = if hex { matches!(before, 'p' | 'P') } else { matches!(before, 'e' | 'E') };
            if !(it == '_' || it == '.' || it.is_ascii_alphanumeric() || (exponent && matches!(it, '+' | '-'))) {
                break;
            }
            end += it.len_utf8();
            before = it;
        }
        let text = &rest[..end];
        if crate::number::parse(text).is_none() {
            return Err((self.line, format!("bad number syntax: {}", crate::gofmt::quote(text))));
        }
        self.emit(Kind::Number, end, 0)
    }
}

fn left_trims(after: &str) -> bool {
    after.strip_prefix('-').is_some_and(|it| it.starts_with(BLANK))
}

fn right_trims(rest: &str) -> bool {
    rest.strip_prefix(BLANK).is_some_and(|it| it.starts_with("-}}"))
}

fn code_point(it: char) -> String {
    if it.is_control() { format!("U+{:04X}", u32::from(it)) } else { format!("U+{:04X} '{it}'", u32::from(it)) }
}

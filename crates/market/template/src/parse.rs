//! From tokens to trees: Go's grammar with Go's messages. What a template may not say (a function that does not exist, a variable
//! that was not declared) is refused here, before anything is rendered.

use std::rc::Rc;

use crate::functions;
use crate::lex::{Bad, Kind, Token, lex};
use crate::node::{Branch, Command, Node, Operand, Pipe, Source, Template, What};
use crate::number::{self, Literal};

/// Deepest nesting of blocks and parentheses; hand-written charts stay under 20.
const NESTING_MAX: usize = 150;

/// Parses a file: the template of its own name, and those that it defines.
pub(crate) fn parse(name: &str, text: &str) -> Result<Vec<Template>, String> {
    let fail = |(line, message): Bad| format!("template: {name}:{line}: {message}");
    let tokens = lex(text).map_err(fail)?;
    let source = Rc::new(Source { name: name.to_owned(), text: text.to_owned() });
    let mut parser =
        Parser { tokens, next: 0, source, variables: vec!["$".to_owned()], ranges: 0, nesting: 0, defined: Vec::new() };
    let body = parser.file().map_err(fail)?;
    let mut templates = parser.defined;
    templates.push(Template { name: name.to_owned(), source: parser.source, body });
    Ok(templates)
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    source: Rc<Source>,
    variables: Vec<String>,
    ranges: usize,
    nesting: usize,
    defined: Vec<Template>,
}

/// What ended a list of nodes.
enum End {
    End,
    Else,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn skip_space(&mut self) {
        while self.peek().kind == Kind::Space {
            self.next += 1;
        }
    }

    fn take_solid(&mut self) -> Token {
        self.skip_space();
        self.take()
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Bad> {
        let line = self.tokens[self.next.saturating_sub(1).min(self.tokens.len() - 1)].line;
        Err((line, message.into()))
    }

    fn unexpected<T>(&self, token: &Token, context: &str) -> Result<T, Bad> {
        let shown = match token.kind {
            Kind::End => "EOF".into(),
            Kind::Word if functions::KEYWORDS.contains(&token.text.as_str()) => format!("<{}>", token.text),
            Kind::Field => format!("\".{}\"", token.text),
            Kind::Dot => "<.>".into(),
            _ => crate::gofmt::quote(&token.text),
        };
        Err((token.line, format!("unexpected {shown} in {context}")))
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<Token, Bad> {
        let token = self.take_solid();
        if token.kind == kind { Ok(token) } else { self.unexpected(&token, context) }
    }

    fn deeper<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T, Bad>) -> Result<T, Bad> {
        if self.nesting >= NESTING_MAX {
            return self.fail(format!("blocks and parentheses nest deeper than {NESTING_MAX}"));
        }
        self.nesting += 1;
        let result = inside(self);
        self.nesting -= 1;
        result
    }

    fn file(&mut self) -> Result<Vec<Node>, Bad> {
        let mut body = Vec::new();
        loop {
            let token = self.peek().clone();
            match token.kind {
                Kind::End => return Ok(body),
                Kind::Left => {
                    self.take();
                    self.skip_space();
                    if self.peek().kind == Kind::Word && self.peek().text == "define" {
                        self.take();
                        self.define()?;
                        continue;
                    }
                    match self.action()? {
                        Ok(node) => body.extend(node),
                        Err(End::End) => return self.unexpected_word("end"),
                        Err(End::Else) => return self.unexpected_word("else"),
                    }
                }
                _ => body.push(self.text()?),
            }
        }
    }

    fn unexpected_word<T>(&self, word: &str) -> Result<T, Bad> {
        self.fail(format!("unexpected {{{{{word}}}}}"))
    }

    fn text(&mut self) -> Result<Node, Bad> {
        let token = self.take();
        match token.kind {
            Kind::Text => Ok(Node::Text(token.text.into())),
            _ => self.unexpected(&token, "input"),
        }
    }

    /// Nodes up to `{{end}}` or `{{else}}`.
    fn list(&mut self) -> Result<(Vec<Node>, End), Bad> {
        self.deeper(|this| {
            let mut body = Vec::new();
            loop {
                match this.peek().kind {
                    Kind::End => return this.fail("unexpected EOF"),
                    Kind::Left => {
                        this.take();
                        this.skip_space();
                        match this.action()? {
                            Ok(node) => body.extend(node),
                            Err(end) => return Ok((body, end)),
                        }
                    }
                    _ => body.push(this.text()?),
                }
            }
        })
    }

    fn name(&mut self, context: &str) -> Result<String, Bad> {
        let token = self.take_solid();
        if !matches!(token.kind, Kind::Quoted | Kind::Raw) {
            return self.unexpected(&token, context);
        }
        match number::unquote(&token.text) {
            Some(name) => Ok(name),
            None => self.fail(format!("invalid syntax in {}", token.text)),
        }
    }

    /// Reads a body with variables and loops of its own.
    fn separate(&mut self, context: &str) -> Result<Vec<Node>, Bad> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, end) = self.list()?;
        if let End::Else = end {
            return self.fail(format!("unexpected {{{{else}}}} in {context}"));
        }
        (self.variables, self.ranges) = (variables, ranges);
        Ok(body)
    }

    fn define(&mut self) -> Result<(), Bad> {
        let name = self.name("define clause")?;
        self.expect(Kind::Right, "define clause")?;
        let body = self.separate("define clause")?;
        self.add(name, body)
    }

    fn add(&mut self, name: String, body: Vec<Node>) -> Result<(), Bad> {
        let known = self.defined.iter().position(|it| it.name == name);
        let template = Template { name, source: self.source.clone(), body };
        match known {
            None => self.defined.push(template),
            Some(_) if crate::node::is_empty(&template.body) => {}
            Some(index) if crate::node::is_empty(&self.defined[index].body) => self.defined[index] = template,
            Some(_) => {
                return self.fail(format!(
                    "template: multiple definition of template {}",
                    crate::gofmt::quote(&template.name)
                ));
            }
        }
        Ok(())
    }

    /// What stands in an action, its opening delimiter taken: nodes, or the end of the list.
    fn action(&mut self) -> Result<Result<Option<Node>, End>, Bad> {
        self.skip_space();
        let token = self.peek().clone();
        if token.kind != Kind::Word {
            return self.plain_action();
        }
        let keyword = token.text.as_str();
        if !matches!(
            keyword,
            "block" | "break" | "continue" | "define" | "else" | "end" | "if" | "range" | "template" | "with"
        ) {
            return self.plain_action();
        }
        self.take();
        let node = match keyword {
            "block" => self.block(token.at)?,
            "break" | "continue" => self.jump(keyword)?,
            "else" => {
                self.skip_space();
                if self.peek().kind != Kind::Word || !matches!(self.peek().text.as_str(), "if" | "with") {
                    self.expect(Kind::Right, "else")?;
                }
                return Ok(Err(End::Else));
            }
            "end" => {
                self.expect(Kind::Right, "end")?;
                return Ok(Err(End::End));
            }
            "if" => Node::If(self.branch("if", token.at)?),
            "with" => Node::With(self.branch("with", token.at)?),
            "range" => Node::Range(self.branch("range", token.at)?),
            "template" => self.template()?,
            _ => return self.unexpected(&token, "command"),
        };
        Ok(Ok(Some(node)))
    }

    fn plain_action(&mut self) -> Result<Result<Option<Node>, End>, Bad> {
        // Variables declared here live to the end of the enclosing block.
        Ok(Ok(Some(Node::Action(self.pipe("command", Kind::Right)?))))
    }

    fn jump(&mut self, keyword: &str) -> Result<Node, Bad> {
        let token = self.take_solid();
        if token.kind != Kind::Right {
            return self.unexpected(&token, &format!("{{{{{keyword}}}}}"));
        }
        if self.ranges == 0 {
            return self.fail(format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
        }
        Ok(if keyword == "break" { Node::Break } else { Node::Continue })
    }

    fn branch(&mut self, context: &str, at: usize) -> Result<Branch, Bad> {
        let outer = self.variables.len();
        let pipe = self.pipe(context, Kind::Right)?;
        if context == "range" {
            self.ranges += 1;
        }
        let (body, end) = self.list()?;
        if context == "range" {
            self.ranges -= 1;
        }
        let otherwise = match end {
            End::End => None,
            End::Else => Some(self.otherwise(context)?),
        };
        self.variables.truncate(outer);
        Ok(Branch { at, pipe, body, otherwise })
    }

    /// What follows `{{else`: a list, or a further `if` or `with` that shares the `{{end}}`.
    fn otherwise(&mut self, context: &str) -> Result<Vec<Node>, Bad> {
        if self.tokens[self.next.saturating_sub(1)].kind != Kind::Right {
            let token = self.take_solid();
            if token.text != context {
                return self.unexpected(&token, "else");
            }
            let branch = self.deeper(|this| this.branch(context, token.at))?;
            return Ok(vec![if context == "if" { Node::If(branch) } else { Node::With(branch) }]);
        }
        match self.list()? {
            (body, End::End) => Ok(body),
            (_, End::Else) => self.fail("expected end; found {{else}}"),
        }
    }

    fn template(&mut self) -> Result<Node, Bad> {
        self.skip_space();
        let at = self.peek().at;
        let name = self.name("template clause")?;
        self.skip_space();
        let pipe = if self.peek().kind == Kind::Right {
            self.take();
            None
        } else {
            Some(self.pipe("template clause", Kind::Right)?)
        };
        Ok(Node::Template { at, name, pipe })
    }

    fn block(&mut self, at: usize) -> Result<Node, Bad> {
        let name = self.name("block clause")?;
        let pipe = self.pipe("block clause", Kind::Right)?;
        let body = self.separate("block clause")?;
        self.add(name.clone(), body)?;
        Ok(Node::Template { at, name, pipe: Some(pipe) })
    }

    fn pipe(&mut self, context: &str, end: Kind) -> Result<Pipe, Bad> {
        self.skip_space();
        let mut pipe = Pipe { at: self.peek().at, assigns: false, variables: Vec::new(), commands: Vec::new() };
        self.declarations(context, &mut pipe)?;
        loop {
            let token = self.take_solid();
            if token.kind == end {
                break;
            }
            let starts = matches!(
                token.kind,
                Kind::Word
                    | Kind::Char
                    | Kind::Dot
                    | Kind::Field
                    | Kind::Number
                    | Kind::Raw
                    | Kind::Quoted
                    | Kind::Variable
                    | Kind::Open
            );
            if !starts {
                return self.unexpected(&token, context);
            }
            self.next -= 1;
            let command = self.deeper(Self::command)?;
            pipe.commands.push(command);
        }
        self.check_pipe(&pipe, context)?;
        Ok(pipe)
    }

    fn check_pipe(&self, pipe: &Pipe, context: &str) -> Result<(), Bad> {
        if pipe.commands.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        for (index, command) in pipe.commands.iter().enumerate().skip(1) {
            let plain = matches!(
                command.words[0].what,
                What::Bool(_) | What::Dot | What::Nil | What::Number(..) | What::Text(..)
            );
            if plain {
                return self.fail(format!("non executable command in pipeline stage {}", index + 1));
            }
        }
        Ok(())
    }

    /// `$a :=`, `$a =`, `$a, $b :=` at the start of a pipeline.
    fn declarations(&mut self, context: &str, pipe: &mut Pipe) -> Result<(), Bad> {
        loop {
            self.skip_space();
            let (start, token) = (self.next, self.peek().clone());
            if token.kind != Kind::Variable {
                return Ok(());
            }
            self.take();
            let after = self.take_solid();
            match after.kind {
                Kind::Assign | Kind::Declare => {
                    pipe.assigns = after.kind == Kind::Assign;
                    pipe.variables.push(token.text);
                    break;
                }
                Kind::Comma if context == "range" && pipe.variables.is_empty() => pipe.variables.push(token.text),
                Kind::Comma => return self.fail(format!("too many declarations in {context}")),
                _ if pipe.variables.is_empty() => {
                    self.next = start;
                    return Ok(());
                }
                _ => return self.fail("range can only initialize variables"),
            }
        }
        for name in &pipe.variables {
            if !pipe.assigns {
                self.variables.push(name.clone());
            } else if !self.variables.contains(name) {
                return self.fail(format!("undefined variable {}", crate::gofmt::quote(name)));
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Result<Command, Bad> {
        self.skip_space();
        let mut command = Command { at: self.peek().at, words: Vec::new() };
        loop {
            self.skip_space();
            if let Some(word) = self.operand()? {
                command.words.push(word);
            }
            let token = self.take();
            match token.kind {
                Kind::Space => continue,
                Kind::Right | Kind::Close => self.next -= 1,
                Kind::Pipe => {}
                _ => return self.unexpected(&token, "operand"),
            }
            break;
        }
        if command.words.is_empty() { self.fail("empty command") } else { Ok(command) }
    }

    fn operand(&mut self) -> Result<Option<Operand>, Bad> {
        let Some(mut operand) = self.term()? else { return Ok(None) };
        if self.peek().kind != Kind::Field {
            return Ok(Some(operand));
        }
        let at = self.peek().at;
        let mut names = Vec::new();
        while self.peek().kind == Kind::Field {
            names.push(self.take().text);
        }
        match &mut operand.what {
            What::Field(first) | What::Variable(first) => {
                first.extend(names);
                operand.at = at;
            }
            What::Bool(_) | What::Text(..) | What::Number(..) | What::Nil | What::Dot => {
                let shown = crate::gofmt::quote(&operand.to_string());
                return self.fail(format!("unexpected . after term {shown}"));
            }
            _ => operand = Operand { at, what: What::Chain(Box::new(operand), names) },
        }
        Ok(Some(operand))
    }

    fn term(&mut self) -> Result<Option<Operand>, Bad> {
        let token = self.peek().clone();
        let what = match token.kind {
            Kind::Word => self.word(&token)?,
            Kind::Dot => What::Dot,
            Kind::Variable => {
                if !self.variables.contains(&token.text) {
                    self.take();
                    return self.fail(format!("undefined variable {}", crate::gofmt::quote(&token.text)));
                }
                What::Variable(vec![token.text.clone()])
            }
            Kind::Field => What::Field(vec![token.text.clone()]),
            Kind::Number => match number::parse(&token.text) {
                Some(it) => What::Number(token.text.clone(), it),
                None => return self.fail(format!("bad number syntax: {}", crate::gofmt::quote(&token.text))),
            },
            Kind::Char => match number::unquote(&token.text).and_then(|it| single(&it)) {
                Some(it) => What::Number(token.text.clone(), Literal::Int(i64::from(u32::from(it)))),
                None => return self.fail(format!("malformed character constant: {}", token.text)),
            },
            Kind::Quoted | Kind::Raw => match number::unquote(&token.text) {
                Some(it) => What::Text(token.text.clone(), it.into()),
                None => return self.fail("invalid syntax"),
            },
            Kind::Open => {
                self.take();
                let pipe = self.deeper(|this| this.pipe("parenthesized pipeline", Kind::Close))?;
                return Ok(Some(Operand { at: pipe.at, what: What::Pipe(pipe) }));
            }
            _ => return Ok(None),
        };
        self.take();
        Ok(Some(Operand { at: token.at, what }))
    }

    fn word(&mut self, token: &Token) -> Result<What, Bad> {
        Ok(match token.text.as_str() {
            "true" => What::Bool(true),
            "false" => What::Bool(false),
            "nil" => What::Nil,
            name if functions::find(name).is_some() => What::Function(name.to_owned()),
            name if functions::KEYWORDS.contains(&name) => return self.unexpected(token, "operand"),
            name => {
                self.take();
                return self.fail(format!("function {} not defined", crate::gofmt::quote(name)));
            }
        })
    }
}

fn single(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

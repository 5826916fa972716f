//! The tree of a parsed template, and how its parts are written in error messages (`at <.Values.x>`).

use std::fmt::{self, Display, Formatter};
use std::rc::Rc;

use crate::number::Literal;

/// A named template and the file it was read from.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) name: String,
    pub(crate) source: Rc<Source>,
    pub(crate) body: Vec<Node>,
}

/// A file of templates; positions are byte offsets in its text.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// `file:line:column` as Go gives it: the line from 1, the column from 0 in bytes.
    pub(crate) fn place(&self, at: usize) -> String {
        let before = &self.text[..at.min(self.text.len())];
        let column = before.rfind('\n').map_or(before.len(), |newline| before.len() - newline - 1);
        format!("{}:{}:{column}", self.name, before.matches('\n').count() + 1)
    }
}

#[derive(Debug)]
pub(crate) enum Node {
    Text(Rc<str>),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { at: usize, name: String, pipe: Option<Pipe> },
    Break,
    Continue,
}

#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) at: usize,
    pub(crate) pipe: Pipe,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Option<Vec<Node>>,
}

#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) at: usize,
    pub(crate) assigns: bool,
    pub(crate) variables: Vec<String>,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) at: usize,
    pub(crate) words: Vec<Operand>,
}

#[derive(Debug)]
pub(crate) struct Operand {
    pub(crate) at: usize,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Dot,
    Nil,
    Bool(bool),
    Number(String, Literal),
    /// As written, and what it means.
    Text(String, Rc<str>),
    Field(Vec<String>),
    /// The name with its `$`, then fields.
    Variable(Vec<String>),
    Function(String),
    Chain(Box<Operand>, Vec<String>),
    Pipe(Pipe),
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Dot => f.write_str("."),
            What::Nil => f.write_str("nil"),
            What::Bool(it) => write!(f, "{it}"),
            What::Number(text, _) | What::Text(text, _) => f.write_str(text),
            What::Field(names) => names.iter().try_for_each(|it| write!(f, ".{it}")),
            What::Variable(names) => f.write_str(&names.join(".")),
            What::Function(name) => f.write_str(name),
            What::Chain(base, names) => {
                match &base.what {
                    What::Pipe(pipe) => write!(f, "({pipe})")?,
                    _ => write!(f, "{base}")?,
                }
                names.iter().try_for_each(|it| write!(f, ".{it}"))
            }
            What::Pipe(pipe) => write!(f, "{pipe}"),
        }
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, word) in self.words.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            match &word.what {
                What::Pipe(pipe) => write!(f, "({pipe})")?,
                _ => write!(f, "{word}")?,
            }
        }
        Ok(())
    }
}

impl Display for Pipe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.variables.is_empty() {
            f.write_str(&self.variables.join(", "))?;
            f.write_str(if self.assigns { " = " } else { " := " })?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            if index > 0 {
                f.write_str(" | ")?;
            }
            write!(f, "{command}")?;
        }
        Ok(())
    }
}

/// Whether nothing but white space and definitions stands in a template: such a one does not replace another of its name.
pub(crate) fn is_empty(body: &[Node]) -> bool {
    body.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
}

//! Walks a parsed template and writes text. Go's rules: what a chain of fields does with nil, how arguments meet parameters, which
//! node an error names.
//!
//! Every step, every nested call and every byte written counts against [`Limits`]; meeting one is an error of the template, never a
//! panic. Missing keys are Go's `missingkey=zero` (as Helm renders) or an error.

use std::fmt::Display;
use std::rc::Rc;

use crate::env::{Environment, MissingKey};
use crate::functions::{self, Function};
use crate::node::{Branch, Command, Node, Operand, Pipe, Template, What};
use crate::number::Literal;
use crate::set::Set;
use crate::value::{Failure, Value};

/// One rendering.
pub(crate) struct Run<'e> {
    pub(crate) env: &'e Environment<'e>,
    /// The templates that can be named now; `tpl` swaps in a set with its own definitions.
    pub(crate) set: Rc<Set>,
    steps: u64,
    depth: usize,
    written: usize,
}

/// Where execution continues after a node.
enum Flow {
    Next,
    Break,
    Continue,
}

/// One template being executed: its text for positions, its variables.
struct Frame<'t> {
    template: &'t Template,
    variables: Vec<(&'t str, Value)>,
}

impl Frame<'_> {
    fn fail<T>(&self, at: usize, context: &dyn Display, message: impl Display) -> Result<T, Failure> {
        let (place, name) = (self.template.source.place(at), crate::gofmt::quote(&self.template.name));
        Err(format!("template: {place}: executing {name} at <{context}>: {message}"))
    }
}

impl<'e> Run<'e> {
    pub(crate) fn new(env: &'e Environment<'e>, set: Rc<Set>) -> Self {
        Self { env, set, steps: 0, depth: 0, written: 0 }
    }

    /// Renders a template by name with these data.
    pub(crate) fn template(&mut self, template: &Template, dot: &Value) -> Result<String, Failure> {
        let mut out = String::new();
        self.enter(|this| this.body(template, dot, &mut out))?;
        Ok(out)
    }

    fn body(&mut self, template: &Template, dot: &Value, out: &mut String) -> Result<(), Failure> {
        let mut frame = Frame { template, variables: vec![("$", dot.clone())] };
        self.walk(&mut frame, dot, &template.body, out).map(|_| ())
    }

    fn enter<T>(&mut self, inside: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        if self.depth >= self.env.limits.depth {
            return Err(format!("calls nest deeper than {}", self.env.limits.depth));
        }
        self.depth += 1;
        let result = inside(self);
        self.depth -= 1;
        result
    }

    fn step(&mut self) -> Result<(), Failure> {
        self.steps += 1;
        if self.steps > self.env.limits.steps {
            return Err(format!("rendering takes more than {} steps", self.env.limits.steps));
        }
        Ok(())
    }

    fn write(&mut self, out: &mut String, text: &str) -> Result<(), Failure> {
        self.written += text.len();
        if self.written > self.env.limits.output_bytes {
            return Err(format!("rendering writes more than {} bytes", self.env.limits.output_bytes));
        }
        out.push_str(text);
        Ok(())
    }

    fn walk<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        nodes: &'t [Node],
        out: &mut String,
    ) -> Result<Flow, Failure> {
        for node in nodes {
            self.step()?;
            match node {
                Node::Text(text) => self.write(out, text)?,
                Node::Action(pipe) => {
                    let value = self.pipe(frame, dot, pipe)?;
                    if pipe.variables.is_empty() {
                        match value {
                            Value::Nil => self.write(out, "<no value>")?,
                            Value::Str(text) => self.write(out, &text)?,
                            other => self.write(out, &crate::gofmt::plain(&other))?,
                        }
                    }
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
                Node::Template { at, name, pipe } => self.call_template(frame, dot, *at, name, pipe.as_ref(), out)?,
                Node::If(branch) | Node::With(branch) => {
                    let with = matches!(node, Node::With(_));
                    match self.enter(|this| this.branch(frame, dot, branch, with, out))? {
                        Flow::Next => {}
                        jump => return Ok(jump),
                    }
                }
                Node::Range(branch) => match self.enter(|this| this.range(frame, dot, branch, out))? {
                    Flow::Next => {}
                    jump => return Ok(jump),
                },
            }
        }
        Ok(Flow::Next)
    }

    fn branch<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        branch: &'t Branch,
        with: bool,
        out: &mut String,
    ) -> Result<Flow, Failure> {
        let outer = frame.variables.len();
        let value = self.pipe(frame, dot, &branch.pipe)?;
        let flow = if value.truth() {
            self.walk(frame, if with { &value } else { dot }, &branch.body, out)?
        } else if let Some(otherwise) = &branch.otherwise {
            self.walk(frame, dot, otherwise, out)?
        } else {
            Flow::Next
        };
        frame.variables.truncate(outer);
        Ok(flow)
    }

    fn range<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        branch: &'t Branch,
        out: &mut String,
    ) -> Result<Flow, Failure> {
        let outer = frame.variables.len();
        let value = match self.pipe(frame, dot, &branch.pipe)? {
            Value::Object(object) => object.plain(),
            plain => plain,
        };
        let items: Box<dyn Iterator<Item = (Value, Value)>> = match &value {
            Value::Nil => Box::new(std::iter::empty()),
            Value::List(items) => {
                let items: Vec<Value> = items.to_vec();
                Box::new(items.into_iter().enumerate().map(|(index, it)| (int(index), it)))
            }
            Value::Map(map) => Box::new(map.entries().into_iter().map(|(key, it)| (Value::str(key), it))),
            Value::Int(count) | Value::Int64(count) => {
                if branch.pipe.variables.len() > 1 {
                    let message = format!("can't use {count} to iterate over more than one variable");
                    return fail_range(frame, branch, message);
                }
                let wide = matches!(value, Value::Int64(_));
                Box::new((0..*count).map(move |it| (Value::Nil, if wide { Value::Int64(it) } else { Value::Int(it) })))
            }
            other => {
                let message = format!("range can't iterate over {}", crate::gofmt::plain(other));
                return fail_range(frame, branch, message);
            }
        };
        let flow = self.iterate(frame, dot, branch, items, out)?;
        frame.variables.truncate(outer);
        Ok(flow)
    }

    fn iterate<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        branch: &'t Branch,
        items: impl Iterator<Item = (Value, Value)>,
        out: &mut String,
    ) -> Result<Flow, Failure> {
        let inner = frame.variables.len();
        let mut ran = false;
        for (index, item) in items {
            self.step()?;
            ran = true;
            let mut values = vec![item.clone()];
            if branch.pipe.variables.len() > 1 {
                values.insert(0, index);
            }
            for (name, value) in branch.pipe.variables.iter().zip(values) {
                assign(frame, name, value);
            }
            let flow = self.walk(frame, &item, &branch.body, out)?;
            frame.variables.truncate(inner);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        match &branch.otherwise {
            Some(otherwise) if !ran => self.walk(frame, dot, otherwise, out),
            _ => Ok(Flow::Next),
        }
    }

    fn call_template<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        at: usize,
        name: &str,
        pipe: Option<&'t Pipe>,
        out: &mut String,
    ) -> Result<(), Failure> {
        let quoted = crate::gofmt::quote(name);
        let Some(template) = self.set.get(name) else {
            let context = match pipe {
                Some(pipe) => format!("{{{{template {quoted} {pipe}}}}}"),
                None => format!("{{{{template {quoted}}}}}"),
            };
            return frame.fail(at, &context, format!("template {quoted} not defined"));
        };
        let data = match pipe {
            Some(pipe) => self.pipe(frame, dot, pipe)?,
            None => Value::Nil,
        };
        self.enter(|this| this.body(&template, &data, out))
    }

    fn pipe<'t>(&mut self, frame: &mut Frame<'t>, dot: &Value, pipe: &'t Pipe) -> Result<Value, Failure> {
        self.step()?;
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(frame, dot, command, value)?);
        }
        let value = value.unwrap_or_default();
        for name in &pipe.variables {
            if pipe.assigns {
                assign(frame, name, value.clone());
            } else {
                frame.variables.push((name, value.clone()));
            }
        }
        Ok(value)
    }

    fn command<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        command: &'t Command,
        last: Option<Value>,
    ) -> Result<Value, Failure> {
        let (first, rest) = (&command.words[0], &command.words[1..]);
        match &first.what {
            What::Field(_) | What::Variable(_) | What::Chain(..) => self.chain(frame, dot, first, rest, last),
            What::Function(name) => {
                self.enter(|this| this.function(frame, dot, (first.at, name), (command.at, command), rest, last))
            }
            _ if !rest.is_empty() || last.is_some() => {
                frame.fail(first.at, first, format!("can't give argument to non-function {first}"))
            }
            What::Pipe(pipe) => self.enter(|this| this.pipe(frame, dot, pipe)),
            What::Dot => Ok(dot.clone()),
            What::Nil => frame.fail(first.at, first, "nil is not a command"),
            What::Bool(it) => Ok(Value::Bool(*it)),
            What::Number(_, it) => Ok(constant(*it)),
            What::Text(_, it) => Ok(Value::Str(it.clone())),
        }
    }

    /// `.a.b`, `$x.a.b`, `(…).a.b`, the last with arguments if it is a method.
    fn chain<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        operand: &'t Operand,
        rest: &'t [Operand],
        last: Option<Value>,
    ) -> Result<Value, Failure> {
        let (base, names): (Value, &[String]) = match &operand.what {
            What::Field(names) => (dot.clone(), names),
            What::Variable(names) => {
                let found = frame.variables.iter().rev().find(|(name, _)| *name == names[0]);
                (found.map(|(_, it)| it.clone()).unwrap_or_default(), &names[1..])
            }
            What::Chain(base, names) => (self.enter(|this| this.argument(frame, dot, base, 'a'))?, names),
            _ => (Value::Nil, &[]),
        };
        let Some((method, path)) = names.split_last() else {
            if !rest.is_empty() || last.is_some() {
                return frame.fail(operand.at, operand, format!("can't give argument to non-function {operand}"));
            }
            return Ok(base);
        };
        let mut receiver = base;
        for (index, name) in path.iter().enumerate() {
            receiver = self.field(frame, operand, (index, name), &receiver)?;
        }
        let mut arguments = Vec::new();
        for word in rest {
            arguments.push(self.argument(frame, dot, word, 'a')?);
        }
        arguments.extend(last);
        if let Value::Object(object) = &receiver
            && let Some(result) = object.call(method, &arguments)
        {
            let failed = |message| frame.fail(operand.at, operand, format!("error calling {method}: {message}"));
            return result.or_else(failed);
        }
        if !arguments.is_empty() {
            return frame.fail(operand.at, operand, format!("{method} is not a method but has arguments"));
        }
        self.field(frame, operand, (path.len(), method), &receiver)
    }

    fn field(
        &self,
        frame: &Frame<'_>,
        operand: &Operand,
        (index, name): (usize, &str),
        receiver: &Value,
    ) -> Result<Value, Failure> {
        let strict = self.env.missing_key == MissingKey::Error;
        match receiver {
            Value::Map(map) => match map.get(name) {
                Some(value) => Ok(value),
                None if strict => {
                    frame.fail(operand.at, operand, format!("map has no entry for key {}", crate::gofmt::quote(name)))
                }
                None => Ok(Value::Nil),
            },
            // A nil that a chain met on its way is Go's nil interface; one that it began with is no value at all.
            Value::Nil if index > 0 => {
                frame.fail(operand.at, operand, format!("nil pointer evaluating interface {{}}.{name}"))
            }
            Value::Nil if strict => {
                let message = format!("nil data; no entry for key {}", crate::gofmt::quote(name));
                frame.fail(operand.at, operand, message)
            }
            Value::Nil => Ok(Value::Nil),
            Value::Object(object) => {
                let value = object.field(name).or_else(|| object.call(name, &[]).and_then(Result::ok));
                match value {
                    Some(value) => Ok(value),
                    None => frame.fail(operand.at, operand, no_field(name, receiver)),
                }
            }
            _ => frame.fail(operand.at, operand, no_field(name, receiver)),
        }
    }

    /// One argument, checked against the parameter it is for.
    fn argument<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        word: &'t Operand,
        parameter: char,
    ) -> Result<Value, Failure> {
        let (value, from_field) = match &word.what {
            What::Field(_) | What::Chain(..) => (self.chain(frame, dot, word, &[], None)?, true),
            What::Variable(names) => (self.chain(frame, dot, word, &[], None)?, names.len() > 1),
            What::Pipe(pipe) => (self.enter(|this| this.pipe(frame, dot, pipe))?, false),
            What::Function(name) => {
                (self.enter(|this| this.function(frame, dot, (word.at, name), (word.at, word), &[], None))?, false)
            }
            What::Dot => (dot.clone(), false),
            What::Nil if matches!(parameter, 'a' | 'm' | 'l') => return Ok(Value::Nil),
            What::Nil => {
                let message = format!("cannot assign nil to {}", functions::type_of(parameter));
                return frame.fail(word.at, word, message);
            }
            What::Number(_, it) => match (parameter, constant(*it)) {
                ('f', Value::Int(it)) => return Ok(Value::Float(lossy(it))),
                ('I', Value::Int(it)) => return Ok(Value::Int64(it)),
                ('a' | 'i', it @ Value::Int(_)) | ('a' | 'f', it @ Value::Float(_)) => return Ok(it),
                _ => return frame.fail(word.at, word, expected(parameter, word)),
            },
            What::Text(_, it) if matches!(parameter, 'a' | 's') => return Ok(Value::Str(it.clone())),
            What::Bool(it) if matches!(parameter, 'a' | 'b') => return Ok(Value::Bool(*it)),
            What::Text(..) | What::Bool(_) => return frame.fail(word.at, word, expected(parameter, word)),
        };
        match functions::conform(&value, parameter, from_field) {
            Ok(()) => Ok(value),
            Err(message) => frame.fail(word.at, word, message),
        }
    }

    fn function<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        (at, name): (usize, &'t str),
        (call_at, call): (usize, &dyn Display),
        rest: &'t [Operand],
        last: Option<Value>,
    ) -> Result<Value, Failure> {
        self.step()?;
        let Some(function) = functions::find(name) else {
            return frame.fail(at, &name, format!("{} is not a defined function", crate::gofmt::quote(name)));
        };
        let given = rest.len() + usize::from(last.is_some());
        if let Some(message) = function.wrong_count(given, rest.len()) {
            return frame.fail(at, &name, message);
        }
        if matches!(name, "and" | "or") {
            return self.short_circuit(frame, dot, name == "or", rest, last);
        }
        let mut arguments = Vec::with_capacity(given);
        for (index, word) in rest.iter().enumerate() {
            arguments.push(self.argument(frame, dot, word, function.parameter(index))?);
        }
        if let Some(value) = last {
            if let Err(message) = functions::conform(&value, function.parameter(rest.len()), false) {
                // Go names the last argument it evaluated, or the function.
                return match rest.last() {
                    Some(word) => frame.fail(word.at, word, message),
                    None => frame.fail(at, &name, message),
                };
            }
            arguments.push(value);
        }
        match self.run_function(function, &arguments) {
            Ok(value) => Ok(value),
            Err(message) => frame.fail(call_at, call, format!("error calling {name}: {message}")),
        }
    }

    fn run_function(&mut self, function: &Function, arguments: &[Value]) -> Result<Value, Failure> {
        let result = (function.run)(self, arguments)?;
        if let Value::Str(text) = &result
            && text.len() > self.env.limits.output_bytes
        {
            return Err(format!("result is larger than {} bytes", self.env.limits.output_bytes));
        }
        Ok(result)
    }

    fn short_circuit<'t>(
        &mut self,
        frame: &mut Frame<'t>,
        dot: &Value,
        stop_at: bool,
        rest: &'t [Operand],
        last: Option<Value>,
    ) -> Result<Value, Failure> {
        let mut value = Value::Nil;
        for word in rest {
            value = self.argument(frame, dot, word, 'a')?;
            if value.truth() == stop_at {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    /// `include`: a template by name, to a text.
    pub(crate) fn include(&mut self, name: &str, data: &Value) -> Result<Value, Failure> {
        let Some(template) = self.set.get(name) else {
            return Err(format!(
                "template: no template {} associated with template \"gotpl\"",
                crate::gofmt::quote(name)
            ));
        };
        self.template(&template, data).map(Value::str)
    }

    /// `tpl`: a text as a template among the present ones.
    pub(crate) fn tpl(&mut self, text: &str, data: &Value) -> Result<Value, Failure> {
        const NAME: &str = "gotpl";
        let shown = crate::gofmt::quote(text);
        let mut set = Set::clone(&self.set);
        set.parse(NAME, text).map_err(|it| format!("cannot parse template {shown}: {it}"))?;
        let Some(template) = set.get(NAME) else { return Ok(Value::str("")) };
        let outer = std::mem::replace(&mut self.set, Rc::new(set));
        let result = self.template(&template, data);
        self.set = outer;
        match result {
            Ok(text) => Ok(Value::str(text.replace("<no value>", ""))),
            Err(it) => Err(format!("error during tpl function execution for {shown}: {it}")),
        }
    }
}

fn assign<'t>(frame: &mut Frame<'t>, name: &'t str, value: Value) {
    match frame.variables.iter_mut().rev().find(|(known, _)| *known == name) {
        Some((_, slot)) => *slot = value,
        None => frame.variables.push((name, value)),
    }
}

/// Go names what was evaluated last.
fn fail_range<T>(frame: &Frame<'_>, branch: &Branch, message: String) -> Result<T, Failure> {
    match branch.pipe.commands.last() {
        Some(Command { words, .. }) if words.len() == 1 => frame.fail(words[0].at, &words[0], message),
        Some(command) => frame.fail(command.at, command, message),
        None => frame.fail(branch.at, &branch.pipe, message),
    }
}

fn no_field(name: &str, receiver: &Value) -> String {
    let type_name = match receiver {
        Value::Map(_) | Value::Object(_) => receiver.type_name(),
        // What lies in a map is an interface to Go.
        _ => "interface {}".into(),
    };
    format!("can't evaluate field {name} in type {type_name}")
}

fn expected(parameter: char, word: &Operand) -> String {
    let kind = match parameter {
        's' => "string",
        'i' | 'I' => "integer",
        'f' => "float",
        'b' => "bool",
        _ => return format!("can't handle {word} for arg of type {}", functions::type_of(parameter)),
    };
    format!("expected {kind}; found {word}")
}

fn constant(it: Literal) -> Value {
    match it {
        Literal::Int(it) => Value::Int(it),
        Literal::Float(it) => Value::Float(it),
    }
}

pub(crate) fn int(it: usize) -> Value {
    Value::Int(i64::try_from(it).unwrap_or(i64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "Go's conversion of an int to a float64 rounds as well")]
pub(crate) fn lossy(it: i64) -> f64 {
    it as f64
}

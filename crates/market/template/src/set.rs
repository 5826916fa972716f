//! The templates that know each other by name: the files of a chart, its subcharts and what they define.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::env::Environment;
use crate::exec::Run;
use crate::node::{Template, is_empty};
use crate::value::Value;

/// What went wrong, in Go's words with Go's position (`template: FILE:LINE:COLUMN: …`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.replace(SAID, ""))]
pub struct TemplateError(pub(crate) String);

/// What surrounds the message of `fail` and `required` within an error: private characters, which `Display` leaves out.
pub(crate) const SAID: [char; 2] = ['\u{f0001}', '\u{f0002}'];

impl TemplateError {
    /// The error as Helm tells it: what the chart's author says stands alone, and errors of parsing are marked as such.
    #[must_use]
    pub fn as_helm(&self) -> String {
        let mut parts = self.0.splitn(3, ": ");
        let (Some("template"), Some(place), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return self.to_string();
        };
        if let Some((_, said)) = rest.split_once(SAID[0]) {
            let said = said.split_once(SAID[1]).map_or(said, |(said, _)| said);
            return format!("execution error at ({place}): {said}");
        }
        if rest.starts_with("executing ") { self.to_string() } else { format!("parse error at ({place}): {rest}") }
    }
}

/// Templates by name. A clone shares what was parsed.
#[derive(Clone, Default)]
pub struct Set(BTreeMap<String, Rc<Template>>);

impl Set {
    /// Parses a file. A definition of a name that is known replaces it, unless the new one is empty.
    ///
    /// # Errors
    /// What Go's parser would say.
    pub fn parse(&mut self, name: &str, text: &str) -> Result<(), TemplateError> {
        for template in crate::parse::parse(name, text).map_err(TemplateError)? {
            // An empty definition does not hide a full one.
            let hides = !is_empty(&template.body) || !self.0.contains_key(&template.name);
            if hides {
                self.0.insert(template.name.clone(), Rc::new(template));
            }
        }
        Ok(())
    }

    /// Renders a template.
    ///
    /// # Errors
    /// A template of that name does not exist, it fails, or it exceeds the environment's limits.
    pub fn render(&self, name: &str, data: &Value, env: &Environment<'_>) -> Result<String, TemplateError> {
        let Some(template) = self.get(name) else {
            let name = crate::gofmt::quote(name);
            return Err(TemplateError(format!("template: no template {name} associated with template \"gotpl\"")));
        };
        Run::new(env, Rc::new(self.clone())).template(&template, data).map_err(TemplateError)
    }

    /// The names known.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Rc<Template>> {
        self.0.get(name).cloned()
    }
}

//! Commands about what passes the planetary interface: rules, grants, and why something passes or not.

use std::process::ExitCode;

use atoll_control::{AllowRequest, CheckAnswer, CheckRequest, CheckSide, DenyRequest, NetRule};

use super::Context;
use crate::args::{NetAllow, NetCheck, NetDeny};
use crate::output::{print, table};

/// What was asked about would not pass, or one end does not say: so that a script can tell.
const NOT_PASSING: u8 = 1;

pub(super) async fn list(context: &Context) -> anyhow::Result<()> {
    print(context.output, &context.client().net_rules().await?, |rules| rules_text(rules))
}

pub(super) async fn allow(context: &Context, allow: &NetAllow) -> anyhow::Result<()> {
    let given = context.client().net_allow(&allow_request(allow)).await?;
    print(context.output, &given, |given| format!("{}: {}\n", given.origin, given.rule))
}

pub(super) async fn deny(context: &Context, deny: &NetDeny) -> anyhow::Result<()> {
    let taken = context.client().net_deny(&DenyRequest { rule: deny.rule.join(" ") }).await?;
    print(context.output, &taken, |taken| taken.iter().map(|rule| format!("taken back: {}\n", rule.rule)).collect())
}

pub(super) async fn check(context: &Context, check: &NetCheck) -> anyhow::Result<ExitCode> {
    let request = CheckRequest { from: check.from.clone(), to: check.to.clone(), what: check.what.clone() };
    let answer = context.client().net_check(&request).await?;
    print(context.output, &answer, check_text)?;
    Ok(if answer.passes == Some(true) { ExitCode::SUCCESS } else { ExitCode::from(NOT_PASSING) })
}

fn allow_request(allow: &NetAllow) -> AllowRequest {
    AllowRequest {
        who: allow.who.clone(),
        what: allow.what.clone(),
        out: allow.out,
        for_seconds: allow.seconds,
        note: allow.note.clone(),
    }
}

fn rules_text(rules: &[NetRule]) -> String {
    if rules.is_empty() {
        return "nothing may come in but answers\n".to_owned();
    }
    let row = |rule: &NetRule| {
        let number = rule.grant.map_or("-".to_owned(), |number| number.to_string());
        let over = if rule.over { " (ran out)" } else { "" };
        vec![number, format!("{}{over}", rule.origin), rule.rule.clone()]
    };
    table(&["GRANT", "FROM", "RULE"], &rules.iter().map(row).collect::<Vec<_>>())
}

fn check_text(answer: &CheckAnswer) -> String {
    let verdict = match answer.passes {
        Some(true) => "passes",
        Some(false) => "does not pass",
        None => "is not known to pass",
    };
    let mut text = format!("{} from {} to {} {verdict}\n", answer.what, answer.from.short(), answer.to.short());
    answer.sides.iter().for_each(|side| text.push_str(&side_text(side)));
    text
}

fn side_text(side: &CheckSide) -> String {
    let says = match (side.sends, side.passes) {
        (_, None) => "does not say",
        (true, Some(true)) => "sends it",
        (true, Some(false)) => "does not send it",
        (false, Some(true)) => "lets it in",
        (false, Some(false)) => "does not let it in",
    };
    let mut text = format!("\n{} {says}: {}\n", side.node.short(), side.why);
    if let Some(rule) = &side.rule {
        text.push_str(&format!("  {}  ({})\n", rule.rule, rule.origin));
    }
    for looked in &side.looked_at {
        text.push_str(&format!("  {} {}  ({})\n", looked.rule.rule, looked.why_not, looked.rule.origin));
    }
    side.help.iter().for_each(|help| text.push_str(&format!("  to allow it: {help}\n")));
    text
}

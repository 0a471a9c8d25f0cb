//! `type …`

use orchestrator_proto::client::Client;
use orchestrator_proto::control::{
    Declarers, Reply, Request, TypeForm, TypeForms, TypeInfo, TypeList,
};
use orchestrator_proto::{SchemaHash, TypeSchema};
use serde::Serialize;

use crate::cli::{TypeCommand, TypeListArgs, TypeShowArgs};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::table::{self, Field, Tone};
use crate::{format, glob};

/// Digits of a hash that are shown.
const SHORT: usize = 12;

/// Links and instances that are named in a line; the others are counted.
const NAMED: usize = 8;

/// `type …`
pub(crate) async fn run(
    client: &Client,
    out: &mut Output,
    command: TypeCommand,
) -> Result<Exit, Failure> {
    match command {
        TypeCommand::List(args) => list(client, out, args).await,
        TypeCommand::Show(args) => show(client, out, args).await,
    }
}

async fn list(client: &Client, out: &mut Output, args: TypeListArgs) -> Result<Exit, Failure> {
    let Reply::Types(TypeList { mut types, more }) = client.request(Request::TypeList).await?
    else {
        return Err(Failure::unexpected_reply());
    };
    let patterns = args.patterns;
    types.retain(|it| {
        patterns.is_empty() || patterns.iter().any(|pattern| glob::matches(pattern, &it.name))
    });
    if out.is_json() {
        out.json(&Reply::Types(TypeList { types, more }))?;
        return Ok(Exit::Ok);
    }
    if types.is_empty() && out.is_terminal() {
        out.line("no types; an instance declares them when it connects")?;
        return Ok(Exit::Ok);
    }
    let head = ["NAME", "SCHEMA", "SENT BY", "TAKEN BY", "LINKS", "FIRST SEEN"];
    let now = format::now_ms();
    let text = table::render(out, &head, &[], &types, |info, _| row(info, now));
    out.line(&text)?;
    if more > 0 {
        out.warning(&format!("{} more are not shown", format::count(more, "type")));
    }
    Ok(Exit::Ok)
}

fn row(info: &TypeInfo, now_ms: u64) -> Vec<Field> {
    let is_declared = info.outputs.count + info.inputs.count > 0;
    let tone = if is_declared { Tone::Plain } else { Tone::Faint };
    let first = info.first_seen_ms.map_or_else(String::new, |at| format::ago(at, now_ms));
    vec![
        Field::toned(&info.name, tone),
        Field::toned(info.hash.map_or_else(|| "none".to_owned(), short), tone),
        declarers(&info.outputs).into(),
        declarers(&info.inputs).into(),
        named(info.links.iter(), info.links.len() as u64).into(),
        first.into(),
    ]
}

fn short(hash: SchemaHash) -> String {
    let mut text = hash.to_string();
    text.truncate(SHORT);
    text
}

fn declarers(all: &Declarers) -> String {
    let name = |it: &orchestrator_proto::control::Declarer| {
        it.name.clone().unwrap_or_else(|| it.id.to_string())
    };
    named(all.listed.iter().map(name), all.count)
}

/// As in `a, b and 3 more`.
fn named(all: impl Iterator<Item = impl ToString>, count: u64) -> String {
    let names: Vec<_> = all.take(NAMED).map(|it| it.to_string()).collect();
    let more = count - names.len() as u64;
    let names = names.join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}

async fn show(client: &Client, out: &mut Output, args: TypeShowArgs) -> Result<Exit, Failure> {
    let TypeShowArgs { name, all, json_schema } = args;
    let is_all = all || name.hash.is_some();
    let request = Request::TypeShow { name: name.name, hash: name.hash };
    let Reply::Type(TypeForms { mut forms, more }) = client.request(request).await? else {
        return Err(Failure::unexpected_reply());
    };
    let is_declared = |it: &TypeForm| it.info.outputs.count + it.info.inputs.count > 0;
    let in_use = forms.iter().take_while(|it| is_declared(it)).count();
    if !is_all {
        forms.truncate(in_use.max(1));
    }
    if json_schema {
        return self::json_schema(out, &forms);
    }
    if out.is_json() {
        let more = if is_all { more } else { 0 };
        let forms = forms.iter().map(JsonForm::of).collect::<Result<_, _>>()?;
        out.json(&Json { r#type: JsonForms { forms, more } })?;
        return Ok(Exit::Ok);
    }
    let mut before: Option<TypeSchema> = None;
    for form in &forms {
        if before.is_some() {
            out.line("")?;
        }
        let schema = decoded(form)?;
        for line in remarks(&form.info, format::now_ms()) {
            out.line(&format!("// {}", format::line(&line)))?;
        }
        if let (Some(before), Some(schema)) = (&before, &schema) {
            let diff = before.diff(schema).lines("the one above", "this one");
            for line in diff.lines() {
                out.line(&format!("// {line}"))?;
            }
        }
        match &schema {
            Some(schema) => out.line(&schema.to_string())?,
            None => out.line("// JSON, without a schema")?,
        }
        before = schema.or(before);
    }
    if is_all && more > 0 {
        out.warning(&format!("{more} more are not shown; ask for one by NAME@HASH"));
    }
    Ok(Exit::Ok)
}

/// What is said of a form.
fn remarks(info: &TypeInfo, now_ms: u64) -> Vec<String> {
    let hash = info.hash.map_or_else(String::new, |hash| format!("@{}", short(hash)));
    let mut lines = vec![format!("{}{hash}", info.name)];
    let mut parts = Vec::new();
    for (word, all) in [("sent by", &info.outputs), ("taken by", &info.inputs)] {
        if all.count > 0 {
            parts.push(format!("{word} {}", declarers(all)));
        }
    }
    if parts.is_empty() {
        parts.push("no instance declares it".to_owned());
    }
    match info.links.len() {
        0 => {}
        1 => parts.push(format!("link {}", info.links[0])),
        count => parts.push(format!("links {}", named(info.links.iter(), count as u64))),
    }
    lines.push(parts.join("; "));
    if let (Some(first), Some(last)) = (info.first_seen_ms, info.last_seen_ms) {
        let (first, last) = (format::time_and_ago(first, now_ms), format::ago(last, now_ms));
        lines.push(format!("declared first {first}, last {last} ago"));
    }
    lines
}

fn decoded(form: &TypeForm) -> Result<Option<TypeSchema>, Failure> {
    let schema = form.schema.as_deref().map(TypeSchema::decode).transpose();
    schema.map_err(|error| {
        Failure::invalid(format!("the schema of {} is none that is known: {error}", form.info.name))
    })
}

fn json_schema(out: &mut Output, forms: &[TypeForm]) -> Result<Exit, Failure> {
    let [form] = forms else {
        let hashes: Vec<_> = forms.iter().filter_map(|it| it.info.hash).map(short).collect();
        return Err(Failure::usage(format!(
            "instances declare it in {} forms; choose one as {}@HASH: {}",
            forms.len(),
            forms.first().map_or("NAME", |it| &it.info.name),
            hashes.join(", ")
        )));
    };
    let Some(schema) = decoded(form)? else {
        return Err(Failure::invalid(format!("{} has no schema", form.info.name)));
    };
    let text = serde_json::to_string_pretty(&schema.to_json_schema(&form.info.name));
    let text = text.map_err(|error| Failure::io("can't print it as JSON", &error.into()))?;
    out.line(&text)?;
    Ok(Exit::Ok)
}

/// `{"type":{"forms":[…],"more":0}}`
#[derive(Serialize)]
struct Json<'a> {
    r#type: JsonForms<'a>,
}

#[derive(Serialize)]
struct JsonForms<'a> {
    forms: Vec<JsonForm<'a>>,
    more: u64,
}

/// A form as people and programs can read it.
#[derive(Serialize)]
struct JsonForm<'a> {
    #[serde(flatten)]
    info: &'a TypeInfo,
    /// As Rust would write it.
    schema: Option<String>,
    /// The canonical form, in hexadecimal digits.
    canonical: Option<String>,
    json_schema: Option<serde_json::Value>,
}

impl<'a> JsonForm<'a> {
    fn of(form: &'a TypeForm) -> Result<Self, Failure> {
        let schema = decoded(form)?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            info: &form.info,
            schema: schema.as_ref().map(ToString::to_string),
            canonical: form.schema.as_deref().map(hex),
            json_schema: schema.map(|schema| schema.to_json_schema(&form.info.name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrator_proto::LinkId;

    #[test]
    fn only_so_many_are_named() {
        let of = |count: u64| named((0..count).map(LinkId), count);
        assert_eq!(of(0), "");
        assert_eq!(of(2), "0, 1");
        assert_eq!(of(10), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}

//! The JSON Schema for editors (draft 2020-12). It knows the shape; what must hold between fields is `baton check`'s.

use super::{Kind, Section, sections};
use serde_json::{Map, Value, json};

/// Everything that is a single value in YAML; a value may also be a variable.
const VARIABLE: &str = "\\$";

/// `docs/cluster.schema.json`.
#[must_use]
pub fn schema() -> Value {
    let mut root = object(sections()[0]);
    let defs: Map<String, Value> = sections().iter().skip(1).map(|s| (id(s), object(s))).collect();
    if let Some(root) = root.as_object_mut() {
        root.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.insert("title".into(), json!("Baton's cluster specification"));
        root.insert("$defs".into(), Value::Object(defs));
    }
    root
}

fn id(section: &Section) -> String {
    section.title.to_lowercase().replace(' ', "-").replace('\'', "")
}

fn object(section: &Section) -> Value {
    let describe = |f: &super::Field| {
        let default = if f.default.is_empty() { String::new() } else { format!(" Default: {}.", f.default) };
        let mut value = of(&f.kind);
        if let Some(value) = value.as_object_mut() {
            value.insert("description".into(), json!(format!("{}{default}", f.meaning)));
        }
        (f.name.to_owned(), value)
    };
    let properties: Map<String, Value> = section.fields.iter().map(describe).collect();
    let optional = |name: &str| section.one_of.contains(&name);
    let required: Vec<&str> =
        section.fields.iter().filter(|f| f.default.is_empty() && !optional(f.name)).map(|f| f.name).collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "patternProperties": { "^x-": true, "^<<$": true },
        "additionalProperties": false,
    });
    if let Some(map) = schema.as_object_mut() {
        // A merge key may bring what is required.
        if !required.is_empty() {
            map.insert("anyOf".into(), json!([{ "required": required }, { "required": ["<<"] }]));
        }
        if !section.one_of.is_empty() {
            let one: Vec<Value> = section.one_of.iter().map(|name| json!({ "required": [name] })).collect();
            map.insert("oneOf".into(), json!(one));
        }
    }
    schema
}

/// A text of this form, or one with a variable in it.
fn text(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": format!("{VARIABLE}|{pattern}") })
}

fn of(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Duration => {
            let written = text(r"^\s*([0-9.]+\s*(us|µs|ms|s|min|m|h|d)\s*)+$|^0$");
            json!({ "anyOf": [written, { "const": 0 }] })
        }
        Kind::Size => {
            let written = text(r"^\s*[0-9.]+\s*([kKmMgGtT]?([iI]?[bB])?)\s*$");
            json!({ "anyOf": [written, { "type": "integer", "minimum": 0 }] })
        }
        Kind::Boolean => {
            let written = text("^(true|True|TRUE|yes|on|false|False|FALSE|no|off)$");
            json!({ "anyOf": [written, { "type": "boolean" }] })
        }
        Kind::Whole => json!({ "anyOf": [text("^[0-9]+$"), { "type": "integer", "minimum": -1 }] }),
        Kind::Address => text(r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$"),
        Kind::Cidr => {
            json!({ "anyOf": [text(r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"), reference("An address with its interface")] })
        }
        Kind::Path => text("^/"),
        Kind::Word(words) => {
            // `no` and `on` are booleans in some readers of YAML; no word here is.
            json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": VARIABLE }] })
        }
        Kind::Pattern(pattern) => json!({ "anyOf": [text(pattern), { "type": "integer" }] }),
        Kind::OneOrMore(one) => json!({ "anyOf": [of(one), { "type": "array", "items": of(one) }] }),
        Kind::List(one) => json!({ "type": "array", "items": of(one) }),
        Kind::Command => {
            let word = json!({ "type": ["string", "number", "boolean", "null"] });
            json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": word }] })
        }
        Kind::Assignments => {
            let values = json!({ "type": ["string", "number", "boolean"] });
            let by_name = json!({ "type": "object", "patternProperties": { "^<<$": true }, "additionalProperties": values });
            json!({ "anyOf": [by_name, { "type": "array", "items": { "type": "string", "pattern": "=" } }] })
        }
        Kind::Map(one) => {
            json!({ "type": "object", "patternProperties": { "^x-": true, "^<<$": true }, "additionalProperties": of(one) })
        }
        Kind::Either(a, b) => json!({ "anyOf": [of(a), of(b)] }),
        Kind::Section(section) => json!({ "$ref": format!("#/$defs/{}", id(section)) }),
    }
}

fn reference(title: &str) -> Value {
    let section = sections().iter().find(|s| s.title == title);
    section.map_or(Value::Bool(true), |s| json!({ "$ref": format!("#/$defs/{}", id(s)) }))
}

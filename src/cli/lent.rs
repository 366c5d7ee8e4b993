//! `--secret` and `--ssh`, as docker buildx reads them.

use std::fs;
use std::path::Path;

use super::environment::Environment;
use super::request::RequestError;
use crate::dockerfile::flags::csv_fields;
use crate::source::agent::Agent;
use crate::source::context::go_words;
use crate::source::secret::{LIMIT_BYTES, Lent, SecretSource};

/// What the caller lends to steps.
pub(super) fn lent(secrets: &[String], agents: &[String], environment: &Environment) -> Result<Lent, RequestError> {
    let mut lent = Lent::default();
    for text in secrets {
        let (id, source) = secret(text, environment).map_err(wrong("--secret", text))?;
        lent.secrets.insert(id, source);
    }
    for text in agents {
        let (id, socket) = agent(text, environment).map_err(wrong("--ssh", text))?;
        if lent.agents.insert(id.clone(), socket).is_some() {
            return Err(wrong("--ssh", text)(format!("invalid duplicate ID {id}")));
        }
    }
    Ok(lent)
}

fn wrong(flag: &'static str, text: &str) -> impl Fn(String) -> RequestError {
    move |reason| RequestError::Lent { flag, text: text.to_owned(), reason }
}

fn secret(text: &str, environment: &Environment) -> Result<(String, SecretSource), String> {
    let (mut id, mut path, mut variable, mut kind) = (String::new(), String::new(), String::new(), String::new());
    for field in csv_fields(text).map_err(|error| format!("failed to parse csv secret: {error}"))? {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.to_lowercase().as_str() {
            "type" if matches!(value, "file" | "env") => kind = value.into(),
            "type" => return Err(format!("unsupported secret type {value:?}")),
            "id" => id = value.into(),
            "source" | "src" => path = value.into(),
            "env" => variable = value.into(),
            key => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if id.is_empty() {
        return Err("secret missing ID".into());
    }
    if kind == "env" && variable.is_empty() {
        variable = std::mem::take(&mut path);
    }
    // A name alone is a variable of that name, else a file.
    if variable.is_empty() && path.is_empty() {
        if environment.get(&id).is_some() { variable.clone_from(&id) } else { path.clone_from(&id) }
    }
    let source = if path.is_empty() {
        // As in buildx: a variable that is not set is an empty secret.
        SecretSource::Value(environment.get(&variable).unwrap_or_default().into())
    } else {
        let file = environment.resolve(Path::new(&path));
        let meta = fs::metadata(&file).map_err(|error| format!("failed to stat {path}: {}", go_words(&error)))?;
        if meta.len() > LIMIT_BYTES {
            return Err(format!("secret {id} too big. max size 500KB"));
        }
        SecretSource::File(file)
    };
    Ok((id, source))
}

fn agent(text: &str, environment: &Environment) -> Result<(String, Agent), String> {
    let (id, paths) = text.split_once('=').map_or((text, ""), |(id, paths)| (id, paths));
    let id = if id.is_empty() { "default" } else { id };
    let paths = match paths {
        "" => {
            let unset = || format!("invalid empty ssh agent socket for {id}: make sure SSH_AUTH_SOCK is set");
            environment.non_empty("SSH_AUTH_SOCK").ok_or_else(unset)?
        }
        paths => paths,
    };
    let paths: Vec<_> = paths.split(',').map(|path| environment.resolve(Path::new(path))).collect();
    let agent = Agent::open(&paths).map_err(|error| format!("failed to convert agent config for ID: {id:?}: {error}"))?;
    Ok((id.to_owned(), agent))
}

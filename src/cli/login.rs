//! `shale login` and `logout`: credentials come from the terminal, standard input or a flag, and go into Docker's files.

use std::io::{BufRead as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::iterator::Signals;

use crate::oci::reference::{credential_key, registry_of};
use crate::source::registry::{Client, Credential, Kept, Keyring, RegistryError};

use super::Failure;
use super::args::{LoginArgs, LogoutArgs};
use super::console::{print, say, warn};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::registry::{RegistryNotes, registry_failure};
use super::request::{docker_config_file, registry_config_with};
use super::signals;

/// `shale login`: the credentials are tried on the registry before they are kept.
pub fn login(args: &LoginArgs, environment: &Environment) -> Result<(), Failure> {
    let given = given(args)?;
    if environment.non_empty("DOCKER_AUTH_CONFIG").is_some() {
        warn("DOCKER_AUTH_CONFIG is set and takes precedence over what is logged in with");
    }
    let registry = registry_of(args.server.as_deref().unwrap_or_default());
    let config = registry_config_with(environment, &args.registry).map_err(|error| Diagnostic::of(&error))?;
    let client = Client::new(config);
    if given == (None, None)
        && let Some(known) = client.stored_credential(registry).map_err(|error| registry_failure(&error))?
    {
        let user = if let Credential::Basic { user, .. } = &known { format!(" [Username: {user}]") } else { String::new() };
        say(&format!("Authenticating with existing credentials...{user}\n"));
        match client.login(registry, &known, &RegistryNotes) {
            Ok(_) => return print("Login Succeeded\n"),
            Err(error) => say(&format!("Login did not succeed, error: {error}\n")),
        }
    }
    let (user, password) = asked(given, environment)?;
    let credential = Credential::Basic { user: user.clone(), password };
    let identity = client.login(registry, &credential, &RegistryNotes).map_err(|error| registry_failure(&error))?;
    let credential = identity.map_or(credential, Credential::Identity);
    let keyring = keyring(environment)?;
    let kept = keyring.keep(credential_key(registry), &user, &credential).map_err(|error| registry_failure(&error))?;
    if kept == (Kept::InFile { is_password: true }) {
        say(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n\n",
            keyring.file.display()
        ));
    }
    print("Login Succeeded\n")
}

/// `shale logout`
pub fn logout(args: &LogoutArgs, environment: &Environment) -> Result<(), Failure> {
    let key = credential_key(registry_of(args.server.as_deref().unwrap_or_default()));
    print(format!("Removing login credentials for {key}\n"))?;
    match keyring(environment)?.forget(key) {
        Ok(_) => Ok(()),
        // What could not be erased is told, as Docker tells it, and is no failure: the step after it would not run.
        Err(error @ RegistryError::Helper { .. }) => {
            say(&format!("WARNING: could not erase credentials:\n{key}: {error}\n"));
            Ok(())
        }
        Err(error) => Err(registry_failure(&error)),
    }
}

fn keyring(environment: &Environment) -> Result<Keyring, Failure> {
    let no_place = || Diagnostic::new("there is no home directory to keep credentials in").hint("set DOCKER_CONFIG to a directory");
    let file = docker_config_file(environment).ok_or_else(no_place)?;
    Ok(Keyring { file, helper_path: environment.non_empty("PATH").map(Into::into) })
}

/// User and password from flags and standard input.
fn given(args: &LoginArgs) -> Result<(Option<String>, Option<String>), Failure> {
    let refuse = |text: &str| Err(Diagnostic::new(text).into());
    let from_stdin = args.password_stdin || args.password.as_deref() == Some("-");
    if from_stdin {
        if args.password.as_deref().is_some_and(|password| password != "-") {
            return refuse("conflicting options: cannot specify both --password and --password-stdin");
        }
        if args.username.is_none() {
            return refuse("the --password-stdin option requires --username to be set");
        }
    }
    if args.username.as_deref() == Some("") {
        return refuse("username is empty");
    }
    if args.password.as_deref() == Some("") {
        return refuse("password is empty");
    }
    if !from_stdin {
        if args.password.is_some() {
            say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
        }
        return Ok((args.username.clone(), args.password.clone()));
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().read_to_string(&mut text);
    read.map_err(|error| Diagnostic::new("cannot read the password from standard input").because(error.to_string()))?;
    let password = without_line_end(&text);
    if password.trim().is_empty() {
        return refuse("password is empty");
    }
    Ok((args.username.clone(), Some(password.to_owned())))
}

/// Asks for what is missing.
fn asked(given: (Option<String>, Option<String>), environment: &Environment) -> Result<(String, String), Failure> {
    let (user, password) = match given {
        (Some(user), Some(password)) => return Ok((user, password)),
        _ if !environment.stdin_is_terminal => {
            return Err(Diagnostic::new("cannot perform an interactive login from a non-TTY device")
                .hint("give --username and --password-stdin")
                .into());
        }
        given => given,
    };
    let user = match user {
        Some(user) => user,
        None => line("Username: ")?,
    };
    if user.trim().is_empty() {
        return Err(Diagnostic::new("username is empty").into());
    }
    let password = if let Some(password) = password {
        password
    } else {
        let silence = Silence::start()?;
        let password = line("Password: ");
        drop(silence);
        say("\n");
        password?
    };
    if password.trim().is_empty() {
        return Err(Diagnostic::new("password is empty").into());
    }
    Ok((user.trim().to_owned(), password))
}

fn line(prompt: &str) -> Result<String, Failure> {
    say(prompt);
    let mut text = String::new();
    let read = std::io::stdin().lock().read_line(&mut text);
    read.map_err(|error| Diagnostic::new("cannot read from the terminal").because(error.to_string()))?;
    Ok(without_line_end(&text).to_owned())
}

fn without_line_end(text: &str) -> &str {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix(['\n', '\r'])).unwrap_or(text)
}

/// A terminal that does not show what is typed, until this is dropped or a signal ends the process.
struct Silence {
    before: Termios,
    signals: signal_hook::iterator::Handle,
}

impl Silence {
    fn start() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Diagnostic::new("cannot hide what is typed").because(error.to_string());
        let before = tcgetattr(std::io::stdin()).map_err(|error| failed(error.into()))?;
        let mut signals = Signals::new(signals::heeded()).map_err(failed)?;
        let handle = signals.handle();
        let shown = before.clone();
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                show(&shown);
                drop(signal_hook::low_level::emulate_default_handler(signal));
            }
        });
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &hidden).map_err(|error| failed(error.into()))?;
        Ok(Self { before, signals: handle })
    }
}

fn show(modes: &Termios) {
    tcsetattr(std::io::stdin(), OptionalActions::Flush, modes).ok();
}

impl Drop for Silence {
    fn drop(&mut self) {
        show(&self.before);
        self.signals.close();
    }
}

//! Command-line flags: a table per verb, `--flag VALUE` or `--flag=VALUE`.

use crate::Result;

pub struct Verb {
    pub name: &'static str,
    pub about: &'static str,
    pub flags: &'static [Flag],
    /// What positional arguments mean; `None` refuses them.
    pub rest: Option<&'static str>,
    pub run: fn(&Flags) -> Result<()>,
}

pub struct Flag {
    pub name: &'static str,
    /// Name of the value in help; `None` for a switch.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

/// The flags that were given.
pub struct Flags {
    given: Vec<(&'static str, String)>,
    pub rest: Vec<String>,
}

impl Flags {
    /// `Ok(None)` means that help was asked for.
    pub fn parse(verb: &Verb, args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut flags = Self {
            given: Vec::new(),
            rest: Vec::new(),
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            if arg == "-h" || arg == "--help" {
                return Ok(None);
            }
            if arg == "--" && verb.rest.is_some() {
                flags.rest.extend(args);
                break;
            }
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            let Some(flag) = verb.flags.iter().find(|f| f.name == name) else {
                if verb.rest.is_none() {
                    return Err(format!("`{arg}` is not understood"));
                }
                flags.rest.push(arg);
                continue;
            };
            let value = match (flag.value, inline) {
                (None, None) => String::new(),
                (None, Some(_)) => return Err(format!("{name} takes no value")),
                (Some(_), Some(value)) => value,
                (Some(what), None) => args.next().ok_or(format!("{name} needs {what}"))?,
            };
            flags.given.push((flag.name, value));
        }
        Ok(Some(flags))
    }

    pub fn none() -> Self {
        Self {
            given: Vec::new(),
            rest: Vec::new(),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The last value given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
    }
}

impl Verb {
    pub fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage: cargo xtask {}", self.about, self.name);
        for flag in self.flags {
            match flag.value {
                Some(value) => text += &format!(" [{} {value}]", flag.name),
                None => text += &format!(" [{}]", flag.name),
            }
        }
        if self.rest.is_some() {
            text += " [ARGS]";
        }
        text += "\n\n";
        for flag in self.flags {
            let left = format!("{} {}", flag.name, flag.value.unwrap_or(""));
            text += &format!("  {left:<22} {}\n", flag.help);
        }
        if let Some(rest) = self.rest {
            text += &format!("  {:<22} {rest}\n", "ARGS");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERB: Verb = Verb {
        name: "v",
        about: "",
        flags: &[
            Flag {
                name: "--out",
                value: Some("PATH"),
                help: "",
            },
            Flag {
                name: "--keep",
                value: None,
                help: "",
            },
        ],
        rest: None,
        run: |_| Ok(()),
    };

    fn parse(args: &[&str]) -> Result<Option<Flags>> {
        Flags::parse(&VERB, args.iter().map(|a| (*a).to_owned()))
    }

    #[test]
    fn takes_both_forms_and_the_last_value() {
        let flags = parse(&["--out", "a", "--keep", "--out=b"])
            .unwrap()
            .unwrap();
        assert_eq!(flags.get("--out"), Some("b"));
        assert!(flags.has("--keep"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(parse(&["--nope"]).is_err());
        assert!(parse(&["word"]).is_err());
        assert!(parse(&["--keep=1"]).is_err());
        assert!(parse(&["--out"]).is_err());
        assert!(parse(&["--help"]).unwrap().is_none());
    }
}

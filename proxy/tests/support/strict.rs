//! A second reader of HTTP/1, as simple and as strict as can be, to read what was forwarded. It shares no
//! code with the codec.

/// A request as it stands in the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Without chunks.
    pub body: Vec<u8>,
}

impl Message {
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.fields.iter().filter(move |(n, _)| n == name);
        fields.map(|(_, value)| value.as_slice())
    }
}

/// The whole messages of the bytes; what is wrong with them, if anything is. Stops after a request that
/// may begin a tunnel.
pub fn read(mut bytes: &[u8]) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        match message(&mut bytes)? {
            Some(message) => {
                let ends =
                    message.method == "CONNECT" || message.values("upgrade").next().is_some();
                messages.push(message);
                if ends {
                    break;
                }
            }
            None => break,
        }
    }
    Ok(messages)
}

/// `None`: it is not whole.
fn message(bytes: &mut &[u8]) -> Result<Option<Message>, String> {
    let Some(first) = line(bytes)? else {
        return Ok(None);
    };
    let first = str::from_utf8(first).map_err(|e| e.to_string())?;
    let parts: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts.as_slice() else {
        return Err(format!("request line `{first}`"));
    };
    if method.is_empty() || target.is_empty() || !target.is_ascii() {
        return Err(format!("request line `{first}`"));
    }
    let mut message = Message {
        method: (*method).into(),
        target: (*target).into(),
        fields: Vec::new(),
        body: Vec::new(),
    };
    if !fields(bytes, &mut message.fields)? {
        return Ok(None);
    }
    let hosts = message.values("host").count();
    if hosts != 1 {
        return Err(format!("{hosts} hosts"));
    }
    let lengths: Vec<&[u8]> = message.values("content-length").collect();
    let codings: Vec<&[u8]> = message.values("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => {}
        ([length], []) => {
            let text = str::from_utf8(length).map_err(|e| e.to_string())?;
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(format!("length `{text}`"));
            }
            let length: usize = text.parse().map_err(|e| format!("length `{text}`: {e}"))?;
            let Some((body, rest)) = bytes.split_at_checked(length) else {
                return Ok(None);
            };
            message.body = body.to_vec();
            *bytes = rest;
        }
        ([], [b"chunked"]) => match chunks(bytes)? {
            Some(body) => message.body = body,
            None => return Ok(None),
        },
        both => return Err(format!("framing {both:?}")),
    }
    Ok(Some(message))
}

fn chunks(bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(first) = line(bytes)? else {
            return Ok(None);
        };
        let digits = first.split(|b| *b == b';').next().unwrap_or_default();
        let digits = str::from_utf8(digits).map_err(|e| e.to_string())?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("chunk size `{digits}`"));
        }
        let size = usize::from_str_radix(digits, 16).map_err(|e| e.to_string())?;
        if size == 0 {
            let mut trailers = Vec::new();
            return Ok(fields(bytes, &mut trailers)?.then_some(body));
        }
        let Some((data, rest)) = bytes.split_at_checked(size) else {
            return Ok(None);
        };
        body.extend_from_slice(data);
        *bytes = rest;
        match line(bytes)? {
            None => return Ok(None),
            Some(b"") => {}
            Some(_) => return Err("a chunk is longer than its size".into()),
        }
    }
}

/// Whether they are all there.
fn fields(bytes: &mut &[u8], fields: &mut Vec<(String, Vec<u8>)>) -> Result<bool, String> {
    loop {
        let Some(field) = line(bytes)? else {
            return Ok(false);
        };
        if field.is_empty() {
            return Ok(true);
        }
        let colon = field
            .iter()
            .position(|b| *b == b':')
            .ok_or("a field without a colon")?;
        let name = str::from_utf8(&field[..colon]).map_err(|e| e.to_string())?;
        if name.is_empty()
            || name
                .bytes()
                .any(|b| !b.is_ascii_graphic() || b"()<>@,;:\\\"/[]?={}".contains(&b))
        {
            return Err(format!("field name `{name}`"));
        }
        fields.push((
            name.to_ascii_lowercase(),
            field[colon + 1..].trim_ascii().to_vec(),
        ));
    }
}

/// Up to CRLF, of which no half may stand alone.
fn line<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, String> {
    let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") else {
        return Ok(None);
    };
    let (line, rest) = bytes.split_at(end);
    if line.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
        return Err(format!("line `{}`", line.escape_ascii()));
    }
    *bytes = &rest[2..];
    Ok(Some(line))
}

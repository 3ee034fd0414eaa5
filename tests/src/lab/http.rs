//! HTTP in a lab: nginx in a pod, a client in another, and rules that lead a client's connections to a
//! worker as a sidecar's do.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Failure, Lab, Pod, Proc, Result, vend::within};

const PATIENCE: Duration = Duration::from_secs(10);
/// Where nginx listens.
pub const WEB: u16 = 8080;

/// `env LD_LIBRARY_PATH=…` and a program of the unpacked packages.
pub fn packaged(path: &str) -> Result<[String; 3]> {
    let prefix = underpass_bench::apps::packaged::prefix();
    let program = prefix.join(path);
    if !program.exists() {
        let text = format!("{} is missing: cargo xtask setup", program.display());
        return Err(Failure(text));
    }
    let libraries = underpass_bench::apps::packaged::libraries(&prefix);
    Ok([
        "env".to_owned(),
        format!("LD_LIBRARY_PATH={libraries}"),
        program.to_string_lossy().into_owned(),
    ])
}

/// nginx in a pod; it answers with the name.
pub fn nginx(lab: &Lab, pod: &Pod, name: &str) -> Result<Proc> {
    nginx_saying(lab, pod, name, name)
}

/// `body` may have nginx's variables.
pub fn nginx_saying(lab: &Lab, pod: &Pod, name: &str, body: &str) -> Result<Proc> {
    let dir = lab.dir.join(format!("nginx-{name}"));
    fs::create_dir_all(&dir)?;
    let config = dir.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         keepalive_requests 1000000;\n\
         server {{ listen {WEB}; listen [::]:{WEB};\n\
         location / {{ return 200 \"{body}\"; }} }} }}\n",
        dir = dir.display(),
    );
    fs::write(&config, text)?;
    let [env, libraries, program] = packaged("usr/sbin/nginx")?;
    let config = config.to_string_lossy();
    let words = [&env, &libraries, &program, "-c", &config, "-e", "stderr"];
    let server = lab.run(&pod.place, &words)?;
    server.wait_listening(SocketAddr::new(pod.v4.into(), WEB))?;
    Ok(server)
}

/// Rules of nftables in a namespace.
pub fn nft(lab: &Lab, netns: &str, rules: &str) -> Result<()> {
    let [env, libraries, program] = packaged("usr/sbin/nft")?;
    let file: PathBuf = lab.dir.join(format!("{netns}.nft"));
    fs::write(&file, rules)?;
    let place = lab.backstage().in_netns(netns);
    let file = file.to_string_lossy();
    lab.output(&place, &[&env, &libraries, &program, "-f", &file], PATIENCE)?;
    Ok(())
}

/// A client's connection.
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// From a namespace.
    pub fn connect(netns: &Path, at: SocketAddr) -> Result<Self> {
        let stream = within(netns, || TcpStream::connect_timeout(&at, PATIENCE))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn ask(&mut self, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        Ok(())
    }

    /// Status and body.
    pub fn answer(&mut self) -> Result<(u16, String)> {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(Failure::new("the connection ended"));
            }
            let line = line.trim_end();
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                let code = rest.split(' ').next().unwrap_or_default();
                status = code.parse().map_err(Failure::at(line))?;
            } else if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse().map_err(Failure::at(line))?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    pub fn get(&mut self, path: &str) -> Result<(u16, String)> {
        self.ask(path)?;
        self.answer()
    }

    /// Until the other end closes, whatever else it sends.
    pub fn wait_end(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Err(Failure::new("it is open")),
            _ => Ok(()),
        }
    }
}

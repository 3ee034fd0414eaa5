// Node: HTTP server and client, and a plain connection that is piped back to itself.
// Usage: echo.js server HOST:PORT FILE | echo.js client HOST:PORT FILE
const crypto = require("crypto");
const fs = require("fs");
const http = require("http");

const [verb, at, path] = process.argv.slice(2);
const [host, port] = at.split(":");
const file = fs.readFileSync(path);
const sum = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");

function server() {
  const web = http.createServer((request, response) => {
    if (request.url === "/file") {
      fs.createReadStream(path).pipe(response);
    } else if (request.url === "/echo") {
      request.pipe(response);
    } else {
      const hash = crypto.createHash("sha256");
      request.on("data", (part) => hash.update(part));
      request.on("end", () => response.end(hash.digest("hex")));
    }
  });
  // An upgraded connection is a plain one.
  web.on("upgrade", (_, socket) => {
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    socket.pipe(socket);
  });
  web.listen(+port, host);
}

function ask(agent, url, body) {
  return new Promise((good, bad) => {
    const options = { host, port, path: url, agent, method: body ? "POST" : "GET" };
    const request = http.request(options, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("end", () => good(Buffer.concat(parts)));
      response.on("error", bad);
    });
    request.on("error", bad);
    request.end(body);
  });
}

function piped(bytes) {
  return new Promise((good, bad) => {
    const headers = { Connection: "Upgrade", Upgrade: "echo" };
    const request = http.request({ host, port, headers });
    request.on("error", bad);
    request.on("upgrade", (_, socket, head) => {
      const parts = [head];
      socket.on("data", (part) => parts.push(part));
      socket.on("end", () => good(Buffer.concat(parts)));
      socket.on("error", bad);
      for (let i = 0; i < bytes.length; i += 9973) socket.write(bytes.subarray(i, i + 9973));
      socket.end();
    });
    request.end();
  });
}

async function client() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
  const right = { down: 0, up: 0, back: 0, piped: 0 };
  const count = (name, good) => (right[name] += good);
  const worker = async () => {
    for (let i = 1; i <= 5; i++) {
      const part = file.subarray(0, (i * file.length) / 5);
      const [down, up] = [await ask(agent, "/file"), await ask(agent, "/sum", file)];
      const [back, through] = [await ask(agent, "/echo", part), await piped(part)];
      count("down", down.equals(file));
      count("up", up.toString() === sum(file));
      count("back", back.equals(part));
      count("piped", through.equals(part));
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
  agent.destroy();
  console.log(JSON.stringify(right), sum(file));
}

if (verb === "server") server();
else client();

/**
 * What starts in the pod of an instance: dials its owner, starts the program, and carries its output, its end and its Runtime API over. It is
 * known by a key of its own, which is the secret of TLS on both sides: no certificate is needed, and nothing else speaks for it or reads along.
 * It ends with its owner, and everything in the pod with it. Plain JavaScript, because it runs as it is.
 */
export const AGENT = `'use strict';
const fs = require('node:fs');
const net = require('node:net');
const tls = require('node:tls');
const given = JSON.parse(fs.readFileSync('/var/run/blueprint-instance/instance.json', 'utf8'));
const psk = Buffer.from(given.key, 'base64');
const dial = (purpose) => {
  const socket = tls.connect({
    host: given.host,
    port: given.port,
    ciphers: given.cipher,
    minVersion: 'TLSv1.2',
    maxVersion: 'TLSv1.2',
    pskCallback: () => ({ psk, identity: given.identity }),
    checkServerIdentity: () => undefined,
  });
  socket.setNoDelay(true);
  socket.setKeepAlive(true, 30000);
  socket.write(purpose);
  return socket;
};
const oomKills = () => {
  try {
    return Number(/^oom_kill (\\d+)$/m.exec(fs.readFileSync('/sys/fs/cgroup/memory.events', 'utf8'))[1]);
  } catch {
    return 0;
  }
};
const before = oomKills();
const control = dial('control\\n');
control.on('error', (error) => process.stderr.write('the owner of this instance cannot be reached: ' + error.message + '\\n'));
control.on('close', () => process.exit(1));
control.resume();
process.on('SIGTERM', () => process.exit(143));
const send = (kind, payload) => {
  const head = Buffer.alloc(5);
  head[0] = kind;
  head.writeUInt32BE(payload.length, 1);
  return control.write(Buffer.concat([head, payload]));
};
const forward = (stream, kind, own) =>
  stream.on('data', (data) => {
    own.write(data);
    if (send(kind, data)) return;
    stream.pause();
    control.once('drain', () => stream.resume());
  });
let isOver = false;
const end = (code, signal) => {
  if (isOver) return;
  isOver = true;
  const outOfMemory = signal === 'SIGKILL' && oomKills() > before;
  send(3, Buffer.from(JSON.stringify({ code, signal, outOfMemory })));
  control.end();
};
const api = net.createServer({ noDelay: true, allowHalfOpen: true }, (local) => {
  const owner = dial('api\\n');
  local.pipe(owner).pipe(local);
  local.on('error', () => owner.destroy());
  owner.on('error', () => local.destroy());
  local.on('close', () => owner.destroy());
});
api.listen(0, '127.0.0.1', () => {
  const env = { ...given.environment, AWS_LAMBDA_RUNTIME_API: '127.0.0.1:' + api.address().port };
  const [name, ...args] = given.command;
  const program = name === 'node' ? process.execPath : name;
  const child = require('node:child_process').spawn(program, args, { cwd: given.folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
  forward(child.stdout, 1, process.stdout);
  forward(child.stderr, 2, process.stderr);
  child.once('spawn', () => send(0, Buffer.alloc(0)));
  child.once('error', (error) => {
    send(2, Buffer.from(program + ' cannot be started: ' + error.message + '\\n'));
    end(127, null);
  });
  // Who inherited its output may outlive it.
  child.once('exit', (code, signal) => {
    const timer = setTimeout(() => end(code, signal), 500);
    child.once('close', () => {
      clearTimeout(timer);
      end(code, signal);
    });
  });
});
`;

/**
 * The runtime client of `nodejs*` functions: loads the handler and works through the events of the Lambda Runtime API
 * (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html), inside the instance.
 *
 * Its parts are joined to one script for Node 20 and later (`nodeClientSource`), so they import only built-in modules, by default
 * imports. It speaks frames (`frames.ts`) with a Runtime API that does, and else HTTP, on bare sockets, because loading `node:http` would
 * make every cold start a tenth longer.
 *
 * Modes, as the first argument:
 * - `run`: the environment names everything.
 * - `start` and `blank`: environment, folder and runtime API come as one line of JSON on descriptor 3. A blank process has warmed up
 *   before it learns what it is to run. With a user id as the second argument it gives up being root first.
 * - `bridge PROGRAM ...`: runs a program that knows only host and port, and joins a port of its own loopback interface to the socket.
 */

import fs from 'node:fs';
import net from 'node:net';
import type { Socket } from 'node:net';
import nodeModule from 'node:module';
import paths from 'node:path';
import { answer, awslambda, loadHandler } from './node-client-handler.ts';
import type { Handler } from './node-client-handler.ts';
import { FrameReader, FrameWriter } from './frames.ts';
import { Channel } from './node-client-channel.ts';
import { HttpOutlet, Lane, NEXT, eventOfAnswer, postFault, runtimeApi, runtimeError } from './node-client-lane.ts';
import type { Event, Outlet } from './node-client-lane.ts';

interface Assignment {
  /** The connection that it comes over speaks the Runtime API from now on. */
  readonly isServed: boolean;
  readonly environment: Readonly<Record<string, string>>;
  readonly folder: string;
}

const ASSIGNMENT_FD = 3;
const LINE_END = 10;
const EXIT_REJECTION = 128;
const EXIT_EXCEPTION = 129;
const EMPTY_MODULE = new URL('data:text/javascript,');
/** What runs often enough is compiled for what it is given: a start takes 3.1 ms after one time, 1.8 ms after 10, 1.6 ms after 20 and after 60. */
const WARM_UPS = 16;

/** Ids of the invocations that are worked on. An array: a Set that lives long keeps what came and went until a full collection. */
const running: string[] = [];
/** Lanes that wait for an event over HTTP. */
const idle = new Set<Lane>();
let channel: Channel | undefined;
let isStopping = false;
/** Set when it dies, and waits until that is heard. */
let exitCode: number | undefined;

function begin({ id, traceId }: Event, setsTrace: boolean): void {
  running.push(id);
  if (setsTrace) process.env['_X_AMZN_TRACE_ID'] = traceId ?? '';
}

function finish({ id }: Event): void {
  running.splice(running.indexOf(id), 1);
}

async function workOverHttp(handler: Handler, lane: Lane, setsTrace: boolean): Promise<void> {
  idle.add(lane);
  for (let polled = await lane.request('GET', NEXT); ;) {
    const event = eventOfAnswer(polled);
    if (polled.status !== 200 || event.id === '') throw new Error(`the Runtime API answered ${polled.status} to a poll`);
    idle.delete(lane);
    begin(event, setsTrace);
    const outlet = new HttpOutlet(lane, event.id, () => !isStopping);
    const over = (): void => {
      finish(event);
      if (!isStopping) idle.add(lane);
    };
    await answer(handler, { event, outlet, over });
    if (isStopping) return;
    polled = outlet.next ?? (await lane.request('GET', NEXT));
  }
}

/** The connection to the Runtime API is gone. */
function lose(): void {
  if (exitCode !== undefined) process.exit(exitCode);
  if (isStopping) process.exit(0);
  process.stderr.write('the Runtime API is gone: it closed the connection\n');
  process.exit(1);
}

interface FramesUse {
  readonly lanes: number;
  readonly lost: () => void;
}

/** False: the Runtime API speaks no frames. */
async function workOverFrames(handler: Handler, connection: Socket, { lanes, lost }: FramesUse): Promise<boolean> {
  const work = (event: Event, outlet: Outlet): void => {
    begin(event, lanes === 1);
    const over = (): void => {
      finish(event);
      // After the answer, which is written next.
      if (isStopping && running.length === 0) queueMicrotask(leave);
    };
    void answer(handler, { event, outlet, over });
  };
  channel = await Channel.open(connection, { lanes, work, lost });
  return channel !== undefined;
}

/** Nothing runs any more. */
function leave(): void {
  if (channel) channel.end(() => process.exit(0));
  else process.exit(0);
}

/** Says of every running invocation that the process is about to die, and dies. */
function dieOf(thrown: unknown, code: number): void {
  process.stderr.write(`${thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)}\n`);
  if (channel && running.length > 0) {
    // Whoever listens closes the connection when it has heard all.
    if (exitCode === undefined) channel.abandon(thrown);
    exitCode ??= code;
    return;
  }
  const posts = running.map((id) => postFault(new Lane(), `/invocation/${id}/error`, thrown));
  void Promise.allSettled(posts).then(() => process.exit(code));
}

function watchOver(): void {
  process.on('uncaughtException', (error) => dieOf(error, EXIT_EXCEPTION));
  process.on('unhandledRejection', (reason) => {
    dieOf(
      runtimeError('UnhandledPromiseRejection', reason instanceof Error ? `${reason.name}: ${reason.message}` : String(reason), reason),
      EXIT_REJECTION,
    );
  });
  process.once('SIGTERM', () => {
    isStopping = true;
    channel?.stop();
    for (const lane of idle) lane.close();
    if (running.length === 0) leave();
  });
  Reflect.set(globalThis, 'awslambda', awslambda);
}

/** `connection`: one with the Runtime API that is there already. `lost`: what to do when it is gone. */
async function serve(connection?: Socket, lost: () => void = lose): Promise<void> {
  const { env } = process;
  let handler: Handler;
  try {
    handler = await loadHandler(env['LAMBDA_TASK_ROOT'] ?? process.cwd(), env['_HANDLER'] ?? '');
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    await postFault(new Lane(connection), '/init/error', error).catch(() => {});
    process.exit(1);
  }
  const lanes = Math.max(1, Number(env['AWS_LAMBDA_MAX_CONCURRENCY'] ?? 1));
  if (await workOverFrames(handler, connection ?? net.connect(runtimeApi()), { lanes, lost })) return;
  try {
    await Promise.all(Array.from({ length: lanes }, () => workOverHttp(handler, new Lane(), lanes === 1)));
  } catch (error) {
    if (!isStopping) {
      process.stderr.write(`the Runtime API is gone: ${error instanceof Error ? error.message : String(error)}\n`);
      process.exit(1);
    }
  }
  process.exit(0);
}

/** The line that says what to run; undefined when the other side went away first. */
function readAssignment(connection: Socket): Promise<Assignment | undefined> {
  const pieces: Buffer[] = [];
  return new Promise((resolve) => {
    const gone = (): void => resolve(undefined);
    connection.on('error', gone);
    connection.on('close', gone);
    connection.on('data', function receive(piece: Buffer): void {
      pieces.push(piece);
      if (piece.at(-1) !== LINE_END) return;
      connection.off('data', receive).off('error', gone).off('close', gone);
      resolve(JSON.parse(Buffer.concat(pieces).toString()) as Assignment);
    });
  });
}

function become({ environment, folder }: Pick<Assignment, 'environment' | 'folder'>): void {
  const { env } = process;
  const modules = env['NODE_PATH'];
  for (const name of Object.keys(env)) if (!(name in environment)) delete env[name];
  Object.assign(env, environment);
  process.chdir(folder);
  if (env['NODE_PATH'] !== modules) (nodeModule as unknown as { _initPaths(): void })._initPaths();
}

function becomeUser(user: number): void {
  process.setgroups?.([]);
  process.setgid?.(user);
  process.setuid?.(user);
}

async function assigned(isBlank: boolean): Promise<void> {
  watchOver();
  if (isBlank) await warmUp(process.env['TMPDIR'] ?? '/tmp');
  const connection = new net.Socket({ fd: ASSIGNMENT_FD, readable: true, writable: true });
  connection.write('\n');
  await obey(connection, lose);
}

/** Becomes what the other side says that it is to be. */
async function obey(connection: Socket, lost: () => void): Promise<void> {
  const assignment = await readAssignment(connection);
  if (!assignment) process.exit(0);
  become(assignment);
  if (assignment.isServed) return serve(connection, lost);
  connection.destroy();
  return serve();
}

/**
 * Does several times all that an instance does from its assignment to its first answer, against a Runtime API of its own. The environment is
 * afterwards what it was.
 */
async function warmUp(temporary: string): Promise<void> {
  await import(String(EMPTY_MODULE));
  // Where it was it may not be allowed to come back to.
  const before = { environment: { ...process.env } as Record<string, string>, folder: temporary };
  const folder = fs.mkdtempSync(paths.join(temporary, 'warm-up-'));
  let round = 0;
  const server = net.createServer((socket) => {
    const name = `handler${round}`;
    fs.writeFileSync(paths.join(folder, `${name}.js`), 'exports.handler = async (event) => event;');
    const environment = { ...before.environment, NODE_PATH: folder, LAMBDA_TASK_ROOT: folder, _HANDLER: `${name}.handler` };
    socket.write(`${JSON.stringify({ environment, folder, isServed: true })}\n`);
    const answered = new FrameReader({ opened: () => {}, piece: () => {}, closed: () => void socket.end() });
    socket.once('data', () => {
      socket.on('data', (data: Buffer) => answered.push(data));
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      new FrameWriter(socket).event(0, 'a\n0', Buffer.from('{}'));
    });
  });
  // Paths of sockets have to be short.
  process.chdir(folder);
  await new Promise<void>((resolve) => void server.listen('socket', resolve));
  for (; round < WARM_UPS; round += 1) {
    process.chdir(folder);
    const connection = net.connect('socket');
    await new Promise<void>((lost) => void obey(connection, lost));
    become(before);
  }
  server.close();
  channel = undefined;
  const { cache } = nodeModule.createRequire(paths.join(folder, 'index.js'));
  for (const file of Object.keys(cache)) if (file.startsWith(folder)) delete cache[file];
  fs.rmSync(folder, { recursive: true });
}

function bridge(command: string, parameters: readonly string[]): void {
  const { spawn } = process.getBuiltinModule('node:child_process');
  const target = runtimeApi();
  const server = net.createServer((client) => {
    const upstream = net.connect(target);
    client.pipe(upstream).pipe(client);
    client.on('error', () => upstream.destroy());
    upstream.on('error', () => client.destroy());
  });
  server.listen(0, '127.0.0.1', () => {
    const bound = server.address();
    const port = typeof bound === 'object' && bound !== null ? bound.port : 0;
    const env = { ...process.env, AWS_LAMBDA_RUNTIME_API: `127.0.0.1:${port}` };
    const child = spawn(command, parameters, { env, stdio: ['ignore', 'inherit', 'inherit'] });
    child.once('error', (error) => {
      process.stderr.write(`${command} cannot be started: ${error.message}\n`);
      process.exit(127);
    });
    child.once('exit', (code, signal) => {
      if (signal === null) process.exit(code ?? 1);
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
    });
    process.on('SIGTERM', () => child.kill('SIGTERM'));
  });
}

function main([mode, ...rest]: readonly string[]): void {
  if (mode === 'bridge' && rest[0] !== undefined) {
    bridge(rest[0], rest.slice(1));
    return;
  }
  if (mode === 'run') {
    watchOver();
    void serve();
    return;
  }
  if (rest[0] !== undefined) becomeUser(Number(rest[0]));
  void assigned(mode === 'blank');
}

main(process.argv.slice(2));

/** Plans of workers: the command, what is mounted where, limits, and what a waiting process is told. */

import { createHash } from 'node:crypto';
import { chmodSync, chownSync, linkSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { RunnerError } from '../../src/plugin.ts';
import type { LaunchSpec, NetworkAccess } from '../../src/plugin.ts';
import { Cgroup } from './cgroup.ts';
import { makeFolder } from './leftovers.ts';
import { isOpenToAll, makeOpen, place } from './place.ts';
import { needsAtStart, needsSocket } from './program.ts';
import type { Program } from './program.ts';
import { INSIDE, PATH_INSIDE, bubblewrapArguments, cpusFor, permissionFlags } from './sandbox.ts';
import type { Confinement } from './sandbox.ts';
import { WAIT } from './worker.ts';
import type { Assignment, WorkerPlan } from './worker.ts';

/** Waiting processes of one class can run each other's functions. */
export interface WorkerClass {
  readonly ownerId: string;
  readonly node: string;
  readonly memoryMb: number;
  readonly ephemeralMb: number;
  readonly network: NetworkAccess;
}

type FunctionClass = WorkerClass & { readonly program: Program & { readonly folder: string } };

interface Cold {
  readonly plan: WorkerPlan;
  readonly assignment?: Omit<Assignment, 'isServed'>;
}

export interface BuilderOptions {
  readonly confinement: Confinement;
  readonly folder: string;
  readonly client: string;
  readonly pidsMax: number;
  readonly cpus: number | undefined;
}

/** Where an instance finds its things: inside bubblewrap always the same, else on the machine. */
interface Places {
  readonly task: string;
  readonly layers: string;
  readonly socket: string;
  readonly temporary: string;
}

const MEGABYTE = 1024 * 1024;
/** Of a shell that waits. */
const BOX_MEMORY_MB = 64;
/** Code of more files is mounted into a fresh process, which takes less time than to link them all. */
const WAITING_ENTRIES_MAX = 500;
/** Where it cannot be linked: nothing else happens here while it is copied, and each instance would take the room anew. */
const WAITING_COPIED_BYTES_MAX = 4 * MEGABYTE;
const LAYER_ENTRIES_MAX = 200_000;
/** Users that nothing else on a machine has, by the conventions of systemd. */
const USER_FIRST = 1_900_000_000;
const USER_COUNT = 1 << 27;
/** Part of the memory that JavaScript objects may take: the rest is for the program itself. */
const HEAP_SHARE = 0.9;
/** Without control groups: address space that a process reserves but does not use. */
const DATA_SLACK_KB = 1024 * 1024;
/** Lists of folders, by Lambda's paths. */
const SEARCH_PATHS = ['PATH', 'NODE_PATH', 'LD_LIBRARY_PATH', 'PYTHONPATH'];
const NODE_PATH_INSIDE = '/opt/nodejs/node_modules:/var/task/node_modules';

export class Builder {
  readonly confinement: Confinement;
  readonly #options: BuilderOptions;

  constructor(options: BuilderOptions) {
    this.confinement = options.confinement;
    this.#options = options;
  }

  /** Whether a function may start in a sandbox that was made before: the kernel takes its time over control groups and name spaces. */
  get usesBoxes(): boolean {
    return this.#isBoxed && this.confinement.cgroups !== undefined;
  }

  /** A process for one function, with the code mounted; what it is told, unless its program is not our client. */
  async cold(spec: LaunchSpec, kind: FunctionClass): Promise<Cold> {
    const { program } = kind;
    const port = this.#needsPort(spec, program) ? await spec.runtimeApi.openPort() : undefined;
    return this.#made(kind, spec.instanceId, (base) => this.#cold(base, { spec, kind, port }));
  }

  #cold(
    base: Base,
    { spec, kind, port }: { readonly spec: LaunchSpec; readonly kind: FunctionClass; readonly port: number | undefined },
  ): Cold {
    const { program } = kind;
    const layers = this.#layers(spec, base.folder);
    const hasSocket = needsSocket(spec, program);
    const places = this.#open(spec, base, { task: program.folder, layers, hasSocket });
    const environment = this.#environment(spec, { places, program, port });
    const isDirect = program.kind === 'bootstrap' || needsAtStart(environment, foldersOf(spec));
    const mounts = [
      [program.folder, INSIDE.task],
      ...(layers === undefined ? [] : [[layers, INSIDE.layers] as const]),
      ...(hasSocket ? [[spec.runtimeApi.socketPath, INSIDE.socket] as const] : []),
    ] as const;
    const readable = [places.task, ...(layers === undefined ? [] : [layers])];
    const command = this.#command(kind, base, { mounts, readable, mode: 'start', isDirect, program });
    const plan = {
      ...base,
      command,
      cwd: this.#isBoxed ? '/' : places.task,
      env: isDirect ? environment : this.#startEnvironment(base.folder),
    };
    return { plan, ...(program.kind === 'node' && { assignment: { environment, folder: places.task } }) };
  }

  /** A process that waits; it sees empty folders, which `furnish` fills. */
  blank(kind: WorkerClass, id: string): WorkerPlan {
    return this.#made(kind, id, (base) => this.#waiting(base, kind, { mode: 'blank' }));
  }

  /** The sandbox of such a process, for functions of any memory: a shell waits in it for `Worker.begin`. */
  box(kind: WorkerClass, id: string): WorkerPlan {
    return this.#made({ ...kind, memoryMb: BOX_MEMORY_MB }, id, (base) => this.#waiting(base, kind, { mode: 'start', isBox: true }));
  }

  /** Gives a box the limits of a function. What it is to begin with. */
  fit({ cgroup }: WorkerPlan, kind: WorkerClass): string {
    cgroup?.limit(this.#limits(kind));
    return heapOption(kind);
  }

  #waiting(base: Base, kind: WorkerClass, how: { readonly mode: 'start' | 'blank'; readonly isBox?: boolean }): WorkerPlan {
    const { folder } = base;
    for (const name of ['task', 'opt', 'run']) makeOpen(join(folder, name));
    const mounts = [
      [join(folder, 'task'), INSIDE.task],
      [join(folder, 'opt'), INSIDE.layers],
      [join(folder, 'run'), INSIDE.run],
    ] as const;
    const readable = [join(folder, 'task'), join(folder, 'opt')];
    const program = { kind: 'node', node: kind.node } as const;
    const command = this.#command(kind, base, { ...how, mounts, readable, isDirect: false, program });
    return { ...base, command, cwd: this.#isBoxed ? '/' : folder, env: this.#startEnvironment(base.folder) };
  }

  /** Whether nothing of the environment must be there before the program. */
  suitsBlank({ fn, environment }: LaunchSpec): boolean {
    return fn.code.kind === 'folder' && !needsAtStart(environment, foldersOf({ fn }));
  }

  /** Gives what waits the code and the socket. Undefined when that takes longer than a fresh process. */
  furnish(plan: WorkerPlan, spec: LaunchSpec): Omit<Assignment, 'isServed'> | undefined {
    const { code, layers } = spec.fn;
    if (code.kind !== 'folder') return undefined;
    const { folder } = plan;
    const limits = { entriesMax: WAITING_ENTRIES_MAX, copiedBytesMax: WAITING_COPIED_BYTES_MAX };
    const last = layers.toReversed();
    if (!place(code.path, join(folder, 'task'), limits) || !last.every(({ path }) => place(path, join(folder, 'opt'), limits)))
      return undefined;
    const { socketPath, serve } = spec.runtimeApi;
    const socket = join(folder, 'run', 'api.sock');
    if (!serve) {
      try {
        linkSync(socketPath, socket);
      } catch {
        // Sockets cannot be linked across file systems: a fresh process mounts it.
        return undefined;
      }
      if (plan.user !== undefined) chownSync(socket, plan.user, plan.user);
    }
    const places: Places = this.#isBoxed
      ? INSIDE_PLACES
      : { task: join(folder, 'task'), layers: join(folder, 'opt'), socket, temporary: join(folder, 'tmp') };
    return { environment: environmentIn(spec, places, `unix:${places.socket}`), folder: places.task };
  }

  get #isBoxed(): boolean {
    return this.confinement.sandbox === 'bubblewrap';
  }

  /** A folder and a control group, and a plan in them: none of it is left when one of them cannot be made. */
  #made<Plan>(kind: WorkerClass, id: string, planIn: (base: Base) => Plan): Plan {
    const { cgroups } = this.confinement;
    const name = `blueprint-${createHash('sha256').update(`${kind.ownerId}/${id}`).digest('hex').slice(0, 24)}`;
    const group = new Cgroup(cgroups?.folders.map((parent) => join(parent, name)) ?? []);
    const folder = makeFolder(this.#options.folder, { ownerId: kind.ownerId, id, cgroupFolders: group.folders });
    try {
      return planIn(this.#base(folder, kind, { id, name }));
    } catch (error) {
      group.remove();
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  #base(folder: string, kind: WorkerClass, { id, name }: { readonly id: string; readonly name: string }): Base {
    const { cgroups, ownUser } = this.confinement;
    const user = ownUser ? userOf(id) : undefined;
    const limits: (readonly [string, number])[] = [
      ['-c', 0],
      ['-n', 1_024],
    ];
    if (!cgroups) {
      limits.push(['-d', kind.memoryMb * 1024 + DATA_SLACK_KB]);
      if (ownUser) limits.push(['-u', this.#options.pidsMax]);
    }
    if (!this.#isBoxed) {
      limits.push(['-f', kind.ephemeralMb * 2048]);
      mkdirSync(join(folder, 'tmp'), { mode: 0o700 });
      if (user !== undefined) chownSync(join(folder, 'tmp'), user, user);
    } else {
      writeFileSync(join(folder, 'passwd'), `function:x:${user ?? 65534}:${user ?? 65534}::/tmp:/bin/sh\n`);
      chmodSync(join(folder, 'passwd'), 0o644);
    }
    const cgroup = cgroups && Cgroup.create(cgroups, name, this.#limits(kind));
    return { id, folder, limits, cgroup, isWrapped: this.#isBoxed, user };
  }

  /** Pages of a /tmp in memory count as memory of the instance. */
  #limits({ memoryMb, ephemeralMb }: WorkerClass): { memoryBytes: number; pids: number; cpus: number } {
    const { pidsMax, cpus } = this.#options;
    return { memoryBytes: (memoryMb + (this.#isBoxed ? ephemeralMb : 0)) * MEGABYTE, pids: pidsMax, cpus: cpus ?? cpusFor(memoryMb) };
  }

  /** One folder with all layers, a later one over an earlier one; undefined without layers. */
  #layers({ fn }: LaunchSpec, folder: string): string | undefined {
    const [first, ...others] = fn.layers;
    if (others.length === 0) return first?.path;
    const merged = join(folder, 'opt');
    makeOpen(merged);
    for (const { path } of fn.layers.toReversed()) place(path, merged, { entriesMax: LAYER_ENTRIES_MAX });
    return merged;
  }

  /** Lets the user of the instance at its code and its socket. */
  #open(
    spec: LaunchSpec,
    base: Pick<WorkerPlan, 'folder' | 'user'>,
    given: { task: string; layers: string | undefined; hasSocket: boolean },
  ): Places {
    const { socketPath } = spec.runtimeApi;
    const { user, folder } = base;
    let { task } = given;
    if (user !== undefined) {
      if (given.hasSocket) {
        chownSync(socketPath, user, user);
        if (!this.#isBoxed) chownSync(dirname(socketPath), user, user);
      }
      if (!this.#isBoxed) {
        if (!isOpenToAll(task, false)) {
          const own = join(folder, 'task');
          makeOpen(own);
          place(task, own, { entriesMax: LAYER_ENTRIES_MAX });
          task = own;
        }
      }
      if (!isOpenToAll(task, true))
        throw new RunnerError('INSTANCE_START_FAILED', 'the code folder cannot be read by the user of the instance: chmod -R o+rX', {
          cause: new Error(`${task} or a folder above it is closed to others`),
        });
    }
    if (this.#isBoxed) return INSIDE_PLACES;
    return { task, layers: given.layers ?? INSIDE.layers, socket: socketPath, temporary: join(folder, 'tmp') };
  }

  /** A program that knows only host and port, with nothing between. */
  #needsPort({ fn }: LaunchSpec, program: Program): boolean {
    const isBridged = this.#isBoxed && fn.network === 'none';
    return program.kind === 'bootstrap' && !program.isOurs && !isBridged;
  }

  #environment(
    spec: LaunchSpec,
    { places, program, port }: { readonly places: Places; readonly program: Program; readonly port: number | undefined },
  ): Record<string, string> {
    const address = port === undefined ? `unix:${places.socket}` : `127.0.0.1:${port}`;
    const node = this.#isBoxed ? INSIDE.node : program.node;
    return { ...environmentIn(spec, places, address), ...(program.kind === 'bootstrap' && { BLUEPRINT_NODE: node }) };
  }

  #startEnvironment(folder: string): Record<string, string> {
    return { PATH: PATH_INSIDE, ...(!this.#isBoxed && { TMPDIR: join(folder, 'tmp') }) };
  }

  #command(
    kind: WorkerClass,
    base: Pick<WorkerPlan, 'folder' | 'user'>,
    start: {
      readonly mounts: readonly (readonly [string, string])[];
      readonly readable: readonly string[];
      readonly mode: 'start' | 'blank';
      /** A shell waits in its place. */
      readonly isBox?: boolean;
      /** The environment is there from the beginning, so the privileges must be gone before it. */
      readonly isDirect: boolean;
      readonly program: Program;
    },
  ): string[] {
    const { client } = this.#options;
    const { bwrap, setpriv, sandbox } = this.confinement;
    const { user, folder } = base;
    const node = this.#isBoxed ? INSIDE.node : kind.node;
    const script = this.#isBoxed ? INSIDE.client : client;
    const heap = heapOption(kind);
    const { program, isDirect, mode } = start;
    const asUser = user === undefined ? [] : [`--reuid=${user}`, `--regid=${user}`, '--clear-groups', '--inh-caps=-all'];
    const permissions = sandbox === 'permissions' ? permissionFlags(kind.node, [client, ...start.readable], join(folder, 'tmp')) : [];
    if (this.#isBoxed && bwrap !== undefined) {
      const mounts = [...start.mounts, [kind.node, INSIDE.node], [client, INSIDE.client], [join(folder, 'passwd'), '/etc/passwd']] as const;
      const box = bubblewrapArguments({
        readOnly: mounts,
        ephemeralBytes: kind.ephemeralMb * MEGABYTE,
        network: kind.network,
        chdir: INSIDE.task,
        isRoot: user !== undefined,
      });
      const drop = isDirect && user !== undefined ? ['setpriv', ...asUser] : [];
      const asked = isDirect || user === undefined ? [] : [String(user)];
      return [
        bwrap,
        ...box,
        ...drop,
        ...(start.isBox === true
          ? ['/bin/sh', '-c', WAIT, node, script, mode, ...asked]
          : programCommand(program, { node, script, heap, mode, asked, isBridged: kind.network === 'none', task: INSIDE.task })),
      ];
    }
    const bound = user === undefined ? [] : ['--bounding-set=-all'];
    const drop = setpriv === undefined ? [] : [setpriv, '--no-new-privs', '--pdeathsig', 'KILL', ...asUser, ...bound];
    const asked = setpriv !== undefined || user === undefined ? [] : [String(user)];
    const task = start.readable[0] ?? folder;
    return [
      ...drop,
      ...programCommand(program, { node, script, heap: [heap, ...permissions].join(' '), mode, asked, isBridged: false, task }),
    ];
  }
}

type Base = Omit<WorkerPlan, 'command' | 'cwd' | 'env'>;

const INSIDE_PLACES: Places = { task: INSIDE.task, layers: INSIDE.layers, socket: INSIDE.socket, temporary: '/tmp' };

function programCommand(
  program: Program,
  given: { node: string; script: string; heap: string; mode: string; asked: readonly string[]; isBridged: boolean; task: string },
): string[] {
  const { node, script, mode, asked, task } = given;
  if (program.kind === 'node') return [node, ...given.heap.split(' '), script, mode, ...asked];
  const bootstrap = join(task, 'bootstrap');
  return given.isBridged && !program.isOurs ? [node, script, 'bridge', bootstrap] : [bootstrap];
}

function heapOption({ memoryMb }: WorkerClass): string {
  return `--max-old-space-size=${Math.max(16, Math.floor(memoryMb * HEAP_SHARE))}`;
}

function environmentIn(spec: LaunchSpec, places: Places, address: string): Record<string, string> {
  const { task, layers, temporary } = places;
  const environment: Record<string, string> = { PATH: PATH_INSIDE, NODE_PATH: NODE_PATH_INSIDE, ...spec.environment };
  if (task !== INSIDE.task) {
    for (const name of SEARCH_PATHS) {
      const value = environment[name];
      if (value !== undefined)
        environment[name] = value
          .split(':')
          .map((path) => moved(path, { task, layers }))
          .join(':');
    }
    Object.assign(environment, { LAMBDA_TASK_ROOT: task, TMPDIR: temporary });
  }
  return { ...environment, AWS_LAMBDA_RUNTIME_API: address };
}

/** A folder of Lambda where it lies without a sandbox. */
function moved(path: string, { task, layers }: Pick<Places, 'task' | 'layers'>): string {
  for (const [inside, outside] of [
    [INSIDE.task, task],
    [INSIDE.layers, layers],
  ] as const)
    if (path === inside || path.startsWith(`${inside}/`)) return outside + path.slice(inside.length);
  return path;
}

function foldersOf({ fn }: Pick<LaunchSpec, 'fn'>): string[] {
  return [...(fn.code.kind === 'folder' ? [fn.code.path] : []), ...fn.layers.map(({ path }) => path)];
}

function userOf(id: string): number {
  return USER_FIRST + (createHash('sha256').update(id).digest().readUInt32LE(0) % USER_COUNT);
}

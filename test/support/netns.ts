/** Machines on one switch, as network namespaces: each has its own addresses, loopback and packet filter. */

import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { requirePeer, runs } from '../require.ts';
import type { DeclareTest } from '../require.ts';

const run = promisify(execFile);
/** Replaces what was there. */
const filter = (rest: string): string => `table inet guard
delete table inet guard
table inet guard {
  chain input {
    type filter hook input priority filter; policy accept;
    iif lo accept
    ct state established,related accept
    ${rest}
  }
}`;
const CLOSED = filter('counter drop');
const OPEN = filter('accept');

/** Root, `ip` of iproute2, `nft` of nftables, and a kernel that lets them. */
export function requireNamespaces(): DeclareTest {
  return requirePeer('netns', () => {
    if (process.getuid?.() !== 0) throw new Error('namespaces are for root');
    const links = 'ip link add br0 type bridge; ip link add port0 type veth peer name eth0';
    runs('unshare', '--net', 'sh', '-ec', `${links}; nft '${CLOSED}'`);
  });
}

/** One machine. */
export class Host {
  readonly name: string;
  readonly address: string;
  readonly #pid: number;
  readonly #port: Port;

  constructor({ name, address, pid, port }: { name: string; address: string; pid: number; port: Port }) {
    this.name = name;
    this.address = address;
    this.#pid = pid;
    this.#port = port;
  }

  /** What a command is started through to be on this machine; it becomes the command itself. */
  get through(): readonly string[] {
    return throughOf(this.#pid);
  }

  async sh(script: string): Promise<string> {
    return shell(this.#pid, script);
  }

  /** Pulled out or plugged in, at the switch. */
  async cable(state: 'down' | 'up'): Promise<void> {
    await shell(this.#port.switchPid, `ip link set ${this.#port.name} ${state}`);
  }

  /** Whether others may begin connections to this machine. */
  async inbound(access: 'refused' | 'allowed'): Promise<void> {
    await this.sh(`nft '${access === 'refused' ? CLOSED : OPEN}'`);
  }

  /** Packets that the filter has dropped since it was set. */
  async refused(): Promise<number> {
    const { nftables } = JSON.parse(await this.sh('nft -j list chain inet guard input')) as { nftables: Listed[] };
    const counters = nftables.flatMap(({ rule }) => rule?.expr ?? []).flatMap(({ counter }) => counter ?? []);
    return counters.reduce((sum, { packets }) => sum + packets, 0);
  }
}

interface Listed {
  readonly rule?: { readonly expr: readonly { readonly counter?: { readonly packets: number } }[] };
}

interface Port {
  readonly switchPid: number;
  readonly name: string;
}

/** Of namespaces that last as long as a process of ours in each of them: nothing is left when this process ends, however it ends. */
export class Network {
  readonly hosts: readonly Host[];
  readonly #holders: readonly ChildProcess[];
  readonly #link: string;

  private constructor(hosts: readonly Host[], holders: readonly ChildProcess[], link: string) {
    this.hosts = hosts;
    this.#holders = holders;
    this.#link = link;
  }

  /** This process has an address on the switch, too. */
  static async create(names: readonly string[]): Promise<Network> {
    const holders = [];
    for (let index = 0; index <= names.length; index += 1) holders.push(await hold());
    const [switchPid = 0, ...pids] = holders.map(({ pid = 0 }) => pid);
    // A network for tests of networks (RFC 2544): nobody's own.
    const subnet = `198.${randomInt(18, 20)}.${randomInt(256)}`;
    const link = `bpr${randomBytes(5).toString('hex')}`;
    await shell(switchPid, 'ip link set lo up; ip link add br0 type bridge; ip link set br0 up');
    const hosts = names.map((name, index) => {
      const port = { switchPid, name: `port${index}` };
      return new Host({ name, address: `${subnet}.${index + 1}`, pid: pids[index] ?? 0, port });
    });
    for (const [index, host] of hosts.entries()) {
      const port = `port${index}`;
      await shell(switchPid, `ip link add ${port} type veth peer name eth0 netns ${pids[index]}; ip link set ${port} master br0 up`);
      await host.sh(`ip link set lo up; ip address add ${host.address}/24 dev eth0; ip link set eth0 up`);
    }
    await shell(switchPid, `ip link add uplink type veth peer name ${link} netns ${process.pid}; ip link set uplink master br0 up`);
    await run('sh', ['-ec', `ip address add ${subnet}.254/24 dev ${link}; ip link set ${link} up`]);
    return new Network(hosts, holders, link);
  }

  async remove(): Promise<void> {
    await run('ip', ['link', 'delete', this.#link]);
    for (const holder of this.#holders) {
      const ended = once(holder, 'close');
      holder.stdin?.end();
      await ended;
    }
  }
}

/** A process in a network namespace of its own, which ends when this one does. */
async function hold(): Promise<ChildProcess> {
  const child = spawn('unshare', ['--net', 'sh', '-c', 'echo ready; exec cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout });
  await Promise.race([once(lines, 'line'), once(child, 'close').then(() => Promise.reject(new Error('unshare --net failed')))]);
  return child;
}

function throughOf(pid: number): readonly string[] {
  return ['nsenter', `--net=/proc/${pid}/ns/net`];
}

async function shell(pid: number, script: string): Promise<string> {
  const [command = '', ...before] = throughOf(pid);
  const { stdout } = await run(command, [...before, 'sh', '-ec', script]);
  return stdout;
}

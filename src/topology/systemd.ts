/** A topology as units of systemd, for one machine. */

import { PIDS_MAX, STOP_SECONDS } from './containers.ts';
import type { RenderOptions } from './containers.ts';
import { CAPABILITY, CONTROL_PORT, ENGINE_PORT, isProxied, partsOf } from './topology.ts';
import type { Part } from './topology.ts';

export interface SystemdOptions extends RenderOptions {
  /** Absolute. */
  readonly nodePath: string;
  readonly bprPath: string;
}

const USER = 'blueprint';
const STATE = '/var/lib/blueprint';
/** The key that engines ask for. */
const ENGINE_ENV = `${STATE}/engine.env`;
const CONTROL_UNIT = 'blueprint-control-plane.service';

/** Unit files, a `sysusers.d` file for their user, and the script that puts them in place. */
export function systemdFiles(options: SystemdOptions): Readonly<Record<string, string>> {
  const parts = partsOf(options);
  const engines = parts.filter(({ role }) => role === 'engine');
  const ports = engines.map((_, index) => ENGINE_PORT + index);
  const backends = new Map(
    parts.flatMap(({ name, backend }) => (backend === undefined ? [] : [[name === 'pool-worker' ? name : 'worker', backend]])),
  );
  const units: Record<string, string> = { [CONTROL_UNIT]: controlPlane(options, ports) };
  if (engines.length > 0) units['blueprint-engine@.service'] = engineUnit(options);
  for (const [name, backend] of backends) units[`blueprint-${name}@.service`] = workerUnit({ name, backend, ports }, options);
  const wanted = parts.map((part) => unitOf(part, ports));
  return {
    ...units,
    'blueprint.target': `[Unit]
Description=Topology ${options.option} of blueprint-runner
Wants=${wanted.join(' ')}

[Install]
WantedBy=multi-user.target
`,
    'sysusers.conf': `u ${USER} - "blueprint-runner" ${STATE}\n`,
    'install.sh': installScript(Object.keys(units)),
  };
}

function unitOf({ name, role }: Part, ports: readonly number[]): string {
  if (role === 'control-plane') return CONTROL_UNIT;
  const number = Number(/\d+$/.exec(name)?.[0] ?? 1);
  if (role === 'engine') return `blueprint-engine@${ports[number - 1] ?? ENGINE_PORT}.service`;
  return name === 'pool-worker' ? 'blueprint-pool-worker@1.service' : `blueprint-worker@${number}.service`;
}

function controlPlane(options: SystemdOptions, ports: readonly number[]): string {
  const engines = isProxied(options.option) ? ports.flatMap((port) => ['--engine', `http://127.0.0.1:${port}`]) : [];
  return unit('Control plane of blueprint-runner', {
    options,
    after: ['network-online.target'],
    folder: 'control',
    args: ['control-plane', '--host', '127.0.0.1', '--port', String(CONTROL_PORT), '--data', `${STATE}/control`, ...engines],
    environmentFile: engines.length > 0 ? ENGINE_ENV : undefined,
    memoryMb: 512,
  });
}

/** Instances are named by their ports. Option 4 opens them; its firewall is the operator's. */
function engineUnit(options: SystemdOptions): string {
  const host = options.option === '4' ? '0.0.0.0' : '127.0.0.1';
  const data = ['--data-dir', `${STATE}/engine-%i`, '--token', `file:${STATE}/engine.token`];
  return unit('WASM engine of blueprint-runner at port %i', {
    options,
    after: ['network-online.target'],
    folder: 'engine-%i',
    args: ['wasm', 'serve', '--host', host, '--port', '%i', ...data],
    memoryMb: 1_024,
  });
}

interface WorkerUnit {
  readonly name: string;
  readonly backend: 'wasm' | 'engine';
  readonly ports: readonly number[];
}

function workerUnit({ name, backend, ports }: WorkerUnit, options: SystemdOptions): string {
  const callsEngines = backend === 'engine' && !isProxied(options.option);
  const urls = ports.map((port) => `http://127.0.0.1:${port}`).join(',');
  const what = ['--backend', backend, '--capabilities', CAPABILITY[backend], '--concurrency', String(options.concurrency ?? 4)];
  return unit('Worker %i of blueprint-runner', {
    options,
    // It waits for the ticket itself.
    after: [CONTROL_UNIT],
    folder: `${name}-%i`,
    args: ['worker', '--ticket-file', `${STATE}/control/endpoint.ticket`, ...what, '--data', `${STATE}/${name}-%i`],
    environment: callsEngines ? [`BPR_WASM_URL=${urls}`] : [],
    environmentFile: callsEngines ? ENGINE_ENV : undefined,
    memoryMb: backend === 'wasm' ? 1_024 : 512,
  });
}

interface Unit {
  readonly options: SystemdOptions;
  readonly after: readonly string[];
  readonly folder: string;
  readonly args: readonly string[];
  readonly environment?: readonly string[];
  readonly environmentFile?: string | undefined;
  readonly memoryMb: number;
}

function unit(description: string, { options, after, folder, args, environment = [], environmentFile, memoryMb }: Unit): string {
  const { nodePath, bprPath } = options;
  return [
    '[Unit]',
    `Description=${description}`,
    `After=${after.join(' ')}`,
    `Wants=${after.join(' ')}`,
    'PartOf=blueprint.target',
    '',
    '[Service]',
    'Type=exec',
    `ExecStart=${word(nodePath)} ${word(bprPath)} ${args.join(' ')}`,
    `User=${USER}`,
    `StateDirectory=blueprint blueprint/${folder}`,
    'StateDirectoryMode=0711',
    ...environment.map((one) => `Environment=${one}`),
    ...(environmentFile === undefined ? [] : [`EnvironmentFile=${environmentFile}`]),
    'Restart=on-failure',
    'RestartSec=2',
    `TimeoutStopSec=${STOP_SECONDS}`,
    `MemoryMax=${memoryMb}M`,
    `TasksMax=${PIDS_MAX}`,
    'NoNewPrivileges=yes',
    'CapabilityBoundingSet=',
    'AmbientCapabilities=',
    'ProtectSystem=strict',
    'ProtectHome=read-only',
    'PrivateTmp=yes',
    'PrivateDevices=yes',
    'ProtectKernelTunables=yes',
    'ProtectKernelModules=yes',
    'ProtectControlGroups=yes',
    'RestrictSUIDSGID=yes',
    'RestrictRealtime=yes',
    'LockPersonality=yes',
    'RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX',
    'SystemCallArchitectures=native',
    'UMask=0077',
    '',
    '[Install]',
    'WantedBy=blueprint.target',
    '',
  ].join('\n');
}

/** A path as one word of a command line: systemd replaces what follows % and $ in it. */
function word(path: string): string {
  if (/^[\w./@+:-]+$/.test(path)) return path;
  return `"${path.replaceAll(/[\\"]/g, '\\$&').replaceAll('%', '%%').replaceAll('$', '$$$$')}"`;
}

function installScript(units: readonly string[]): string {
  return `#!/bin/sh
# Puts the units in place and starts them; as root.
set -eu
cd "$(dirname "$0")"
install -m 644 sysusers.conf /usr/lib/sysusers.d/blueprint.conf
systemd-sysusers
install -d -m 711 -o ${USER} -g ${USER} ${STATE}
umask 077
[ -s ${STATE}/engine.token ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' >${STATE}/engine.token
printf 'BPR_WASM_TOKEN=%s\\n' "$(cat ${STATE}/engine.token)" >${ENGINE_ENV}
chown ${USER}:${USER} ${STATE}/engine.token ${ENGINE_ENV}
install -m 644 ${units.join(' ')} blueprint.target /etc/systemd/system/
# What runs of an earlier size, or another option, ends: workers first, which finish or give back what they have.
systemctl stop blueprint.target 2>/dev/null || true
systemctl daemon-reload
systemctl enable --now blueprint.target
`;
}

/** A long-running program for Kubernetes, Docker Compose and systemd. Secrets are named, never written. */

import { gzipSync } from 'node:zlib';
import type { ProgramSpec } from '../executor/machine.ts';
import { yaml } from './export-files.ts';
import type { ExportInput, Exported } from './export-files.ts';

export const IMAGE = 'node:24-slim';
export const PROGRAM_FOLDER = '/var/task';
const DATA_FOLDER = '/var/lib/blueprint-runner';
export const USER = 65_532;
export const CONFIG_MAP_BYTES_MAX = 1_048_576;
const DRAIN_SECONDS = 45;
const DEFAULT_MEMORY_MB = 512;
/** Unpacks the program and runs it: in a config map it must be small. */
export const LOADER = `
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
mkdirSync('/tmp/program', { recursive: true });
for (const name of readdirSync('${PROGRAM_FOLDER}')) {
  if (name.endsWith('.gz')) writeFileSync('/tmp/program/' + name.slice(0, -3), gunzipSync(readFileSync('${PROGRAM_FOLDER}/' + name)));
}
await import('/tmp/program/' + process.argv[1]);
`;

function probe(port: number, path: string): string[] {
  return ['node', '-e', `fetch('http://127.0.0.1:${port}${path}').then((r)=>process.exit(r.ok?0:1),()=>process.exit(1))`];
}

export function kubernetes(program: ProgramSpec, _: ExportInput): Exported {
  const { name, files, args, environment, secrets = {}, healthPort, memoryMb = DEFAULT_MEMORY_MB } = program;
  const labels = { 'app.kubernetes.io/name': name, 'app.kubernetes.io/managed-by': 'blueprint-runner' };
  const packed = Object.fromEntries(
    Object.entries(files).map(([path, bytes]) => [`${path}.gz`, gzipSync(bytes, { level: 9 }).toString('base64')]),
  );
  const packedBytes = Object.values(packed).reduce((sum, text) => sum + text.length, 0);
  const warnings =
    packedBytes > CONFIG_MAP_BYTES_MAX ? [`the program has ${packedBytes} bytes packed; a config map takes ${CONFIG_MAP_BYTES_MAX}`] : [];
  const check = (path: string): object => ({ exec: { command: probe(healthPort, path) }, periodSeconds: 15, timeoutSeconds: 5 });
  const container = {
    name: 'orchestrator',
    image: IMAGE,
    command: ['node', '--input-type=module', '-e', LOADER, '--', ...args],
    env: [
      ...Object.entries(environment).map(([key, value]) => ({ name: key, value })),
      ...Object.keys(secrets).map((key) => ({ name: key, valueFrom: { secretKeyRef: { name, key } } })),
    ],
    resources: { requests: { cpu: '100m', memory: `${memoryMb}Mi` }, limits: { memory: `${memoryMb}Mi` } },
    securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
    readinessProbe: check('/readyz'),
    livenessProbe: { ...check('/healthz'), initialDelaySeconds: 30 },
    volumeMounts: [
      { name: 'program', mountPath: PROGRAM_FOLDER, readOnly: true },
      { name: 'data', mountPath: DATA_FOLDER },
      { name: 'tmp', mountPath: '/tmp' },
    ],
  };
  const manifests = [
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, labels }, binaryData: packed },
    {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { name, labels },
      spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
    },
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name, labels },
      spec: {
        replicas: 1,
        // Two runners must not use one ledger.
        strategy: { type: 'Recreate' },
        selector: { matchLabels: { 'app.kubernetes.io/name': name } },
        template: {
          metadata: { labels },
          spec: {
            automountServiceAccountToken: false,
            terminationGracePeriodSeconds: DRAIN_SECONDS,
            securityContext: { runAsNonRoot: true, runAsUser: USER, fsGroup: USER, seccompProfile: { type: 'RuntimeDefault' } },
            containers: [container],
            volumes: [
              { name: 'program', configMap: { name } },
              { name: 'data', persistentVolumeClaim: { claimName: name } },
              { name: 'tmp', emptyDir: { sizeLimit: '64Mi' } },
            ],
          },
        },
      },
    },
  ];
  return {
    files: { 'manifests.yaml': yaml(...manifests) },
    warnings,
    usage: [...secretLines(name, secrets), 'kubectl apply -f manifests.yaml'].join('\n'),
  };
}

function secretLines(name: string, secrets: Readonly<Record<string, string>>): string[] {
  const literals = Object.keys(secrets).map((key) => `--from-literal=${key}="$${key}"`);
  return literals.length === 0 ? [] : [`kubectl create secret generic ${name} ${literals.join(' ')}`];
}

export function compose(program: ProgramSpec, _: ExportInput): Exported {
  const { name, files, args, environment, secrets = {}, healthPort, memoryMb = DEFAULT_MEMORY_MB } = program;
  const locked = { image: IMAGE, read_only: true, cap_drop: ['ALL'], security_opt: ['no-new-privileges:true'] };
  // A new volume belongs to root.
  const data = {
    ...locked,
    command: ['chown', `${USER}:${USER}`, DATA_FOLDER],
    user: '0:0',
    cap_add: ['CHOWN'],
    network_mode: 'none',
    volumes: [`data:${DATA_FOLDER}`],
  };
  const orchestrator = {
    ...locked,
    depends_on: { data: { condition: 'service_completed_successfully' } },
    init: true,
    command: ['node', ...args],
    working_dir: PROGRAM_FOLDER,
    environment: { ...environment, ...Object.fromEntries(Object.keys(secrets).map((key) => [key, `\${${key}:?set ${key}}`])) },
    user: `${USER}:${USER}`,
    pids_limit: 256,
    mem_limit: `${memoryMb}m`,
    tmpfs: [`/tmp:size=64m,mode=1777`],
    restart: 'unless-stopped',
    stop_grace_period: `${DRAIN_SECONDS}s`,
    healthcheck: { test: ['CMD', ...probe(healthPort, '/readyz')], interval: '15s', timeout: '5s', start_period: '30s' },
    volumes: [`./program:${PROGRAM_FOLDER}:ro`, `data:${DATA_FOLDER}`],
    logging: { driver: 'json-file', options: { 'max-size': '10m', 'max-file': '3' } },
  };
  const document = { name, services: { data, orchestrator }, volumes: { data: {} } };
  const written = Object.fromEntries(Object.entries(files).map(([path, bytes]) => [`program/${path}`, bytes]));
  return { files: { 'compose.yaml': yaml(document), ...written }, warnings: [], usage: 'docker compose up --detach' };
}

export function systemd(program: ProgramSpec, { dataFolder = DATA_FOLDER }: ExportInput): Exported {
  const { name, files, args, environment, secrets = {}, memoryMb = DEFAULT_MEMORY_MB } = program;
  const folder = `/opt/${name}`;
  const unit = [
    '[Unit]',
    `Description=Orchestrator ${name}`,
    'After=network-online.target',
    'Wants=network-online.target',
    '',
    '[Service]',
    `ExecStart=/usr/bin/env node ${[`${folder}/${args[0] ?? ''}`, ...args.slice(1)].join(' ')}`,
    `WorkingDirectory=${folder}`,
    ...Object.entries(environment).map(([key, value]) => `Environment=${quoted(`${key}=${value}`)}`),
    ...(Object.keys(secrets).length > 0 ? [`EnvironmentFile=/etc/${name}.env`] : []),
    'Restart=on-failure',
    'RestartSec=5',
    `TimeoutStopSec=${DRAIN_SECONDS}`,
    'DynamicUser=yes',
    `StateDirectory=${dataFolder.replace(/^\/var\/lib\//, '')}`,
    `MemoryMax=${memoryMb}M`,
    'TasksMax=256',
    'NoNewPrivileges=yes',
    'ProtectSystem=strict',
    'ProtectHome=yes',
    'PrivateTmp=yes',
    'PrivateDevices=yes',
    'CapabilityBoundingSet=',
    'RestrictSUIDSGID=yes',
    'LockPersonality=yes',
    '',
    '[Install]',
    'WantedBy=multi-user.target',
    '',
  ].join('\n');
  const written = Object.fromEntries(Object.entries(files).map(([path, bytes]) => [`${name}/${path}`, bytes]));
  const usage = [
    `cp -r ${name} /opt/ && cp ${name}.service /etc/systemd/system/`,
    ...(Object.keys(secrets).length > 0
      ? [`install -m 600 /dev/stdin /etc/${name}.env  # ${Object.keys(secrets).join(', ')}, NAME=value each`]
      : []),
    `systemctl enable --now ${name}`,
  ].join('\n');
  return { files: { [`${name}.service`]: unit, ...written }, warnings: [], usage };
}

/** As systemd.syntax wants it: quotes and backslashes escaped, `%` and `$` doubled. */
function quoted(text: string): string {
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('%', '%%').replaceAll('$', '$$$$')}"`;
}

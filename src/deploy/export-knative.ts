/** Functions as Services of Knative Serving: no pods while nobody calls them. */

import { gzipSync } from 'node:zlib';
import { unzipSync } from 'fflate';
import { RunnerError } from '../errors.ts';
import { toKubernetesCronJob } from '../schedule/units.ts';
import { leftOut, nameWithin, yaml } from './export-files.ts';
import type { ExportInput, Exported, ExportedFunction } from './export-files.ts';
import { CONFIG_MAP_BYTES_MAX, IMAGE, LOADER, PROGRAM_FOLDER, USER } from './export-program.ts';

const ENTRIES = ['handler.mjs', 'index.mjs', 'index.js', 'index.cjs'];
const TIMEOUT_MS = 300_000;
/** https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ */
const CRON_JOB_NAME_MAX = 52;
/** `max-revision-timeout-seconds` of an installation that nobody changed. */
const TIMEOUT_SECONDS_MAX = 600;
const CALL = `fetch(process.env.URL, { method: 'POST', headers: { 'content-type': 'application/json' }, body: process.env.EVENT }).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))`;
const SECURITY = {
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
  runAsNonRoot: true,
  runAsUser: USER,
  runAsGroup: USER,
  seccompProfile: { type: 'RuntimeDefault' },
};

/** One file for each function. */
export function knative({ functions }: ExportInput): Exported {
  const warnings: string[] = [];
  const files = Object.fromEntries(functions.map((fn) => [`${fn.name}.yaml`, yaml(...documentsOf(fn, warnings))]));
  return {
    files,
    warnings,
    usage: Object.keys(files)
      .map((file) => `kubectl apply -f ${file}`)
      .join('\n'),
  };
}

function documentsOf(fn: ExportedFunction, warnings: string[]): readonly object[] {
  const { name, config, code } = fn;
  warnings.push(...leftOut(fn));
  const metadata = { name, labels: { 'app.kubernetes.io/name': name, 'app.kubernetes.io/managed-by': 'kubectl' } };
  const files = Object.entries(unzipSync(code.zip)).filter(([path]) => !path.endsWith('/'));
  const flat = files.filter(([path]) => !path.includes('/'));
  for (const [path] of files) if (path.includes('/')) warnings.push(`${name}: ${path} is left out: a config map has no folders`);
  const entry = ENTRIES.find((each) => flat.some(([path]) => path === each));
  if (entry === undefined) throw new RunnerError('CONFIG_INVALID', `the package of ${name} holds none of ${ENTRIES.join(', ')}`);
  const packed = Object.fromEntries(flat.map(([path, bytes]) => [`${path}.gz`, gzipSync(bytes, { level: 9 }).toString('base64')]));
  const packedBytes = Object.values(packed).reduce((sum, text) => sum + text.length, 0);
  if (packedBytes > CONFIG_MAP_BYTES_MAX)
    warnings.push(`${name} has ${packedBytes} bytes packed; a config map takes ${CONFIG_MAP_BYTES_MAX}: put it into an image`);
  if (config.architecture !== undefined) warnings.push(`${name}: architecture is left out: Knative chooses no nodes as it is installed`);
  const environment = Object.entries(config.environment ?? {});
  const data = Object.fromEntries(environment.map(([key, value]) => [key, Buffer.from(value).toString('base64')]));
  return [
    { apiVersion: 'v1', kind: 'ConfigMap', metadata, binaryData: packed },
    ...(environment.length > 0 ? [{ apiVersion: 'v1', kind: 'Secret', metadata, type: 'Opaque', data }] : []),
    {
      apiVersion: 'serving.knative.dev/v1',
      kind: 'Service',
      metadata: { ...metadata, labels: { ...metadata.labels, 'networking.knative.dev/visibility': 'cluster-local' } },
      spec: { template: templateOf(fn, entry, warnings), traffic: [{ latestRevision: true, percent: 100 }] },
    },
    ...cronJobsOf(fn, warnings),
  ];
}

function templateOf({ name, code, config }: ExportedFunction, entry: string, warnings: string[]): object {
  const { memoryMb = 512, timeoutMs = TIMEOUT_MS, ephemeralStorageMb = 512, concurrencyMax, instancesMin = 0, environment = {} } = config;
  const seconds = Math.ceil(timeoutMs / 1_000);
  if (seconds > TIMEOUT_SECONDS_MAX) warnings.push(`${name} may take ${seconds} s; Knative ends calls after ${TIMEOUT_SECONDS_MAX} s`);
  // One pod takes no more than the function may as a whole.
  const each = Math.min(10, concurrencyMax ?? 0);
  const max = concurrencyMax === undefined ? undefined : Math.max(1, instancesMin, Math.floor(concurrencyMax / Math.max(1, each)));
  return {
    metadata: {
      annotations: {
        // Another package is another revision.
        'blueprint-runner.dev/package-sha256': code.sha256,
        'autoscaling.knative.dev/min-scale': String(instancesMin),
        ...(max !== undefined && { 'autoscaling.knative.dev/max-scale': String(max) }),
      },
    },
    spec: {
      containerConcurrency: each,
      timeoutSeconds: Math.min(seconds, TIMEOUT_SECONDS_MAX),
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      containers: [
        {
          name: 'function',
          image: IMAGE,
          command: ['node', '--input-type=module', '-e', LOADER, '--', entry],
          env: [
            { name: 'BLUEPRINT_ADAPTER', value: 'http' },
            { name: 'BLUEPRINT_ALLOW_INSECURE', value: '1' },
            { name: 'HOST', value: '0.0.0.0' },
            ...Object.keys(environment).map((key) => ({ name: key, valueFrom: { secretKeyRef: { name, key } } })),
          ],
          ports: [{ name: 'http1', containerPort: 8_080 }],
          readinessProbe: { httpGet: { path: '/healthz' }, successThreshold: 1 },
          resources: { requests: { cpu: '100m', memory: `${memoryMb}Mi` }, limits: { memory: `${memoryMb}Mi` } },
          securityContext: SECURITY,
          volumeMounts: [
            { name: 'program', mountPath: PROGRAM_FOLDER, readOnly: true },
            { name: 'tmp', mountPath: '/tmp' },
          ],
        },
      ],
      volumes: [
        { name: 'program', configMap: { name } },
        { name: 'tmp', emptyDir: { sizeLimit: `${ephemeralStorageMb}Mi` } },
      ],
    },
  };
}

function cronJobsOf({ name, config }: ExportedFunction, warnings: string[]): readonly object[] {
  return (config.schedules ?? []).flatMap((schedule) => {
    const { expressions, timezone, concurrencyPolicy, losses } = toKubernetesCronJob(schedule.schedule, { strict: false });
    warnings.push(...losses.map(({ message }) => `schedule ${schedule.name} of ${name}: ${message}`));
    const container = {
      name: 'call',
      image: IMAGE,
      command: ['node', '-e', CALL],
      env: [
        { name: 'URL', value: `http://${name}/` },
        { name: 'EVENT', value: JSON.stringify(schedule.event ?? {}) },
      ],
      resources: { requests: { cpu: '50m', memory: '128Mi' }, limits: { memory: '128Mi' } },
      securityContext: SECURITY,
    };
    return expressions.map((expression, index) => ({
      apiVersion: 'batch/v1',
      kind: 'CronJob',
      metadata: { name: nameWithin(`${name}-${schedule.name}${index === 0 ? '' : `-${index + 1}`}`, CRON_JOB_NAME_MAX) },
      spec: {
        schedule: expression,
        timeZone: timezone,
        concurrencyPolicy,
        jobTemplate: {
          spec: {
            backoffLimit: 0,
            template: { spec: { restartPolicy: 'Never', automountServiceAccountToken: false, containers: [container] } },
          },
        },
      },
    }));
  });
}

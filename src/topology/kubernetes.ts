/** A topology as manifests of Kubernetes, and the script that applies them. */

import { stringify } from 'yaml';
import { DATA, HEALTH, STOP_SECONDS, TMP_MB, USER, containersOf, environmentOf, programOf } from './containers.ts';
import type { Container, RenderOptions } from './containers.ts';
import { READ_TICKET } from './script.ts';
import { CONTROL_PORT, ENGINE_PORT } from './topology.ts';

const NAMESPACE = 'blueprint';
const SECRET = 'blueprint-topology';
const TICKET_SECRET = 'blueprint-ticket';
const PART_OF = { 'app.kubernetes.io/part-of': 'blueprint-topology' };

/** Who writes more is ended, with its jobs: packages take 2 GiB, and for a moment one of them more; what runs of them lies there, too. */
const DATA_SIZE = '4Gi';

type Manifest = Readonly<Record<string, unknown>>;

function kubernetesManifests(options: RenderOptions): readonly Manifest[] {
  const containers = containersOf(options);
  const [control, ...others] = containers;
  if (control === undefined) return [];
  return [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE, labels: PART_OF } },
    {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: meta('control-data'),
      spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '5Gi' } } },
    },
    deployment(control),
    service(control),
    ...others.flatMap((one) => (one.ports.length > 0 ? [deployment(one), service(one)] : [deployment(one)])),
    ...policies(control, others),
  ];
}

export function kubernetesYaml(options: RenderOptions): string {
  return kubernetesManifests(options)
    .map((manifest) => stringify(manifest, { aliasDuplicateObjects: false, lineWidth: 140 }))
    .join('---\n');
}

function meta(name: string): Manifest {
  return { name, namespace: NAMESPACE, labels: labels(name) };
}

function labels(name: string): Readonly<Record<string, string>> {
  return { 'app.kubernetes.io/name': name, ...PART_OF };
}

function deployment(main: Container): Manifest {
  const isControlPlane = main.role === 'control-plane';
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: meta(main.name),
    spec: {
      replicas: main.replicas,
      // Two control planes must not use one folder.
      ...(isControlPlane && { strategy: { type: 'Recreate' } }),
      selector: { matchLabels: labels(main.name) },
      template: {
        metadata: { labels: labels(main.name) },
        spec: {
          automountServiceAccountToken: false,
          enableServiceLinks: false,
          terminationGracePeriodSeconds: STOP_SECONDS,
          securityContext: {
            runAsNonRoot: true,
            runAsUser: USER,
            runAsGroup: USER,
            fsGroup: USER,
            seccompProfile: { type: 'RuntimeDefault' },
          },
          containers: [containerSpec(main)],
          volumes: [
            {
              name: 'data',
              ...(isControlPlane ? { persistentVolumeClaim: { claimName: 'control-data' } } : { emptyDir: { sizeLimit: DATA_SIZE } }),
            },
            { name: 'tmp', emptyDir: { sizeLimit: `${TMP_MB}Mi` } },
          ],
        },
      },
    },
  };
}

function containerSpec(container: Container): Manifest {
  const { name, image, secrets, ports, memoryMb, cpus } = container;
  const probe = { exec: { command: ['node', HEALTH] }, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3 };
  return {
    name,
    image,
    imagePullPolicy: 'IfNotPresent',
    command: ['node'],
    args: programOf(container),
    env: [
      ...Object.entries(environmentOf(container)).map(([key, value]) => ({ name: key, value })),
      ...secrets.map((key) => ({
        name: key,
        // Without the ticket the container waits for its secret.
        valueFrom: { secretKeyRef: { name: key === 'CONTROL_PLANE_TICKET' ? TICKET_SECRET : SECRET, key } },
      })),
    ],
    ports: ports.map((containerPort) => ({ containerPort, protocol: 'TCP' })),
    readinessProbe: probe,
    resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { cpu: String(cpus), memory: `${memoryMb}Mi` } },
    securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
    volumeMounts: [
      { name: 'data', mountPath: DATA },
      { name: 'tmp', mountPath: '/tmp' },
    ],
  };
}

function service({ name, ports }: Container): Manifest {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: meta(name),
    spec: {
      selector: labels(name),
      ports: ports.map((port) => ({ name: port === CONTROL_PORT ? 'control' : 'engine', port, targetPort: port, protocol: 'TCP' })),
    },
  };
}

/** Nothing dials a worker; only workers dial engines. */
function policies(control: Container, others: readonly Container[]): readonly Manifest[] {
  const workers = others.filter(({ role }) => role === 'worker');
  const closed = workers.map(({ name }) => policy(name, []));
  const engines = others.filter(({ role }) => role === 'engine');
  const fromWorkers = workers.map(({ name }) => ({ podSelector: { matchLabels: labels(name) } }));
  const toEngine = { from: fromWorkers, ports: [{ port: ENGINE_PORT, protocol: 'TCP' }] };
  const hasEngine = control.ports.includes(ENGINE_PORT);
  const everybody = { ports: [{ port: CONTROL_PORT, protocol: 'TCP' }] };
  return [
    ...closed,
    ...engines.map(({ name }) => policy(name, [toEngine])),
    policy(control.name, [everybody, ...(hasEngine ? [toEngine] : [])]),
  ];
}

function policy(name: string, ingress: readonly Manifest[]): Manifest {
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: meta(name),
    spec: { podSelector: { matchLabels: labels(name) }, policyTypes: ['Ingress'], ingress },
  };
}

export function kubernetesScript(options: RenderOptions): string {
  const containers = containersOf(options);
  const rest = containers.filter(({ name }) => name !== 'control-plane').map(({ name }) => name);
  const rollOut = (name: string): string => `kubectl -n "$NAMESPACE" rollout status deployment/${name} --timeout=300s`;
  const ticket = `ticket="$(kubectl -n "$NAMESPACE" exec deploy/control-plane -- node -p "${READ_TICKET}")"
if [ -z "$ticket" ]; then
  echo 'the control plane has written no ticket' >&2
  exit 1
fi
printf %s "$ticket" | kubectl -n "$NAMESPACE" create secret generic ${TICKET_SECRET} --from-file=CONTROL_PLANE_TICKET=/dev/stdin --dry-run=client -o yaml |
  kubectl apply -f -`;
  return `#!/bin/sh
# Applies the manifests and gives the workers their ticket. The images must be where the cluster finds them.
# The ticket is for 1,000 pods and 30 days: new pods of workers need this to be run again before that.
set -eu
cd "$(dirname "$0")"
NAMESPACE=${NAMESPACE}
kubectl create namespace "$NAMESPACE" --dry-run=client -o yaml | kubectl apply -f -
kubectl -n "$NAMESPACE" get secret ${SECRET} >/dev/null 2>&1 ||
  od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' | kubectl -n "$NAMESPACE" create secret generic ${SECRET} --from-file=BPR_WASM_TOKEN=/dev/stdin
kubectl apply -f manifests.yaml
${[rollOut('control-plane'), ticket, ...rest.map(rollOut)].join('\n')}
`;
}

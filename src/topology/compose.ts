/** A topology as a compose file, and the script that starts it. */

import { stringify } from 'yaml';
import {
  DATA,
  HEALTH,
  OPEN_FILES_MAX,
  PIDS_MAX,
  STOP_SECONDS,
  TMP_MB,
  USER,
  containersOf,
  environmentOf,
  programOf,
} from './containers.ts';
import type { Container, RenderOptions, Secret } from './containers.ts';
import { KEY_LINES, READY_MS, READ_TICKET } from './script.ts';

const NETWORK = 'blueprint';

export function composeFile(options: RenderOptions): string {
  const containers = containersOf(options);
  const services = Object.fromEntries(containers.map((one) => [one.name, service(one)]));
  const document = {
    services,
    networks: { [NETWORK]: { driver: 'bridge' } },
    volumes: { 'control-data': {} },
  };
  return stringify(document, { aliasDuplicateObjects: false, lineWidth: 140 });
}

function service(container: Container): Readonly<Record<string, unknown>> {
  const { name, role, image, secrets, ports, after, replicas, memoryMb, cpus } = container;
  const isControlPlane = role === 'control-plane';
  return {
    image,
    build: { context: '.', dockerfile: isControlPlane ? 'Dockerfile.control-plane' : 'Dockerfile.worker' },
    // No container_name: the service can be scaled.
    ...(replicas > 1 && { scale: replicas }),
    entrypoint: ['node'],
    command: programOf(container),
    environment: { ...environmentOf(container), ...Object.fromEntries(secrets.map((secret) => [secret, reference(secret)])) },
    networks: [NETWORK],
    ...(isControlPlane && { hostname: name, ports: ports.slice(0, 1).map((port) => `${port}:${port}`) }),
    volumes: [isControlPlane ? `control-data:${DATA}` : DATA],
    ...(after.length > 0 && { depends_on: Object.fromEntries(after.map((one) => [one, { condition: 'service_healthy' }])) }),
    healthcheck: { test: ['CMD', 'node', HEALTH], interval: '10s', timeout: '5s', retries: 3, start_period: '30s' },
    restart: 'unless-stopped',
    init: true,
    stop_grace_period: `${STOP_SECONDS}s`,
    user: `${USER}:${USER}`,
    read_only: true,
    tmpfs: [`/tmp:size=${TMP_MB}m,mode=1777,noexec,nosuid,nodev`],
    cap_drop: ['ALL'],
    security_opt: ['no-new-privileges:true'],
    pids_limit: PIDS_MAX,
    mem_limit: `${memoryMb}m`,
    cpus,
    ulimits: { nofile: OPEN_FILES_MAX },
    logging: { driver: 'json-file', options: { 'max-size': '10m', 'max-file': '3' } },
  };
}

/** The ticket is there when the control plane has been started. */
function reference(secret: Secret): string {
  return secret === 'CONTROL_PLANE_TICKET' ? '${CONTROL_PLANE_TICKET:-}' : `\${${secret}:?start it with start-cluster.sh}`;
}

/** The name of the project, as every version of Compose reads it: the first one takes none in its file. */
export const COMPOSE_ENVIRONMENT = 'COMPOSE_PROJECT_NAME=blueprint-topology\n';

/** Starts the services of the compose file. `WORKERS` is how many. */
export function composeScript(options: RenderOptions): string {
  return `#!/bin/sh
# Builds the images, starts the control plane, and with its ticket the workers. Nothing waits for a time: each step waits for health.
set -eu
cd "$(dirname "$0")"
${KEY_LINES}

# Compose as a plugin of docker, or the program of old.
compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

# Keeps a value for all later commands of Compose, which reads this file by itself: without it none of them understands the services, and
# the next one would start workers without a ticket. $1: name, $2: value.
keep() {
  {
    grep -v "^$1=" .env || true
    printf '%s=%s\\n' "$1" "$2"
  } >.env.new
  mv .env.new .env
}

# Waits until all containers are ready.
ready() {
  for id in $(compose ps --quiet); do
    docker exec --env BPR_WAIT_MS=${READY_MS} "$id" node ${HEALTH} || {
      docker logs --tail 20 "$id" >&2
      exit 1
    }
  done
}

keep BPR_WASM_TOKEN "$BPR_WASM_TOKEN"
compose build
compose up --detach control-plane
ready
CONTROL_PLANE_TICKET="$(compose exec -T control-plane node -p "${READ_TICKET}")"
if [ -z "$CONTROL_PLANE_TICKET" ]; then
  echo 'the control plane has written no ticket' >&2
  exit 1
fi
export CONTROL_PLANE_TICKET
keep CONTROL_PLANE_TICKET "$CONTROL_PLANE_TICKET"
compose up --detach --scale worker="\${WORKERS:-${options.workers}}"
ready
compose ps
`;
}

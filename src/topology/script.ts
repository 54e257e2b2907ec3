/** A topology started with plain docker commands. */

import {
  DATA,
  HEALTH,
  OPEN_FILES_MAX,
  PIDS_MAX,
  STOP_SECONDS,
  TICKET,
  TMP_MB,
  USER,
  containersOf,
  environmentOf,
  imageOf,
  programOf,
} from './containers.ts';
import type { Container, RenderOptions } from './containers.ts';

/** For `node -p`. */
export const READ_TICKET = `fs.readFileSync('${TICKET}', 'utf8').trim()`;

/** What engines ask for, made once; for `sh`. */
export const KEY_LINES = `umask 077
[ -s engine.token ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \\n' >engine.token
BPR_WASM_TOKEN="$(cat engine.token)"
export BPR_WASM_TOKEN`;

/** For `sh`: `end` ends the containers of the topology, or those that more filters of docker leave. */
const END_LINES = `# What workers have begun they finish, or give back: the control plane is there until they have ended.
end() {
  containers="$(docker ps --all --quiet --filter "label=blueprint-topology=$PREFIX" "$@")"
  if [ -n "$containers" ]; then
    docker stop --time ${STOP_SECONDS} $containers >/dev/null
    docker rm --force --volumes $containers >/dev/null
  fi
}
end --filter label=blueprint-role=worker
end`;

/** The longest that a container is waited for. */
export const READY_MS = 60_000;

/** `NETWORK` and `PREFIX` begin the names of all that it makes; `NETWORK_FLAGS` may be `--internal`; `PUBLISH` is where the control plane is published. */
export function startScript(options: RenderOptions): string {
  const { version } = options;
  const containers = containersOf(options);
  const [control, ...others] = containers;
  return `#!/bin/sh
# Builds the images, ends what an earlier run has started, starts the control plane, and with its ticket all others.
# Nothing waits for a time: each step waits for health.
set -eu
cd "$(dirname "$0")"
PREFIX="\${PREFIX:-blueprint}"
NETWORK="\${NETWORK:-$PREFIX}"
PUBLISH="\${PUBLISH--p 3020:3020}"
${KEY_LINES}

docker build --quiet --tag ${imageOf('control-plane', version)} --file Dockerfile.control-plane .
docker build --quiet --tag ${imageOf('worker', version)} --file Dockerfile.worker .
docker network inspect "$NETWORK" >/dev/null 2>&1 || docker network create \${NETWORK_FLAGS:-} "$NETWORK" >/dev/null
docker volume create "$PREFIX-control-data" >/dev/null

${END_LINES}

# $1: name, and what docker run takes besides.
start() {
  name="$1"
  shift
  docker run --detach --init --name "$PREFIX-$name" --label "blueprint-topology=$PREFIX" --restart unless-stopped \\
    --user ${USER}:${USER} --read-only --tmpfs /tmp:size=${TMP_MB}m,mode=1777,noexec,nosuid,nodev --cap-drop ALL \\
    --security-opt no-new-privileges --pids-limit ${PIDS_MAX} --ulimit nofile=${OPEN_FILES_MAX} --stop-timeout ${STOP_SECONDS} \\
    --health-interval 10s --health-timeout 5s --health-retries 3 --entrypoint node "$@" >/dev/null
}

# Waits until it is ready. $1: name.
ready() {
  docker exec --env BPR_WAIT_MS=${READY_MS} "$PREFIX-$1" node ${HEALTH} || {
    docker logs --tail 20 "$PREFIX-$1" >&2
    echo "$1 does not become ready" >&2
    exit 1
  }
}

${control === undefined ? '' : lines(control)}
CONTROL_PLANE_TICKET="$(docker exec "$PREFIX-control-plane" node -p "${READ_TICKET}")"
if [ -z "$CONTROL_PLANE_TICKET" ]; then
  echo 'the control plane has written no ticket' >&2
  exit 1
fi
export CONTROL_PLANE_TICKET

${others.map(lines).join('\n')}
echo "option ${options.option}: $(docker ps --quiet --filter "label=blueprint-topology=$PREFIX" | wc -l) containers run"
`;
}

export function stopScript(): string {
  return `#!/bin/sh
# Ends what start-cluster.sh has started; --purge removes the data, too.
set -eu
PREFIX="\${PREFIX:-blueprint}"
NETWORK="\${NETWORK:-$PREFIX}"
${END_LINES}
docker network rm "$NETWORK" >/dev/null 2>&1 || true
if [ "\${1:-}" = --purge ]; then docker volume rm --force "$PREFIX-control-data" >/dev/null; fi
`;
}

function lines(container: Container): string {
  const { name, replicas } = container;
  // Only these are so many as WORKERS says.
  if (name !== 'worker') return `start ${name} ${flags(container)}\nready ${name}\n`;
  const numbers = `for number in $(seq "\${WORKERS:-${replicas}}"); do`;
  return `${numbers} start "${name}-$number" ${flags(container)}; done\n${numbers} ready "${name}-$number"; done\n`;
}

function flags(container: Container): string {
  const { name, role, image, secrets, memoryMb, cpus } = container;
  const given = [
    '--network "$NETWORK"',
    `--network-alias ${name}`,
    `--label blueprint-role=${role}`,
    ...(role === 'control-plane' ? [`--hostname ${name}`, '$PUBLISH', `--volume "$PREFIX-control-data:${DATA}"`] : [`--volume ${DATA}`]),
    `--memory ${memoryMb}m --memory-swap ${memoryMb}m --cpus ${cpus}`,
    ...Object.entries(environmentOf(container)).map(([key, value]) => `--env ${key}=${value}`),
    // By name only: values are not to be seen in the list of processes.
    ...secrets.map((secret) => `--env ${secret}`),
    image,
    ...programOf(container),
  ];
  return given.join(' ');
}

/** Where a container engine may listen. */

import { join } from 'node:path';

export interface Surroundings {
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly platform: NodeJS.Platform;
  readonly uid: number | undefined;
  readonly home: string;
}

/** How an engine is reached. */
export interface EngineAddress {
  /** As people write it: `unix:///var/run/docker.sock`. */
  readonly text: string;
  readonly connection:
    | { readonly socketPath: string }
    | { readonly protocol: 'http' | 'https'; readonly host: string; readonly port: number; readonly certificates?: string };
}

/**
 * Candidates, the most wanted first: `DOCKER_HOST` or `CONTAINER_HOST` alone when one is set, else the usual sockets of Docker and podman on this
 * platform. Whether somebody listens there is for the caller to find out. Undefined: the address is of a kind that is not supported.
 */
export function engineAddresses({ environment, platform, uid, home }: Surroundings): readonly EngineAddress[] | undefined {
  const named = environment['DOCKER_HOST'] || environment['CONTAINER_HOST'];
  if (named) {
    const address = parseAddress(named, environment);
    return address && [address];
  }
  if (platform === 'win32') return ['docker_engine', 'podman-machine-default'].map((name) => pipe(`//./pipe/${name}`));
  const runtimeFolder = environment['XDG_RUNTIME_DIR'] ?? (uid === undefined ? undefined : `/run/user/${uid}`);
  const own = runtimeFolder === undefined ? [] : [join(runtimeFolder, 'docker.sock'), join(runtimeFolder, 'podman', 'podman.sock')];
  const ofHome = ['.docker/run/docker.sock', '.docker/desktop/docker.sock', '.colima/default/docker.sock', '.orbstack/run/docker.sock'];
  const podmanMachine = '.local/share/containers/podman/machine/podman.sock';
  return ['/var/run/docker.sock', ...own, ...[...ofHome, podmanMachine].map((path) => join(home, path)), '/run/podman/podman.sock'].map(
    (socketPath) => ({ text: `unix://${socketPath}`, connection: { socketPath } }),
  );
}

function pipe(socketPath: string): EngineAddress {
  return { text: `npipe:${socketPath}`, connection: { socketPath } };
}

const DEFAULT_PORTS = { plain: 2375, tls: 2376 } as const;

function parseAddress(text: string, environment: Surroundings['environment']): EngineAddress | undefined {
  if (text.startsWith('unix://')) return { text, connection: { socketPath: text.slice('unix://'.length) } };
  if (text.startsWith('npipe:')) return { text, connection: { socketPath: text.slice('npipe:'.length) } };
  const [, scheme, host, port] = /^(tcp|https?):\/\/(\[[^\]]+\]|[^:/]+)(?::(\d+))?\/?$/.exec(text) ?? [];
  if (scheme === undefined || host === undefined) return undefined;
  const isTls = scheme === 'https' || Boolean(environment['DOCKER_TLS_VERIFY']);
  const certificates = environment['DOCKER_CERT_PATH'];
  return {
    text,
    connection: {
      protocol: isTls ? 'https' : 'http',
      host: host.replace(/^\[|\]$/g, ''),
      port: Number(port ?? (isTls ? DEFAULT_PORTS.tls : DEFAULT_PORTS.plain)),
      ...(isTls && certificates && { certificates }),
    },
  };
}

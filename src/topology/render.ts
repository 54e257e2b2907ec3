/** A topology as files for others: compose, scripts, Kubernetes, systemd, Dockerfiles. */

import { COMPOSE_ENVIRONMENT, composeFile, composeScript } from './compose.ts';
import type { RenderOptions } from './containers.ts';
import { imageFiles } from './images.ts';
import { kubernetesScript, kubernetesYaml } from './kubernetes.ts';
import { startScript, stopScript } from './script.ts';
import { systemdFiles } from './systemd.ts';
import type { SystemdOptions } from './systemd.ts';
import { checkWorker } from './topology.ts';

export const TOPOLOGY_FORMATS = ['compose', 'kubernetes', 'systemd', 'script', 'dockerfile'] as const;
export type TopologyFormat = (typeof TOPOLOGY_FORMATS)[number];

export interface Rendered {
  /** Texts by relative path; those that end in `.sh` are programs. */
  readonly files: Readonly<Record<string, string>>;
  /** Whether the folder `root` of images is needed, too: see `writeRootFiles`. */
  readonly needsRoot: boolean;
  /** What to do with them. */
  readonly usage: string;
}

export type RenderSettings = RenderOptions & Pick<SystemdOptions, 'nodePath' | 'bprPath'>;

/** The same settings give the same files. Throws `CONFIG_INVALID`. */
export function renderTopology(format: TopologyFormat, settings: RenderSettings): Rendered {
  checkWorker(settings);
  switch (format) {
    case 'compose': {
      const files = {
        'compose.yaml': composeFile(settings),
        '.env': COMPOSE_ENVIRONMENT,
        'start-cluster.sh': composeScript(settings),
        ...imageFiles(settings),
      };
      return { files, needsRoot: true, usage: './start-cluster.sh' };
    }
    case 'script': {
      const files = { 'start-cluster.sh': startScript(settings), 'stop-cluster.sh': stopScript(), ...imageFiles(settings) };
      return { files, needsRoot: true, usage: './start-cluster.sh' };
    }
    case 'dockerfile':
      return {
        files: imageFiles(settings),
        needsRoot: true,
        usage: ['control-plane', 'worker']
          .map((name) => `docker build --tag blueprint-runner/${name}:${settings.version} --file Dockerfile.${name} .`)
          .join('\n'),
      };
    case 'kubernetes': {
      const files = { 'manifests.yaml': kubernetesYaml(settings), 'apply.sh': kubernetesScript(settings) };
      return { files, needsRoot: false, usage: './apply.sh   with images of bpr topology render --format dockerfile' };
    }
    case 'systemd':
      return { files: systemdFiles(settings), needsRoot: false, usage: 'sudo ./install.sh' };
  }
}

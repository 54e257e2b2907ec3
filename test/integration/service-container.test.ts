/** A service whose orchestrator is a container of this machine: all jobs in it, for no policy asks for functions. */

import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { encodeAbiParameters } from 'viem/utils';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import { askEngine, testDocker } from '../support/container-engine.ts';
import { BPR } from '../support/gateway-command.ts';

const JOBS = new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname;

interface Outline {
  readonly Id: string;
  readonly Image: string;
  readonly RestartCount: number;
  readonly State: Readonly<Record<string, unknown>>;
}

testDocker(
  'bpr service deploy --target container settles calls from a container, changes nothing the second time, leaves what is somebody else\u2019s, and ends',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'service-container-'));
    const chain = await startLocalChain();
    const tangle = await deployTangle(chain);
    const service = await tangle.startService({ jobs: [{ name: 'quick' }, { name: 'small' }] });
    const key = service.operators[0]?.privateKey ?? '';
    const env = {
      PATH: process.env['PATH'],
      DOCKER_HOST: process.env['DOCKER_HOST'],
      XDG_CONFIG_HOME: join(folder, 'config'),
      XDG_STATE_HOME: join(folder, 'state'),
      HTTP_RPC_URL: chain.rpcUrl,
      TANGLE_CONTRACT: tangle.contract,
      OPERATOR_PRIVATE_KEY: key,
    };
    const bprIn = (state: string, args: readonly string[]): Promise<Record<string, unknown>> =>
      new Promise((resolve, reject) => {
        const environment = { ...env, XDG_STATE_HOME: join(folder, state) };
        execFile(process.execPath, [BPR, ...args, '--json'], { env: environment, cwd: folder }, (_, stdout, stderr) => {
          if (stdout.includes(key.slice(2)) || stderr.includes(key.slice(2))) reject(new Error('the key was printed'));
          else if (stdout.startsWith('{')) resolve(JSON.parse(stdout) as Record<string, unknown>);
          else reject(new Error(`bpr ${args.join(' ')}: ${stdout}${stderr}`));
        });
      });
    const bpr = (...args: readonly string[]): Promise<Record<string, unknown>> => bprIn('state', args);
    const id = ['--service-id', String(service.serviceId)];
    const deploy = [
      'service',
      'deploy',
      JOBS,
      ...id,
      '--target',
      'container',
      '--network',
      'host',
      '--from-block',
      '0',
      '--confirmations',
      '0',
    ];
    const name = `bpr-blueprint-${service.serviceId}-orchestrator`;
    const container = `/containers/${name}`;
    /** Which one it is and since when it runs: another start would be seen. */
    const outline = async (): Promise<Outline> => {
      const { Id, Image, RestartCount, State } = (await askEngine('GET', `${container}/json`)).body as Outline; // as: what an engine says of a container
      return { Id, Image, RestartCount, State };
    };
    const refusesToDeploy = async (state: string): Promise<void> => {
      const before = await outline();
      for (const more of [['--dry-run'], []])
        expect(await bprIn(state, [...deploy, ...more])).toMatchObject({
          error: { code: 'RESOURCE_FOREIGN', message: expect.stringContaining(name) as string },
        });
      expect(await bprIn(state, ['service', 'remove', ...id])).not.toHaveProperty('error');
      expect(await outline()).toEqual(before);
    };
    try {
      await bpr('cloud', 'policy', '--serverless', 'false');
      expect(await bpr(...deploy)).toMatchObject({
        record: { status: 'deployed', strategy: 'traditional' },
        machine: { status: 'running' },
      });
      expect(await bpr(...deploy)).toMatchObject({ changes: [] });
      // Another user of this machine, with the same service.
      await refusesToDeploy('other-state');
      await tangle.submitMany(
        service.serviceId,
        Array.from({ length: 6 }, (_, index) => ({
          jobIndex: index % 2,
          inputs: encodeAbiParameters([{ type: 'uint64' }], [BigInt(index)]),
        })),
      );
      await expect.poll(async () => (await tangle.results(service.serviceId)).length, { timeout: 90_000, interval: 100 }).toBe(6);
      expect(await bpr('service', 'status', ...id)).toMatchObject({ drift: [], orchestrator: { status: 'running' } });
      const { Image } = await outline();
      await bpr('service', 'remove', ...id);
      expect((await askEngine('GET', `${container}/json`)).status).toBe(404);
      // Something that has nothing to do with this tool.
      const theirs = { Image, Entrypoint: ['node'], Cmd: ['-e', 'setInterval(() => {}, 1000)'], HostConfig: { NetworkMode: 'none' } };
      expect((await askEngine('POST', `/containers/create?name=${name}`, theirs)).status).toBe(201);
      expect((await askEngine('POST', `${container}/start`)).status).toBe(204);
      await refusesToDeploy('state');
      expect((await outline()).State).toMatchObject({ Running: true });
    } finally {
      await bpr('service', 'remove', ...id);
      await askEngine('DELETE', `${container}?force=true`);
      await chain.stop();
      rmSync(folder, { recursive: true });
    }
  },
  150_000,
);

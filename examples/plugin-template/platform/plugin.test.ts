import assert from 'node:assert/strict';
// deployer:begin
import { createHash } from 'node:crypto';
// deployer:end
import { after, before, describe, it } from 'node:test';
import { createHandler } from '../../../handler/index.ts';
import {
  conformanceRouter,
  runExecutorConformance,
  // deployer:begin
  conformanceFunction,
  runDeployerConformance,
  // deployer:end
} from '../../../src/conformance/conformance.ts';
import { isRunnerError, systemClock } from '../../../src/plugin.ts';
// deployer:begin
import type { Clock } from '../../../src/plugin.ts';
// deployer:end
import { AcmeExecutor } from './executor.ts';
// deployer:begin
import { AcmeDeployer } from './deployer.ts';
// deployer:end
import { acmePlugin } from './index.ts';
import { acmeOptions } from './options.ts';
import { ReferencePlatform } from './reference-platform.ts';

// deployer:begin
/** Waits of retries and of polls are short. */
const clock: Clock = { ...systemClock, sleep: (ms, signal) => systemClock.sleep(Math.min(ms, 20), signal) };
// deployer:end

let platform: ReferencePlatform;
/** A call that nobody waits for any more goes on until then. */
const over = new AbortController();
before(async () => {
  platform = await ReferencePlatform.start();
  const handler = createHandler(conformanceRouter());
  platform.install('jobs', async (body) => {
    const response = await handler.handle({ headers: { 'content-type': 'application/json' }, body, signal: over.signal });
    return { body: response.body, failed: response.status >= 300 };
  });
});
after(async () => {
  over.abort();
  await platform.close();
});

runExecutorConformance(
  { describe, it },
  { name: 'acme', create: () => new AcmeExecutor({ url: platform.url, token: () => platform.token, function: 'jobs' }, systemClock) },
);
// deployer:begin

runDeployerConformance(
  { describe, it },
  {
    name: 'acme',
    async create() {
      const fresh = await ReferencePlatform.start();
      return {
        connect: (how) =>
          new AcmeDeployer(
            {
              url: how === 'nowhere' ? 'http://127.0.0.1:1' : fresh.url,
              token: how === 'nameless' ? 'env:ACME_TOKEN_THAT_NOBODY_SETS' : () => fresh.token,
            },
            clock,
          ),
        codeOf(tag) {
          const zip = Buffer.from(conformanceFunction(tag));
          return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
        },
        snapshot: () => fresh.snapshot(),
        writes: () => fresh.writes,
        cutAfter: (writes) => fresh.cutAfter(writes),
        throttle: (requests) => fresh.throttle(requests),
        makeForeign: async (name) => fresh.makeForeign(name),
        schedules: () => fresh.scheduleCount(),
        close: () => fresh.close(),
      };
    },
  },
);
// deployer:end

void describe('options', () => {
  void it('that are wrong are CONFIG_INVALID and say what is taken', () => {
    for (const options of [undefined, {}, { url: 1 }, { url: 'http://a', colour: 'red' }])
      assert.throws(
        () => acmeOptions(options),
        (error) => isRunnerError(error) && error.code === 'CONFIG_INVALID' && error.message.includes('acme'),
      );
  });

  void it('the plugin registers under its name', () => {
    const kinds: string[] = [];
    acmePlugin.register({
      executor: () => void kinds.push('executor'),
      deployer: () => void kinds.push('deployer'),
      backend: () => void kinds.push('backend'),
      host: () => void kinds.push('host'),
      queue: () => void kinds.push('queue'),
    });
    assert.equal(acmePlugin.name, 'acme');
    assert.deepEqual(kinds, [
      'executor',
      // deployer:begin
      'deployer',
      // deployer:end
    ]);
  });
});

/**
 * What every backend of the function runtime must do, as data. The functions of the suite are JavaScript for the runtime that the subject
 * names; they speak to a Runtime API of the suite, as under the function runtime.
 */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createServer } from 'node:net';
import { systemClock } from '../clock.ts';
import { isRunnerError } from '../errors.ts';
import type { ErrorCode, RunnerError } from '../errors.ts';
import { instanceEnvironment } from '../runtime/environment.ts';
import { BackendBench, MEMORY_MB, SuiteInstance, within } from './backend-bench.ts';
import type { BackendUnderTest } from './backend-bench.ts';
import { checkSuite, registerSuite } from './suite.ts';
import type { CaseOutcome, Suite, TestFramework } from './suite.ts';

export type { BackendProgram, BackendUnderTest } from './backend-bench.ts';

const QUIET_MS = 300;

export interface BackendCase {
  readonly name: string;
  run(bench: BackendBench): Promise<void>;
}

async function rejects(promise: Promise<unknown>, ...codes: readonly ErrorCode[]): Promise<RunnerError> {
  const thrown: unknown = await within('the rejection', promise).then(
    () => assert.fail(`expected ${codes.join(' or ')}, but it succeeded`),
    (error: unknown) => error,
  );
  if (!isRunnerError(thrown)) assert.fail(`expected a RunnerError, got ${String(thrown)}`);
  assert.ok(codes.includes(thrown.code), `the code is ${thrown.code}: ${thrown.message}`);
  return thrown;
}

/** Nothing writes any more: neither the program nor what it started. */
async function isQuiet(instance: SuiteInstance): Promise<void> {
  const before = instance.output('stdout').length;
  await systemClock.sleep(QUIET_MS);
  assert.equal(instance.output('stdout').length, before, 'something still writes after the end');
}

/** Those that depend on the machine or on the folder structure. */
const OWN_VARIABLES = new Set(['PATH', 'LD_LIBRARY_PATH', 'NODE_PATH', 'LAMBDA_TASK_ROOT', 'LAMBDA_RUNTIME_DIR']);

const lifeCases: readonly BackendCase[] = [
  {
    name: 'has a name and works here',
    async run({ backend }) {
      assert.match(backend.name, /^[a-z][a-z0-9-]*$/);
      assert.equal(await backend.unavailable(), undefined);
    },
  },
  {
    name: 'a program asks for work and answers, again and again',
    async run(bench) {
      const instance = await bench.launch();
      for (const value of ['one', 'Žluťoučký kůň 🐎', { a: [1, null] }])
        assert.deepEqual(await instance.call({ do: 'echo', value }), value);
      assert.ok(instance.instance.createMs >= 0);
    },
  },
  {
    name: 'launches go on at the same time',
    async run(bench) {
      const instances = await Promise.all(Array.from({ length: 6 }, () => bench.launch()));
      const answers = await Promise.all(instances.map((instance, value) => instance.call({ do: 'echo', value })));
      assert.deepEqual(answers, [0, 1, 2, 3, 4, 5]);
    },
  },
  {
    name: 'terminate ends a program that ignores signals, and all that it started',
    async run(bench) {
      const instance = await bench.launch();
      assert.equal(await instance.call({ do: 'children' }), 'spawned');
      instance.hand({ do: 'spin' }).catch(() => {});
      await within('terminate', bench.backend.terminate(instance.instance));
      assert.equal((await instance.end()).reason, 'terminated');
      await isQuiet(instance);
    },
  },
  {
    name: 'terminate can be repeated, also at the same time and after the end',
    async run(bench) {
      const { backend } = bench;
      const instance = await bench.launch();
      await instance.ready;
      await within('terminate', Promise.all([1, 2, 3].map(() => backend.terminate(instance.instance))));
      await within('terminate', backend.terminate(instance.instance));
      assert.equal((await instance.end()).reason, 'terminated');
      const ended = await bench.launch();
      ended.call({ do: 'exit', status: 0 }).catch(() => {});
      await ended.end();
      await within('terminate', backend.terminate(ended.instance));
    },
  },
  {
    name: 'terminate of one leaves the others',
    async run(bench) {
      const [one, other] = await Promise.all([bench.launch(), bench.launch()]);
      await Promise.all([one.ready, other.ready]);
      await bench.backend.terminate(one.instance);
      assert.equal(await other.call({ do: 'echo', value: 'here' }), 'here');
    },
  },
  {
    name: 'a launch that is given up leaves nothing',
    async run(bench) {
      await rejects(bench.launch({ signal: AbortSignal.abort() }), 'ABORTED');
      const controller = new AbortController();
      const launch = bench.launch({ signal: controller.signal });
      setTimeout(() => controller.abort(), 1);
      // It may have been faster than the abort.
      await launch.then(
        ({ instance }) => bench.backend.terminate(instance),
        (error: unknown) => assert.equal(isRunnerError(error) && error.code, 'ABORTED', String(error)),
      );
      const { backend } = bench;
      await backend.close?.();
      const next = await bench.another();
      assert.equal((await next.reapStale?.(bench.ownerId)) ?? 0, 0);
    },
  },
  {
    name: 'reapStale ends what its owner left, and nothing of others',
    async run(bench) {
      const other = `conformance-${randomUUID()}`;
      const [left, foreign] = await Promise.all([bench.launch(), bench.launch({ ownerId: other })]);
      await Promise.all([left.ready, foreign.ready]);
      const next = await bench.another();
      assert.ok(next.reapStale, 'the backend has no reapStale');
      assert.equal(await next.reapStale(`conformance-${randomUUID()}`), 0);
      assert.equal(await left.call({ do: 'echo', value: 1 }), 1);
      assert.ok((await within('reapStale', next.reapStale(bench.ownerId))) >= 1, 'nothing was ended');
      await left.end();
      assert.equal(await foreign.call({ do: 'echo', value: 2 }), 2);
    },
  },
  {
    name: 'a paused instance answers when it is resumed',
    async run(bench) {
      const { backend } = bench;
      if (!backend.pause || !backend.resume) return;
      const instance = await bench.launch();
      await instance.ready;
      await backend.pause(instance.instance);
      let isAnswered = false;
      const answer = instance.hand({ do: 'echo', value: 1 }).then((value) => {
        isAnswered = true;
        return value;
      });
      await systemClock.sleep(QUIET_MS);
      assert.equal(isAnswered, false, 'a paused instance answered');
      await backend.resume(instance.instance);
      assert.equal(await within('the answer', answer), 1);
      await backend.pause(instance.instance);
      await within('terminate', backend.terminate(instance.instance));
      assert.equal((await instance.end()).reason, 'terminated');
    },
  },
  {
    name: 'close can be repeated, and then nothing is launched',
    async run(bench) {
      const instance = await bench.launch();
      await instance.ready;
      await bench.backend.terminate(instance.instance);
      await bench.backend.close?.();
      await bench.backend.close?.();
      if (bench.backend.close) await rejects(bench.launch(), 'BACKEND_UNAVAILABLE');
    },
  },
];

const endCases: readonly BackendCase[] = [
  {
    name: 'an exit has its status, and the last words have arrived',
    async run(bench) {
      const instance = await bench.launch();
      instance.call({ do: 'exit', status: 3 }).catch(() => {});
      const end = await instance.end();
      assert.deepEqual({ reason: end.reason, exitCode: end.exitCode }, { reason: 'exited', exitCode: 3 });
      assert.match(instance.output('stdout'), /last words/);
    },
  },
  {
    name: 'a signal is told',
    async run(bench) {
      const instance = await bench.launch();
      instance.call({ do: 'abort' }).catch(() => {});
      const end = await instance.end();
      const says = end.reason === 'signalled' ? end.signal : `${end.reason} ${end.exitCode}`;
      // In a container the status of its first process is all that is known: 128 and the number of the signal.
      assert.ok(says === 'SIGABRT' || says === 'exited 134', `it ended with ${JSON.stringify(end)}`);
    },
  },
  {
    name: 'more memory than it has is out-of-memory',
    async run(bench) {
      const instance = await bench.launch();
      instance.call({ do: 'memory' }).catch(() => {});
      assert.equal((await instance.end()).reason, 'out-of-memory');
    },
  },
  {
    name: 'a program that ends before it asks for work says why',
    async run(bench) {
      // Quick ones end while they are launched: then the error carries the words.
      const launched = await bench.launch({ fn: { environment: { CONFORMANCE_INIT: 'exit' } } }).catch((error: unknown) => error);
      if (launched instanceof SuiteInstance) {
        assert.equal((await launched.end()).exitCode, 7);
        assert.match(launched.output('stdout'), /last words/);
      } else {
        assert.equal(isRunnerError(launched) && launched.code, 'INSTANCE_START_FAILED', String(launched));
        assert.match(String(launched), /last words/);
      }
    },
  },
  {
    name: 'code that is not there and a runtime that nobody has are refused',
    async run(bench) {
      await rejects(bench.launch({ fn: { code: { kind: 'folder', path: '/nowhere/at-all', sha256: 'dead' } } }), 'CODE_MISSING');
      await rejects(bench.launch({ fn: { runtime: 'cobol85', fingerprint: 'cobol' } }), 'RUNTIME_UNSUPPORTED');
    },
  },
];

const surroundingsCases: readonly BackendCase[] = [
  {
    name: 'the environment is exactly what it was given',
    async run(bench) {
      const environment = {
        PLAIN: 'value',
        EMPTY: '',
        SPACED: ' a  b ',
        QUOTED: `"'$HOME\`\\`,
        LINES: 'one\ntwo',
        UNICODE: 'kůň 🐎',
        EQUALS: 'a=b=c',
      };
      process.env['CONFORMANCE_CANARY'] = 'inherited';
      try {
        const instance = await bench.launch({ fn: { environment } });
        const seen = (await instance.call({ do: 'environment' })) as Record<string, string>;
        assert.equal(seen['CONFORMANCE_CANARY'], undefined, 'the environment of this process is inherited');
        const expected = instanceEnvironment(bench.fn({ environment }), { instanceId: 'x', startedAt: 0 });
        for (const [name, value] of Object.entries(expected)) {
          if (!OWN_VARIABLES.has(name) && name !== 'AWS_LAMBDA_LOG_STREAM_NAME') assert.equal(seen[name], value, name);
        }
        if (bench.seesRuntimeApi) assert.ok(seen['AWS_LAMBDA_RUNTIME_API'], 'AWS_LAMBDA_RUNTIME_API is not set');
      } finally {
        delete process.env['CONFORMANCE_CANARY'];
      }
    },
  },
  {
    name: 'output arrives complete, each stream apart',
    async run(bench) {
      const instance = await bench.launch();
      await instance.call({ do: 'print', stdout: 'to stdout ů\n', stderr: 'to stderr\n' });
      assert.equal(await instance.call({ do: 'flood', bytes: 4 * 1024 * 1024 }), 4 * 1024 * 1024);
      instance.call({ do: 'exit', status: 0 }).catch(() => {});
      await instance.end();
      assert.match(instance.output('stdout'), /to stdout ů\n/);
      assert.match(instance.output('stderr'), /to stderr\n/);
      assert.doesNotMatch(instance.output('stdout'), /to stderr/);
      assert.equal(instance.output('stdout').match(/^x{1023}$/gm)?.length, 4 * 1024);
    },
  },
  {
    name: 'the Runtime API of another instance is out of reach',
    async run(bench) {
      const [one, other] = await Promise.all([bench.launch(), bench.launch()]);
      await other.ready;
      const answer = await one.call({ do: 'reach', target: { path: other.socketPath } });
      assert.notEqual(answer, 'reached');
    },
  },
  {
    name: 'without network nothing of this machine is reached over TCP',
    async run(bench) {
      const server = createServer((socket) => socket.destroy());
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      try {
        const address = server.address();
        const port = typeof address === 'object' && address !== null ? address.port : 0;
        const instance = await bench.launch();
        assert.notEqual(await instance.call({ do: 'reach', target: { host: '127.0.0.1', port } }), 'reached');
      } finally {
        server.close();
      }
    },
  },
  {
    name: '/tmp can be written, the code cannot',
    async run(bench) {
      const [one, other] = await Promise.all([bench.launch(), bench.launch()]);
      assert.equal(await one.call({ do: 'write', path: '/tmp/mark' }), 'done');
      assert.equal(await other.call({ do: 'read', path: '/tmp/mark' }), 'ENOENT', 'instances share /tmp');
      assert.notEqual(await one.call({ do: 'writeCode' }), 'done', 'the code can be written');
    },
  },
  {
    name: '/tmp holds no more than it should',
    async run(bench) {
      const instance = await bench.launch({ fn: { ephemeralMb: 64, memoryMb: 256, fingerprint: 'conformance-disk' } });
      assert.equal(await instance.call({ do: 'fill', path: '/tmp/big', mb: 100 }), 'ENOSPC');
      assert.equal(await instance.call({ do: 'echo', value: 'alive' }), 'alive');
    },
  },
  {
    name: 'memoryBytes tells what an instance uses',
    async run(bench) {
      const { backend } = bench;
      if (!backend.memoryBytes) return;
      const instance = await bench.launch();
      await instance.call({ do: 'echo', value: 1 });
      const bytes = await backend.memoryBytes(instance.instance);
      if (bytes !== undefined) assert.ok(bytes > 1024 * 1024 && bytes < 2 * MEMORY_MB * 1024 * 1024, `${bytes} bytes`);
      await backend.terminate(instance.instance);
      assert.equal(await backend.memoryBytes(instance.instance), undefined);
    },
  },
];

export const backendCases: readonly BackendCase[] = [...lifeCases, ...endCases, ...surroundingsCases];

/** Runs the suite; a failure is an outcome, it is not thrown. Throws `CONFIG_INVALID` when a skip names no case. */
export function checkBackend(subject: BackendUnderTest): Promise<CaseOutcome[]> {
  return checkSuite(suiteOf(subject));
}

/**
 * Registers the suite. A skipped case shows its reason in its name.
 *
 * @example
 * runBackendConformance({ describe, it }, { name: 'process', create: () => new ProcessBackend() });
 */
export function runBackendConformance(framework: TestFramework, subject: BackendUnderTest): void {
  registerSuite(framework, suiteOf(subject));
}

function suiteOf(subject: BackendUnderTest): Suite<BackendCase> {
  return {
    title: `backend ${subject.name}`,
    cases: backendCases,
    skip: subject.skip,
    async run(each) {
      const bench = await BackendBench.open(subject);
      try {
        await each.run(bench);
      } finally {
        await bench.close();
      }
    },
  };
}

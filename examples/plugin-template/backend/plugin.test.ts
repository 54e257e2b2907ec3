import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runBackendConformance } from '../../../src/conformance/conformance.ts';
import { isRunnerError } from '../../../src/plugin.ts';
import { AcmeBackend } from './backend.ts';
import { acmePlugin } from './index.ts';
import { acmeOptions } from './options.ts';

const BARE = 'a bare process is not confined; the platform will confine what it runs';

runBackendConformance(
  { describe, it },
  {
    name: 'acme',
    create: () => new AcmeBackend(),
    // Take a line away as soon as your platform holds what it says.
    skip: {
      'terminate ends a program that ignores signals, and all that it started': 'what left its process group is not found again',
      'more memory than it has is out-of-memory': BARE,
      'the Runtime API of another instance is out of reach': BARE,
      'without network nothing of this machine is reached over TCP': BARE,
      '/tmp can be written, the code cannot': BARE,
      '/tmp holds no more than it should': BARE,
    },
  },
);

void describe('options', () => {
  void it('that are wrong are CONFIG_INVALID and say what is taken', () => {
    for (const options of [null, { node: 1 }, { colour: 'red' }])
      assert.throws(
        () => acmeOptions(options),
        (error) => isRunnerError(error) && error.code === 'CONFIG_INVALID' && error.message.includes('node'),
      );
  });

  void it('the plugin registers a backend under its name', () => {
    const kinds: string[] = [];
    acmePlugin.register({
      executor: () => void kinds.push('executor'),
      deployer: () => void kinds.push('deployer'),
      backend: () => void kinds.push('backend'),
      host: () => void kinds.push('host'),
      queue: () => void kinds.push('queue'),
    });
    assert.equal(acmePlugin.name, 'acme');
    assert.deepEqual(kinds, ['backend']);
  });
});

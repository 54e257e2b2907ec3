import { expect, test } from 'vitest';
import { versionOf } from '../../test/support/fake-backend.ts';
import { RESERVED_ENVIRONMENT, instanceEnvironment } from './environment.ts';

const options = { instanceId: '0123456789ab', startedAt: Date.UTC(2026, 2, 4) };

test('a function sees what Lambda tells it, and what its author set', () => {
  const environment = { MODE: 'fast', LANG: 'cs_CZ.UTF-8', EMPTY: '' };
  expect(instanceEnvironment(versionOf({ environment, version: '7' }), { ...options, region: 'eu-west-1' })).toEqual({
    MODE: 'fast',
    EMPTY: '',
    LANG: 'cs_CZ.UTF-8',
    TZ: ':UTC',
    PATH: '/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin',
    LD_LIBRARY_PATH: '/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib',
    NODE_PATH: '/opt/nodejs/node24/node_modules:/opt/nodejs/node_modules:/var/runtime/node_modules',
    _HANDLER: 'index.handler',
    AWS_REGION: 'eu-west-1',
    AWS_DEFAULT_REGION: 'eu-west-1',
    AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs24.x',
    AWS_LAMBDA_FUNCTION_NAME: 'cook',
    AWS_LAMBDA_FUNCTION_VERSION: '7',
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '128',
    AWS_LAMBDA_INITIALIZATION_TYPE: 'on-demand',
    AWS_LAMBDA_LOG_GROUP_NAME: '/aws/lambda/cook',
    AWS_LAMBDA_LOG_STREAM_NAME: '2026/03/04/[7]0123456789ab',
    LAMBDA_TASK_ROOT: '/var/task',
    LAMBDA_RUNTIME_DIR: '/var/runtime',
  });
});

test('what the author sets for a reserved name has no effect', () => {
  const plain = instanceEnvironment(versionOf(), options);
  const environment = Object.fromEntries([...RESERVED_ENVIRONMENT].map((name) => [name, 'mine']));
  expect(instanceEnvironment(versionOf({ environment }), options)).toEqual(plain);
});

test('the operator gives credentials; what describes the instance stays', () => {
  const shared = { AWS_ACCESS_KEY_ID: 'id', MODE: 'operator', _HANDLER: 'other' };
  const seen = instanceEnvironment(versionOf({ environment: { MODE: 'author' } }), { ...options, shared });
  expect(seen).toMatchObject({ AWS_ACCESS_KEY_ID: 'id', MODE: 'operator', _HANDLER: 'index.handler' });
});

test('the concurrency is told when an instance takes several calls', () => {
  expect(instanceEnvironment(versionOf(), options)).not.toHaveProperty('AWS_LAMBDA_MAX_CONCURRENCY');
  expect(instanceEnvironment(versionOf({ concurrencyPerInstance: 8 }), options)['AWS_LAMBDA_MAX_CONCURRENCY']).toBe('8');
});

test('paths fit the runtime', () => {
  expect(instanceEnvironment(versionOf({ runtime: 'python3.13' }), options)).toMatchObject({ PYTHONPATH: '/var/runtime' });
  const image = versionOf({ code: { kind: 'image', uri: 'x' } });
  expect(instanceEnvironment(image, options)).not.toHaveProperty('AWS_EXECUTION_ENV');
});

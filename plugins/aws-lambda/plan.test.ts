import { createHash } from 'node:crypto';
import { strToU8, zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import type { FunctionConfig, FunctionPackage } from '../../src/plugin.ts';
import { hasMark, marksOf, queueName, roleName, schedulePrefix, toBase64, toHex } from './names.ts';
import { parseOptions, parsePlatform, EXECUTOR_CHECKS } from './options.ts';
import { behavesAs, configOf, differing, presentSettings, requestOf, runtimeOf, settingsOf, violationsOf } from './plan.ts';
import { fetchingUserData, userDataOf } from './user-data.ts';
import { unpackedBytes } from './zip.ts';

const zip = zipSync({ 'a.txt': strToU8('hello'), 'b.txt': new Uint8Array(100_000) });
const code: FunctionPackage = { zip, sha256: createHash('sha256').update(zip).digest('hex') };
const limits = (config: FunctionConfig, name = 'f', packaged = { code, hasBucket: false }): string[] =>
  violationsOf(name, packaged, config).map(({ limit }) => limit);

describe('limits', () => {
  it.each<readonly [FunctionConfig, readonly string[]]>([
    [{ memoryMb: 127 }, ['memoryMb']],
    [{ memoryMb: 128 }, []],
    [{ memoryMb: 10_240 }, []],
    [{ memoryMb: 10_241 }, ['memoryMb']],
    [{ timeoutMs: 0 }, ['timeoutMs']],
    [{ timeoutMs: 1_000 }, []],
    [{ timeoutMs: 900_000 }, []],
    [{ timeoutMs: 901_000 }, ['timeoutMs']],
    [{ ephemeralStorageMb: 511 }, ['ephemeralStorageMb']],
    [{ runtime: 'nodejs24' }, []],
    [{ runtime: 'custom' }, []],
    [{ runtime: 'cobol' }, ['runtime']],
    [{ logRetentionDays: 8 }, ['logRetentionDays']],
    [{ logRetentionDays: 0 }, []],
    [{ description: 'x'.repeat(257) }, ['description']],
    [{ environment: { A_B: 'x'.repeat(4_096) } }, ['environment']],
    [{ environment: { '1x': 'y', AWS_REGION: 'z' } }, ['environment', 'environment']],
    [{ tags: { 'aws:x': 'y' } }, ['tags']],
    [{ platform: { layers: Array.from({ length: 6 }, () => 'arn:aws:lambda:eu-central-1:1:layer:x:1') } }, ['layers']],
    [{ schedules: [{ name: 'Not Good', schedule: { kind: 'periodic', periodMs: 60_000 } }] }, ['schedules']],
    [{ concurrencyMax: 2, instancesMin: 3 }, ['instancesMin']],
    [{ concurrencyMax: -1, instancesMin: -1 }, ['concurrencyMax', 'instancesMin']],
    // An account may be given more than it begins with.
    [{ concurrencyMax: 5_000, instancesMin: 3_000 }, []],
    [{ instancesMin: 3_000 }, []],
    [{ memoryMb: 1, timeoutMs: 1, description: 'x'.repeat(300) }, ['description', 'memoryMb', 'timeoutMs']],
  ])('%j', (config, expected) => {
    expect(limits(config)).toEqual(expected);
  });

  it('of variables says that one letter is no name', () => {
    const [violation] = violationsOf('f', { code, hasBucket: false }, { environment: { A: '1', A_1: '2' } });
    expect(violation).toMatchObject({
      limit: 'environment',
      value: 'A',
      message: expect.stringContaining('two characters at least') as string,
    });
    expect(limits({ environment: { A: '1', A_1: '2' } })).toEqual(['environment']);
  });

  it('of names and packages', () => {
    expect([limits({}, 'a b'), limits({}, 'x'.repeat(65)), limits({}, 'x'.repeat(64))]).toEqual([['name'], ['name'], []]);
    expect(limits({}, 'f', { code: { zip: new Uint8Array(30), sha256: '' }, hasBucket: false })).toEqual(['package']);
    const bomb = zipSync({ a: [new Uint8Array(251 * 1024 * 1024), { level: 1 }] });
    expect(limits({}, 'f', { code: { zip: bomb, sha256: '' }, hasBucket: true })).toEqual(['package']);
    expect(unpackedBytes(zip)).toBe(100_005);
    expect(unpackedBytes(zip.subarray(0, 50))).toBeUndefined();
  });
});

describe('platform settings', () => {
  it.each<readonly [Record<string, unknown>, RegExp]>([
    [{ rôle: 'x' }, /no platform setting rôle/],
    [{ role: 'admin' }, /role/],
    [{ vpc: { subnetIds: [], securityGroupIds: ['a'] } }, /vpc/],
    [{ alias: '12' }, /alias/],
    [{ url: { auth: 'OPEN' } }, /url/],
    [{ async: { retriesMax: 3 } }, /async/],
    [{ async: { ageMaxSeconds: 59 } }, /async/],
    [{ deadLetters: 'arn:aws:sqs:eu-central-1:123456789012:x.fifo' }, /deadLetters/],
    [{ role: 'arn:aws:iam::123456789012:role/x', deadLetters: true }, /role of yours/],
    [{ role: 'arn:aws:iam::123456789012:role/x', rolePolicies: [] }, /exclude/],
    [{ layers: ['lib'] }, /layers/],
  ])('%j is refused', (platform, reason) => {
    expect(() => parsePlatform(platform)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(reason) as string }) as Error,
    );
  });

  it('of the executor are checked, too', () => {
    const parse = (options: unknown): unknown => parseOptions(options, EXECUTOR_CHECKS, ['function']);
    expect(parse({ function: 'f' })).toEqual({ function: 'f' });
    for (const bad of [
      undefined,
      'f',
      {},
      { function: '' },
      { function: { a: 'f' } },
      { function: 'f', region: 'EU Central' },
      { function: 'f', wire: 'xml' },
      { function: 'f', endpoints: { mail: 'http://x' } },
      { function: 'f', endpoint: 'x' },
    ])
      expect(() => parse(bad)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error);
  });
});

describe('settings', () => {
  it('name only what is named; a new function also its runtime and handler', () => {
    expect(settingsOf({ memoryMb: 256 }, {}, { isNew: false })).toEqual({ MemorySize: 256 });
    expect(settingsOf({}, {}, { isNew: true })).toEqual({ Runtime: 'nodejs24.x', Handler: 'handler.handler' });
    expect(settingsOf({ runtime: 'custom' }, {}, { isNew: true })).toEqual({ Runtime: 'provided.al2023', Handler: 'bootstrap' });
    expect([runtimeOf('python3.13'), runtimeOf('nodejs22'), runtimeOf('x')]).toEqual(['python3.13', 'nodejs22.x', undefined]);
  });

  it('differ where they differ, whatever the order', () => {
    const present = presentSettings({
      MemorySize: 256,
      Environment: { Variables: { A: '1', B: '2' } },
      VpcConfig: { SubnetIds: ['b', 'a'], SecurityGroupIds: ['c'] },
      Layers: [{ Arn: 'one' }, { Arn: 'two' }],
    });
    const same = { MemorySize: 256, Environment: { B: '2', A: '1' }, VpcConfig: { SecurityGroupIds: ['c'], SubnetIds: ['a', 'b'] } };
    expect(differing(same, present)).toEqual([]);
    // The order of layers means something.
    expect(differing({ ...same, Layers: ['two', 'one'], Timeout: 4 }, present)).toEqual(['Layers', 'Timeout']);
    expect(
      requestOf({ Environment: {}, DeadLetterConfig: '', VpcConfig: { SubnetIds: [], SecurityGroupIds: [] } }, [
        'Environment',
        'DeadLetterConfig',
        'VpcConfig',
      ]),
    ).toEqual({
      Environment: { Variables: {} },
      DeadLetterConfig: { TargetArn: '' },
      VpcConfig: { SubnetIds: [], SecurityGroupIds: [] },
    });
  });

  it('of versions are the same but for the description', () => {
    const one = { CodeSha256: 'x', MemorySize: 128, Description: 'a', Version: '1' };
    expect(behavesAs(one, { ...one, Description: 'b', Version: '$LATEST', Architectures: ['x86_64'] })).toBe(true);
    for (const other of [
      { CodeSha256: 'y' },
      { MemorySize: 256 },
      { Architectures: ['arm64' as const] },
      { Environment: { Variables: { A: '1' } } },
    ])
      expect(behavesAs(one, { ...one, ...other })).toBe(false);
    expect(configOf({ Runtime: 'nodejs24.x', Timeout: 5, Handler: 'a.b' })).toMatchObject({
      runtime: 'nodejs24',
      timeoutMs: 5_000,
      handler: 'a.b',
    });
  });
});

describe('names', () => {
  it('fit, and differ for functions that differ', () => {
    const long = 'x'.repeat(64);
    expect(roleName('f', 'eu-central-1', 'role')).toBe('f-eu-central-1-role');
    expect(roleName(long, 'ap-southeast-1', 'schedules').length).toBeLessThanOrEqual(64);
    expect(roleName(long, 'eu-central-1', 'role')).not.toBe(roleName(`${long.slice(1)}y`, 'eu-central-1', 'role'));
    expect(queueName(long).length).toBeLessThanOrEqual(80);
    expect(schedulePrefix('a')).not.toBe(schedulePrefix('a-b').slice(0, schedulePrefix('a').length));
    expect(schedulePrefix(long).length).toBeLessThanOrEqual(64 - 31 - 2);
  });

  it('are marked in a tag', () => {
    const marks = marksOf(['team', 'stage', 'team']);
    expect([hasMark(marks, 'team'), hasMark(marks, 'stage'), hasMark(marks, 'other'), hasMark(undefined, 'team')]).toEqual([
      true,
      true,
      false,
      false,
    ]);
    expect(marksOf(Array.from({ length: 36 }, (_, index) => `key ${index}`)).length).toBeLessThanOrEqual(256);
    expect(toHex(toBase64(code.sha256))).toBe(code.sha256);
  });
});

describe('user data', () => {
  const spec = {
    name: 'orchestrator',
    files: { 'program.mjs': Buffer.from('console.log(1)') },
    args: ['program.mjs', "it's"],
    environment: { RPC: 'http://"x"' },
    secrets: { KEY: 'ssm:/prod/key' },
    healthPort: 9_000,
  };

  it('holds the program and never a secret', () => {
    const script = userDataOf(spec);
    const [, start = ''] = /\.start' <<'END'\n([\s\S]*?)\nEND/.exec(script) ?? [];
    expect(Buffer.from(start, 'base64').toString()).toBe(
      `#!/bin/bash\nset -euo pipefail\nexport KEY="$(aws ssm get-parameter --with-decryption --name '/prod/key' --query Parameter.Value --output text)"\ncd /opt/blueprint-runner\nexec node 'program.mjs' 'it'\\''s'\n`,
    );
    const [, environment = ''] = /\.environment' <<'END'\n([\s\S]*?)\nEND/.exec(script) ?? [];
    expect(Buffer.from(environment, 'base64').toString()).toBe('RPC="http://\\"x\\""\n');
    expect(script).toContain(Buffer.from('console.log(1)').toString('base64'));
    expect(script).toContain('http://127.0.0.1:9000/readyz');
    expect(fetchingUserData('s3://b/k.sh')).toContain("aws s3 cp 's3://b/k.sh'");
  });

  it.each([
    [{ secrets: { KEY: 'env:KEY' } }, /Parameter Store/],
    [{ files: { '../x': Buffer.from('') } }, /relative path/],
    [{ files: { "a'b": Buffer.from('') } }, /relative path/],
    [{ environment: { 'A B': '1' } }, /no name/],
    [{ args: [] }, /arguments/],
    [{ healthPort: 0 }, /no port/],
  ])('%j is refused', (change, reason) => {
    expect(() => userDataOf({ ...spec, ...change })).toThrow(reason);
  });
});

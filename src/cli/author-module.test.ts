import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BlueprintRunner } from '../runner/runner.ts';
import { loadModule } from './author-module.ts';

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-author-'));
});

afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

it.each(['build', 'start', 'run'])('a module that has a runner %s is refused before it does anything', async (method) => {
  const file = join(folder, `${method}.mjs`);
  const runner = JSON.stringify(join(import.meta.dirname, '../runner/runner.ts'));
  writeFileSync(file, `import { BlueprintRunner } from ${runner};\nawait BlueprintRunner.builder({ chainMode: 'mock' }).${method}();\n`);
  await expect(loadModule(file)).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringContaining(`${method}.mjs cannot be loaded: bpr runs what this module exports`) as string,
  });
  await expect(BlueprintRunner.builder({ chainMode: 'mock', ledger: false }).build()).resolves.toMatchObject({ state: 'created' });
});

describe('configure of an author', () => {
  const configured = async (name: string, body: string): Promise<void> => {
    const file = join(folder, name);
    writeFileSync(file, `export async function configure(builder) {\n  ${body}\n}\n`);
    await (await loadModule(file)).configure?.(BlueprintRunner.builder({}, {}));
  };

  it('that fails is told as the code of the author', async () => {
    await expect(configured('throws.mjs', 'builder.nothing();')).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/^configure\(builder\) of \/.*throws\.mjs failed: builder\.nothing is not a function/) as string,
    });
    await expect(configured('null.mjs', 'throw null;')).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('keeps the codes of the builder', async () => {
    const body = `builder.withFaasExecutor(1, { use: 'http' }); builder.withFaasExecutor(1, { use: 'http' });`;
    await expect(configured('twice.mjs', body)).rejects.toMatchObject({ code: 'JOB_DUPLICATE' });
  });
});

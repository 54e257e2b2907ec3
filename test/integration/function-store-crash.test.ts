/** A function store whose process is killed at any point: what was acknowledged is there, what was not is whole or not there at all. */

import { spawn } from 'node:child_process';
import { hash } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { isDeepStrictEqual } from 'node:util';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FunctionStore } from '../../src/runtime/store.ts';
import { EMPTY, apply, codeOf, read } from '../fixtures/function-store/model.ts';
import type { Model, Operation } from '../fixtures/function-store/model.ts';

const WORKER = join(import.meta.dirname, '..', 'fixtures', 'function-store', 'worker.ts');
const KILLS = 12;

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-store-crash-'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

interface Said {
  readonly begins?: Operation;
  readonly done?: Model;
}

/** Kills a worker `afterMs` after its operation `count` began. */
async function workAndKill(model: Model, { seed, count, afterMs }: { seed: number; count: number; afterMs: number }): Promise<Said[]> {
  const child = spawn(process.execPath, [WORKER, folder, JSON.stringify(model), String(seed)], {
    env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin` },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('close', (_, signal) => resolve(signal)));
  const said: Said[] = [];
  let begun = 0;
  for await (const line of createInterface({ input: child.stdout })) {
    const one = JSON.parse(line) as Said;
    said.push(one);
    if (one.begins && ++begun === count) setTimeout(() => child.kill('SIGKILL'), afterMs);
  }
  expect(await ended).toBe('SIGKILL');
  return said;
}

function shown({ functions, layers }: Pick<Model, 'functions' | 'layers'>): unknown {
  return { functions, layers: layers.map((text) => hash('sha256', codeOf(text).bytes, 'hex')) };
}

/** Every name on the disk stands for what it says. */
function checkBlobs(): void {
  const place = join(folder, 'blobs', 'sha256');
  const names = readdirSync(place);
  expect(names.filter((name) => name.startsWith('.'))).toEqual([]);
  for (const name of names.filter((one) => one.endsWith('.zip'))) {
    const sha256 = name.replace('.zip', '');
    expect(hash('sha256', readFileSync(join(place, name)), 'hex')).toBe(sha256);
    expect(readdirSync(join(place, sha256), { recursive: true }).length).toBe(7);
  }
}

it('keeps what it acknowledged', async () => {
  let model = EMPTY;
  let inDoubt = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const said = await workAndKill(model, { seed: kill + 1, count: 5 + kill * 3, afterMs: (kill * 7) % 13 });
    const acknowledged = said.findLast(({ done }) => done)?.done ?? model;
    const last = said.at(-1)?.begins;
    const store = FunctionStore.open({ folder });
    const found = read(store);
    checkBlobs();
    store.close();
    // The operation that was cut off is done or not done.
    const after = last && apply(acknowledged, last);
    const isDone = after !== undefined && isDeepStrictEqual(found, shown(after));
    if (isDone && after) model = after;
    else {
      expect(found).toEqual(shown(acknowledged));
      model = acknowledged;
    }
    if (last) inDoubt += 1;
  }
  expect(inDoubt).toBeGreaterThan(0);
  expect(Object.keys(model.functions).length).toBeGreaterThan(0);
});

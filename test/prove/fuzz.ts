/**
 * Proves that nothing that comes over a wire brings the gateway down, makes it leak, or gets an answer that is no refusal with a code:
 * damaged HTTP, every route with wrong values, WebSockets, packages, and the Runtime API from the side of the instance. Seeded.
 *
 * `npm run prove:fuzz -- [--seed n] [--inputs n] [--only n,n]`; exit status 1 when something does not hold.
 */

import { parseArgs } from 'node:util';
import { checksOf } from './fuzz-checks.ts';
import { fuzz } from './fuzz-run.ts';

const { values } = parseArgs({
  options: { seed: { type: 'string', default: '1' }, inputs: { type: 'string', default: '1000000' }, only: { type: 'string' } },
});
const seed = Number(values.seed);
const inputs = Number(values.inputs);
const only = values.only?.split(',').map(Number);
const report = await fuzz({ seed, inputs, ...(only && { only }), onProgress: (line) => console.log(line) });

for (const [kind, outcomes] of report.counts) {
  const sorted = [...outcomes].toSorted(([a], [b]) => a.localeCompare(b));
  console.log(`${kind.padEnd(28)} ${sorted.map(([outcome, count]) => `${outcome}: ${count}`).join(', ')}`);
}
for (const { input, what, fault, hex } of report.failures) {
  const again = input < 0 ? '' : `\n      again: --seed ${seed} --only ${input}`;
  console.log(`FAIL  ${what}: ${fault}${again}\n      ${hex.length > 2_000 ? `${hex.slice(0, 2_000)}...` : hex}`);
}
if (report.stderr !== '') console.log(`stderr of the gateway:\n${report.stderr}`);
const rate = only ? 0 : Math.round(inputs / report.seconds);
console.log(`seed ${seed}: ${only?.length ?? inputs} inputs in ${report.seconds.toFixed(1)} s, ${rate} per second`);
const checks = checksOf(report);
for (const [name, holds, figure] of checks) console.log(`${holds ? 'ok  ' : 'FAIL'}  ${name.padEnd(46)} ${figure}`);
process.exitCode = checks.every(([, holds]) => holds) ? 0 : 1;

/**
 * Proves that the queue on a cluster of three NATS servers whose stream leader is killed again and again under load loses no acknowledged
 * publication and no acknowledged result, keeps no result of two leases, and serves again within ten seconds.
 *
 * `BPR_NATS=/folder node test/prove/queue-nats.ts [--seed n] [--kills n] [--json]`; exit status 1 when something does not hold.
 */

import { parseArgs } from 'node:util';
import { holds, killLeaders } from './queue-nats-run.ts';

const { values } = parseArgs({
  options: { seed: { type: 'string', default: '1' }, kills: { type: 'string', default: '20' }, json: { type: 'boolean', default: false } },
});
const progress = (kill: number): void => {
  if (!values.json) console.log(`${kill} kills`);
};
const report = await killLeaders({ seed: Number(values.seed), kills: Number(values.kills), progress });
const isGood = holds(report);
if (values.json) console.log(JSON.stringify({ ...report, isGood }));
else {
  for (const [name, value] of Object.entries(report)) console.log(`${name.padEnd(20)} ${value}`);
  console.log(isGood ? 'everything holds' : 'NOT everything holds');
}
if (!isGood) process.exitCode = 1;

/** What is deployed: ours, and with `all` that of others; removed again, which can be repeated. */

import { withLocalAws } from './aws.ts';
import { checkHealth } from './tasks.ts';

await withLocalAws(async ({ deployer, pack }) => {
  const code = await pack(checkHealth);
  for (const name of ['one', 'two', 'three']) await deployer.deploy(name, code, { tags: { team: 'reports' } });
  const show = async (): Promise<void> => {
    const found: string[] = [];
    for await (const { name, status, version } of deployer.list()) found.push(`${name} (${status}, version ${version})`);
    console.log(found.join(', ') || 'nothing');
  };
  await show();
  for (const name of ['one', 'two', 'two']) console.log(`removed ${name}: ${(await deployer.remove(name)).changes.length > 0}`);
  await show();
});

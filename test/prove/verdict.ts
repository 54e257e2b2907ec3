/** What a proof says at its end. */

import { rmSync } from 'node:fs';

/** Prints the figures, and removes the folder when they hold; else the exit status is 1. */
export function conclude(
  report: object,
  { isGood, isJson, folder }: { readonly isGood: boolean; readonly isJson: boolean; readonly folder: string },
): void {
  if (isJson) console.log(JSON.stringify({ ...report, isGood }));
  else {
    for (const [name, value] of Object.entries(report)) console.log(`${name.padEnd(20)} ${value}`);
    console.log(isGood ? 'everything holds' : `NOT everything holds; what was written is kept in ${folder}`);
  }
  if (isGood) rmSync(folder, { recursive: true });
  else process.exitCode = 1;
}

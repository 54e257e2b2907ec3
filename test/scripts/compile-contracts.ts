/** Compiles the contract of the tests and writes its bytecode: `node test/scripts/compile-contracts.ts`. */

import { hash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

interface CompilerOutput {
  readonly errors?: readonly { readonly severity: string; readonly formattedMessage: string }[];
  readonly contracts?: Readonly<
    Record<string, Readonly<Record<string, { readonly evm: { readonly bytecode: { readonly object: string } } }>>>
  >;
}

const SOURCE = new URL('../../src/testing/contracts/Tangle.sol', import.meta.url);
const ARTIFACT = new URL('../../src/testing/contracts/tangle-artifact.ts', import.meta.url);
const DEPLOYED = ['Tangle', 'JobManager', 'JobSpammer'];

// solc carries no types; compile takes and returns standard JSON as text.
const solc = createRequire(import.meta.url)('solc') as { compile(input: string): string; version(): string };

function compile(source: string): Map<string, string> {
  const input = {
    language: 'Solidity',
    sources: { 'Tangle.sol': { content: source } },
    settings: {
      evmVersion: 'cancun',
      optimizer: { enabled: true, runs: 200 },
      metadata: { appendCBOR: false },
      outputSelection: { '*': { '*': ['evm.bytecode.object'] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input))) as CompilerOutput;
  const problems = output.errors ?? [];
  for (const problem of problems) console.error(problem.formattedMessage);
  if (problems.length > 0) throw new Error(`the compiler reports ${problems.length} problems`);
  const contracts = output.contracts?.['Tangle.sol'] ?? {};
  return new Map(DEPLOYED.map((name) => [name, contracts[name]?.evm.bytecode.object ?? '']));
}

const source = readFileSync(SOURCE, 'utf8');
const lines = [
  '// Written by test/scripts/compile-contracts.ts; do not edit.',
  `export const SOURCE_SHA256 = '${hash('sha256', source)}';`,
  `export const COMPILER = '${solc.version()}';`,
];
for (const [name, bytecode] of compile(source)) {
  lines.push(`export const ${name.replaceAll(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase()}_BYTECODE =\n  '0x${bytecode}';`);
  console.log(`${name}: ${bytecode.length / 2} bytes`);
}
writeFileSync(ARTIFACT, `${lines.join('\n')}\n`);

/** The files of a new project. */

import { ownDependency } from './version.ts';

/** Paths and contents. */
export function projectFiles(directoryName: string): Readonly<Record<string, string>> {
  const name =
    directoryName
      .toLowerCase()
      .replaceAll(/[^a-z0-9-]+/g, '-')
      .replaceAll(/^-+|-+$/g, '') || 'blueprint';
  return {
    'package.json': `${JSON.stringify(manifest(name), null, 2)}\n`,
    'tsconfig.json': `${JSON.stringify(TSCONFIG, null, 2)}\n`,
    'src/jobs.ts': JOBS,
    'src/runner.ts': RUNNER,
    'README.md': readme(name),
    '.gitignore': 'node_modules/\nbuild/\n.blueprint-runner/\n.env\n',
  };
}

function manifest(name: string): object {
  return {
    name,
    version: '0.1.0',
    private: true,
    type: 'module',
    engines: { node: '>=22.19' },
    scripts: {
      dev: 'bpr dev src/jobs.ts',
      build: 'bpr build src/jobs.ts',
      start: 'node src/runner.ts',
      check: 'tsc',
      doctor: 'bpr doctor',
    },
    dependencies: { 'blueprint-runner': ownDependency() },
    devDependencies: { '@foundry-rs/anvil': '^1.7.1', '@types/node': '^24.0.0', esbuild: '>=0.25.0', typescript: '>=5.9.0' },
  };
}

/** For code that node runs as it is. */
export const TSCONFIG = {
  compilerOptions: {
    target: 'es2024',
    lib: ['es2024', 'esnext.disposable'],
    module: 'nodenext',
    types: ['node'],
    strict: true,
    verbatimModuleSyntax: true,
    erasableSyntaxOnly: true,
    allowImportingTsExtensions: true,
    skipLibCheck: true,
    noEmit: true,
  },
  include: ['src'],
};

const JOBS = `import { JobRouter, defineJob } from 'blueprint-runner';

/** Job 0: the square of a number. */
const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64', idempotent: true }, ([x]) => x * x);

export const router: JobRouter = new JobRouter().route(0, square);
`;

const RUNNER = `import { BlueprintRunner } from 'blueprint-runner';
import { router } from './jobs.ts';

// Which chain, which service and which key: see README.md. SIGTERM drains and ends.
await BlueprintRunner.builder({}, process.env).router(router).run();
`;

const readme = (name: string): string => `# ${name}

Jobs of a Tangle blueprint. \`src/jobs.ts\` holds the jobs, \`src/runner.ts\` runs them for an operator.

\`\`\`sh
npm install
npm run dev      # a local chain, a service with these jobs, a runner; a change of the code is taken up at once
npm run build    # build/handler.mjs and build/handler.zip: the jobs for a FaaS platform
npm run doctor   # is everything there?
npm start        # the runner
\`\`\`

The runner takes its settings from the environment:

| variable | meaning |
| --- | --- |
| \`HTTP_RPC_URL\` | JSON-RPC endpoint of the chain |
| \`TANGLE_CONTRACT\` | address of the Tangle contract |
| \`SERVICE_ID\` | the service to follow; several, comma-separated |
| \`OPERATOR_PRIVATE_KEY\` | key of the operator; never put it into a file that is committed |
| \`BPR_DATA_DIR\` | where the ledger lies, default \`.blueprint-runner\` |
| \`BPR_MAX_FEE_PER_GAS\` | no transaction offers more, wei per gas; default 1000 gwei |
| \`BPR_DRY_RUN\` | \`true\`: everything but the transactions |

Look at its calls with \`npx bpr jobs list\`, and at one of them with \`npx bpr why <call>\`.
`;

/** The images of a topology: their Dockerfiles, and the two small programs in them. */

import { BPR, CERTIFICATE, DATA, HEALTH, START, USER, containersOf, programOf } from './containers.ts';
import type { RenderOptions } from './containers.ts';

/** Beside the Dockerfiles: what becomes the root of the images. */
export const ROOT = 'root';

/** The files that images are built from, besides node and the package. */
export function imageFiles(options: RenderOptions): Readonly<Record<string, string>> {
  const containers = containersOf(options);
  const commandOf = (role: 'control-plane' | 'worker'): readonly string[] => {
    const found = containers.find((one) => one.role === role);
    return found === undefined ? [] : programOf(found);
  };
  return {
    'Dockerfile.control-plane': dockerfile('the control plane', commandOf('control-plane')),
    'Dockerfile.worker': dockerfile('workers and engines', commandOf('worker')),
    '.dockerignore': `*\n!${ROOT}\n!data\n`,
    'data/.keep': '',
    [`${ROOT}${START}`]: START_PROGRAM,
    [`${ROOT}${HEALTH}`]: HEALTH_PROGRAM,
    [`${ROOT}/etc/passwd`]: `root:x:0:0:root:/:/bin/false\nblueprint:x:${USER}:${USER}::${DATA}:/bin/false\n`,
    [`${ROOT}/etc/group`]: `root:x:0:\nblueprint:x:${USER}:\n`,
    [`${ROOT}/etc/nsswitch.conf`]: 'hosts: files dns\n',
  };
}

function dockerfile(what: string, command: readonly string[]): string {
  return `# The image of ${what}: node, the package and its dependencies, from the folder ${ROOT} beside this file. Nothing is fetched.
FROM scratch
COPY ${ROOT}/ /
COPY --chown=${USER}:${USER} data/ ${DATA}/
ENV PATH=/usr/local/bin NODE_ENV=production
USER ${USER}:${USER}
WORKDIR ${DATA}
VOLUME ${DATA}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=30s CMD ["node", "${HEALTH}"]
ENTRYPOINT ["node"]
CMD ${JSON.stringify(command)}
`;
}

const START_PROGRAM = `// Runs several commands of bpr, separated by --. When one of them ends, the others are told to, and so does this, with its exit status.
import { spawn } from 'node:child_process';
import { constants } from 'node:os';

const commands = [[]];
for (const word of process.argv.slice(2)) {
  if (word === '--') commands.push([]);
  else commands.at(-1).push(word);
}
/** The signal to end, once it was given. */
let told;
const children = commands.map((args) => spawn(process.execPath, ['${BPR}', ...args], { stdio: 'inherit' }));
const stop = (signal) => {
  told = signal;
  for (const child of children) child.kill(signal);
};
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => stop(signal));
for (const [index, child] of children.entries()) {
  child.on('exit', (code, signal) => {
    if (!told) console.error(\`\${commands[index].slice(0, 2).join(' ')} has ended: \${code ?? signal}\`);
    // One that was told before it listened for that has nothing to finish.
    const status = code ?? (signal === told ? 0 : 128 + constants.signals[signal]);
    // One that ends by itself is a failure, whatever it says.
    process.exitCode ||= told ? status : status || 1;
    if (!told) stop('SIGTERM');
  });
}
`;

const HEALTH_PROGRAM = `// Ends with 0 when all addresses in BPR_HEALTH answer 200; it waits for that as long as BPR_WAIT_MS says.
import { readFileSync } from 'node:fs';
import { request as http } from 'node:http';
import { request as https } from 'node:https';

const urls = (process.env.BPR_HEALTH ?? '').split(',').filter((url) => url !== '');
const until = Date.now() + Number(process.env.BPR_WAIT_MS ?? 0);

function ask(url) {
  return new Promise((resolve) => {
    try {
      const isTls = url.startsWith('https:');
      const asking = (isTls ? https : http)(url, { timeout: 4000, ...(isTls && { ca: readFileSync('${CERTIFICATE}') }) }, (answer) => {
        answer.resume();
        resolve(answer.statusCode === 200 ? undefined : \`\${url} answered \${answer.statusCode}\`);
      });
      asking.on('timeout', () => asking.destroy(new Error('it does not answer')));
      asking.on('error', (error) => resolve(\`\${url}: \${error.message}\`));
      asking.end();
    } catch (error) {
      // The certificate is not written yet.
      resolve(\`\${url}: \${error.message}\`);
    }
  });
}

for (;;) {
  const reasons = (await Promise.all(urls.map(ask))).filter((reason) => reason !== undefined);
  if (reasons.length === 0 && urls.length > 0) break;
  if (Date.now() >= until) {
    console.error(reasons.join('; ') || 'BPR_HEALTH names no address');
    process.exit(1);
  }
  await new Promise((resolve) => setTimeout(resolve, 100));
}
`;

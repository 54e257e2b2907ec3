/** Writes ERRORS.md from the table of codes: `node test/scripts/errors-doc.ts`. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ERROR_CODES } from '../../src/errors.ts';
import { ERROR_TEXTS } from '../../src/error-texts.ts';

const ROOT = join(import.meta.dirname, '..', '..');
export const ERRORS_FILE = join(ROOT, 'ERRORS.md');

const RETRY: Readonly<Record<string, string>> = { safe: 'safe', idempotent: 'if idempotent', never: 'no' };

/** The text of ERRORS.md: the groups are those of the comments in the source of the table. */
export function errorsDocument(): string {
  const groups = groupsOf(readFileSync(join(ROOT, 'src', 'errors.ts'), 'utf8'));
  const lines = [
    '# Error codes',
    '',
    'Every operation rejects with a `RunnerError`; match on its `code`, never on its message. Written from `src/errors.ts` and',
    '`src/error-texts.ts` by `npm run docs:errors`.',
    '',
    '- **Whose**: `user` errors are for the caller, author or operator to correct; `system` errors come from the machinery.',
    '- **Again?**: `safe` when the failure provably happened before the code of the job was reached; `if idempotent` when the job may have',
    '  run, so that only a job declared idempotent is tried again; `no` when another attempt would fail in the same way.',
  ];
  for (const [group, codes] of groups) {
    lines.push('', `## ${group}`, '', '| Code | Whose | Again? | Meaning | What to do |', '| --- | --- | --- | --- | --- |');
    for (const code of codes) {
      const { kind, retry } = ERROR_CODES[code];
      const { meaning, remedy } = ERROR_TEXTS[code];
      lines.push(`| \`${code}\` | ${kind} | ${RETRY[retry] ?? retry} | ${cell(meaning)} | ${cell(remedy)} |`);
    }
  }
  return `${lines.join('\n')}\n`;
}

type Code = keyof typeof ERROR_CODES;

/** The comment lines of the table, each with the codes below it. */
function groupsOf(source: string): readonly (readonly [group: string, codes: Code[]])[] {
  const groups: [string, Code[]][] = [];
  const start = source.indexOf('ERROR_CODES = {');
  const table = source.slice(start, source.indexOf('} as const', start));
  for (const line of table.split('\n')) {
    const comment = /^ {2}\/\/ (.+)$/.exec(line)?.[1];
    const code = /^ {2}([A-Z_]+): (?:at\(\d{3}, [A-Z_]+\)|[A-Z_]+),$/.exec(line)?.[1];
    if (comment !== undefined) groups.push([comment, []]);
    else if (code !== undefined) groups.at(-1)?.[1].push(code as Code);
  }
  return groups;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}

if (import.meta.main) writeFileSync(ERRORS_FILE, errorsDocument());

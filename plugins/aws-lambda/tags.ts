/** Tags of a function: those of the user, and those in which this tool remembers what belongs to it. */

import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { ALIAS_TAG, KEYS_TAG, MANAGED, PARTS_TAG, hasMark, marksOf } from './names.ts';
import { isOwnTag } from './state.ts';
import type { PresentFunction } from './state.ts';

export interface OwnTags {
  readonly aliases: readonly string[];
  readonly parts?: readonly string[];
  readonly keys?: readonly string[];
}

export function ownTags({ aliases, parts = [], keys = [] }: OwnTags): Readonly<Record<string, string>> {
  return {
    [MANAGED.key]: MANAGED.value,
    [ALIAS_TAG]: aliases.join(' '),
    ...(parts.length > 0 && { [PARTS_TAG]: parts.toSorted().join(' ') }),
    ...(keys.length > 0 && { [KEYS_TAG]: marksOf(keys) }),
  };
}

/** What is made after this is on the tags of the function before it is made: an interruption forgets nothing. */
export async function tagFunction(
  session: Session,
  changes: Changes,
  wish: {
    readonly present: PresentFunction;
    readonly alias: string;
    readonly tags: Readonly<Record<string, string>> | undefined;
    readonly parts: readonly string[];
  },
): Promise<void> {
  const { present, alias, tags, parts } = wish;
  const stale = tags
    ? Object.keys(present.tags).filter((key) => !isOwnTag(key) && !(key in tags) && hasMark(present.tags[KEYS_TAG], key))
    : [];
  const own = ownTags({
    aliases: [...new Set([alias, ...present.aliases])],
    parts: [...new Set([...present.parts, ...parts])],
    ...(tags && { keys: Object.keys(tags) }),
  });
  if (stale.length > 0)
    await changes.make({ action: 'update', resource: 'tags', id: changes.function, fields: stale }, () =>
      session.write('lambda', (lambda, request) =>
        lambda.untagResource({ Resource: present.configuration.FunctionArn, TagKeys: stale }, request),
      ),
    );
  await setTags(changes, present, { ...tags, ...own });
}

export async function setTags(changes: Changes, present: PresentFunction, wanted: Readonly<Record<string, string>>): Promise<void> {
  const { session } = changes;
  const Tags = Object.fromEntries(Object.entries(wanted).filter(([key, value]) => present.tags[key] !== value));
  const fields = Object.keys(Tags);
  if (fields.length === 0) return;
  await changes.make({ action: 'update', resource: 'tags', id: changes.function, fields }, () =>
    session.write('lambda', (lambda, request) => lambda.tagResource({ Resource: present.configuration.FunctionArn, Tags }, request)),
  );
}
